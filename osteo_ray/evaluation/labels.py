"""Labels: a patient's class or T-score, and of when it is; which of them is the label of a CT.

labels = open_labels("labels.csv", None, SitePatientKeys())   # patient_key (or patient_id), label and/or t_score
labels = open_labels("records/", None, SitePatientKeys())     # a record set
labelled = pair_labels(rows, read_labels(labels), TimelineConfig(), notes)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from osteo_ray.evaluation.tables import NO_SECRET, dates_of, keys_of, numbers_of, read_cells
from osteo_ray.outcomes import InputError
from osteo_ray.patients.config import SitePatientKeys, TimelineConfig
from osteo_ray.patients.events import days_of
from osteo_ray.patients.labels import CLASSES, label_of
from osteo_ray.patients.mapping import Mapping
from osteo_ray.patients.readers import TABLES, chunks, kind_of
from osteo_ray.patients.record_set import RecordSet, is_record_set, open_record_set
from osteo_ray.patients.source import load_records
from osteo_ray.patients.timeline import Pairing, Timelines

FACTS = ("record_date", "dxa_date", "osteoporosis_treatment")
"""What a table of labels may say beside them, as records do."""

# What the synthetic cohort's truth may bring: the posterior of a perfect reader, per task.
BAYES = {"vs_normal": ("p_bayes", "p_bayes_vs_normal"), "vs_rest": ("p_bayes_rest", "p_bayes_vs_rest")}


def open_labels(labels: str, mapping: str | None, keys: SitePatientKeys) -> pd.DataFrame:
    """Labels by path, as `read_labels` gives them: a record set (also by URI), a plain table, or a hospital's records,
    which go through a mapping.

    Raises:
        InputError: no such file, or what `read_labels` refuses.
        RecordsError: records that can't be read.
    """
    if is_record_set(labels):
        return read_labels(open_record_set(labels))
    if not Path(labels).exists():
        raise InputError(f"{labels}: no such file; give records with a T-score, or a table of patient_key and label")
    if mapping is None and is_plain_labels(labels):
        return read_labels(labels, keys)
    return read_labels(load_records(labels, mapping, keys.pseudonym_key, keys.identity, keys.site))


def read_labels(labels: Any, keys: SitePatientKeys = NO_SECRET) -> pd.DataFrame:
    """One row a fact of a patient: patient_key, label, t_score, its dates, treatment, and what stands beside them
    (posterior, `site`). Which of them is the label of a CT, `pair_labels` says.

    Args:
        labels: pandas frame, Arrow table, path of a table, RecordTable or RecordSet, with
            `patient_key` (or `patient_id`) and `label` (normal | osteopenia | osteoporosis) and/or `t_score`. A label
            wins over the T-score; `dxa_date` or `record_date` say of when they are.
        keys: how a `patient_id` becomes a key: as in the index.

    Raises:
        InputError: a needed column is missing, a label is unknown, or one patient has two labels without dates.
    """
    frame = _labels_frame(labels)
    if "patient_key" not in frame and "patient_id" in frame:
        frame = frame.assign(patient_key=keys_of(frame["patient_id"], "labels", keys))
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
    t = numbers_of(frame["t_score"], "labels") if "t_score" in frame else pd.Series(np.nan, index=frame.index)
    given = given.where(given.notna(), t.map(label_of, na_action="ignore"))
    frame["label"] = given
    # A label without a T-score, or with one of another class, stands for a T-score in the middle of its class.
    stands = t.map(label_of, na_action="ignore").astype(object) != given.astype(object)
    frame["t_score"] = t.where(
        ~(stands & given.notna()), given.map(dict(zip(CLASSES, (0.0, -1.75, -3.0), strict=True)))
    )
    for c in ("osteoporosis_treatment", *sum(BAYES.values(), ())):
        if c in frame:
            frame[c] = numbers_of(frame[c], "labels")
    for c in ("record_date", "dxa_date"):
        if c in frame:
            frame[c] = dates_of(frame[c], "labels").astype("datetime64[s]")
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
    if not path.is_file() or kind_of(path) not in TABLES:
        return False
    names = set(next(chunks(path, Mapping(format="fhir"))).frame.columns)
    return ("label" in names and bool({"patient_key", "patient_id"} & names)) or {"patient_key", "t_score"} <= names


def _labels_frame(labels: Any) -> pd.DataFrame:
    if isinstance(labels, RecordSet):
        return labels.label_facts()
    labels = getattr(labels, "frame", labels)
    if isinstance(labels, pa.Table):
        return labels.to_pandas()
    if isinstance(labels, str | Path):
        path = Path(labels)
        if not path.exists():
            raise InputError(f"{path}: no such file; labels are a table with patient_key and label or t_score")
        return read_cells(path)
    if isinstance(labels, pd.DataFrame):
        return labels
    raise InputError(f"labels: a frame, a table or a path is wanted, this is a {type(labels).__name__}")
