"""The worklist: scored series sorted by risk, for the people who call patients in.

    write_worklist("worklist.csv", results, top_n_per_week=25, patients=patients)

Ranks count patients, not series, by the risk of the latest study: a patient's further series stand right behind the
first and share its rank. With a weekly capacity the column `week` says in which week a patient comes up (1 = now).
Whom `screening.patients` suppresses (a recent DXA, treatment) stands in `suppressed.csv` beside it, with the code and
the rank, and takes up nobody's week. Who was not scored is in neither; the run report counts them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from osteo_ray.io.files import replaced
from osteo_ray.outcomes import State
from osteo_ray.reports.checks_view import reason, warned
from osteo_ray.reports.language import DISCLAIMER, Words, words_in
from osteo_ray.reports.source import Identity
from osteo_ray.reports.study_view import next_step, viewer_link
from osteo_ray.screening.config import IN_ENGLISH, ReportText
from osteo_ray.screening.patients import SUPPRESSING
from osteo_ray.screening.schema import RESULTS

COLUMNS = (
    "rank",
    "week",
    "patient_key",
    "risk_prob",
    "risk_low",
    "risk_high",
    "risk_class",
    "operating_point",
    "age_y",
    "sex",
    "age_from",
    "sex_from",
    "modalities",
    "warning",
    "codes",
    "latest",
    "studies",
    "risk_verdict",
    "hu_change",
    "hu_verdict",
    "known",
    "known_text",
    "note",
    "next_step",
    "study_date",
    "study_uid",
    "series_uid",
    "viewer",
    "run_id",
    "notice",
)

WORKLIST_COLUMNS = (
    *(c for c in COLUMNS if c in RESULTS.names),
    *("row_key", "state", "code", "message", "kvp", "contrast", "threshold", "slices_total", "slices_decoded"),
)
"""Columns of the results that a worklist and a run report need; slices, SHAP and checks stay behind."""
CHUNK = 5_000
"""Rows that are Python objects at once."""


@dataclass(frozen=True)
class Worklist:
    """What was written. Counts are patients."""

    path: Path
    suppressed_path: Path | None
    listed: int
    suppressed: dict[str, int]

    def __str__(self) -> str:
        if not self.suppressed:
            return str(self.path)
        codes = ", ".join(f"{k} {n}" for k, n in sorted(self.suppressed.items()))
        n = sum(self.suppressed.values())
        return f"{self.path}: {self.listed} patients; {n} more are in {self.suppressed_path} ({codes})"


def scored(results: pa.Table) -> pa.Table:
    """The scored rows, with `WORKLIST_COLUMNS`."""
    states = pc.is_in(results["state"], pa.array([State.SCORED.value, State.SCORED_WARN.value]))
    return results.select(WORKLIST_COLUMNS).filter(pc.and_(states, results["risk_prob"].is_valid()))


def order(listed: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a table in the worklist's order: (row numbers, patient ranks from 1, whether of the latest study).

    By falling risk of the latest study, then that of earlier ones; ties by series UID and row key, so that the order
    never depends on the run. A row without patient_key counts as a patient of its own, a study without a date as the
    oldest.

    Args:
        listed: columns patient_key, risk_prob, series_uid, row_key and, where there is one, study_date.
    """
    keys = [("risk_prob", "descending"), ("series_uid", "ascending"), ("row_key", "ascending")]
    base = pc.sort_indices(listed, sort_keys=keys).to_numpy()
    n = len(base)
    key = listed["patient_key"].combine_chunks().dictionary_encode()
    owner = key.indices.to_pandas().to_numpy(float, na_value=np.nan).copy()
    alone = np.isnan(owner)
    owner[alone] = len(key.dictionary) + np.arange(alone.sum())
    owner = owner.astype(int)[base]
    day = np.zeros(n)
    if "study_date" in listed.column_names:
        day = pd.to_numeric(listed["study_date"].to_pandas(), errors="coerce").fillna(0).to_numpy(float)[base]
    newest = np.full(owner.max(initial=-1) + 1, -1.0)
    np.maximum.at(newest, owner, day)
    latest = day == newest[owner]
    lead = np.full(len(newest), n)
    np.minimum.at(lead, owner[latest], np.flatnonzero(latest))
    ranks = np.empty(len(newest), int)
    ranks[np.argsort(lead, kind="stable")] = np.arange(1, len(newest) + 1)
    final = np.lexsort((np.arange(n), ~latest, lead[owner]))
    return base[final], ranks[owner][final], latest[final]


