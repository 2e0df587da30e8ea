"""Rows and columns."""

from __future__ import annotations

from math import copysign, nan
from typing import Any

import pyarrow as pa
import pytest

from osteo_ray.io.tables import Columns, to_columns, to_table

ROWS = [{"uri": f"{i}", "kvp": 120.0, "ipp": [0.0, float(i)], "none": None} for i in range(4)]
SCHEMA = pa.schema([("uri", pa.string()), ("kvp", pa.float64()), ("ipp", pa.list_(pa.float64())), ("none", pa.int32())])


def test_columns_are_the_rows_that_they_were_made_of():
    rows = Columns.of_rows(ROWS)
    assert list(rows) == ROWS == rows
    assert (rows[-1], rows[1:3]) == (ROWS[-1], ROWS[1:3])
    assert list(rows.take([2, 0])) == [ROWS[2], ROWS[0]]
    assert rows.is_one("kvp", "none")
    assert not rows.is_one("kvp", "uri")
    assert (rows.counts("kvp"), rows.column("kvp"), rows.first("uri")) == ({120.0: 4}, [120.0] * 4, "0")
    assert list(rows.select(["kvp"], z=[1, 2, 3, 4]))[3] == {"kvp": 120.0, "z": 4}
    with pytest.raises(IndexError):
        rows[4]


def test_values_that_are_equal_but_for_a_bit_are_not_one():
    columns: dict[str, list[Any]] = {
        "nan": [nan, nan],
        "zero": [0.0, -0.0],
        "list": [[1.0, -0.0], [1.0, 0.0]],
        "same": [-0.0, -0.0],
    }
    rows = Columns.of(columns)
    assert [name for name in columns if rows.is_one(name)] == ["same"]
    assert [copysign(1, v) for v in rows.column("zero")] == [1, -1]


def test_rows_become_a_table_and_columns_again():
    table = to_table(ROWS, SCHEMA)
    assert table.to_pylist() == ROWS
    assert list(Columns.of(to_columns(table))) == ROWS
    assert to_table([], SCHEMA).equals(SCHEMA.empty_table())
    assert to_table([{"uri": "a"}], pa.schema([("uri", pa.string())])).to_pylist() == [{"uri": "a"}]


def test_columns_within_rows_become_lists_of_structs():
    item = pa.struct([("uri", pa.string()), ("kvp", pa.float64())])
    inner = [Columns.of_rows(ROWS), Columns.of_rows(ROWS[:1]).take([])]
    table = to_table([{"items": v} for v in inner], pa.schema([("items", pa.list_(item))]))
    assert table["items"].to_pylist() == [[{"uri": r["uri"], "kvp": 120.0} for r in ROWS], []]
