"""What a run has to do and what is done: the catalogue's rows in shards, each finished once, whole (no Ray here).

A run's folder holds `parts/` (result rows as they come, a batch to a file) and `shards/` (finished ones: the rows of
some 2000 successive catalogue rows, in their order). A shard's name is a hash of the row keys it has to hold, so that a
list of file names says what is finished, however long the archive. What other shards left behind (the archive grew, the
config changed and changed back) is found by its row keys and carried over.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.io.parquet_set import ahead, open_set
from osteo_ray.io.store import Store, local_folder
from osteo_ray.model.bundle_files import COPIED, verify
from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.record_set import Records
from osteo_ray.screening.config import ScoringConfig, ScreenConfig
from osteo_ray.screening.schema import RESULT_VERSION, RESULTS

KEY_COLUMNS = ["series_uid", "content_hash", "patient_key", "state", "code"]
PARTS, SHARDS = "parts/", "shards/"
KEY = "S32"
NOT_REQUESTED = "NOT_REQUESTED"
NOT_SCORED = ("dxa_days", "dxa_from_record", "treated", "without_ct_days")
_READ = 65_536  # catalogue rows in memory at a time
_SHARD = re.compile(r"shards/(\d{6,}-[0-9a-f]{20})\.r(\d+)\.parquet")


class NothingToRetry(Exception):
    """No scored series ended with what was asked for: nothing is wrong, and nothing is to be done."""


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` of the catalogue."""

    name: str
    start: int
    stop: int
    revision: int  # 0: not finished; each time rows of it are retried, one more

    @property
    def file(self) -> str:
        """Name of the finished file; a file of one name never changes."""
        return f"{SHARDS}{self.name}.r{self.revision}.parquet"


@dataclass(frozen=True)
class Plan:
    """The catalogue's rows, what becomes of each, and what is left to do. Arrays only: some 40 bytes a row."""

    keys: np.ndarray  # S32 [n]
    open: np.ndarray  # bool [n]: to be scored, by this run or an earlier one
    shards: list[Shard]
    pending: np.ndarray  # int64: rows to score now, ascending
    attempt: np.ndarray  # int32, of each pending row
    touched: frozenset[str]  # names of shards that have parts
    model: str
    run_id: str

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def reused(self) -> int:
        """Rows scored by an earlier run that this one keeps."""
        return int(self.open.sum()) - len(self.pending)

    def of_shards(self) -> list[slice]:
        """For each shard, which of the pending rows are its own."""
        edges = np.searchsorted(self.pending, [s.start for s in self.shards] + [len(self)]).tolist()
        return [slice(a, b) for a, b in pairwise(edges)]

    def unfinished(self) -> list[int]:
        """Indices of the shards to be written once their pending rows are there."""
        waiting = (s.stop > s.start for s in self.of_shards())
        shards = zip(self.shards, waiting, strict=True)
        return [i for i, (s, w) in enumerate(shards) if w or not s.revision or s.name in self.touched]


