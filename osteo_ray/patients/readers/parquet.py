"""Parquet: a file, or a folder of them, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.readers.chunk import ROWS, Chunk, repeated_names


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
    """A batch's columns, of equal names the first. Whole numbers beside missing ones stay whole: as floats, long
    patient numbers would lose their last digits. Bytes are texts; lists and structs are shown as texts, to be refused.
    """
    columns: dict[str, pa.Array] = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            try:
                column = column.cast(pa.string())
            except pa.ArrowInvalid:
                raise RecordsError([f"{name}, column {field.name!r}: bytes that are no UTF-8; write texts"]) from None
        columns.setdefault(field.name, column)
    frame = pa.table(columns).to_pandas(ignore_metadata=True, integer_object_nulls=True)
    for column, array in columns.items():
        if pa.types.is_nested(array.type):
            frame[column] = [None if v is None else str(v) for v in array.to_pylist()]
    return frame
