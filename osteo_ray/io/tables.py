"""Rows <-> Arrow, a column at a time: what Arrow's own row converters do, some ten times as fast.

Header indexing turns every instance into a row and back once, so this is where its time would go. `Columns` are rows
of which most columns hold one value, as those of a series' images do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

Row = dict[str, Any]


class Columns(Sequence[Row]):
    """Rows by column; a column that is known to hold one value is held as that value.

    As a sequence: rows as dicts, made when they are asked for.

        rows = Columns.of({"uri": ["a", "b"], "kvp": [120.0, 120.0]})
        rows[1], rows.column("uri"), rows.first("kvp"), rows.is_one("kvp"), rows.counts("kvp"), rows.take([1])
    """

    def __init__(self, one: dict[str, Any], several: dict[str, list[Any]], n: int):
        self._one, self._several, self._n = one, several, n

    @classmethod
    def of(cls, columns: Mapping[str, list[Any]]) -> Columns:
        """Columns of one length."""
        n = len(next(iter(columns.values()), ()))
        one = {name: v[0] for name, v in columns.items() if n and _alike(v)}
        return cls(one, {name: v for name, v in columns.items() if name not in one}, n)

    @classmethod
    def of_rows(cls, rows: Iterable[Row]) -> Columns:
        """Rows with the same keys."""
        rows = list(rows)
        return cls.of({name: [r[name] for r in rows] for name in (rows[0] if rows else ())})

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(self._n))]
        if not -self._n <= i < self._n:
            raise IndexError(i)
        return self._one | {name: v[i] for name, v in self._several.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def column(self, name: str) -> list[Any]:
        """The values of all rows."""
        return [self._one[name]] * self._n if name in self._one else self._several[name]

    def first(self, name: str) -> Any:
        """The value of the first row."""
        return self._one[name] if name in self._one else self._several[name][0]

    def is_one(self, *names: str) -> bool:
        """Whether each of these columns is known to hold one value in all rows."""
        return all(name in self._one for name in names)

    def counts(self, name: str) -> Counter[Any]:
        """How many rows hold each value of a column."""
        return Counter({self._one[name]: self._n}) if name in self._one else Counter(self._several[name])

    def take(self, indices: Sequence[int]) -> Columns:
        """Rows by number, in this order."""
        return Columns(self._one, {k: [v[i] for i in indices] for k, v in self._several.items()}, len(indices))

    def select(self, names: Iterable[str], **more: list[Any]) -> Columns:
        """Some columns, with `more` ones."""
        one = {k: self._one[k] for k in names if k in self._one}
        return Columns(one, {k: self._several[k] for k in names if k not in one} | more, self._n)


def _alike(values: list[Any]) -> bool:
    """Whether all values are one, to the bit: a NaN is none, and zeros have signs."""
    first = values[0]
    if first != first or values.count(first) < len(values):
        return False
    if (isinstance(first, float) and first == 0) or (isinstance(first, list) and 0.0 in first):
        signs = np.signbit(np.array(values, np.float64))
        return bool(np.all(signs == signs[0]))
    return True


def to_table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """Rows (all keys of the schema present) -> table."""
    # a row at a time: each is looked up while it is at hand, in a third of the time of a look at all for each column
    columns = zip(*map(itemgetter(*schema.names, schema.names[0]), rows), strict=True) if rows else [()] * len(schema)
    return pa.Table.from_arrays([_column(v, f.type) for v, f in zip(columns, schema, strict=False)], schema=schema)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind) and values and all(isinstance(v, Columns) for v in values):
        fields = [kind.value_type.field(i) for i in range(kind.value_type.num_fields)]
        inner = [_column(list(chain.from_iterable(v.column(f.name) for v in values)), f.type) for f in fields]
        offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(inner, fields=fields), type=kind)
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


def to_columns(table: pa.Table) -> dict[str, list[Any]]:
    """Table -> plain Python values by column."""
    return {n: _values(table.column(n).combine_chunks()) for n in table.column_names}


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
