"""Screenings, on a disk or in a bucket: a folder each, which is the truth about it; no process has to live for it to
be found.

    runs = Runs("runs/service")           # or s3://bucket/service
    run = runs.create(job)                # job.json, state.json
    run.progress()                        # counts by outcome, time left

`<runs>/<id>/job.json` is what was asked, `state.json` how far its driver came, `config.json` the service's config for a
driver that is another program, `out/` what `osteo-ray screen` writes. Whoever changes a state replaces the file whole.
`<runs>/open/<id>` marks those that have not ended, so that nobody has to read all states to find them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from osteo_ray.config import validate
from osteo_ray.io.files import private_folder
from osteo_ray.io.parquet_set import MANIFEST, ahead, open_set
from osteo_ray.io.store import Store, dataset
from osteo_ray.screening.schema import RESULTS
from osteo_ray.service import run_results
from osteo_ray.service.config import ServeConfig
from osteo_ray.service.json_lines import Lines

ID = re.compile(r"[0-9a-f]{16}")
JOB, STATE, CONFIG, OUT, OPEN_RUNS = "job.json", "state.json", "config.json", "out", "open"
CATALOGUE, RESULTS_FILE = f"{OUT}/catalogue.parquet", f"{OUT}/results.parquet"
STORE_CLOCK_S = 1.0
"""Object stores tell times in whole seconds."""
WRITABLE_S = 30.0
"""How long a bucket that could be written counts as one that can."""
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

    def __init__(self, root: str, run_id: str):
        self.id = run_id
        self.root = Store(root, private=True)
        self.store = Store(self.root.path(run_id), private=True)
        self.uri = self.store.uri
        self.out = self.store.path(OUT)

    @classmethod
    def at(cls, uri: str) -> Run:
        """The screening whose folder that is."""
        root, _, run_id = uri.rstrip("/").rpartition("/")
        return cls(root, run_id)

    @property
    def config(self) -> ServeConfig:
        """The service's config, as its latest driver was given it."""
        return validate(ServeConfig, json.loads(self.store.get(CONFIG)))

    def give_config(self, cfg: ServeConfig) -> None:
        """Leave the service's config for a driver that is another program."""
        put_json(self.store, CONFIG, cfg.model_dump(mode="json"))

    @property
    def job(self) -> RunJob:
        return _job(self.uri)

    @property
    def saved(self) -> _Saved:
        d = json.loads(self.store.get(STATE))
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
            self.mark_open()
            self._save(replace(now, state=RunState.QUEUED, finished=None, error=None, stalls=0, mark=()))

    def end(self, state: RunState, error: str | None = None) -> None:
        """It is over, unless it was already."""
        now = self.saved
        if now.state in OPEN:
            self.root.remove([f"{OPEN_RUNS}/{self.id}"])  # first: from the next line on it may be resumed
            self._save(replace(now, state=state, finished=time.time(), error=error))

    def mark_open(self) -> None:
        """Let it be found by who looks for screenings that want a driver."""
        self.root.put(f"{OPEN_RUNS}/{self.id}", b"")

    def progress(self) -> Progress:
        """Read from the folder alone."""
        s, catalogue = self.saved, self._catalogue()
        results = self.store.written_at(RESULTS_FILE)
        parts = self._parts()
        indexed = run_results.states(*catalogue) if catalogue is not None else None
        total = indexed[None] if indexed is not None else None
        if s.state == RunState.DONE and results is not None:
            counts = run_results.states(self.store.path(RESULTS_FILE), results)
            done = total or 0
        else:
            scored = sum(self._each_scored(parts), Counter())
            # Parts without a catalogue are an earlier attempt's; a batch whose worker died may be there twice.
            done = min(scored.total(), total) if total is not None else 0
            counts = scored + (indexed or Counter())
        return Progress(
            state=s.state,
            phase=self._phase(s, catalogue is not None, results is not None),
            attempt=s.attempt,
            started=s.started,
            finished=s.finished,
            error=s.error,
            series=indexed.total() if indexed is not None else None,
            total=total,
            done=done,
            counts={k: n for k, n in counts.items() if k},
            eta_s=self._eta(s, catalogue[1] if catalogue is not None else 0, parts, total, done),
        )

    def complete(self) -> str | None:
        """The results table of a finished screening, by path or URI."""
        if self.saved.state == RunState.DONE and self.store.is_file(RESULTS_FILE):
            return self.store.path(RESULTS_FILE)
        return None

    def table(self, columns: list[str]) -> pa.Table:
        """These columns of the results, as far as there are any: the final table, or the parts so far."""
        whole = self.complete()
        if whole:
            return dataset(whole, RESULTS).to_table(columns=columns)  # older results lack some
        read = ahead(lambda p: run_results.part(p, columns=columns), [p for p, _ in self._parts()])
        tables = [t for t in read if t is not None]
        return run_results.first_of_each(pa.concat_tables([RESULTS.empty_table().select(columns), *tables]))

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
        for path in [whole] if whole else [p for p, _ in self._parts()]:
            # A filter is pushed down to the file, so the other rows' evidence is not built.
            found = run_results.part(path, filters=pc.field("row_key") == row_key)
            if found is not None and len(found):
                return found.slice(0, 1).to_pylist()[0]
        return None

    def uids(self, row_keys: list[str]) -> dict[str, tuple[str | None, str | None]]:
        """(study UID, series UID) of results, by row key."""
        found = self.table(["row_key", "study_uid", "series_uid"])
        mine = found.filter(pc.is_in(found["row_key"], pa.array(row_keys, pa.string()))).to_pylist()
        return {r["row_key"]: (r["study_uid"], r["series_uid"]) for r in mine}

    def catalogue_row(self, study_uid: str, series_uid: str) -> dict[str, Any] | None:
        """Where a scored series' slices lie."""
        of_series = (pc.field("series_uid") == series_uid) & pc.field("state").is_null()
        found = open_set(self.store.path(CATALOGUE)).of_key([study_uid], of_series).to_pylist()
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
        Lines(self.store, "feedback").append(line)
        return line

    def feedback(self) -> dict[str, list[dict[str, Any]]]:
        """Judgements by row key: the last of each person, oldest first."""
        last: dict[tuple[str, str], dict[str, Any]] = {}
        for f in Lines(self.store, "feedback").read():
            last.pop((f["row_key"], f["by"]), None)
            last[f["row_key"], f["by"]] = f
        out: dict[str, list[dict[str, Any]]] = {}
        for f in last.values():
            out.setdefault(f["row_key"], []).append(f)
        return out

    def _mark(self) -> tuple[int, ...]:
        """How far the work has come; greater is farther, and the same work done again is the same."""
        catalogue = self._catalogue() is not None
        indexed = 0 if catalogue else len(self.store.tree(f"{OUT}/index/"))
        scored = sum((c.total() for c in self._each_scored(self._parts())), 0) if catalogue else 0
        return self.store.is_file(RESULTS_FILE), catalogue, indexed, scored

    def _catalogue(self) -> tuple[str, int] | None:
        """The file of the catalogue that appears when that is whole, and when it did."""
        for name in (f"{CATALOGUE}/{MANIFEST}", CATALOGUE):
            if (at := self.store.written_at(name)) is not None:
                return self.store.path(name), at
        return None

    def _parts(self) -> list[tuple[str, int]]:
        return run_results.parts_of(self.store, OUT)

    def _each_scored(self, parts: list[tuple[str, int]]) -> list[Counter[str | None]]:
        return list((ahead if self.store.remote else map)(lambda p: run_results.scored(*p), parts))

    def _save(self, s: _Saved) -> None:
        put_json(self.store, STATE, asdict(s))

    @staticmethod
    def _phase(s: _Saved, catalogue: bool, results: bool) -> Phase:
        if s.state == RunState.QUEUED:
            return Phase.WAITING
        if s.state != RunState.RUNNING:
            return Phase.ENDED
        if not catalogue:
            return Phase.INDEXING
        return Phase.REPORTING if results else Phase.SCREENING

    def _eta(
        self, s: _Saved, indexed_ns: int, parts: list[tuple[str, int]], total: int | None, done: int
    ) -> float | None:
        """Seconds left at the pace of this attempt, 0 when only the reports are left; before the
        first results that of the screening before; None where there was none."""
        if s.state != RunState.RUNNING or s.started is None or total is None:
            return None
        if done >= total:
            return 0.0
        since = max(s.started, indexed_ns / 1e9)
        rows = sum(run_results.scored(p, m).total() for p, m in parts if m / 1e9 >= since - STORE_CLOCK_S)
        spent = time.time() - since
        if rows:
            return spent / rows * (total - done)
        before = Runs(self.root.uri).pace()
        return before * (total - done) if before is not None else None


