"""Reading records: CSV, Parquet or FHIR NDJSON, through a mapping, into a RecordTable.

    from osteo_ray.patients import load
    table = load("records.csv", mapping="default", pseudonym_key="hospital secret")

Nothing is guessed: a value that can't be used is an error that names it, or missing and listed.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from osteo_ray.io.store import local_file
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.mapping import Column, Mapping, load_mapping
from osteo_ray.patients.schema import NAMES, T_SCORE_RANGE, feature
from osteo_ray.patients.table import RecordsError, RecordTable
from osteo_ray.patients.units import UnitError, factor


def load(
    path: str | Path,
    mapping: str | Path | Mapping | None = None,
    pseudonym_key: str | None = None,
    on_bad: str = "raise",
) -> RecordTable:
    """Read records from `path`, a path or URI (.csv, .csv.gz, .tsv, .parquet, .ndjson).

    Args:
        mapping: a shipped mapping's name, a YAML's path or a Mapping; None is `default`. Not used for FHIR, or
            for a Parquet file that a RecordTable wrote.
        pseudonym_key: secret under which patient ids become patient keys; the same as for the CT catalogue.
        on_bad: "raise" ends with every bad value listed; "missing" makes them missing and lists them in `issues`.

    Raises:
        RecordsError: naming row, column, value and unit, or the column that is absent.
    """
    if on_bad not in ("raise", "missing"):
        raise ValueError(f"on_bad={on_bad!r}: 'raise' or 'missing'")
    try:
        with local_file(path) as at:
            if not at.is_file():
                raise FileNotFoundError
            return _load(at, mapping, pseudonym_key, on_bad)
    except FileNotFoundError:
        raise RecordsError([f"{path}: no such file"]) from None


def _load(path: Path, mapping: str | Path | Mapping | None, pseudonym_key: str | None, on_bad: str) -> RecordTable:
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
    if kind in ("ndjson", "jsonl"):
        from osteo_ray.patients.fhir import read_ndjson

        frame, problems = read_ndjson(path, pseudonym_key)
    elif kind == "parquet":
        raw = pd.read_parquet(path)
        if mapping is None and {"patient_key", "record_date", *NAMES} <= set(raw.columns):
            return RecordTable.of(raw)
        frame, problems = map_frame(raw, load_mapping(mapping), pseudonym_key)
    elif kind in ("csv", "tsv"):
        raw = pd.read_csv(path, dtype=str, keep_default_na=False, sep="\t" if kind == "tsv" else ",")
        frame, problems = map_frame(raw, load_mapping(mapping), pseudonym_key)
    else:
        raise RecordsError([f"{path}: records are read from .csv, .tsv, .parquet or .ndjson, not .{kind}"])
    if problems and on_bad == "raise":
        raise RecordsError(problems)
    return RecordTable.of(frame, problems)


def map_frame(raw: pd.DataFrame, m: Mapping, pseudonym_key: str | None) -> tuple[pd.DataFrame, list[str]]:
    """Apply a mapping to a table as delivered; (frame in schema units, problems). Rows are counted from 1.

    Raises:
        RecordsError: columns that the mapping names and the table lacks.
    """
    wanted = [m.patient_id, *m.keep]
    if not m.optional:
        wanted += [c for c in (m.date, m.t_score, m.dxa_date) if c] + [c.column for c in m.features.values()]
        wanted += [m.treatment.column] if m.treatment else []
    wanted += [c.unit_column for c in m.features.values() if c.unit_column and c.column in raw]
    absent = [c for c in dict.fromkeys(wanted) if c not in raw.columns]
    if absent:
        there = ", ".join(map(str, raw.columns))
        raise RecordsError([f"column {c!r}: named by the mapping, not in the table (it has: {there})" for c in absent])
    problems: list[str] = []
    out: dict[str, object] = {}
    ids = raw[m.patient_id].map(_plain).str.strip()
    for row in np.flatnonzero(ids.isin(m.missing).to_numpy()):
        problems.append(f"row {row + 1}, column {m.patient_id!r}: no patient id; such a record joins nothing")
    out["patient_key"] = [None if i in m.missing else patient_key(i, pseudonym_key) for i in ids]
    for name, column in (("record_date", m.date), ("dxa_date", m.dxa_date)):
        if column and column in raw:
            out[name] = _dates(column, raw[column], m.missing, problems)
    for name, c in m.features.items():
        if c.column in raw.columns:
            out[name] = _feature_column(name, c, raw, m.missing, problems)
    if m.treatment and m.treatment.column in raw:
        out["osteoporosis_treatment"] = _coded(
            "osteoporosis_treatment", m.treatment.column, m.treatment.codes or {}, raw, m.missing, problems
        )
    if m.t_score and m.t_score in raw:
        scores = _numbers(raw[m.t_score], m.missing, "T-score", m.t_score, problems)
        low, high = T_SCORE_RANGE
        bad = (scores < low) | (scores > high)
        for row in np.flatnonzero(bad):
            problems.append(
                f"row {row + 1}, column {m.t_score!r}: T-score {scores[row]:g} is outside {low:g} to {high:g}"
            )
        scores[bad] = np.nan
        out["t_score"] = scores
    frame = pd.DataFrame(out)
    for kept in m.keep:
        frame[kept] = raw[kept].to_numpy()
    if m.derive == "nhanes":
        from osteo_ray.patients.nhanes import derive

        frame = derive(raw, frame)
    return frame, problems


def _numbers(col: pd.Series, missing: tuple[str, ...], unit: str, name: str, problems: list[str]) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(col):
        return col.to_numpy(np.float64, na_value=np.nan).copy()
    text = col.astype(object).where(col.notna(), "").astype(str).str.strip()
    empty = text.isin(missing).to_numpy()
    values = pd.to_numeric(text.where(~empty), errors="coerce").to_numpy(np.float64).copy()
    values[~np.isfinite(values)] = np.nan
    for row in np.flatnonzero(np.isnan(values) & ~empty):
        problems.append(f"row {row + 1}, column {name!r}: {text.iloc[row]!r} is not a number (unit {unit})")
    return values


def _dates(name: str, col: pd.Series, missing: tuple[str, ...], problems: list[str]) -> np.ndarray:
    text = col.astype(str).str.strip()
    dates = pd.to_datetime(text.where(~text.isin(missing)), errors="coerce", format="ISO8601")
    for row in np.flatnonzero((dates.isna() & ~text.isin((*missing, "NaT"))).to_numpy()):
        problems.append(f"row {row + 1}, column {name!r}: {text.iloc[row]!r} is no date; write YYYY-MM-DD")
    return dates.to_numpy()


def _coded(
    name: str,
    column: str,
    codes: MappingOf[str, float | None],
    raw: pd.DataFrame,
    missing: tuple[str, ...],
    problems: list[str],
) -> np.ndarray:
    col = raw[column]
    text = col.astype(object).where(col.notna(), "").map(_plain).str.strip()
    known = {k.lower(): np.nan if v is None else v for k, v in codes.items()}
    known |= {k.lower(): np.nan for k in missing if k.lower() not in known}
    for row in np.flatnonzero(~text.str.lower().isin(known).to_numpy()):
        there = ", ".join(codes)
        problems.append(f"row {row + 1}, column {column!r}: {text.iloc[row]!r} is no code of {name} ({there})")
    return text.str.lower().map(known).to_numpy(np.float64).copy()


def _feature_column(
    name: str, c: Column, raw: pd.DataFrame, missing: tuple[str, ...], problems: list[str]
) -> np.ndarray:
    f = feature(name)
    if c.codes is not None:
        values = _coded(name, c.column, c.codes, raw, missing, problems)
        given = np.full(len(values), "")
    else:
        values = _numbers(raw[c.column], missing, c.unit or c.unit_column or f.unit, c.column, problems)
        if c.unit_column:
            given = raw[c.unit_column].astype(str).str.strip().to_numpy()
        else:
            given = np.full(len(values), c.unit or f.unit)
        stated = values.copy()
        for unit in np.unique(given[~np.isnan(values)].astype(str)):
            rows = (given == unit) & ~np.isnan(values)
            if c.unit_column and unit in missing:
                reason = f"no unit in column {c.unit_column!r}"
            else:
                try:
                    values[rows] *= factor(str(unit), f.unit, f.molar_mass)
                    continue
                except UnitError as e:
                    reason = str(e)
            for row in np.flatnonzero(rows):
                problems.append(f"row {row + 1}, column {c.column!r}: {stated[row]:g}: {reason}")
            values[rows] = np.nan
    bad = (values < f.low) | (values > f.high)
    for row in np.flatnonzero(bad):
        problems.append(
            f"row {row + 1}, column {c.column!r}: {name} = {values[row]:g} {f.unit} is outside "
            f"{f.low:g} to {f.high:g} {f.unit} (unit given: {given[row]})"
        )
    values[bad] = np.nan
    return values


def _plain(v: object) -> str:
    """The text of a code: 1.0 and 1 are the same code."""
    return str(int(v)) if isinstance(v, float) and v.is_integer() else str(v)


def load_records(
    paths: str | Sequence[str], mapping: str | None = None, pseudonym_key: str | None = None
) -> RecordTable:
    """Records of one or more files as one table; see `load`."""
    tables = [load(p, mapping, pseudonym_key) for p in ([paths] if isinstance(paths, str) else paths)]
    return RecordTable.of(pd.concat([t.frame for t in tables], ignore_index=True))
