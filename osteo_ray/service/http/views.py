"""From folders and rows to what goes over the wire: status, worklist, study page."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from osteo_ray.dicom.decode_guard import DecodeGuard
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.io.database import database
from osteo_ray.io.uris import join
from osteo_ray.outcomes import InputError, Rejected, State
from osteo_ray.reports.background import PATIENTS_FILE, READ, backgrounds
from osteo_ray.reports.language import Words
from osteo_ray.reports.result_json import to_result
from osteo_ray.reports.source import identity_of, read_header
from osteo_ray.reports.study_view import page as laid_out
from osteo_ray.reports.views import study_view
from osteo_ray.reports.worklist import note, ranked_sql
from osteo_ray.screening.patients import suppressed_in
from osteo_ray.service.config import ServeConfig
from osteo_ray.service.http import types as t
from osteo_ray.service.http.problems import Problem
from osteo_ray.service.runs import Run

COLUMNS = [
    "row_key",
    "series_uid",
    "patient_key",
    "state",
    "code",
    "message",
    "risk_prob",
    "risk_low",
    "risk_high",
    "risk_class",
    "age_y",
    "sex",
    "age_from",
    "sex_from",
    "modalities",
    "study_date",
    "kvp",
    "contrast",
]
NOT_SHOWN = ("series_uid", "modalities", "kvp", "contrast")
_IDENTITIES = 4096
_KEPT = 32  # study pages and catalogue rows kept in memory
_LISTS_BYTES = 256 << 20  # of worklists kept in memory; a list of 10^6 rows is one of them


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def _iso(s: float | None) -> str | None:
    return None if s is None else datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def screening(run: Run) -> t.Screening:
    """A screening's status, from its folder."""
    job, p = run.job, run.progress()
    return t.Screening(
        id=run.id,
        state=p.state,
        phase=p.phase,
        archive=job.archive,
        records=job.records,
        options=t.Options.model_validate(job.options),
        by=job.by,
        created=_iso(job.created) or "",
        started=_iso(p.started),
        finished=_iso(p.finished),
        attempt=p.attempt,
        series=p.series,
        total=p.total,
        done=p.done,
        counts={State(k): n for k, n in p.counts.items()},
        eta_s=p.eta_s,
        error=p.error,
        bundle=Path(job.bundle).name,
    )


def feedback(line: dict[str, Any]) -> t.Feedback:
    return t.Feedback(**{k: line[k] for k in ("time", "by", "verdict", "note")})


# ---- worklist


@dataclass(frozen=True)
class Filter:
    """What a worklist is cut down to; None keeps all."""

    state: Sequence[State] | None = None
    sex: str | None = None
    age_min: float | None = None
    age_max: float | None = None
    modality: str | None = None
    judged: bool | None = None

    def where(self) -> tuple[str, dict[str, Any]]:
        """(SQL condition on a row of `_ordered`, its parameters); `judged_keys` holds the keys of judged rows."""
        asked = [
            ("states", [str(x) for x in self.state or ()] or None, "list_contains($states, state)"),
            ("sex", self.sex, "sex = $sex"),
            ("age_min", self.age_min, "age_y >= $age_min"),
            ("age_max", self.age_max, "age_y <= $age_max"),
            ("modality", self.modality, "list_contains(modalities, $modality)"),
            ("judged", self.judged, "(row_key IN (FROM judged_keys)) = $judged"),
        ]
        used = [x for x in asked if x[1] is not None]
        return " AND ".join(condition for _, _, condition in used) or "true", {name: value for name, value, _ in used}


def worklist(run: Run, keep: Filter, offset: int, limit: int, words: Words) -> t.WorklistPage:
    """Ranked rows that the filter keeps. Ranks are those of `worklist.csv`: filtering never changes them."""
    judged = run.feedback()
    suppressed = suppressed_in(run.out) if run.complete() else {}
    ordered = _ordered(run)
    keys = pa.table({"row_key": pa.array(list(judged), pa.string())})
    where, given = keep.where()
    with database(ordered=(ordered, ordered.schema), judged_keys=(keys, keys.schema)) as db:
        kept = f"FROM ordered WHERE {where}"
        total = db.execute(f"SELECT count(*) {kept}", given).fetchall()[0][0]
        shown = f"SELECT * {kept} ORDER BY line LIMIT {limit:d} OFFSET {offset:d}"
        rows = db.sql(shown, params=given).to_arrow_table().to_pylist()
    items = [
        t.WorklistRow(
            rank=r["rank"],
            modalities=r["modalities"] or [],
            suppressed=suppressed.get(r["patient_key"]),
            why=why_of(r, words),
            note=note(r, suppressed.get(r["patient_key"]), words),
            feedback=[feedback(f) for f in judged.get(r["row_key"], ())],
            **{k: r[k] for k in COLUMNS if k not in NOT_SHOWN},
        )
        for r in rows
    ]
    return t.WorklistPage(total=total, offset=offset, partial=run.complete() is None, items=items)


_lists: OrderedDict[str, pa.Table] = OrderedDict()
_lists_lock = threading.Lock()


