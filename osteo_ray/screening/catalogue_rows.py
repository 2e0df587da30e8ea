"""Rows of a catalogue on their way to the process that scores them (pyarrow)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa


class CatalogueRows(Sequence[Mapping[str, Any]]):
    """Rows of a batch, as dicts only where they are looked at: pickled they are a table, in a tenth of the time."""

    def __init__(self, table: pa.Table):
        self._table = table
        self._rows: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, i: Any) -> Any:
        if self._rows is None:
            self._rows = self._table.to_pylist()
        return self._rows[i]

    def __reduce__(self) -> tuple[Any, ...]:
        return CatalogueRows, (self._table,)
