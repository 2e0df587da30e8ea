"""Some rows of a table as delivered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

ROWS = 100_000
"""Rows of a chunk."""


@dataclass(frozen=True)
class Chunk:
    """Rows of a table: `frame` with the columns as delivered, `numbers` [n] as a person would count them.

    `repeated` are names that stand in the header more than once; the frame holds the first of each.
    """

    source: str
    frame: pd.DataFrame
    numbers: np.ndarray
    word: str
    repeated: tuple[str, ...] = ()
    cell: str = "column"

    def at(self, i: int | np.integer, column: str | None = None) -> str:
        """Where a cell is: 'labs.csv, line 3, column 'CREA''."""
        where = f"{self.source}, {self.word} {self.numbers[i]}"
        return where if column is None else f"{where}, {self.cell} {column!r}"


def repeated_names(header: list[str]) -> tuple[str, ...]:
    """Names that stand in a header more than once."""
    return tuple(n for n, k in Counter(header).items() if k > 1)
