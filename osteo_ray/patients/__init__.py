"""Demographics and labs: one schema, units, missing values kept missing, and sources that map onto it.

    table = load("records.csv")
    values, mask = table.matrix()

The schema is `schema.FEATURES`; a hospital's table needs a short YAML (`mapping`).
"""

from osteo_ray.patients.labels import label_of
from osteo_ray.patients.mapping import Mapping, load_mapping
from osteo_ray.patients.schema import FEATURES, Feature
from osteo_ray.patients.source import load, load_records
from osteo_ray.patients.table import RecordsError, RecordTable, from_mapping_dict
from osteo_ray.patients.window import join

__all__ = [
    "FEATURES",
    "Feature",
    "Mapping",
    "RecordTable",
    "RecordsError",
    "from_mapping_dict",
    "join",
    "label_of",
    "load",
    "load_mapping",
    "load_records",
]
