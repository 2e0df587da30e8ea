"""Demographics and labs: one schema, units, missing values kept missing, and sources that map onto it.

    from osteo_ray import records
    table = records.load("records.csv")
    values, mask = table.matrix()

The schema is `schema.FEATURES`; a hospital's table needs a short YAML (`mapping`).
"""

from osteo_ray.records.labels import label_of
from osteo_ray.records.mapping import Mapping, load_mapping
from osteo_ray.records.schema import FEATURES, Feature
from osteo_ray.records.source import load
from osteo_ray.records.table import RecordsError, RecordTable, from_mapping_dict
from osteo_ray.records.window import join

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
]
