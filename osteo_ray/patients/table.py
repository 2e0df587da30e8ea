"""RecordTable: people's demographics and labs in the schema's columns and units.

    table = records.load("records.csv")
    values, mask = table.matrix()            # float32 [n, F] with NaN, bool [n, F]
    table.by_key("9f3c...")                  # the rows of one patient

Missing stays missing: NaN in the columns, False in the mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from osteo_ray.patients.findings import ReadReport, RecordsError
from osteo_ray.patients.labels import label_of
from osteo_ray.patients.schema import NAMES, T_SCORE_RANGE, feature

_DATES = ("dxa_date", "birth_month")


@dataclass(frozen=True)
class RecordTable:
    """One row a record: `patient_key`, `record_date` (date or NaT), one float64 column a feature, `t_score`, `label`,
    then whatever columns the source was told to keep; where the source has them, `dxa_date` (when the T-score was
    measured), `osteoporosis_treatment` (1 treated, 0 not, NaN not known, as of `record_date`), `birth_month` and `site`
    (None where it is not given).

    `issues` lists values that were refused and made missing (only where loading was told to do so); `report` says what
    was read, and `ids` are numbers as written and sites by key, for the match report alone: neither is ever stored.
    """

    frame: pd.DataFrame
    issues: tuple[str, ...] = field(default=())
    report: ReadReport | None = field(default=None, compare=False)
    ids: Mapping[str, tuple[str, str | None]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, frame: pd.DataFrame, issues: Iterable[str] = ()) -> RecordTable:
        """Complete a frame to the table's columns: absent ones are missing, BMI and label are derived."""
        out = pd.DataFrame(index=range(len(frame)))
        out["patient_key"] = frame["patient_key"].astype(object).to_numpy()
        dates = frame["record_date"] if "record_date" in frame else pd.Series(pd.NaT, index=frame.index)
        out["record_date"] = pd.to_datetime(dates).to_numpy("datetime64[s]")
        for name in NAMES:
            have = frame[name].to_numpy(np.float64) if name in frame else np.full(len(frame), np.nan)
            out[name] = have
        derived = out["weight_kg"] / (out["height_cm"] / 100) ** 2
        out["bmi"] = out["bmi"].fillna(derived)
        out["t_score"] = frame["t_score"].to_numpy(np.float64) if "t_score" in frame else np.nan
        out["label"] = np.array([label_of(t) for t in out["t_score"]], dtype=object)
        for c in frame.columns.difference([*out.columns, "label"], sort=False):
            out[c] = frame[c].to_numpy("datetime64[s]" if c in _DATES else None)
        return cls(out, tuple(issues))

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def sex(self) -> np.ndarray:
        """'M', 'F' or None for each row (object [n])."""
        s = self.frame["sex_male"].to_numpy()
        out = np.full(len(s), None, dtype=object)
        out[s == 1], out[s == 0] = "M", "F"
        return out

    def matrix(self, features: Iterable[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Values float32 [n, F] with NaN where missing, and mask bool [n, F] that is True where a value is."""
        names = list(NAMES if features is None else features)
        for n in names:
            feature(n)  # a name that is not in the schema is an error here
        values = self.frame[names].to_numpy(np.float32)
        return values, ~np.isnan(values)

    def by_key(self, patient_key: str) -> RecordTable:
        """The rows of one patient (none where the patient has no record)."""
        return self.take(np.flatnonzero(self.frame["patient_key"].to_numpy() == patient_key))

    def take(self, rows: np.ndarray) -> RecordTable:
        """Rows by position (int) or by a bool mask [n]."""
        return RecordTable(self.frame.iloc[np.asarray(rows)].reset_index(drop=True), self.issues)

    def to_arrow(self, kept: Iterable[str] = ()) -> pa.Table:
        """The table with the same columns and types for every source; columns `kept` beside them, as text.

        Written piece by piece, the pieces of a source fit one file.
        """
        frame = self.frame
        fields = [pa.field("patient_key", pa.string()), pa.field("record_date", pa.timestamp("ms"))]
        fields += [pa.field(n, pa.float64()) for n in (*NAMES, "t_score")]
        fields += [pa.field("label", pa.string()), pa.field("site", pa.string())]
        fields += [pa.field(n, pa.timestamp("ms")) for n in _DATES]
        fields.append(pa.field("osteoporosis_treatment", pa.float64()))
        columns = {f.name: _column(frame, f) for f in fields}
        for name in kept:
            texts = [None if v is None or v != v else str(v) for v in frame[name]]
            columns[name] = pa.array(texts, pa.string())
        return pa.table(columns)

    def to_parquet(self, path: str | Path) -> None:
        """Write the table in the schema's columns and units; `records.load` reads it back."""
        self.frame.to_parquet(path, index=False)


def _column(frame: pd.DataFrame, f: pa.Field) -> pa.Array:
    if f.name not in frame:
        return pa.nulls(len(frame), f.type)
    return pa.Array.from_pandas(frame[f.name], type=f.type)


def _number(name: str, value: object) -> tuple[float, str | None]:
    """(value, problem): the number, or NaN and what is wrong with it."""
    f = feature(name)
    try:
        v = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan, f"{name}: {value!r} is not a number (expected {f.low:g} to {f.high:g} {f.unit})"
    if np.isnan(v):
        return v, None
    return (v, None) if f.low <= v <= f.high else (np.nan, _out_of_range(name, v))


def _out_of_range(name: str, v: float) -> str:
    f = feature(name)
    if f.kind == "binary":
        return f"{name}: {v:g} is neither 0 nor 1"
    return f"{name}: {v:g} {f.unit} is outside {f.low:g} to {f.high:g} {f.unit}; check the value and its unit"


def from_mapping_dict(values: Mapping[str, object], patient_key: str = "") -> RecordTable:
    """One person's record from `{"age_y": 67, "sex": "F", "creatinine_umol_l": 61}`; values in the schema's units.

    Raises:
        RecordsError: an unknown name, a value that is no number, or one outside its range.
    """
    problems: list[str] = []
    row: dict[str, object] = {"patient_key": patient_key}
    for name, value in values.items():
        if name == "sex":
            code = {"M": 1.0, "F": 0.0}.get(str(value).strip().upper()) if value is not None else np.nan
            if code is None:
                problems.append(f"sex: {value!r} is neither 'M' nor 'F'")
            else:
                row["sex_male"] = code
        elif name == "t_score":
            row[name], problem = check_t_score(value)
            problems += [problem] if problem else []
        elif name in NAMES:
            row[name], problem = _number(name, np.nan if value is None else value)
            problems += [problem] if problem else []
        else:
            problems.append(f"{name}: no such feature; there are: sex, {', '.join(NAMES)}")
    if problems:
        raise RecordsError(problems)
    return RecordTable.of(pd.DataFrame([row]))


def check_t_score(value: object) -> tuple[float, str | None]:
    """(T-score, problem)."""
    low, high = T_SCORE_RANGE
    try:
        v = np.nan if value is None else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan, f"t_score: {value!r} is not a number"
    if np.isnan(v) or low <= v <= high:
        return v, None
    return np.nan, f"t_score: {v:g} is outside {low:g} to {high:g}"
