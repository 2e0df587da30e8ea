"""Ray Data: a run's pending series as a dataset whose rows are tasks of a scorer, some batches each.

One read task a shard streams its batches, so that an archive of any size is a list of shards to the driver, and only
the batches between reading and scoring are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from osteo_ray.io.parquet_set import open_set
from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.record_set import RecordSet, values_at_ct
from osteo_ray.screening.ledger import Plan, batches
from osteo_ray.screening.pool import TaskSize

SCHEMA = pa.schema([("shard", pa.string()), ("batch", pa.large_binary())])
"""batch: catalogue rows with `row_key`, `attempt` and, where there are records, `record` (float32 [F]), as an Arrow
stream; each record batch of it is scored together and becomes a part."""


class PendingSource(Datasource):
    """What a plan has to score, at most `size.series` series to a batch and `size.batches` batches to a row."""

    def __init__(
        self, catalogue: str, plan: Plan, size: TaskSize, records: RecordSet | None, cfg: TimelineConfig
    ) -> None:
        self._work = []
        for shard, owned in zip(plan.shards, plan.of_shards(), strict=True):
            rows = plan.pending[owned]
            if len(rows):
                self._work.append((catalogue, shard.name, rows, plan.keys[rows], plan.attempt[owned], size, records,
                                   cfg))  # fmt: skip

    def __len__(self) -> int:
        return len(self._work)

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before reading; a series is some tens of kilobytes."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        """One task a shard, whatever parallelism is proposed."""
        meta = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None)
        return [ReadTask(_reader(*w), meta, schema=SCHEMA) for w in self._work]


def _reader(
    catalogue: str,
    shard: str,
    rows: np.ndarray,
    keys: np.ndarray,
    attempt: np.ndarray,
    size: TaskSize,
    records: RecordSet | None,
    cfg: TimelineConfig,
):
    def joined() -> Iterator[pa.Table]:
        # A shard's patients are joined at once: each partition of the records is opened once a shard.
        values = None
        if records is not None:
            of = read_columns(catalogue, rows)
            values = values_at_ct(records, of["patient_key"], of["study_date"], cfg)
        done = 0
        for table in batches(catalogue, rows, keys, attempt, size.series):
            if values is not None:
                column = pa.array(values[done : done + table.num_rows].ravel())
                table = table.append_column("record", pa.FixedSizeListArray.from_arrays(column, values.shape[1]))
            done += table.num_rows
            yield table

    def read() -> Iterable[pa.Table]:
        tables = joined()
        while task := list(islice(tables, size.batches)):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, task[0].schema) as w:
                for table in task:
                    w.write_batch(*table.combine_chunks().to_batches())
            yield pa.table({"shard": [shard], "batch": [sink.getvalue().to_pybytes()]}, schema=SCHEMA)

    return read


CONTEXT = {
    "target_max_block_size": 1,  # never waits to fill a block; a row is not cut
    "max_consecutive_actor_init_deaths": 3,  # by default a node lost while a scorer starts there ends the run
}


def read_columns(catalogue: str, rows: np.ndarray) -> dict[str, list[Any]]:
    """patient_key and study_date of some catalogue rows (ascending), reading only the row groups that hold them."""
    found = open_set(catalogue)
    if not len(rows):
        return {"patient_key": [], "study_date": []}
    tables = [r.read(["patient_key", "study_date"]) for r in found.locate(rows)]
    return pa.concat_tables(tables).to_pydict()


def read_pending(
    catalogue: str, plan: Plan, size: TaskSize, records: RecordSet | None, cfg: TimelineConfig, readers: int
) -> ray.data.Dataset:
    """The plan's pending rows, each with its patient's record, as a Ray dataset; a block is a scorer's task, streamed
    as it is read.

    Args:
        readers: read tasks at a time; reading a batch takes a small part of the time that scoring it does.
    """
    source = PendingSource(catalogue, plan, size, records, cfg)
    ctx = ray.data.DataContext.get_current()
    before = {k: getattr(ctx, k) for k in CONTEXT}
    try:
        for k, v in CONTEXT.items():
            setattr(ctx, k, v)
        # The dataset keeps a copy of the context. As many blocks as tasks: none is split behind our back.
        # No CPU: where scorers hold all of them, a reader that needs some would wait for them, and they for it.
        readers = min(readers, len(source))
        return ray.data.read_datasource(source, num_cpus=0, concurrency=readers, override_num_blocks=len(source))
    finally:
        for k, v in before.items():
            setattr(ctx, k, v)
