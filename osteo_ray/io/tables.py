"""Rows <-> Arrow, a column at a time: what Arrow's own row converters do, some ten times as fast.

Header indexing turns every instance into a row and back once, so this is where its time would go.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

Row = dict[str, Any]


def to_table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """Rows (all keys of the schema present) -> table."""
    return pa.Table.from_arrays([_column([r[f.name] for r in rows], f.type) for f in schema], schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind) and None not in values:
        lengths = np.fromiter(map(len, values), np.int32, len(values))
        offsets = np.zeros(len(values) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        flat = list(chain.from_iterable(values))
        return pa.ListArray.from_arrays(pa.array(offsets), _column(flat, kind.value_type), type=kind)
    if pa.types.is_struct(kind) and None not in values:
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays([_column([v[f.name] for v in values], f.type) for f in fields], fields=fields)
    return pa.array(values, kind)


def to_rows(table: pa.Table) -> list[Row]:
    """Table -> rows with plain Python values."""
    names = table.column_names
    columns = [_values(table.column(n).combine_chunks()) for n in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(column: Any) -> list[Any]:
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks == 1 else column
    kind, n = column.type, len(column)
    if pa.types.is_string(kind):
        coded = column.dictionary_encode()
        coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        if coded.null_count == n:
            return [None] * n
        if len(coded.dictionary) * 4 < n and coded.null_count == 0:  # mostly repeats: decode each text once
            words = coded.dictionary.to_pylist()
            return [words[i] for i in coded.indices.to_numpy(zero_copy_only=False).tolist()]
        return column.to_pylist()
    if column.null_count:
        return [None] * n if column.null_count == n else column.to_pylist()
    if pa.types.is_list(kind) and n and pa.types.is_floating(kind.value_type):
        widths = np.diff(column.offsets.to_numpy())
        if widths.size and (widths == widths[0]).all() and widths[0]:
            return column.flatten().to_numpy(zero_copy_only=False).reshape(n, widths[0]).tolist()
    if pa.types.is_primitive(kind) or pa.types.is_boolean(kind):
        return column.to_numpy(zero_copy_only=False).tolist()
    return column.to_pylist()