class Runs:
    """All screenings under one folder, by path or URI."""

    def __init__(self, root: str | os.PathLike[str]):
        self.store = Store(root, private=True)
        self._written = float("-inf")  # of time.monotonic: when it last could be
        if not self.store.remote:
            private_folder(Path(self.store.uri))

    def create(self, job: RunJob) -> Run:
        """A new screening, waiting for its driver. It can be found as soon as it has a state."""
        run = Run(self.store.uri, secrets.token_hex(8))
        put_json(run.store, JOB, asdict(job))
        run.mark_open()
        put_json(run.store, STATE, asdict(_Saved(RunState.QUEUED)))
        return run

    def get(self, run_id: str) -> Run | None:
        """The screening of that id. Anything but an id is none, so that no path can be built from it."""
        if not ID.fullmatch(run_id) or not self.store.is_file(f"{run_id}/{STATE}"):
            return None
        return Run(self.store.uri, run_id)

    def all(self) -> list[Run]:
        """Newest first."""
        return sorted(self._every(), key=lambda r: -r.job.created)

    def pace(self) -> float | None:
        """Seconds a series of the newest screening that is done, its start and its reports included; None without."""
        for run in self.all():
            s = run.saved
            if s.state != RunState.DONE or s.started is None or s.finished is None:
                continue
            if total := run.progress().total:
                return max(0.0, s.finished - s.started) / total
        return None

    def open(self) -> list[Run]:
        """Those that want a driver, oldest first: running before waiting."""
        marked = self._those([n.rpartition("/")[2] for n in self.store.names(f"{OPEN_RUNS}/")])
        states = {r.id: r.saved.state for r in marked}
        found = [(states[r.id] != RunState.RUNNING, r.job.created, r) for r in marked if states[r.id] in OPEN]
        return [r for *_, r in sorted(found, key=lambda x: x[:2])]

    def mark_open(self) -> None:
        """Mark those that have not ended and have no mark: its writer died, or was an earlier version."""
        marked = set(self.store.names(f"{OPEN_RUNS}/"))
        for run in self._every():
            if f"{OPEN_RUNS}/{run.id}" not in marked and run.saved.state in OPEN:
                run.mark_open()

    def forget(self, older_s: float) -> list[str]:
        """Remove screenings that ended so long ago, with their results and feedback; returns their ids."""
        gone, known = [], {r.id: r for r in self._every()}
        for run_id in filter(ID.fullmatch, self.store.folders()):
            if run_id in known:
                s = known[run_id].saved
                over = s.state not in OPEN and s.finished is not None and time.time() - s.finished > older_s
            else:  # who removed it, or was about to create it, died
                at = self.store.written_at(f"{run_id}/{JOB}")
                over = at is not None and time.time() - at / 1e9 > older_s
            if over:
                self.store.remove([f"{run_id}/{STATE}"])  # at once, for all who look
                self.store.remove_tree(run_id)
                gone.append(run_id)
        return gone

    def writable(self) -> bool:
        """Whether the folder can be written. A bucket is asked for it twice a minute."""
        if not self.store.remote:
            return os.access(self.store.uri, os.W_OK)
        if time.monotonic() - self._written > WRITABLE_S:
            try:
                self.store.check_writable()
            except OSError:
                return False
            self._written = time.monotonic()
        return True

    def _every(self) -> list[Run]:
        return self._those(self.store.folders())

    def _those(self, ids: list[str]) -> list[Run]:
        return [r for r in (ahead if self.store.remote else map)(self.get, ids) if r is not None]


def put_json(store: Store, name: str, value: Any) -> None:
    """The file appears whole or not at all."""
    store.put(name, (json.dumps(value, indent=1) + "\n").encode())


@lru_cache(maxsize=100_000)
def _job(uri: str) -> RunJob:
    """It never changes, so a process reads it once."""
    return RunJob(**json.loads(Store(uri).get(JOB)))
