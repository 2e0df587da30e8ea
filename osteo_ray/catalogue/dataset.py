"""Ray Data: series of a catalogue as a dataset, a few series to a block.

The driver holds row numbers only; each read task opens the catalogue and takes its own rows, so an
archive's size costs neither driver memory nor object store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from osteo_ray.io.store import open_parquet


class CatalogueSource(Datasource):
    """Rows `rows` of `catalogue.parquet`, `per_task` to a read task."""

    def __init__(self, catalogue: str | Path, rows: Sequence[int], per_task: int = 4):
        self._path = str(catalogue)
        self._chunks = [list(rows[i : i + per_task]) for i in range(0, len(rows), per_task)]
        with open_parquet(self._path) as f:
            self._schema = f.schema_arrow
            groups = [f.metadata.row_group(g).num_rows for g in range(f.metadata.num_row_groups)]
        # First row of each row group: where to look for a row number.
        self._starts = np.cumsum([0, *groups]).tolist()

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before reading; rows are some tens of kilobytes."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        """One task per chunk, whatever parallelism is proposed: a series is the unit of work."""
        return [
            ReadTask(
                _reader(self._path, chunk, self._starts),
                BlockMetadata(num_rows=len(chunk), size_bytes=None, exec_stats=None),
                schema=self._schema,
            )
            for chunk in self._chunks
        ]


def _reader(path: str, chunk: list[int], starts: list[int]):
    def read() -> list[pa.Table]:
        return [take_rows(path, chunk, starts)]

    return read


def take_rows(path: str, rows: list[int], starts: list[int]) -> pa.Table:
    """Rows by number, reading only the row groups that hold them."""
    rows_a = np.asarray(rows)
    group = np.searchsorted(starts, rows_a, side="right") - 1
    with open_parquet(path) as f:
        parts = [f.read_row_group(int(g)).take(pa.array(rows_a[group == g] - starts[g])) for g in np.unique(group)]
    return pa.concat_tables(parts)


def arrow_batches(ds: ray.data.Dataset) -> Iterator[pa.Table]:
    """The blocks of a dataset as Arrow tables, as they come."""
    for block in ds.iter_batches(batch_format="pyarrow", batch_size=None):
        assert isinstance(block, pa.Table)
        yield block


def read_series(
    catalogue: str | Path, rows: Sequence[int], per_task: int = 4, num_cpus: float | None = None
) -> ray.data.Dataset:
    """The chosen catalogue rows as a Ray dataset.

    Args:
        num_cpus: of a read task. Small beside scoring actors, which hold the cores; None lets the read be
            fused with the tasks that follow it.
    """
    source = CatalogueSource(catalogue, rows, per_task)
    # One block a task: blocks are not split or merged behind our back.
    return ray.data.read_datasource(source, num_cpus=num_cpus, override_num_blocks=max(1, -(-len(rows) // per_task)))
