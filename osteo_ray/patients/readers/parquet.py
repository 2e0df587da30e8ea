"""Parquet: a file, or a folder of them, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.readers.chunk import ROWS, Chunk


def read_parquet(path: Path, name: str) -> Iterator[Chunk]:
    """The rows of a Parquet file, with the types that it has."""
    try:
        with pq.ParquetFile(path) as f:
            if f.metadata.num_rows == 0:
                raise RecordsError([f"{name}: no rows"])
            start = 1
            for batch in f.iter_batches(ROWS):
                frame = pa.Table.from_batches([batch]).to_pandas(ignore_metadata=True)
                yield Chunk(name, frame, np.arange(start, start + len(frame)), "row")
                start += len(frame)
    except (pa.ArrowException, OSError) as e:
        raise RecordsError([f"{name}: no Parquet that can be read: {str(e).splitlines()[0]}"]) from None
