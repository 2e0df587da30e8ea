"""Screenings on disk: one folder each, which is the truth about it; no process has to live for it to be found.

    runs = Runs("runs/service")
    run = runs.create(job)                # job.json, state.json
    run.status()                          # counts by outcome, progress, time left

`<runs>/<id>/job.json` is what was asked, `state.json` how far its driver came, `out/` what `osteo-ray screen` writes.
Whoever changes a state replaces the file whole.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from osteo_ray.io.files import replaced
from osteo_ray.io.parquet_set import MANIFEST, finish_mark, open_set
from osteo_ray.screening.schema import FOOTER, RESULTS
from osteo_ray.service import json_lines

ID = re.compile(r"[0-9a-f]{16}")
KEY = re.compile(r"[0-9A-Za-z_.-]{1,128}")


class RunState(StrEnum):
    """Where a screening stands; the last three are final."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


OPEN = (RunState.QUEUED, RunState.RUNNING)


class Phase(StrEnum):
    """What a running screening is doing, told from the files that are there."""

    WAITING = "waiting"
    INDEXING = "indexing"
    SCREENING = "screening"
    REPORTING = "reporting"
    ENDED = "ended"


@dataclass(frozen=True)
class RunJob:
    """What was asked; never changed."""

    archive: str
    records: str | None
    mapping: str | None
    options: dict[str, Any]
    bundle: str
    by: str
    created: float  # seconds since the epoch


@dataclass(frozen=True)
class Progress:
    """How far a screening has come."""

    state: RunState
    phase: Phase
    attempt: int
    started: float | None
    finished: float | None
    error: str | None
    series: int | None  # indexed; None before the catalogue is there
    total: int | None  # to score
    done: int
    counts: dict[str, int]  # by outcome; sums to `series` when the screening is done
    eta_s: float | None


@dataclass(frozen=True)
class _Saved:
    state: RunState
    attempt: int = 0
    started: float | None = None
    finished: float | None = None
    error: str | None = None
    stalls: int = 0  # drivers in a row that died without progress, in a cluster that went on
    cluster: str = ""  # in which the last driver was started
    mark: tuple[int, ...] = ()  # how far the work had come then


