"""Parquet: a file, or a folder of them, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.readers.chunk import ROWS, Chunk, repeated_names

_EXACT = 2**53  # above, a float is not one whole number


def read_parquet(path: Path, name: str) -> Iterator[Chunk]:
    """The rows of a Parquet file, with the types that it has."""
    try:
        with pq.ParquetFile(path) as f:
            if f.metadata.num_rows == 0:
                raise RecordsError([f"{name}: no rows"])
            start = 1
            for batch in f.iter_batches(ROWS):
                frame = _frame(batch, name)
                numbers = np.arange(start, start + len(frame))
                yield Chunk(name, frame, numbers, "row", repeated_names(batch.schema.names))
                start += len(frame)
    except (pa.ArrowException, OSError) as e:
        raise RecordsError([f"{name}: no Parquet that can be read: {str(e).splitlines()[0]}"]) from None


def _frame(batch: pa.RecordBatch, name: str) -> pd.DataFrame:
    """A batch's columns, of equal names the first. Long whole numbers beside missing ones are texts: as floats,
    patient numbers would lose their last digits. Bytes are texts.
    """
    columns: dict[str, pa.Array] = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            try:
                column = column.cast(pa.string())
            except pa.ArrowInvalid:
                raise RecordsError([f"{name}, column {field.name!r}: bytes that are no UTF-8; write texts"]) from None
        if pa.types.is_integer(field.type) and column.null_count and (pc.max(column).as_py() or 0) >= _EXACT:
            column = column.cast(pa.string())
        columns.setdefault(field.name, column)
    return pa.table(columns).to_pandas(ignore_metadata=True)
