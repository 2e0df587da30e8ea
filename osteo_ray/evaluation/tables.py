"""What evaluation reads: results of this or any other system, and labels, as pandas frames.

    rows = read_results("out/results.parquet")            # of osteo-ray: one row per series
    rows = read_results("their_scores.csv")               # of any system: patient_key, score

Another system's table needs an identity and a number, nothing else:

- `patient_key`, or `patient_id`, which becomes a key here under the same secret as the labels';
- `risk_prob`, a probability of osteoporosis among everyone, or `score`, any number that grows with risk. A `score`
  orders patients and claims no more, so it gets no calibration and no decision curve.

Optional, each under its own name: `threshold` (per row, on the same scale), `log_odds`, `study_date`, `state`,
`row_key`, `modalities` (`ct+labs`), `conformal_set` (`normal+osteopenia`), `labs_missing`, `l1_l2_hu` (mean HU of L1
and L2 at 120 kVp, for the plain rule beside the score), and what subgroups are cut by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads

from osteo_ray.evaluation.hu_rule import l1_l2_hu
from osteo_ray.outcomes import InputError, State
from osteo_ray.patients.config import SitePatientKeys
from osteo_ray.patients.dates import days
from osteo_ray.patients.events import days_of
from osteo_ray.patients.identity import normalised, patient_key
from osteo_ray.patients.mapping import Mapping, folded
from osteo_ray.patients.readers import TABLES, chunks, kind_of
from osteo_ray.patients.timeline import latest_per_patient
from osteo_ray.patients.values import BAD, OK, no_id

HU_RULE = "l1_l2_hu"
"""Mean HU of L1 and L2 at 120 kVp; worked out where results hold `hu_by_level`."""
TEXTS = (
    *("row_key", "series_uid", "study_uid", "study_date", "patient_key", "state", "code"),
    *("sex", "manufacturer", "convolution_kernel", "contrast", "site"),
)
NUMBERS = ("risk_prob", "score", "log_odds", "threshold", "age_y", "kvp", "slice_thickness_mm", "labs_missing",
           "bmi_kg_m2", HU_RULE)  # fmt: skip
LISTS = ("modalities", "conformal_set")
WANTED = (*TEXTS, *NUMBERS, *LISTS)
_NO_DATE = r"(?:0000|1900)[-/.]?00[-/.]?00"
BY_LEVEL = "hu_by_level"
NO_SECRET = SitePatientKeys()


def read_results(results: pa.Table | pd.DataFrame | str | Path, keys: SitePatientKeys = NO_SECRET) -> pd.DataFrame:
    """Results as a frame of `WANTED`'s columns, those that there are, with `risk_prob` always among them.

    `frame.attrs["probabilities"]` says whether `risk_prob` is one. Rows keep their order.

    Args:
        keys: how a `patient_id` becomes a key: as in the index.

    Raises:
        InputError: naming the column that is missing, or the row, column and value that can't be.
    """
    named = str(results) if isinstance(results, str | Path) else "results"
    frame = _results_frame(results)
    if "patient_key" not in frame and "patient_id" in frame:
        frame["patient_key"] = keys_of(frame["patient_id"], named, keys)
    there = ", ".join(map(str, frame.columns))
    if "patient_key" not in frame:
        raise InputError(f"{named} lacks the column patient_key, or patient_id (there: {there})")
    if "risk_prob" not in frame and "score" not in frame:
        raise InputError(f"{named} lacks the column risk_prob (a probability), or score (there: {there})")
    frame = frame[[c for c in WANTED if c in frame]].copy()
    for c in NUMBERS:
        if c in frame:
            frame[c] = numbers_of(frame[c], named)
    for c in LISTS:
        if c in frame:
            frame[c] = frame[c].map(_listed)
    for c in TEXTS:
        if c in frame:
            frame[c] = frame[c].astype(object).where(frame[c].notna(), None)
    if "study_date" in frame:
        frame["study_date"] = _study_dates(frame["study_date"], named)
    if "site" in frame and frame["site"].isna().all():  # results of one site: the labels may name it
        frame = frame.drop(columns="site")
    probabilities = "risk_prob" in frame
    if probabilities:
        _check_probabilities(frame["risk_prob"], named)
    else:
        frame["risk_prob"] = frame["score"]
    frame.attrs["probabilities"] = probabilities
    return frame


def scored_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that carry a score and count: of a known patient and, where a state is given, scored."""
    scored = rows[rows["risk_prob"].notna() & rows["patient_key"].notna()]
    return scored[scored["state"].isin([State.SCORED, State.SCORED_WARN])] if "state" in rows else scored


