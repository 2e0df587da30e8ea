"""Finishing: parts -> shards -> results.parquet, few shards in memory at a time (no Ray here).

Every indexed series is in exactly one row, or `LedgerError` says how many are not.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray.io.parquet_set import ahead, open_set
from osteo_ray.io.store import Store
from osteo_ray.outcomes import Phase, State
from osteo_ray.patients.header import used_demographics
from osteo_ray.screening.closed_rows import COPIED
from osteo_ray.screening.ledger import KEY, PARTS, SHARDS, Plan, Shard
from osteo_ray.screening.schema import FOOTER, RESULTS, VOLATILE

RESULTS_FILE = "results.parquet"
SHARDS_AHEAD = 4
"""Shards read while one is written: a store far away would else be waited for once a shard."""


class LedgerError(RuntimeError):
    """The results do not account for every indexed series exactly once."""

    exit_code = 4


@dataclass(frozen=True)
class Counts:
    """What the rows of a run, or of one shard, came to."""

    rows: int
    states: dict[str, int]
    codes: dict[str, int]
    scored: dict[str, int]  # states of the rows that went through a scorer
    digest: int  # of all rows but for the volatile columns: the same whatever order, batch or shard they came in
    made_from: str = ""  # results.parquet: of which shards

    @classmethod
    def of_file(cls, f: pq.ParquetFile) -> Counts | None:
        """The counts in a file's footer; None where it has none."""
        text = (f.schema_arrow.metadata or {}).get(FOOTER)
        return None if text is None else cls(**json.loads(text))

    def footer(self) -> dict[bytes, bytes]:
        return {FOOTER: json.dumps(asdict(self)).encode()}

    def hex(self) -> str:
        return f"{self.digest:032x}"


def finish_shard(
    uri: str, shard: Shard, catalogue: str, keys: np.ndarray, is_open: np.ndarray, model: str
) -> tuple[str, str]:
    """Write one shard from its parts, its last revision and the catalogue, then remove the parts: (name, new file).

    Args:
        uri: of the run's folder.
        keys, is_open: of the shard's rows.

    Raises:
        LedgerError: where an open row is nowhere.
    """
    out = Store(uri)
    new = replace(shard, revision=shard.revision + 1)
    parts = out.names(PARTS, shard.name + "-")
    used = parts + ([shard.file] if shard.revision else [])
    if out.those_there([new.file]):  # whoever wrote it was stopped before it had removed what it was made from
        out.remove(used)
        return shard.name, new.file
    scored = _latest(list(ahead(partial(_read, out), used)))
    have = np.array(scored["row_key"].to_pylist(), KEY)
    order = np.argsort(have)
    wanted = keys[is_open]
    at = order[np.minimum(np.searchsorted(have, wanted, sorter=order), len(have) - 1)] if len(have) else order
    lost = len(wanted) if not len(have) else int((have[at] != wanted).sum())
    if lost:
        raise LedgerError(f"shard {shard.name}: {lost} of {len(wanted)} scored series have no result row")
    closed = _closed_rows(catalogue, shard, keys, is_open, model)
    rank = np.empty(len(keys), np.int64)  # where each catalogue row lies in the two tables together
    rank[is_open], rank[~is_open] = np.arange(len(at)), len(at) + np.arange(len(keys) - len(at))
    kept = scored.take(pa.array(at, pa.int64()))
    table = pa.concat_tables([kept, closed]).take(pa.array(rank, pa.int64())).combine_chunks()
    counts = Counts(
        table.num_rows, _count(table["state"]), _count(table["code"]), _count(kept["state"]), digest_of(table)
    )
    out.put_table(new.file, table.replace_schema_metadata(counts.footer()))
    out.remove(used)
    return shard.name, new.file


def digest_of(table: pa.Table) -> int:
    """Sum of the rows' 128-bit hashes, over the columns that two runs of the same input share bit-identically."""
    kept = table.select([n for n in RESULTS.names if n not in VOLATILE])
    total = 0
    for row in kept.to_pylist():
        # Python writes each float so that it is read back as the same one.
        total += int.from_bytes(hashlib.blake2b(json.dumps(row).encode(), digest_size=16).digest(), "little")
    return total % (1 << 128)


