"""Ray Data: a run's pending series as a dataset whose rows are batches of work.

One read task a shard streams its batches, so that an archive of any size is a list of shards to the driver, and only
the batches between reading and scoring are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from osteo_ray.screening.ledger import Plan, batches

SCHEMA = pa.schema([("shard", pa.string()), ("batch", pa.large_binary())])
"""batch: catalogue rows with `row_key` and `attempt`, as an Arrow stream."""

READERS = 2
"""Read tasks at a time: reading a batch takes a small part of the time that scoring it does."""


class PendingSource(Datasource):
    """What a plan has to score, at most `per_batch` series to a row."""

    def __init__(self, catalogue: str, plan: Plan, per_batch: int):
        self._work = []
        for shard, owned in zip(plan.shards, plan.of_shards(), strict=True):
            rows = plan.pending[owned]
            if len(rows):
                self._work.append((catalogue, shard.name, rows, plan.keys[rows], plan.attempt[owned], per_batch))

    def __len__(self) -> int:
        return len(self._work)

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before reading; a series is some tens of kilobytes."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        """One task a shard, whatever parallelism is proposed."""
        meta = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None)
        return [ReadTask(_reader(*w), meta, schema=SCHEMA) for w in self._work]


def _reader(catalogue: str, shard: str, rows: np.ndarray, keys: np.ndarray, attempt: np.ndarray, per_batch: int):
    def read() -> Iterable[pa.Table]:
        for table in batches(catalogue, rows, keys, attempt, per_batch):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as w:
                w.write_table(table)
            yield pa.table({"shard": [shard], "batch": [sink.getvalue().to_pybytes()]}, schema=SCHEMA)

    return read


CONTEXT = {
    "target_max_block_size": 1,  # never waits to fill a block; a row is not cut
    "max_consecutive_actor_init_deaths": 3,  # by default a node lost while a scorer starts there ends the run
}


def read_pending(catalogue: str, plan: Plan, per_batch: int) -> ray.data.Dataset:
    """The plan's pending rows as a Ray dataset; a block is a batch, streamed as it is read."""
    source = PendingSource(catalogue, plan, per_batch)
    ctx = ray.data.DataContext.get_current()
    before = {k: getattr(ctx, k) for k in CONTEXT}
    try:
        for k, v in CONTEXT.items():
            setattr(ctx, k, v)
        # The dataset keeps a copy of the context. As many blocks as tasks: none is split behind our back.
        return ray.data.read_datasource(source, num_cpus=0.1, concurrency=READERS, override_num_blocks=len(source))
    finally:
        for k, v in before.items():
            setattr(ctx, k, v)