def one_per_patient(scored: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The row of each patient that counts (`timeline.latest_per_patient`); where there are labels, one with a label.

    The index is that of `scored`.
    """
    dated = "study_date" in scored and scored["study_date"].notna().any()
    repeated = int(scored["patient_key"].duplicated().sum())
    if repeated:
        keys = any(k in scored for k in ("row_key", "series_uid", "study_uid"))
        how = "the latest study counts" if dated else "no study_date is given: the first by row_key counts"
        how = how if keys or dated else "no study_date and no row_key are given: the first row counts"
        how += ", of those with a label" if dated and "label" in scored else ""
        notes.append(f"{repeated} further scored series of the same patients; {how}")
    return latest_per_patient(scored, scored["label"].notna().to_numpy() if "label" in scored else None)


def plain(value: Any) -> Any:
    """Data for JSON: tuples as lists, what is not finite as None."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _results_frame(results: pa.Table | pd.DataFrame | str | Path) -> pd.DataFrame:
    if isinstance(results, pd.DataFrame):
        return results.reset_index(drop=True)
    if isinstance(results, str | Path):
        path = Path(results)
        if not path.exists():
            raise InputError(f"{path}: no such file; give results.parquet, its folder, or a table of scores (.csv)")
        if path.is_dir() and (path / "results.parquet").exists():
            path = path / "results.parquet"
        if not path.is_dir() and kind_of(path) != "parquet":
            if kind_of(path) not in TABLES:
                raise InputError(f"{path}: scores are read from .csv, .tsv, .xlsx or .parquet")
            return read_cells(path)
        read = pads.dataset(path)
        results = read.to_table(columns=[c for c in (*WANTED, "patient_id", BY_LEVEL) if c in read.schema.names])
    frame = results.select([c for c in (*WANTED, "patient_id") if c in results.column_names]).to_pandas()
    if BY_LEVEL in results.column_names and HU_RULE not in frame:
        frame[HU_RULE] = l1_l2_hu(results[BY_LEVEL])
    return frame


def numbers_of(column: pd.Series, named: str) -> pd.Series:
    """A column as float64, missing as NaN; InputError names a cell that is no number."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    bad = values.isna() & column.notna() & (column.astype(str).str.strip() != "") | np.isinf(values)
    if bad.any():
        row = int(np.flatnonzero(bad.to_numpy())[0])
        raise InputError(
            f"{named}: row {row + 1}, column {column.name}: {column.iloc[row]!r} is no finite number; empty is missing"
        )
    return values


def dates_of(column: pd.Series, named: str) -> np.ndarray:
    """A column of dates as datetime64[D] (ISO, DICOM's YYYYMMDD), NaT where empty; InputError names one that is none.

    A date that cannot be read is not undated: an undated label is that of every CT.
    """
    parsed = days(column, folded(Mapping(format="fhir").missing))
    if (parsed.state == BAD).any():
        row = int(np.flatnonzero(parsed.state == BAD)[0])
        raise InputError(
            f"{named}: row {row + 1}, column {column.name}: {parsed.texts(row)!r} is no date; write YYYY-MM-DD"
        )
    return parsed.values


def _study_dates(column: pd.Series, named: str) -> pd.Series:
    """Study dates as `days_of` reads them. A header may hold a date that is none; not all of them do. One of zeros
    alone (00000000, 19000000) stands for no date.

    Raises:
        InputError: several are there, and not one is a date.
    """
    column = column.where(~column.astype(str).str.strip().str.fullmatch(_NO_DATE), None)
    unread = (column.notna() & np.isnat(days_of(column))).to_numpy(bool)
    if not unread.any():
        return column
    if unread.sum() == column.notna().sum() > 1:
        column = column.where(~unread, dates_of(column, named).astype(str))
    else:
        parsed = days(column, folded(Mapping(format="fhir").missing))
        column = column.where(~unread | (parsed.state != OK), parsed.values.astype(str))
    return column.where(column != "NaT", None)


def _check_probabilities(risk: pd.Series, named: str) -> None:
    bad = (risk < 0) | (risk > 1)
    if bad.any():
        row = int(np.flatnonzero(bad.to_numpy())[0])
        raise InputError(
            f"{named}: row {row + 1}: risk_prob {risk.iloc[row]:g} is no probability; call the column `score` if it is "
            "another number that grows with risk"
        )


def _listed(value: Any) -> list[str] | None:
    """`ct + labs`, or a list, as a list; None where nothing is said. An empty text says nothing, an empty list does."""
    if value is None or isinstance(value, float):
        return None
    if isinstance(value, str):
        return [v.strip() for v in value.replace(",", "+").replace(";", "+").split("+") if v.strip()] or None
    return [str(v) for v in _iterated(value)]


def _iterated(value: Any) -> Iterable[Any]:
    if isinstance(value, Iterable):
        return value
    raise InputError(f"results: {value!r} is no list of names")


def read_cells(path: Path) -> pd.DataFrame:
    """A table by the records' readers: a text file's cells stay text, so that 0007 is not 7; those that say missing are
    None.

    Raises:
        RecordsError: a file that can't be read, naming line and remedy.
    """
    plain_table = Mapping(format="fhir")  # nothing of a mapping but how files are read
    missing = frozenset(plain_table.missing)  # as written: `none` is a contrast phase

    def cell(v: Any) -> Any:
        return v if not isinstance(v, str) else None if (text := v.strip()) in missing else text

    frame = pd.concat([c.frame for c in chunks(path, plain_table)], ignore_index=True)
    texts = [c for c in frame if frame[c].dtype == object]
    return frame.assign(**{c: frame[c].map(cell) for c in texts})


def keys_of(ids: pd.Series, named: str, keys: SitePatientKeys) -> pd.Series:
    """Patient ids as keys, by the rules of the index; None where there is no id.

    Raises:
        InputError: an id that is no text, since a number has lost its leading zeros, or that a spreadsheet has rounded.
    """
    known = ids.notna()
    found: dict[str, str | None] = {}
    for pid in ids[known].unique():
        if not isinstance(pid, str):
            raise InputError(f"{named}: patient_id must be text, or leading zeros are lost")
        if why := no_id(pid):
            raise InputError(f"{named}: patient_id {why}")
        there = normalised(pid, keys.identity) != ""
        found[pid] = patient_key(pid, keys.pseudonym_key, keys.identity, keys.site) if there else None
    return pd.Series(
        [found[v] if ok else None for v, ok in zip(ids, known, strict=True)], index=ids.index, dtype=object
    )
