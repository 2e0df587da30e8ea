"""XLSX, by openpyxl, row by row."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.mapping import Mapping
from osteo_ray.patients.readers.chunk import ROWS, Chunk, repeated_names
from osteo_ray.patients.values import plain

_PADDED = re.compile(r"0+")


def read_workbook(path: Path, m: Mapping, name: str) -> Iterator[Chunk]:
    """The rows of one sheet; numbers, dates and texts as the cells hold them.

    Raises:
        RecordsError: no workbook, no such sheet, several sheets with rows of which none is named, a formula without a
            value, a row with values beyond the header.
    """
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, OSError, ValueError) as e:
        raise RecordsError([f"{name}: no workbook that can be read ({e}); save it again as .xlsx, or as CSV"]) from None
    try:
        yield from _rows(_sheet(book, m, name), m, name)
    finally:
        book.close()


def _sheet(book: Any, m: Mapping, name: str) -> Any:
    titles = [s.title for s in book.worksheets]
    there = ", ".join(f"{t!r}" for t in titles)
    if isinstance(m.sheet, int):
        if not 1 <= m.sheet <= len(titles):
            raise RecordsError([f"{name}: no sheet {m.sheet}; there are {len(titles)}: {there}"])
        return book.worksheets[m.sheet - 1]
    if m.sheet is not None:
        if m.sheet not in titles:
            raise RecordsError([f"{name}: no sheet {m.sheet!r}; there are: {there}"])
        return book[m.sheet]
    filled = [s for s in book.worksheets if any(v is not None for row in s.iter_rows(max_row=5) for v in _values(row))]
    if not filled:
        raise RecordsError([f"{name}: the workbook is empty; a header and rows are needed"])
    if len(filled) > 1:
        raise RecordsError([f"{name}: several sheets hold rows ({there}); name one: `sheet: {filled[0].title}`"])
    return filled[0]


def _values(row: Any) -> list[Any]:
    return [c.value for c in row]


def _rows(sheet: Any, m: Mapping, name: str) -> Iterator[Chunk]:
    where = f"{name}, sheet {sheet.title!r}"
    header: list[str] | None = None
    rows: list[list[Any]] = []
    numbers: list[int] = []
    given = False
    for number, cells in enumerate(sheet.iter_rows(), 1):
        if number < m.header_row:
            continue
        if header is None:
            header = [plain(c.value) for c in cells]
            while header and not header[-1]:
                header.pop()
            if not header:
                raise RecordsError([f"{where}: row {number}, which should be the header, is empty; see `header_row`"])
            repeated = repeated_names([h for h in header if h])
            continue
        row = [_cell(c) for c in cells]
        if all(v is None for v in row):
            continue
        if any(v is not None for v in row[len(header) :]):
            raise RecordsError([f"{where}, row {number}: values beyond the header's {len(header)} columns"])
        rows.append((row + [None] * len(header))[: len(header)])
        numbers.append(number)
        given = True
        if len(rows) == ROWS:
            yield _chunk(where, header, rows, numbers, repeated)
            rows, numbers = [], []
    if not given:
        raise RecordsError([f"{where}: a header, but no rows"])
    if rows and header:
        yield _chunk(where, header, rows, numbers, repeated)


def _cell(c: Any) -> Any:
    """A cell's value; a whole number that the sheet shows with zeros in front is the text that it shows."""
    v = c.value
    if isinstance(v, str):
        return v if v.strip() else None
    shown = getattr(c, "number_format", None)
    if isinstance(v, int | float) and not isinstance(v, bool) and shown and _PADDED.fullmatch(shown) and len(shown) > 1:
        return f"{int(v):0{len(shown)}d}" if float(v).is_integer() else v
    return v


def _chunk(where: str, header: list[str], rows: list, numbers: list[int], repeated: tuple[str, ...]) -> Chunk:
    columns: dict[str, pd.Series] = {}
    for i, h in enumerate(header):
        if h and h not in columns:
            columns[h] = pd.Series([r[i] for r in rows], dtype=object)
    return Chunk(where, pd.DataFrame(columns), np.array(numbers), "row", repeated)
