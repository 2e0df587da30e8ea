"""What a CT's own header says of the patient, beside what the record says (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from osteo_ray.patients.schema import NAMES

AGE, SEX = NAMES.index("age_y"), NAMES.index("sex_male")


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


@dataclass(frozen=True)
class UsedDemographics:
    """Age and sex that a score rests on, and where each comes from: `record`, `header`, or None where not known."""

    age_y: float | None
    sex: str | None  # M | F
    age_from: str | None
    sex_from: str | None

    def columns(self) -> dict[str, Any]:
        """The columns of a result that hold them."""
        return asdict(self)


def used_demographics(row: Mapping[str, Any], record: np.ndarray | None = None) -> UsedDemographics:
    """Age and sex that a model is given: those of the record, else those of the CT's header.

    Args:
        row: of the catalogue.
        record: float [F] in the schema's order before `fill_from_header`, NaN missing; None: no record.
    """
    nothing = np.full(len(NAMES), np.nan)
    own = nothing if record is None else np.asarray(record, np.float64)
    header = header_demographics(row)
    values = fill_from_header(own, header)
    source = [
        "record" if not np.isnan(own[i]) else "header" if n in header else None
        for i, n in ((AGE, "age_y"), (SEX, "sex_male"))
    ]
    age = None if np.isnan(values[AGE]) else round(float(values[AGE]), 4)
    sex = None if np.isnan(values[SEX]) else "M" if values[SEX] >= 0.5 else "F"
    return UsedDemographics(age, sex, *source)
