"""Some rows of a table as delivered."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.mapping import Mapping
from osteo_ray.patients.schema import feature
from osteo_ray.patients.values import plain

ROWS = 100_000
"""Rows of a chunk."""
LOOKED_AT = 50
"""Rows under a header in which the mapping's columns are looked for, where the header lacks them."""
_EXAMPLE = re.compile(r"example|exemple|beispiel|ejemplo|esempio|exemplo|voorbeeld|muster|sample|demo|例", re.I)
"""What stands in the place of a patient's number in a row that shows how the table is filled in."""
_NUMBER = re.compile(r"[<>]?\s*[+-]?\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Chunk:
    """Rows of a table: `frame` with the columns as delivered, `numbers` [n] as a person would count them.

    `repeated` are names that stand in the header more than once; the frame holds the first of each. `notes` are what a
    person has to know of the rows.
    """

    source: str
    frame: pd.DataFrame
    numbers: np.ndarray
    word: str
    repeated: tuple[str, ...] = ()
    cell: str = "column"
    notes: tuple[str, ...] = ()

    def named(self, wanted: Iterable[str]) -> Chunk:
        """The chunk with the names that a mapping gives its columns, where those of the file are the same but for
        blanks, line ends, width or composition of characters."""
        there = [str(c) for c in self.frame.columns]
        absent = [w for w in wanted if w not in there]
        if not absent:
            return self
        forms: dict[str, list[str]] = {}
        for c in there:
            forms.setdefault(name_form(c), []).append(c)
        fits = {w: forms.get(name_form(w), []) for w in absent}
        new = {columns[0]: w for w, columns in fits.items() if len(columns) == 1}
        return replace(self, frame=self.frame.rename(columns=new), repeated=tuple(new.get(c, c) for c in self.repeated))

    def without(self, rows: np.ndarray) -> Chunk:
        """The chunk without some of its rows (bool [n])."""
        return replace(self, frame=self.frame[~rows].reset_index(drop=True), numbers=self.numbers[~rows])

    def at(self, i: int | np.integer, column: str | None = None) -> str:
        """Where a cell is: 'labs.csv, line 3, column 'CREA''."""
        where = f"{self.source}, {self.word} {self.numbers[i]}"
        return where if column is None else f"{where}, {self.cell} {column!r}"


def name_form(name: str) -> str:
    """The form in which names of columns are compared."""
    return " ".join(unicodedata.normalize("NFKC", name).split())


def nameless(position: int) -> str:
    """How a column with values, but without a name, is called: no mapping can name it, but the report lists it."""
    return f"(column {position + 1}, without a name)"


def check_header(later: Iterable[tuple[int, list[str]]], patient_id: str, source: str, word: str) -> None:
    """Where the header lacks the patient's column: look whether a later row is the header.

    Args:
        later: rows after the header, with their numbers.

    Raises:
        RecordsError: naming the row that is.
    """
    for number, fields in later:
        if name_form(patient_id) in map(name_form, fields):
            raise RecordsError(
                [f"{source}: the column {patient_id!r} stands in {word} {number}; give `header_row: {number}`"]
            )


def check_skipped(header: list[str], row: Sequence[object], m: Mapping, where: str) -> None:
    """Look whether a row that `skip_rows` passes over is a record: one with a patient's number and a measured value.

    Raises:
        RecordsError: naming the row that is.
    """
    cells = [plain(v) for v in row]
    numbered = ([str(k) for k in range(start, start + len(cells))] for start in (0, 1))
    if m.patient_id is None or cells in numbered:  # a row that numbers the columns
        return
    by_name = dict(zip(map(name_form, header), cells, strict=False))
    measured = [c.column for n, c in m.features.items() if feature(n).kind == "numeric"]
    measured += [*m.t_score, *([m.value] if m.value else [])]
    values = [c for c in measured if _NUMBER.fullmatch(by_name.get(name_form(c), ""))]
    pid = by_name.get(name_form(m.patient_id), "")
    if values and re.search(r"\d", pid) and not _EXAMPLE.search(pid):
        raise RecordsError(
            [
                f"{where}: `skip_rows` would pass over a row with a patient's number and a value under {values[0]!r}; "
                f"if the rows under the header are records, leave `skip_rows` out"
            ]
        )


def repeated_names(header: list[str]) -> tuple[str, ...]:
    """Names that stand in a header more than once."""
    return tuple(n for n, k in Counter(header).items() if k > 1)