def row_key(series_uid: str, content_hash: str, record: int, salt: str, closed: str = "") -> str:
    """What a result depends on: the series' content, the patient's records, model and config (in `salt`).

    closed: code with which the series ended before scoring; such a row is never taken for a scored one.
    """
    text = f"{series_uid}\0{content_hash}\0{int(record):016x}\0{salt}\0{closed}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def salt_of(model: str, scoring: ScoringConfig, index: IndexConfig, timeline: TimelineConfig) -> str:
    """Hash of everything but series and record that a result depends on; `model`: the bundle's sha256."""
    at_ct = timeline.model_copy(update={k: v for k, v in TimelineConfig() if k in NOT_SCORED})
    parts: list[Any] = [model, scoring, index.gates, at_ct, RESULT_VERSION, RESULTS.to_string()]
    text = json.dumps([p if isinstance(p, str) else p.model_dump(mode="json") for p in parts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def model_of(bundle: str | Path) -> str:
    """sha256 of a bundle, by path or URI; every file is checked."""
    with local_folder(bundle, COPIED) as folder:
        return verify(folder)


def make_plan(
    catalogue: str,
    records: Records,
    bundle: str,
    out: Store,
    cfg: ScreenConfig,
    only_patients: set[str] | None = None,
) -> Plan:
    """Read the catalogue's key columns and the run's file names; nothing is written.

    Args:
        only_patients: patient keys to score; None: all.
    """
    model = model_of(bundle)
    salt = salt_of(model, cfg.scoring, cfg.index, cfg.timeline)
    keys, is_open = _keys(catalogue, records, salt, only_patients)
    finished: dict[str, int] = {}
    for n in out.names(SHARDS):
        if m := _SHARD.fullmatch(n):
            finished[m[1]] = max(finished.get(m[1], 0), int(m[2]))
    shards = []
    for i, start in enumerate(range(0, len(keys), cfg.pipeline.shard_rows)):
        stop = min(start + cfg.pipeline.shard_rows, len(keys))
        name = f"{i:06d}-{hashlib.blake2b(keys[start:stop].tobytes(), digest_size=10).hexdigest()}"
        shards.append(Shard(name, start, stop, finished.get(name, 0)))
    wanted = is_open.copy()
    for s in shards:
        if s.revision:
            wanted[s.start : s.stop] = False
    pending = np.flatnonzero(wanted)
    names = {s.name for s in shards}
    touched = frozenset(n for n in map(shard_of, out.names(PARTS)) if n in names)
    run_id = hashlib.blake2b(keys.tobytes() + salt.encode(), digest_size=6).hexdigest()
    return Plan(keys, is_open, shards, pending, np.ones(len(pending), np.int32), touched, model, run_id)


def _keys(catalogue: str, records: Records, salt: str, only_patients: set[str] | None) -> tuple[np.ndarray, np.ndarray]:
    found = open_set(catalogue)
    patients = found.read(["patient_key"]).column(0)
    # All at once, so that each partition of the records is opened once.
    digests, at = records.digests(patients.to_pylist()), 0
    del patients
    keys, is_open = [np.zeros(0, KEY)], [np.zeros(0, bool)]
    for batch in found.batches(KEY_COLUMNS, _READ):
        uid, content, patient, state, code = (batch.column(c).to_pylist() for c in KEY_COLUMNS)
        owned = (only_patients is None or p in only_patients for p in patient)
        ends = [c if s is not None else "" if m else NOT_REQUESTED for s, c, m in zip(state, code, owned, strict=True)]
        rows = zip(uid, content, digests[at : at + len(uid)].tolist(), ends, strict=True)
        at += len(uid)
        keys.append(np.array([row_key(u, c, r, salt, e) for u, c, r, e in rows], dtype=KEY))
        is_open.append(np.array([not e for e in ends], bool))
    return _distinct(np.concatenate(keys)), np.concatenate(is_open)


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Keys, made distinct: a catalogue row that repeats another keeps a row of its own."""
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(np.r_[False, keys[order][1:] == keys[order][:-1]])
    seen: Counter[bytes] = Counter()
    for i in order[again].tolist():
        k = bytes(keys[i])
        seen[k] += 1
        keys[i] = hashlib.blake2b(k + str(seen[k]).encode(), digest_size=16).hexdigest()
    return keys


def settle(plan: Plan, out: Store, write: bool = True) -> Plan:
    """Take what lies in the run's folder into account: rows in parts are done; rows elsewhere are carried over.

    Args:
        write: False leaves the folder as it is, and only counts what would be carried over.
    """
    have = list(ahead(partial(_read_keys, out, remove_damaged=write), _parts_of(plan, out)))
    done = np.isin(plan.keys[plan.pending], np.concatenate(have)) if have else np.zeros(len(plan.pending), bool)
    carried, shards = _carry_over(plan, plan.pending[~done], out, write)
    done |= np.isin(plan.keys[plan.pending], carried)
    return replace(plan, pending=plan.pending[~done], attempt=plan.attempt[~done], touched=plan.touched | shards)


def again(plan: Plan, out: Store, codes: frozenset[str], states: frozenset[str]) -> Plan:
    """A settled plan in which scored rows with one of these codes or states are pending too, one attempt further.

    What an interrupted retry has done already stays done.

    Raises:
        NothingToRetry: where no scored row has one.
    """
    rank = np.argsort(plan.keys)
    latest: dict[int, tuple[int, str, str, bool]] = {}
    parts = _parts_of(plan, out)
    files = [s.file for s in plan.shards if s.revision] + parts
    for name, t in zip(files, ahead(partial(_outcomes, out), files), strict=True):
        keys = np.array(t["row_key"].to_pylist(), KEY)
        at = rank[np.minimum(np.searchsorted(plan.keys, keys, sorter=rank), len(plan) - 1)]
        owned = (plan.keys[at] == keys) & plan.open[at]
        columns = (t["attempt"].to_pylist(), t["code"].to_pylist(), t["state"].to_pylist())
        for i, a, c, s in zip(at[owned].tolist(), *(np.array(x, object)[owned].tolist() for x in columns), strict=True):
            if i not in latest or a > latest[i][0]:
                latest[i] = (a, c, s, name.startswith(PARTS))
    wanted = {i: a for i, (a, c, s, _) in latest.items() if c in codes or s in states}
    if not wanted:
        asked = " or ".join(sorted(codes | states))
        seen = Counter(c for _, c, _, _ in latest.values())
        there = ", ".join(f"{c} {n}" for c, n in sorted(seen.items())) or "none"
        raise NothingToRetry(f"no series that was scored ended as {asked}; codes there are: {there}")
    rows = np.array(sorted(i for i, a in wanted.items() if not (latest[i][3] and a > 1)), np.int64)
    pending = np.union1d(plan.pending, rows).astype(np.int64)
    attempt = np.array([wanted.get(i, 0) + 1 for i in pending.tolist()], np.int32)
    return replace(plan, pending=pending, attempt=attempt)


def _outcomes(out: Store, name: str) -> pa.Table:
    with out.parquet(name) as f:
        return f.read(columns=["row_key", "attempt", "code", "state"])


def shard_of(part: str) -> str:
    """Name of the shard that a part file belongs to."""
    return part.removeprefix(PARTS).rsplit("-", 1)[0]


def _parts_of(plan: Plan, out: Store) -> list[str]:
    names = {s.name for s in plan.shards}
    return [n for n in out.names(PARTS) if shard_of(n) in names]


def _read_keys(out: Store, name: str, remove_damaged: bool) -> np.ndarray:
    """Row keys of a results file; a file that a machine's crash left damaged is removed, and its rows done again."""
    try:
        with out.parquet(name) as f:
            column = f.read(columns=["row_key"]).column(0)
    except FileNotFoundError:  # finished meanwhile by a task of a driver that was killed
        return np.zeros(0, KEY)
    except (pa.ArrowInvalid, OSError) as e:
        # Arrow's own complaints about the content have no errno; a disk's or a network's failure is nobody's content.
        if not (isinstance(e, pa.ArrowInvalid) or (type(e) is OSError and e.errno is None)):
            raise
        if remove_damaged:
            out.remove([name])
        return np.zeros(0, KEY)
    return np.array(column.to_pylist(), KEY)


def _carry_over(plan: Plan, missing: np.ndarray, out: Store, write: bool) -> tuple[np.ndarray, set[str]]:
    """Copy missing rows that lie in files of other plans into parts: (their keys, the shards that got parts)."""
    current = {s.name for s in plan.shards}
    stale = [n for n in out.names(SHARDS) if not ((m := _SHARD.fullmatch(n)) and m[1] in current)]
    stale += [n for n in out.names(PARTS) if shard_of(n) not in current]
    order = missing[np.argsort(plan.keys[missing])]
    wanted = plan.keys[order]
    starts = np.array([s.start for s in plan.shards])
    moved, touched = [np.zeros(0, KEY)], set()
    stale = stale if len(missing) else []
    for name, shard_keys in zip(stale, ahead(partial(_read_keys, out, remove_damaged=write), stale), strict=True):
        hit = np.isin(shard_keys, wanted)
        if not hit.any():
            continue
        if not write:
            moved.append(shard_keys[hit])
            continue
        with out.parquet(name) as f:
            table = f.read().filter(pa.array(hit))
        of = np.searchsorted(starts, order[np.searchsorted(wanted, shard_keys[hit])], side="right") - 1
        for s in np.unique(of):
            write_part(out, plan.shards[s].name, table.filter(pa.array(of == s)))
            touched.add(plan.shards[s].name)
        moved.append(shard_keys[hit])
    return np.concatenate(moved), touched


def part_name(shard: str, keys: Sequence[str], attempts: Sequence[int]) -> str:
    """Name of the part that holds these rows: the same however often they are scored."""
    text = "".join(f"{k}{a};" for k, a in sorted(zip(keys, attempts, strict=True)))
    return f"{PARTS}{shard}-{hashlib.blake2b(text.encode(), digest_size=10).hexdigest()}.parquet"


def write_part(out: Store, shard: str, table: pa.Table) -> None:
    """Write result rows of one shard as a part; it appears whole or not at all."""
    name = part_name(shard, table["row_key"].to_pylist(), table["attempt"].to_pylist())
    out.put_table(name, table.replace_schema_metadata(None).cast(RESULTS))


def batches(catalogue: str, rows: np.ndarray, keys: np.ndarray, attempt: np.ndarray, size: int) -> Iterator[pa.Table]:
    """Catalogue rows with `row_key` and `attempt`, at most `size` at a time, reading only the row groups that hold
    them, one after the other. rows: int64 [n], ascending."""
    for found in open_set(catalogue).locate(rows):
        table = found.read().replace_schema_metadata(None)
        names = [k.decode() for k in keys[found.at].tolist()]
        table = table.append_column("row_key", pa.array(names, pa.string()))
        table = table.append_column("attempt", pa.array(attempt[found.at], pa.int32()))
        for a in range(0, table.num_rows, size):
            yield table.slice(a, size)