def consolidate(out: Store, plan: Plan, advance: Callable[[int], object] = lambda n: None) -> Counts:
    """Write results.parquet from the finished shards, few of them in memory; the counts of the whole run.

    Where it is there already, made from the same shards, it stays.

    Raises:
        LedgerError: where the rows are not the catalogue's.
    """
    made_from = hashlib.blake2b(
        "\n".join([plan.run_id, *(s.file for s in plan.shards)]).encode(), digest_size=16
    ).hexdigest()
    if out.exists(RESULTS_FILE):
        with out.parquet(RESULTS_FILE) as f:
            there = Counts.of_file(f)
        if there and there.made_from == made_from:
            return there
    total = Counts(0, {}, {}, {}, 0, made_from)
    with out.parquet_writer(RESULTS_FILE, RESULTS) as w:
        files = ahead(partial(_finished, out), (s.file for s in plan.shards), SHARDS_AHEAD)
        for shard, (counts, table) in zip(plan.shards, files, strict=True):
            own = [k.decode() for k in plan.keys[shard.start : shard.stop].tolist()]
            if counts is None or table["row_key"].to_pylist() != own:
                raise LedgerError(f"shard {shard.name} does not hold the rows that its name says")
            # Rows that an earlier run made belong to this run as well.
            i = table.schema.get_field_index("run_id")
            table = table.set_column(i, RESULTS.field(i), pa.array([plan.run_id] * table.num_rows, pa.string()))
            w.write_table(table.cast(RESULTS), row_group_size=max(1, table.num_rows))
            total = _sum(total, counts)
            advance(table.num_rows)
        if total.rows != len(plan) or sum(total.states.values()) != total.rows:
            raise LedgerError(f"{total.rows} result rows do not account for the {len(plan)} indexed series")
        w.add_key_value_metadata(total.footer())
    old = {s.name: s.file for s in plan.shards}
    out.remove([n for n in out.names(SHARDS) if (now := old.get(n[len(SHARDS) :].split(".")[0])) and n != now])
    return total


def _finished(out: Store, name: str) -> tuple[Counts | None, pa.Table]:
    """Counts and rows of a shard."""
    with out.parquet(name) as f:
        return Counts.of_file(f), f.read().replace_schema_metadata(None)


def _sum(a: Counts, b: Counts) -> Counts:
    def both(x: dict[str, int], y: dict[str, int]) -> dict[str, int]:
        return dict(Counter(x) + Counter(y))

    digest = (a.digest + b.digest) % (1 << 128)
    states, codes, scored = both(a.states, b.states), both(a.codes, b.codes), both(a.scored, b.scored)
    return Counts(a.rows + b.rows, states, codes, scored, digest, a.made_from)


def _read(out: Store, name: str) -> pa.Table:
    return out.table(name).cast(RESULTS)


def _latest(tables: Sequence[pa.Table]) -> pa.Table:
    """Each row once, by its last attempt."""
    if not tables:
        return RESULTS.empty_table()
    table = pa.concat_tables(tables).combine_chunks()
    keys = np.array(table["row_key"].to_pylist(), KEY)
    attempt = table["attempt"].to_numpy()
    # Two rows of one attempt were scored twice around a crash and are the same but for their times: the first stays.
    order = np.lexsort((-attempt, keys))
    first = np.r_[True, keys[order][1:] != keys[order][:-1]] if len(order) else np.zeros(0, bool)
    return table.take(pa.array(order[first], pa.int64()))


def _closed_rows(catalogue: str, shard: Shard, keys: np.ndarray, is_open: np.ndarray, model: str) -> pa.Table:
    """Result rows of the shard's series that the index ended, or that were not asked for."""
    if is_open.all():
        return RESULTS.empty_table()
    columns = [*COPIED, "age_y", "sex", "n_slices", "state", "code", "stage", "message"]
    rows = open_set(catalogue).rows(shard.start, shard.stop, columns).filter(pa.array(~is_open)).to_pylist()
    for key, row in zip(keys[~is_open].tolist(), rows, strict=True):
        if row["state"] is None:
            row |= {
                "state": str(State.EXCLUDED),
                "code": "NOT_REQUESTED",
                "stage": str(Phase.CHOOSE),
                "message": "the patient is not among those asked for",
            }
        row |= used_demographics(row).columns()
        row |= {"row_key": key.decode(), "attempt": 1, "slices_total": row.pop("n_slices"), "model_sha256": model}
    return pa.Table.from_pylist(rows, schema=RESULTS)


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return {v["values"]: v["counts"] for v in column.value_counts().to_pylist()}