def _ordered(run: Run) -> pa.Table:
    """All rows of a screening, `COLUMNS` and `line`: those with a risk in the worklist's order with their `rank`, then
    the others."""
    whole = run.complete()
    with _lists_lock:
        if whole and whole in _lists:
            _lists.move_to_end(whole)
            return _lists[whole]
    table = run.table(COLUMNS)
    with database(results=(table, table.schema)) as db:
        out = db.sql(
            f"""
            SELECT * EXCLUDE (latest) FROM ({ranked_sql("(FROM results WHERE risk_prob IS NOT NULL)")})
            UNION ALL BY NAME
            SELECT *, (SELECT count(risk_prob) FROM results) + row_number() OVER (ORDER BY state, series_uid, row_key)
                      AS line
            FROM results WHERE risk_prob IS NULL"""
        ).to_arrow_table()
    if whole:
        with _lists_lock:
            _lists[whole] = out
            while len(_lists) > 1 and sum(x.nbytes for x in _lists.values()) > _LISTS_BYTES:
                _lists.popitem(last=False)
    return out


# ---- one study


def why_of(row: dict[str, Any], words: Words) -> str:
    """The reason of a series' outcome in words, of one without a score."""
    return words.code(row["code"]) if row["risk_prob"] is None else ""


@dataclass(frozen=True)
class Cut:
    """One axial slice in HU."""

    hu: np.ndarray  # int16 little-endian, [rows, cols]
    spacing_mm: tuple[float, float]
    z_mm: float


class Studies:
    """Study pages and slices of finished or running screenings, decoded from the archive on demand."""

    def __init__(self, cfg: ServeConfig):
        self.limits = cfg.screening.index.limits
        self._guard = DecodeGuard(self.limits)
        self._decoding = threading.Lock()  # one guarded child
        self._rows: OrderedDict[tuple[str, str], dict[str, Any] | None] = OrderedDict()
        self._pages: OrderedDict[tuple[str, str, str], t.StudyPage] = OrderedDict()
        self._identities: OrderedDict[tuple[str, str], t.Identity | None] = OrderedDict()
        self._text = cfg.screening.text
        self._people = cfg.screening.people
        self._identifiers = cfg.identifiers
        self._character_set = cfg.character_set

    def page(self, run: Run, row: dict[str, Any], language: str) -> t.StudyPage:
        """Result and layout; without pictures where the series can't be read any more."""
        key = (run.id, row["row_key"], language)
        judged = [feedback(f) for f in run.feedback().get(row["row_key"], ())]
        kept = self._pages.get(key)
        if kept is not None:
            return kept.model_copy(update={"feedback": judged})
        series = self._series(run, row)
        whole = run.complete()
        results = whole if whole is not None else run.table([*READ, "state"])
        known = backgrounds(results, [row], self._people, join(run.out, PATIENTS_FILE))
        with self._decoding:
            view = study_view(row, series, known[row["row_key"]])
        text = self._text.model_copy(update={"language": language})
        page = t.StudyPage(
            result=t.ResultDocument(to_result(row)),
            page=asdict(laid_out(view, text)),
            slices_total=row.get("slices_total"),
            readable=view.overview is not None,
            identity=self._identity(run, row["study_uid"], row["series_uid"]) if self._identifiers else None,
            feedback=judged,
        )
        if whole is not None:  # of a screening that goes on, the next reading may know more
            _remember(self._pages, key, page)
        return page

    def with_identities(self, run: Run, page: t.WorklistPage) -> t.WorklistPage:
        """The worklist with each line's patient, where the config lets identifiers be shown."""
        if not self._identifiers:
            return page
        uids = run.uids([item.row_key for item in page.items])
        items = [
            item.model_copy(
                update={"identity": self._identity(run, *uids[item.row_key])} if item.row_key in uids else {}
            )
            for item in page.items
        ]
        return page.model_copy(update={"items": items})

    def _identity(self, run: Run, study_uid: str | None, series_uid: str | None) -> t.Identity | None:
        """Name, number and accession number from the first image's header; None where it can't be read."""
        key = (run.id, series_uid or "")
        if key not in self._identities:
            found = None
            series = run.catalogue_row(study_uid or "", series_uid or "")
            if series is not None and series["instances"]:
                with suppress(InputError):
                    who = identity_of(read_header(series["instances"][0]), self._character_set)
                    found = t.Identity(name=who.name, number=who.number, accession=who.accession)
            self._identities[key] = found
            while len(self._identities) > _IDENTITIES:
                self._identities.popitem(last=False)
        return self._identities[key]

    def slice(self, run: Run, row: dict[str, Any], index: int) -> Cut:
        """HU of one slice.

        Raises:
            Problem: 404 where there is none, or it can't be read any more.
        """
        series = self._series(run, row)
        gone = Problem(404, "NO_SLICE", "the slice can't be read", "the archive may have moved; the scores stay valid")
        if series is None:
            raise gone
        try:
            with self._decoding, SliceStack.from_row(series, self.limits, self._guard) as stack:
                if not 0 <= index < stack.n:
                    raise Problem(404, "NO_SLICE", f"the series has slices 0 to {stack.n - 1}", "ask for one of these")
                hu = np.clip(np.rint(stack.axial(index)), -32768, 32767).astype("<i2")
                return Cut(hu, stack.axial_spacing_mm, float(stack.z_mm[index]))
        except (Rejected, OSError, ValueError):
            raise gone from None

    def _series(self, run: Run, row: dict[str, Any]) -> dict[str, Any] | None:
        key = (run.id, row["series_uid"] or "")
        if key not in self._rows:
            _remember(self._rows, key, run.catalogue_row(row["study_uid"] or "", key[1]))
        return self._rows[key]


def _remember(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    while len(kept) > _KEPT:
        kept.popitem(last=False)
