"""Ray Data: series of a catalogue as a dataset, a few series to a block.

The driver holds row numbers only; each read task opens the parts of the catalogue that hold its rows, so an archive's
size costs neither driver memory nor object store.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.placement_group import NODE_ID_LABEL_KEY

from osteo_ray.io.parquet_set import Rows, open_set


class CatalogueSource(Datasource):
    """Rows `rows` of a catalogue, `per_task` to a read task."""

    def __init__(self, catalogue: str | Path, rows: Sequence[int], per_task: int = 4):
        found = open_set(catalogue)
        self._schema = found.schema
        self._chunks = [found.locate(rows[i : i + per_task]) for i in range(0, len(rows), per_task)]

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before reading; rows are some tens of kilobytes."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        """One task per chunk, whatever parallelism is proposed: a series is the unit of work."""
        return [
            ReadTask(
                _reader(chunk),
                BlockMetadata(num_rows=sum(len(r.take) for r in chunk), size_bytes=None, exec_stats=None),
                schema=self._schema,
            )
            for chunk in self._chunks
        ]


def _reader(chunk: list[Rows]):
    def read() -> list[pa.Table]:
        table = pa.concat_tables([r.read() for r in chunk]).replace_schema_metadata(None)
        return [table.take(pa.array(np.argsort(np.concatenate([r.at for r in chunk]))))]

    return read


READERS = 2
"""Read tasks of the driver's files at a time: a disk gives slices faster than encoders take them."""


class FilesOfDriver(Datasource):
    """Parquet files on a disk of the driver's node, in `blocks` tasks."""

    def __init__(self, files: Sequence[str], columns: Sequence[str], blocks: int):
        self._columns = list(columns)
        self._chunks = [list(c) for c in np.array_split(np.array(files, object), blocks)]
        self._schema = pa.schema([pq.read_schema(files[0]).field(c) for c in columns])

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before reading."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        """One task per chunk, whatever parallelism is proposed."""
        meta = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None)
        return [ReadTask(_file_reader(c, self._columns), meta, schema=self._schema) for c in self._chunks]


def _file_reader(files: list[str], columns: list[str]):
    def read() -> Iterator[pa.Table]:
        for f in files:
            yield pq.read_table(f, columns=columns)

    return read


def read_files(files: Sequence[str], columns: Sequence[str], blocks: int) -> ray.data.Dataset:
    """Parquet files that the driver's node has as a Ray dataset: other nodes may lack that disk, so its own reads them.

    Readers take no CPU: where actors hold all of them, each would wait for the other. So nothing but `READERS` bounds
    how many run at a time; without it Ray starts a process for every block.
    """
    source = FilesOfDriver(files, columns, blocks)
    own = {NODE_ID_LABEL_KEY: ray.get_runtime_context().get_node_id()}
    readers = min(READERS, blocks)
    return ray.data.read_datasource(
        source, num_cpus=0, concurrency=readers, label_selector=own, override_num_blocks=blocks
    )


def arrow_batches(ds: ray.data.Dataset) -> Generator[pa.Table, None, None]:
    """The blocks of a dataset as Arrow tables, as they come."""
    # Its execution ends with this generator: one that is still there when the program ends waits for Ray for ever.
    with closing(iter(ds.iter_batches(batch_format="pyarrow", batch_size=None))) as blocks:  # type: ignore[type-var]
        for block in blocks:
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
