"""What a CT's own header says of the patient, as record values (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from osteo_ray.patients.schema import NAMES


def header_demographics(row: Mapping[str, Any]) -> dict[str, float]:
    """Age and sex of a catalogue row as features; what the header lacks is absent."""
    out = {}
    if row.get("age_y") is not None:
        out["age_y"] = float(row["age_y"])
    if row.get("sex") in ("M", "F"):
        out["sex_male"] = float(row["sex"] == "M")
    return out


def fill_from_header(values: np.ndarray, header: Mapping[str, float]) -> np.ndarray:
    """A record's values [F] in the schema's order, with what it lacks of age and sex taken from the CT's header."""
    out = np.array(values, np.float64)
    for name, v in header.items():
        i = NAMES.index(name)
        if np.isnan(out[i]):
            out[i] = v
    return out