class Run:
    """One screening's folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.id = folder.name
        self.out = folder / "out"

    @property
    def job(self) -> RunJob:
        return RunJob(**json.loads((self.folder / "job.json").read_text()))

    @property
    def saved(self) -> _Saved:
        d = json.loads((self.folder / "state.json").read_text())
        return _Saved(**d | {"state": RunState(d["state"]), "mark": tuple(d.get("mark", ()))})

    def begin(self, cluster: str = "") -> None:
        """A driver takes it on, in that cluster."""
        now, stalls = self.saved, self.stalls(cluster)
        self._save(
            replace(
                now,
                state=RunState.RUNNING,
                attempt=now.attempt + 1,
                started=time.time(),
                error=None,
                stalls=stalls,
                cluster=cluster,
                mark=self._mark(),
            )
        )

    def stalls(self, cluster: str) -> int:
        """Drivers in a row, the last one included, that died without progress. One that ended with its whole cluster
        is none of them: a restart is nobody's fault.
        """
        s = self.saved
        if s.attempt == 0 or self._mark() > s.mark:
            return 0
        return s.stalls + (s.cluster == cluster)

    def resume(self) -> None:
        """Queue it again, where it had failed or was cancelled; what is done stays done."""
        now = self.saved
        if now.state in (RunState.FAILED, RunState.CANCELLED):
            self._save(replace(now, state=RunState.QUEUED, finished=None, error=None, stalls=0, mark=()))

    def end(self, state: RunState, error: str | None = None) -> None:
        """It is over, unless it was already."""
        now = self.saved
        if now.state in OPEN:
            self._save(replace(now, state=state, finished=time.time(), error=error))

    def progress(self) -> Progress:
        """Read from the folder alone."""
        s = self.saved
        catalogue, results = finish_mark(self.out / "catalogue.parquet"), self.out / "results.parquet"
        indexed = _states(catalogue, catalogue.stat().st_mtime_ns) if catalogue.exists() else None
        total = indexed[None] if indexed is not None else None
        parts = _parts(self.out)
        if s.state == RunState.DONE and results.exists():
            counts = _states(results, results.stat().st_mtime_ns)
            done = total or 0
        else:
            scored = sum((_scored(p, m) for p, m in parts), Counter())
            # Parts without a catalogue are an earlier attempt's; a batch whose worker died may be there twice.
            done = min(scored.total(), total) if total is not None else 0
            counts = scored + (indexed or Counter())
        return Progress(
            state=s.state,
            phase=self._phase(s, catalogue, results),
            attempt=s.attempt,
            started=s.started,
            finished=s.finished,
            error=s.error,
            series=indexed.total() if indexed is not None else None,
            total=total,
            done=done,
            counts={k: n for k, n in counts.items() if k},
            eta_s=self._eta(s, catalogue, parts, total, done),
        )

    def complete(self) -> Path | None:
        """The results table of a finished screening."""
        path = self.out / "results.parquet"
        return path if self.saved.state == RunState.DONE and path.exists() else None

    def table(self, columns: list[str]) -> pa.Table:
        """These columns of the results, as far as there are any: the final table, or the parts so far."""
        whole = self.complete()
        if whole:
            return pads.dataset(whole, schema=RESULTS).to_table(columns=columns)  # older results lack some
        tables = []
        for p, _ in _parts(self.out):
            with suppress(FileNotFoundError):  # a part that became a shard meanwhile: the next reading has its rows
                tables.append(pq.read_table(p, columns=columns).replace_schema_metadata(None))
        return _first_of_each(pa.concat_tables([RESULTS.empty_table().select(columns), *tables]))

    def page(self, offset: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """(rows there are, rows [offset, offset + limit)); of the final table only the row groups that hold them."""
        whole = self.complete()
        if whole is None:
            keys = self.table(["row_key"])["row_key"].to_pylist()
            rows = (self.row(k) for k in keys[offset : offset + limit])
            return len(keys), [r for r in rows if r]
        found = open_set(whole)
        return len(found), found.rows(offset, min(offset + limit, len(found))).to_pylist()

    def row(self, row_key: str) -> dict[str, Any] | None:
        """One result row by its key."""
        if not KEY.fullmatch(row_key):
            return None
        whole = self.complete()
        for path in [whole] if whole else [p for p, _ in _parts(self.out)]:
            # A filter is pushed down to the file, so the other rows' evidence is not built.
            found = []
            with suppress(FileNotFoundError):
                found = pq.read_table(path, filters=pc.field("row_key") == row_key).to_pylist()
            if found:
                return found[0]
        return None

    def uids(self, row_keys: list[str]) -> dict[str, tuple[str | None, str | None]]:
        """(study UID, series UID) of results, by row key."""
        found = self.table(["row_key", "study_uid", "series_uid"])
        mine = found.filter(pc.is_in(found["row_key"], pa.array(row_keys, pa.string()))).to_pylist()
        return {r["row_key"]: (r["study_uid"], r["series_uid"]) for r in mine}

    def catalogue_row(self, study_uid: str, series_uid: str) -> dict[str, Any] | None:
        """Where a scored series' slices lie."""
        of_series = (pc.field("series_uid") == series_uid) & pc.field("state").is_null()
        found = open_set(self.out / "catalogue.parquet").of_key([study_uid], of_series).to_pylist()
        return found[0] if found else None

    def give_feedback(self, row_key: str, series_uid: str | None, verdict: str, note: str, by: str) -> dict[str, Any]:
        """Append one judgement; the last one of a person about a series counts."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "by": by,
            "row_key": row_key,
            "series_uid": series_uid,
            "verdict": verdict,
            "note": note,
        }
        json_lines.append(self.folder / "feedback.jsonl", line)
        return line

    def feedback(self) -> dict[str, list[dict[str, Any]]]:
        """Judgements by row key: the last of each person, oldest first."""
        last: dict[tuple[str, str], dict[str, Any]] = {}
        for f in json_lines.read(self.folder / "feedback.jsonl"):
            last.pop((f["row_key"], f["by"]), None)
            last[f["row_key"], f["by"]] = f
        out: dict[str, list[dict[str, Any]]] = {}
        for f in last.values():
            out.setdefault(f["row_key"], []).append(f)
        return out

    def _mark(self) -> tuple[int, ...]:
        """How far the work has come; greater is farther, and the same work done again is the same."""
        catalogue = finish_mark(self.out / "catalogue.parquet").exists()
        indexed = 0 if catalogue else sum(f.is_file() for f in (self.out / "index").rglob("*"))
        scored = sum((_scored(p, m).total() for p, m in _parts(self.out)), 0) if catalogue else 0
        return (self.out / "results.parquet").exists(), catalogue, indexed, scored

    def _save(self, s: _Saved) -> None:
        write_json(self.folder / "state.json", asdict(s))

    @staticmethod
    def _phase(s: _Saved, catalogue: Path, results: Path) -> Phase:
        if s.state == RunState.QUEUED:
            return Phase.WAITING
        if s.state != RunState.RUNNING:
            return Phase.ENDED
        if not catalogue.exists():
            return Phase.INDEXING
        return Phase.REPORTING if results.exists() else Phase.SCREENING

    def _eta(
        self, s: _Saved, catalogue: Path, parts: list[tuple[Path, int]], total: int | None, done: int
    ) -> float | None:
        """Seconds left at the pace of this attempt, 0 when only the reports are left; before the
        first results that of the screening before; None where there was none."""
        if s.state != RunState.RUNNING or s.started is None or total is None:
            return None
        if done >= total:
            return 0.0
        since = max(s.started, catalogue.stat().st_mtime)
        rows = sum(_scored(p, m).total() for p, m in parts if m / 1e9 >= since)
        spent = time.time() - since
        if rows:
            return spent / rows * (total - done)
        before = Runs(self.folder.parent).pace()
        return before * (total - done) if before is not None else None


class Runs:
    """All screenings under one folder."""

    def __init__(self, root: str | Path):
        self.root = Path(root).absolute()
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def create(self, job: RunJob) -> Run:
        """A new screening, waiting for its driver. It can be found as soon as its folder has its name."""
        run_id = secrets.token_hex(8)
        folder = self.root / f".{run_id}"
        folder.mkdir(mode=0o700)
        write_json(folder / "job.json", asdict(job))
        write_json(folder / "state.json", asdict(_Saved(RunState.QUEUED)))
        folder.rename(self.root / run_id)
        return Run(self.root / run_id)

    def get(self, run_id: str) -> Run | None:
        """The screening of that id. Anything but an id is none, so that no path can be built from it."""
        if not ID.fullmatch(run_id) or not (self.root / run_id / "state.json").is_file():
            return None
        return Run(self.root / run_id)

    def all(self) -> list[Run]:
        """Newest first."""
        return sorted(self._walk(), key=lambda r: -r.job.created)

    def pace(self) -> float | None:
        """Seconds a series of the screening that ended last, its start and its reports included; None without one."""
        ended = [(s.finished, r) for r in self._walk() if (s := r.saved).state == RunState.DONE and s.finished]
        for _, run in sorted(ended, key=lambda x: -x[0]):
            p = run.progress()
            if p.total and p.started is not None and p.finished is not None:
                return max(0.0, p.finished - p.started) / p.total
        return None

    def open(self) -> list[Run]:
        """Those that want a driver, oldest first: running before waiting."""
        found = [(r.saved.state != RunState.RUNNING, r.job.created, r) for r in self._walk() if r.saved.state in OPEN]
        return [r for *_, r in sorted(found, key=lambda x: x[:2])]

    def forget(self, older_s: float) -> list[str]:
        """Remove screenings that ended so long ago, with their results and feedback; returns their ids."""
        gone = []
        for run in self._walk():
            s = run.saved
            if s.state not in OPEN and s.finished is not None and time.time() - s.finished > older_s:
                hidden = self.root / f".{run.id}.removed"
                run.folder.rename(hidden)  # at once, for all who look
                shutil.rmtree(hidden, ignore_errors=True)
                gone.append(run.id)
        return gone

    def _walk(self) -> Iterator[Run]:
        for p in self.root.iterdir():
            run = self.get(p.name)
            if run:
                yield run


def write_json(path: Path, value: Any) -> None:
    """The file appears whole or not at all."""
    with replaced(path) as tmp:
        tmp.touch(mode=0o600)  # before anything is in it
        tmp.write_text(json.dumps(value, indent=1) + "\n")


def _parts(out: Path) -> list[tuple[Path, int]]:
    """Files with results so far, parts and finished shards, and when each was written."""
    found = []
    for p in (*(out / "parts").glob("*.parquet"), *(out / "shards").glob("*.parquet")):
        with suppress(FileNotFoundError):
            found.append((p, p.stat().st_mtime_ns))
    return sorted(found)


@lru_cache(maxsize=100_000)
def _scored(path: Path, stamp: int) -> Counter[str | None]:
    """Rows of a part or shard that went through a scorer, by state; a shard also holds what the index had ended."""
    try:
        facts = (pq.read_metadata(path).metadata or {}).get(FOOTER)
        return Counter(json.loads(facts)["scored"]) if facts else _states(path, stamp)
    except FileNotFoundError:
        return Counter()


def _first_of_each(table: pa.Table) -> pa.Table:
    """Each row key once: a batch whose worker died may have been written twice."""
    first: dict[str, int] = {}
    for i, k in enumerate(table["row_key"].to_pylist()):
        first.setdefault(k, i)
    return table.take(pa.array(list(first.values()), pa.int64()))


@lru_cache(maxsize=100_000)
def _states(path: Path, stamp: int) -> Counter[str | None]:
    """Rows of a results file or a catalogue by state (None: to score); a file never changes under one stamp."""
    whole = path.parent if path.name == MANIFEST else path
    return Counter(open_set(whole).read(["state"])["state"].to_pylist())