def head(listed: pa.Table, top: int) -> list[tuple[int, Mapping[str, Any]]]:
    """The first `top` lines of `ranked`; only these become Python objects."""
    rows, ranks, _ = order(listed)
    return list(zip(ranks[:top].tolist(), listed.take(pa.array(rows[:top])).to_pylist(), strict=True))


def ranked(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """(patient rank, row) in the worklist's order; see `order`."""
    names = ("patient_key", "study_date", "series_uid", "row_key")
    columns = {c: pa.array([r.get(c) for r in rows], pa.string()) for c in names}
    table = pa.table({**columns, "risk_prob": pa.array([r["risk_prob"] for r in rows], pa.float64())})
    at, ranks, _ = order(table)
    return [(rank, rows[i]) for rank, i in zip(ranks.tolist(), at.tolist(), strict=True)]


def write_worklist(
    path: str | Path,
    results: pa.Table,
    top_n_per_week: int | None = None,
    patients: pa.Table | None = None,
    text: ReportText = IN_ENGLISH,
) -> Worklist:
    """Write the worklist as CSV (UTF-8, one header line, the disclaimer in each row's last column).

    Args:
        top_n_per_week: how many patients can be seen in a week; None leaves `week` empty.
        patients: what `screening.patients.write_patients` gave; None leaves its columns empty and suppresses nobody.
        text: language of `warning` and `note`, and what the site wants done (`next_step`).

    Raises:
        ValueError: a capacity below 1.
    """
    if top_n_per_week is not None and top_n_per_week < 1:
        raise ValueError(f"top_n_per_week: {top_n_per_week} given; it must be at least 1, or none")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = scored(results)
    at, ranks, latest = order(listed)
    listed = listed.take(pa.array(at)).combine_chunks()  # taking from many chunks is slow, every time
    matched = _patients_of(listed, patients)
    hidden = np.zeros(len(at), bool)
    counts: dict[str, int] = {}
    if matched is not None:
        hidden = matched["suppressed"].to_numpy()
        one = matched["known"].filter(pa.array(hidden)).to_pandas().groupby(ranks[hidden]).first()
        counts = {str(k): int(n) for k, n in one.value_counts().items()}
    shown = np.unique(ranks[~hidden])
    weeks = np.zeros(len(at), int)
    if top_n_per_week is not None:
        weeks[~hidden] = 1 + np.searchsorted(shown, ranks[~hidden]) // top_n_per_week
    notice = DISCLAIMER
    beside = path.with_name("suppressed.csv")
    if counts:
        notice += f" {sum(counts.values())} patients are not in this list but in {beside.name}."
    for target, rows in ((path, np.flatnonzero(~hidden)), (beside, np.flatnonzero(hidden))):
        if target == beside and not counts:
            beside.unlink(missing_ok=True)  # of an earlier run
            continue
        with target.open("w", newline="", encoding="utf-8") as f:
            out = csv.DictWriter(f, COLUMNS, extrasaction="ignore")
            out.writeheader()
            for begin in range(0, len(rows), CHUNK):
                part = rows[begin : begin + CHUNK]
                taken = listed.take(pa.array(part)).to_pylist()
                patient_rows = [{}] * len(part) if matched is None else matched.take(pa.array(part)).to_pylist()
                for i, row, patient in zip(part.tolist(), taken, patient_rows, strict=True):
                    line = row | patient | {"rank": int(ranks[i]), "week": int(weeks[i]) or None, "notice": notice}
                    out.writerow(_line(line, bool(latest[i]), text))
    return Worklist(path, beside if counts else None, len(shown), counts)


IDENTIFIED = ("name", "number", "birth_date", "accession")
"""Columns before the others' in a worklist that names patients."""


def write_identified(path: Path, worklist: Path, identities: Mapping[str, Identity | None]) -> int:
    """The lines of a worklist whose series are in `identities`, with each patient's name and numbers before them.

    A line whose source can't be read any more stands without them. Only the owner may read the file.

    Returns:
        how many lines there are.
    """
    lines = 0
    with replaced(path) as tmp, worklist.open(newline="", encoding="utf-8") as given:
        tmp.touch(mode=0o600)
        read = csv.DictReader(given)
        with tmp.open("w", newline="", encoding="utf-8") as f:
            out = csv.DictWriter(f, (*IDENTIFIED, *(read.fieldnames or COLUMNS)))
            out.writeheader()
            for line in read:
                if line["series_uid"] not in identities:
                    continue
                who = identities[line["series_uid"]]
                out.writerow({n: _cell(getattr(who, n)) if who else "" for n in IDENTIFIED} | line)
                lines += 1
    return lines


def _patients_of(listed: pa.Table, patients: pa.Table | None) -> pa.Table | None:
    """Each row's patient, as the worklist shows the patient; a row without a patient is nobody's."""
    if patients is None:
        return None
    at = pc.index_in(listed["patient_key"], value_set=patients["patient_key"].combine_chunks())
    found = patients.drop_columns("patient_key").rename_columns({"n_studies": "studies"}).take(at)
    suppressed = pc.fill_null(found["suppressed"], False)
    return found.set_column(found.column_names.index("suppressed"), "suppressed", suppressed)


def _line(row: Mapping[str, Any], latest: bool, text: ReportText) -> dict[str, object]:
    words = words_in(text.language)
    line = {c: _cell(row.get(c)) for c in COLUMNS}
    line["modalities"] = " + ".join(row["modalities"] or ())
    is_warned = row["state"] == State.SCORED_WARN
    line["warning"] = _cell(warning(row, words))
    line["codes"] = _cell(": ".join(t for t in (row["code"], row["message"]) if t)) if is_warned else ""
    line["latest"] = "yes" if latest else "no"
    line["note"] = _cell(note(row, row.get("known"), words, suppressed=bool(row.get("suppressed"))))
    line["viewer"] = viewer_link(row, text.viewer)
    line["next_step"] = _cell(next_step(row, row.get("known") in SUPPRESSING, text.next_step))
    return line


def warning(row: Mapping[str, Any], words: Words) -> str:
    """Why a scored study has a warning, in words; "" where it has none."""
    if row["state"] != State.SCORED_WARN:
        return ""
    if row["code"] == "GATE_WARN":
        return warned(row["message"], row, words)
    return ": ".join(t for t in reason(row, words) if t)


def note(row: Mapping[str, Any], known: str | None, words: Words, suppressed: bool = True) -> str:
    """What a reader of a worklist has to know of a line, in words.

    Args:
        known: code of what the records say of the patient's bones, or None.
        suppressed: whether that takes the patient off the list.
    """
    parts = [warning(row, words)]
    if known:
        reason_text = words.code(known)
        parts.append(words("known.suppressed", reason=reason_text) if suppressed else reason_text)
    if row.get("hu_verdict") in ("FALLEN", "RISEN") and row.get("hu_change") is not None:
        key = {"FALLEN": "run.hu_fell", "RISEN": "run.hu_rose"}[row["hu_verdict"]]
        parts.append(words(key, hu=f"{abs(row['hu_change']):.0f}"))
    return "; ".join(p for p in parts if p)


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    # Text from DICOM headers may begin like a formula; a spreadsheet would run it.
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
