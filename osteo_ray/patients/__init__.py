"""Demographics and labs: one schema, units, missing values kept missing, and sources that map onto it.

    table = load("records.csv")
    values, mask = table.matrix()

The schema is `schema.FEATURES`; a hospital's table needs a short YAML (`mapping`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osteo_ray.patients.findings import RecordsError
    from osteo_ray.patients.labels import label_of
    from osteo_ray.patients.mapping import Mapping, load_mapping
    from osteo_ray.patients.schema import FEATURES, Feature
    from osteo_ray.patients.source import load, load_records
    from osteo_ray.patients.table import RecordTable, from_mapping_dict

__all__ = [
    "FEATURES",
    "Feature",
    "Mapping",
    "RecordTable",
    "RecordsError",
    "from_mapping_dict",
    "label_of",
    "load",
    "load_mapping",
    "load_records",
]

_MODULE = {
    **dict.fromkeys(("FEATURES", "Feature"), "schema"),
    **dict.fromkeys(("Mapping", "load_mapping"), "mapping"),
    **dict.fromkeys(("load", "load_records"), "source"),
    **dict.fromkeys(("RecordTable", "from_mapping_dict"), "table"),
    "RecordsError": "findings",
    "label_of": "labels",
}


def __getattr__(name: str) -> Any:
    # Late, for a config of this package (`patients.config`) has to come without pandas.
    if name in _MODULE:
        return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
