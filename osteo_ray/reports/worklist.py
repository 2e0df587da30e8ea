"""The worklist: scored series sorted by risk, for the people who call patients in.

    write_worklist("worklist.csv", results, top_n_per_week=25)

Ranks count patients, not series: a patient's further series stand right behind the first and share its rank. With a
weekly capacity the column `week` says in which week a patient comes up (1 = now). Who was not scored is not in the
list; the run report counts them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from osteo_ray.outcomes import State
from osteo_ray.reports.study_view import DISCLAIMER
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
    "modalities",
    "warning",
    "study_date",
    "study_uid",
    "series_uid",
    "run_id",
    "notice",
)


NEEDED = (*(c for c in COLUMNS if c in RESULTS.names), "row_key", "state", "code", "message")


def scored(results: pa.Table) -> pa.Table:
    """The scored rows, with the columns a worklist and a run report need; slices, SHAP and gates stay behind."""
    states = pc.is_in(results["state"], pa.array([State.SCORED.value, State.SCORED_WARN.value]))
    light = results.select([*NEEDED, "threshold", "slices_total", "slices_decoded"])
    return light.filter(pc.and_(states, results["risk_prob"].is_valid()))


def head(listed: pa.Table, top: int) -> list[tuple[int, Mapping[str, Any]]]:
    """The first `top` lines of `ranked`, without ranking the rest."""
    order = [("risk_prob", "descending"), ("series_uid", "ascending"), ("row_key", "ascending")]
    first = listed.sort_by(order)[:top]
    # A patient in the head brings his further series with him, however low their risk.
    theirs = pc.is_in(listed["patient_key"], first["patient_key"].combine_chunks().drop_null())
    nobody = first.filter(first["patient_key"].is_null())
    return ranked(pa.concat_tables([listed.filter(theirs), nobody]).to_pylist())[:top]


def ranked(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """(patient rank, row) by falling risk; ties by series UID, so that the order never depends on the run.

    A row without patient_key counts as a patient of its own.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for i, row in enumerate(sorted(rows, key=lambda r: (-r["risk_prob"], r["series_uid"] or "", r["row_key"] or ""))):
        groups.setdefault(row["patient_key"] or f"\0{i}", []).append(row)
    # Groups are in the order of their first row, which is their highest risk.
    return [(rank, row) for rank, group in enumerate(groups.values(), start=1) for row in group]


def write_worklist(path: str | Path, results: pa.Table, top_n_per_week: int | None = None) -> Path:
    """Write the worklist as CSV (UTF-8, one header line, the disclaimer in each row's last column).

    Args:
        top_n_per_week: how many patients can be seen in a week; None leaves `week` empty.

    Raises:
        ValueError: a capacity below 1.
    """
    if top_n_per_week is not None and top_n_per_week < 1:
        raise ValueError(f"top_n_per_week: {top_n_per_week} given; it must be at least 1, or none")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.DictWriter(f, COLUMNS, extrasaction="ignore")
        out.writeheader()
        for rank, row in ranked(scored(results).to_pylist()):
            line = {c: _cell(row.get(c)) for c in COLUMNS}
            line["rank"] = rank
            line["week"] = "" if top_n_per_week is None else 1 + (rank - 1) // top_n_per_week
            line["modalities"] = " + ".join(row["modalities"] or ())
            warned = row["state"] == State.SCORED_WARN
            line["warning"] = _cell(": ".join(t for t in (row["code"], row["message"]) if t)) if warned else ""
            line["notice"] = DISCLAIMER
            out.writerow(line)
    return path


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    # Text from DICOM headers may begin like a formula; a spreadsheet would run it.
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
