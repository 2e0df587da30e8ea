"""Ray Data: records of any size -> a record set, partitioned by patient; nothing passes through the driver.

    partition_records(["records-1.parquet", "records-2.parquet"], "s3://bucket/records", partitions=256)

Two steps. Tasks read blocks of rows and write each block's share of every partition as a piece; then a task a partition
gathers its pieces, sorts them by patient and writes the part. A task holds one block, or one partition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from osteo_ray import ray_setup
from osteo_ray.io.store import Store, open_parquet, read_table
from osteo_ray.io.uris import absolute
from osteo_ray.outcomes import InputError
from osteo_ray.patients.record_set import SCHEMA, RecordSet, partition_of, to_arrow, write_facts, write_partition
from osteo_ray.patients.schema import NAMES

PIECES = "pieces/"
ROWS_PER_BLOCK = 200_000
"""Records in memory of a task of the first step."""


def partition_records(
    sources: Sequence[str], out: str, partitions: int, rows_per_block: int = ROWS_PER_BLOCK
) -> RecordSet:
    """Write Parquet files of records in the schema's columns (as `osteo-ray records` writes them) as a record set.

    Raises:
        InputError: a source that is not such a file.
    """
    ray_setup.start()
    import ray.data

    files = [absolute(s) for s in sources]
    for f in files:
        with open_parquet(f) as opened:
            names = set(opened.schema_arrow.names)
        if not {"patient_key", "record_date", *NAMES} <= names:
            raise InputError(f"{f}: not in the schema's columns; `osteo-ray records` writes such a file")
    store = Store(out)
    store.remove(store.names(PIECES))
    split = ray.data.read_parquet(files).map_batches(
        _Split(store.uri, partitions), batch_format="pyarrow", batch_size=rows_per_block, zero_copy_batch=True
    )
    rows = sum(n for batch in split.iter_batches(batch_format="numpy", batch_size=None) for n in batch["rows"].tolist())
    gathered = ray.data.range(partitions, override_num_blocks=partitions).map_batches(
        _Gather(store.uri), batch_format="numpy", batch_size=1
    )
    patients = 0
    for batch in gathered.iter_batches(batch_format="numpy", batch_size=None):
        patients += int(batch["patients"].sum())
    store.remove(store.names(PIECES))  # not before all parts are there: a task may be done again
    return write_facts(store, partitions, int(rows), patients)


class _Split:
    """A block of rows -> a piece for each partition; how many rows."""

    def __init__(self, uri: str, partitions: int):
        self.uri, self.partitions = uri, partitions

    def __call__(self, table: pa.Table) -> pa.Table:
        store = Store(self.uri)
        frame = table.to_pandas()
        data = to_arrow(frame[frame["patient_key"].notna()])
        keys = np.array(data["patient_key"].to_pylist(), dtype=str)
        name = _name_of(data)
        of = partition_of(keys, self.partitions)
        order = np.argsort(of, kind="stable")
        edges = np.searchsorted(of[order], np.arange(self.partitions + 1))
        data = data.take(pa.array(order))
        for p in range(self.partitions):
            if edges[p + 1] > edges[p]:
                piece = data.slice(edges[p], edges[p + 1] - edges[p])
                store.put_table(f"{PIECES}{p:05d}-{name}.parquet", piece)
        return pa.table({"rows": [data.num_rows]})


def _name_of(data: pa.Table) -> str:
    """By content: a block that is read again after a crash overwrites its own pieces."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, data.schema) as w:
        w.write_table(data)
    return hashlib.blake2b(sink.getvalue(), digest_size=12).hexdigest()


class _Gather:
    """A partition's pieces -> its part and digests; how many patients."""

    def __init__(self, uri: str):
        self.uri = uri

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        store, patients = Store(self.uri), []
        for p in batch["id"].tolist():
            pieces = store.names(PIECES, f"{p:05d}-")
            tables = [read_table(store.path(n)) for n in pieces]
            frame = pa.concat_tables([SCHEMA.empty_table(), *tables]).to_pandas()
            patients.append(write_partition(store, p, frame))
        return {"patients": np.array(patients)}
