"""The worklist: scored series sorted by risk, for the people who call patients in.

    write_worklist("worklist.csv", results, top_n_per_week=25, patients=patients)

Ranks count patients, not series, by the risk of the latest study: a patient's further series stand right behind the
first and share its rank. With a weekly capacity the column `week` says in which week a patient comes up (1 = now).
Whom `screening.patients` suppresses (a recent DXA, treatment) stands in `suppressed.csv` beside it, with the code and
the rank, and takes up nobody's week. Who was not scored is in neither; the run report counts them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osteo_ray.io.database import Table, database
from osteo_ray.io.files import replaced
from osteo_ray.outcomes import State
from osteo_ray.reports.checks_view import reason, warned
from osteo_ray.reports.language import DISCLAIMER, Words, words_in
from osteo_ray.reports.source import Identity
from osteo_ray.reports.study_view import next_step, viewer_link
from osteo_ray.screening.config import IN_ENGLISH, ReportText
from osteo_ray.screening.patients import PATIENTS, SUPPRESSING
from osteo_ray.screening.schema import RESULTS, SCORED_SQL

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
"""Columns of the results that a worklist needs; slices, SHAP and checks stay behind."""
SHOWN = "patient_key, n_studies AS studies, risk_verdict, hu_change, hu_verdict, known, known_text, suppressed"
"""Columns of a patient that a worklist shows or goes by."""
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


def ranked_sql(listed: str) -> str:
    """A query of the rows of a table or subquery in the worklist's order, with `rank` (of the patient, from 1),
    `latest` (whether of the patient's latest study) and `line` (from 1).

    By falling risk of the latest study, then that of earlier ones; ties by series UID and row key, so that the order
    never depends on the run. A row without patient_key counts as a patient of its own, a study without a date as the
    oldest.

    Args:
        listed: has patient_key, risk_prob, series_uid, row_key and study_date.
    """
    same_patient = "PARTITION BY patient_key, CASE WHEN patient_key IS NULL THEN place END"
    return f"""
        WITH placed AS (
            SELECT patient_key, row_key, coalesce(try_cast(study_date AS DOUBLE), 0) AS day,
                   row_number() OVER (ORDER BY isnan(risk_prob), risk_prob DESC, series_uid, row_key) AS place
            FROM {listed}),
        dated AS (SELECT *, day = max(day) OVER ({same_patient}) AS latest FROM placed),
        led AS (SELECT *, min(place) FILTER (latest) OVER ({same_patient}) AS lead FROM dated),
        ranks AS (
            SELECT row_key, latest, dense_rank() OVER (ORDER BY lead) AS rank,
                   row_number() OVER (ORDER BY lead, NOT latest, place) AS line
            FROM led)
        SELECT * FROM {listed} JOIN ranks USING (row_key)"""


def head(results: Table, top: int) -> list[tuple[int, dict[str, Any]]]:
    """(patient rank, row with `WORKLIST_COLUMNS`) of the scored rows, the first `top` in the worklist's order."""
    with database(results=(results, RESULTS)) as db:
        db.execute(f"CREATE VIEW listed AS SELECT {', '.join(WORKLIST_COLUMNS)} FROM results WHERE {SCORED_SQL}")
        rows = db.sql(f"{ranked_sql('listed')} ORDER BY line LIMIT {top:d}").to_arrow_table().to_pylist()
    return [(row["rank"], row) for row in rows]


def write_worklist(
    path: str | Path,
    results: Table,
    top_n_per_week: int | None = None,
    patients: Table | None = None,
    text: ReportText = IN_ENGLISH,
) -> Worklist:
    """Write the worklist as CSV (UTF-8, one header line, the disclaimer in each row's last column).

    Args:
        top_n_per_week: how many patients can be seen in a week; None leaves `week` empty.
        patients: what `screening.patients.write_patients` wrote; None leaves its columns empty and suppresses nobody.
        text: language of `warning` and `note`, and what the site wants done (`next_step`).

    Raises:
        ValueError: a capacity below 1.
    """
    if top_n_per_week is not None and top_n_per_week < 1:
        raise ValueError(f"top_n_per_week: {top_n_per_week} given; it must be at least 1, or none")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name("suppressed.csv")
    people = PATIENTS.empty_table() if patients is None else patients
    with database(results=(results, RESULTS), patients=(people, PATIENTS)) as db:
        db.execute(f"CREATE VIEW listed AS SELECT {', '.join(WORKLIST_COLUMNS)} FROM results WHERE {SCORED_SQL}")
        db.execute(
            f"""
            CREATE TABLE lines AS
            SELECT *, coalesce(suppressed, false) AS hidden
            FROM ({ranked_sql("listed")}) LEFT JOIN (SELECT {SHOWN} FROM patients) USING (patient_key)"""
        )
        known = db.sql("SELECT known, count(DISTINCT rank) FROM lines WHERE hidden GROUP BY known").fetchall()
        counts = {str(code): n for code, n in known}
        (shown,) = db.sql("SELECT count(DISTINCT rank) FROM lines WHERE NOT hidden").fetchall()[0]
        notice = DISCLAIMER
        if counts:
            notice += f" {sum(counts.values())} patients are not in this list but in {beside.name}."
        # Suppressed patients take up nobody's week.
        week = (
            "NULL" if top_n_per_week is None else f"1 + (dense_rank() OVER (ORDER BY rank) - 1) // {top_n_per_week:d}"
        )
        for target, query in (
            (path, f"SELECT *, {week} AS week FROM lines WHERE NOT hidden ORDER BY line"),
            (beside, "SELECT *, NULL AS week FROM lines WHERE hidden ORDER BY line"),
        ):
            if target == beside and not counts:
                beside.unlink(missing_ok=True)  # of an earlier run
                continue
            with target.open("w", newline="", encoding="utf-8") as f:
                out = csv.DictWriter(f, COLUMNS, extrasaction="ignore")
                out.writeheader()
                for batch in db.sql(query).to_arrow_reader(CHUNK):
                    out.writerows(_line(row | {"notice": notice}, text) for row in batch.to_pylist())
    return Worklist(path, beside if counts else None, shown, counts)


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


def _line(row: Mapping[str, Any], text: ReportText) -> dict[str, object]:
    words = words_in(text.language)
    line = {c: _cell(row.get(c)) for c in COLUMNS}
    line["modalities"] = " + ".join(row["modalities"] or ())
    is_warned = row["state"] == State.SCORED_WARN
    line["warning"] = _cell(warning(row, words))
    line["codes"] = _cell(": ".join(t for t in (row["code"], row["message"]) if t)) if is_warned else ""
    line["latest"] = "yes" if row["latest"] else "no"
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
