"""What evaluation reads: results of this or any other system, and labels, as pandas frames.

    rows = read_results("out/results.parquet")            # of osteo-ray: one row per series
    rows = read_results("their_scores.csv")               # of any system: patient_key, score
    labels = read_labels("labels.csv")                    # patient_key, label and/or t_score

Another system's table needs an identity and a number, nothing else:

- `patient_key`, or `patient_id`, which becomes a key here under the same secret as the labels';
- `risk_prob`, a probability of osteoporosis among everyone, or `score`, any number that grows with risk. A `score`
  orders patients and claims no more, so it gets no calibration and no decision curve.

Optional, each under its own name: `threshold` (per row, on the same scale), `log_odds`, `study_date`, `state`,
`row_key`, `modalities` (`ct+labs`), `conformal_set` (`normal+osteopenia`), `labs_missing`, and what subgroups are cut
by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray.outcomes import InputError, State
from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.events import days_of
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.labels import CLASSES, label_of
from osteo_ray.patients.timeline import Pairing, Timelines, latest_per_patient

TEXTS = (
    *("row_key", "series_uid", "study_uid", "study_date", "patient_key", "state", "code"),
    *("sex", "manufacturer", "convolution_kernel", "contrast", "site"),
)
NUMBERS = ("risk_prob", "score", "log_odds", "threshold", "age_y", "kvp", "slice_thickness_mm", "labs_missing")
LISTS = ("modalities", "conformal_set")
WANTED = (*TEXTS, *NUMBERS, *LISTS)
FACTS = ("record_date", "dxa_date", "osteoporosis_treatment")
"""What a table of labels may say beside them, as records do."""

# What the synthetic cohort's truth may bring: the posterior of a perfect reader, per task.
BAYES = {"vs_normal": ("p_bayes", "p_bayes_vs_normal"), "vs_rest": ("p_bayes_rest", "p_bayes_vs_rest")}


def read_results(results: pa.Table | pd.DataFrame | str | Path, pseudonym_key: str | None = None) -> pd.DataFrame:
    """Results as a frame of `WANTED`'s columns, those that there are, with `risk_prob` always among them.

    `frame.attrs["probabilities"]` says whether `risk_prob` is one. Rows keep their order.

    Raises:
        InputError: naming the column that is missing, or the row, column and value that can't be.
    """
    named = str(results) if isinstance(results, str | Path) else "results"
    frame = _results_frame(results)
    if "patient_key" not in frame and "patient_id" in frame:
        frame["patient_key"] = _keys(frame["patient_id"], named, pseudonym_key)
    there = ", ".join(map(str, frame.columns))
    if "patient_key" not in frame:
        raise InputError(f"{named} lacks the column patient_key, or patient_id (there: {there})")
    if "risk_prob" not in frame and "score" not in frame:
        raise InputError(f"{named} lacks the column risk_prob (a probability), or score (there: {there})")
    frame = frame[[c for c in WANTED if c in frame]].copy()
    for c in NUMBERS:
        if c in frame:
            frame[c] = _numbers(frame[c], named)
    for c in LISTS:
        if c in frame:
            frame[c] = frame[c].map(_listed)
    for c in TEXTS:
        if c in frame:
            frame[c] = frame[c].astype(object).where(frame[c].notna(), None)
    if "site" in frame and frame["site"].isna().all():  # results of one site: the labels may name it
        frame = frame.drop(columns="site")
    probabilities = "risk_prob" in frame
    if probabilities:
        _check_probabilities(frame["risk_prob"], named)
    else:
        frame["risk_prob"] = frame["score"]
    frame.attrs["probabilities"] = probabilities
    return frame


def read_labels(labels: Any, pseudonym_key: str | None = None) -> pd.DataFrame:
    """One row a fact of a patient: patient_key, label, t_score, its dates, treatment, and what stands beside them
    (posterior, `site`). Which of them is the label of a CT, `pair_labels` says.

    Args:
        labels: pandas frame, Arrow table, CSV/TSV/Parquet path, or an object with a `frame` (RecordTable), with
            `patient_key` (or `patient_id`) and `label` (normal | osteopenia | osteoporosis) and/or `t_score`. A label
            wins over the T-score; `dxa_date` or `record_date` say of when they are.

    Raises:
        InputError: a needed column is missing, a label is unknown, or one patient has two labels without dates.
    """
    frame = _labels_frame(labels)
    if "patient_key" not in frame and "patient_id" in frame:
        frame = frame.assign(patient_key=_keys(frame["patient_id"], "labels", pseudonym_key))
    if "patient_key" not in frame:
        raise InputError(f"labels lack the column patient_key, or patient_id (there: {', '.join(map(str, frame))})")
    if "label" not in frame and "t_score" not in frame:
        raise InputError("labels need a column label (normal | osteopenia | osteoporosis) or t_score")
    wanted = ("patient_key", "label", "t_score", *FACTS, "site", *sum(BAYES.values(), ()))
    frame = frame[[c for c in wanted if c in frame]].copy()
    given = frame["label"].astype(object) if "label" in frame else pd.Series(None, index=frame.index, dtype=object)
    given = given.where(given.notna() & (given != ""), None)
    unknown = sorted(set(map(str, given.dropna())) - set(CLASSES))
    if unknown:
        raise InputError(f"labels: unknown label {unknown[0]!r}; it may be {', '.join(CLASSES)} or empty")
    t = _numbers(frame["t_score"], "labels") if "t_score" in frame else pd.Series(np.nan, index=frame.index)
    given = given.where(given.notna(), t.map(label_of, na_action="ignore"))
    frame["label"] = given
    # A label without a T-score, or with one of another class, stands for a T-score in the middle of its class.
    stands = t.map(label_of, na_action="ignore").astype(object) != given.astype(object)
    frame["t_score"] = t.where(
        ~(stands & given.notna()), given.map(dict(zip(CLASSES, (0.0, -1.75, -3.0), strict=True)))
    )
    for c in ("record_date", "dxa_date"):
        if c in frame:
            frame[c] = days_of(frame[c]).astype("datetime64[s]")
    treated = frame["osteoporosis_treatment"].notna() if "osteoporosis_treatment" in frame else False
    frame = frame[(frame["label"].notna() | treated) & frame["patient_key"].notna()].astype({"patient_key": str})
    dates = [frame[c].notna() for c in ("record_date", "dxa_date") if c in frame]
    undated = frame[frame["label"].notna() & ~(sum(dates) > 0 if dates else pd.Series(False, index=frame.index))]
    twice = undated.drop_duplicates(["patient_key", "label"])["patient_key"]
    twice = twice[twice.duplicated()]
    if len(twice):
        raise InputError(
            f"labels: patient_key {twice.iloc[0]} has two labels ({len(twice)} such patients); "
            "keep one per patient or give record_date"
        )
    return frame.reset_index(drop=True)


def pair_labels(rows: pd.DataFrame, facts: pd.DataFrame, timeline: TimelineConfig, notes: list[str]) -> pd.DataFrame:
    """The rows with `label` beside them, None where the timeline gives none: the DXA nearest to the row's CT.

    Args:
        rows: scored rows; without a `study_date` a patient's latest label counts.
        facts: what `read_labels` gave. Its `site` and posteriors stand beside the label.
        notes: gets a line on CTs without a label though their patient has one.
    """
    dates = rows["study_date"] if "study_date" in rows else pd.Series(None, index=rows.index, dtype=object)
    if dates.isna().all() and facts[[c for c in ("record_date", "dxa_date") if c in facts]].notna().any(axis=None):
        notes.append("the results give no study_date: of a patient's labels the latest counts")
        timeline = timeline.model_copy(update={"undated_ct": "latest"})
    found = Timelines.of(facts).labels_at(rows["patient_key"], days_of(dates), timeline)
    label = np.where(found.label >= 0, np.array(CLASSES, object)[found.label], None)
    beside = facts.drop(columns=["label", "t_score", *FACTS], errors="ignore")
    beside = beside.drop(columns=[c for c in beside if c in rows and c != "patient_key"])
    out = rows.assign(label=label)
    if len(beside.columns) > 1:
        first = beside.groupby("patient_key").first()
        out = out.join(first, on="patient_key")
    why = found.counts()
    lost = {
        Pairing.DXA_FAR: f"of more than {timeline.dxa_days} days before or after the CT",
        Pairing.DXA_NOT_PLACED: "that cannot be placed in time beside the CT",
        Pairing.TREATED: "of patients under treatment for osteoporosis (timeline.treated)",
    }
    notes += [f"{why[k]} DXA {words} were left out" for k, words in lost.items() if why.get(k)]
    return out


def is_plain_labels(path: str | Path) -> bool:
    """Whether a table can be read as labels as it is: it names its patients and has a `label`, or keys and a `t_score`.

    Any other table is a hospital's record, which needs a mapping (`records.load`).
    """
    path = Path(path)
    if _kind(path) == "parquet":
        names = set(pq.read_schema(path).names)
    elif _kind(path) in ("csv", "tsv"):
        names = set(_read_text(path, nrows=0).columns)
    else:
        return False
    return ("label" in names and bool({"patient_key", "patient_id"} & names)) or {"patient_key", "t_score"} <= names


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
        if _kind(path) in ("csv", "tsv"):
            return _read_text(path)
        if not path.is_dir() and _kind(path) != "parquet":
            raise InputError(f"{path}: scores are read from .csv, .tsv or .parquet")
        results = pq.read_table(path)
    return results.select([c for c in (*WANTED, "patient_id") if c in results.column_names]).to_pandas()


def _labels_frame(labels: Any) -> pd.DataFrame:
    labels = getattr(labels, "frame", labels)
    if isinstance(labels, pa.Table):
        return labels.to_pandas()
    if isinstance(labels, str | Path):
        path = Path(labels)
        if not path.exists():
            raise InputError(f"{path}: no such file; labels are a table with patient_key and label or t_score")
        return _read_text(path) if _kind(path) in ("csv", "tsv") else pd.read_parquet(path)
    if isinstance(labels, pd.DataFrame):
        return labels
    raise InputError(f"labels: a frame, a table or a path is wanted, this is a {type(labels).__name__}")


def _kind(path: Path) -> str:
    return path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]


def _read_text(path: Path, nrows: int | None = None) -> pd.DataFrame:
    # Keys of digits only stay text: 0007 is not 7.
    texts = dict.fromkeys((*TEXTS, "patient_id"), str)
    return pd.read_csv(path, sep="\t" if _kind(path) == "tsv" else ",", dtype=texts, nrows=nrows)


def _keys(ids: pd.Series, named: str, key: str | None) -> pd.Series:
    """Patient ids as keys. A number that pandas made of digits has lost its zeros: ids must be text."""
    known = ids.notna()
    if not ids[known].map(lambda v: isinstance(v, str)).all():
        raise InputError(f"{named}: patient_id must be text, or leading zeros are lost")
    return pd.Series([patient_key(v, key) if ok else None for v, ok in zip(ids, known, strict=True)], index=ids.index)


def _numbers(column: pd.Series, named: str) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce").astype(float)
    bad = values.isna() & column.notna() & (column.astype(str).str.strip() != "") | np.isinf(values)
    if bad.any():
        row = int(np.flatnonzero(bad.to_numpy())[0])
        raise InputError(
            f"{named}: row {row + 1}, column {column.name}: {column.iloc[row]!r} is no finite number; empty is missing"
        )
    return values


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
