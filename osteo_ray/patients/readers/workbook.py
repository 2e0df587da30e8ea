"""XLSX, by openpyxl, row by row."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
import pandas as pd

from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.mapping import Mapping
from osteo_ray.patients.readers.chunk import (
    LOOKED_AT,
    ROWS,
    Chunk,
    check_header,
    check_skipped,
    name_form,
    nameless,
    repeated_names,
)
from osteo_ray.patients.values import plain

_BROKEN = (KeyError, OSError, EOFError, ValueError, NotImplementedError, RuntimeError)
_HIDDEN_ROW = re.compile(rb"<(?:\w+:)?row\b[^<>]*\bhidden=\"(?:1|true)\"")
_TAG = 1 << 16  # bytes of a tag that are carried from one block to the next; a row's has far fewer
_PART = re.compile(r'"([^"]*)"|\\(.)|([- ])|(0)')
_SHOWN = re.compile(rf"(?:{_PART.pattern})+")
_DIGITS = 1e15  # a spreadsheet keeps fifteen digits


def read_workbook(path: Path, m: Mapping, name: str) -> Iterator[Chunk]:
    """The rows of one sheet; numbers, dates and texts as the cells hold them.

    Raises:
        RecordsError: no workbook, no such sheet, several sheets with rows of which none is named, a formula without a
            value, a row with values beyond the header.
    """
    with _opened(path, name) as book, _opened(path, name, values=False) as formulas:
        sheet = _sheet(book, m, name)
        notes = _hidden(path, sheet, name)
        for chunk in _rows(sheet, formulas[sheet.title], m, name):
            yield replace(chunk, notes=notes)


def first_rows(path: Path, name: str) -> Iterator[tuple[dict[str, Any], list[tuple[int, list[str]]]]]:
    """(what a mapping has to say of the file, the first rows with their numbers) of each sheet that holds any."""
    with _opened(path, name) as book:
        for sheet in book.worksheets:
            cells = enumerate(sheet.iter_rows(max_row=LOOKED_AT), 1)
            rows = [(k, [plain(c.value) for c in row]) for k, row in cells]
            if any(any(r) for _, r in rows):
                yield {"sheet": sheet.title} if len(book.worksheets) > 1 else {}, rows


@contextmanager
def _opened(path: Path, name: str, values: bool = True) -> Iterator[Any]:
    """A workbook while it is read, with the values or the formulas of its cells.

    Raises:
        RecordsError: what can't be read, now or further down.
    """
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    book = None
    try:
        book = load_workbook(path, read_only=True, data_only=values)
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # what a file says of its own size is often wrong
        yield book
    except RecordsError:
        raise
    except (InvalidFileException, zipfile.BadZipFile, zlib.error, ParseError, *_BROKEN) as e:
        raise RecordsError([f"{name}: no workbook that can be read ({e}); save it again as .xlsx, or as CSV"]) from None
    finally:
        if book is not None:
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
    filled = [s for s in book.worksheets if any(v is not None for row in _top(s) for v in _values(row))]
    if not filled:
        raise RecordsError([f"{name}: the workbook is empty; a header and rows are needed"])
    if len(filled) > 1:
        raise RecordsError([f"{name}: several sheets hold rows ({there}); name one: `sheet: {filled[0].title}`"])
    return filled[0]


def _top(sheet: Any) -> Any:
    """The rows among which a table begins."""
    return sheet.iter_rows(max_row=LOOKED_AT)


def _hidden(path: Path, sheet: Any, name: str) -> tuple[str, ...]:
    """What has to be said where rows of a sheet are hidden: whoever filtered it may have meant to leave them out."""
    hidden, rest = 0, b""
    with zipfile.ZipFile(path) as z, z.open(sheet._worksheet_path) as f:
        while block := f.read(1 << 20):
            text = rest + block
            end = text.rfind(b">") + 1
            hidden += len(_HIDDEN_ROW.findall(text[:end]))
            rest = text[max(end, text.rfind(b"<")) :][:_TAG]
    where = f"{name}, sheet {sheet.title!r}"
    return (f"{where}: {hidden} rows are hidden, and read like the others; take them out if they do not count",)[
        : hidden > 0
    ]


def _values(row: Any) -> list[Any]:
    return [c.value for c in row]


def _rows(sheet: Any, formulas: Any, m: Mapping, name: str) -> Iterator[Chunk]:
    """The rows of a sheet.

    Args:
        formulas: the same sheet with its formulas instead of their values.
    """
    where = f"{name}, sheet {sheet.title!r}"
    header: list[str] | None = None
    rows: list[list[Any]] = []
    numbers: list[int] = []
    given = False
    skip = m.skip_rows
    for number, (cells, behind) in enumerate(zip(sheet.iter_rows(), formulas.iter_rows(), strict=True), 1):
        if number < m.header_row:
            continue
        row = [_cell(c) for c in cells]
        for c, f in zip(cells, behind, strict=True):
            if c.value is None and f.data_type == "f" and c.data_type == "n":  # an empty text is of type str
                raise RecordsError(
                    [f"{where}, cell {f.coordinate}: a formula without a value; open the workbook and save it again"]
                )
        if all(v is None for v in row):
            continue
        if header is None:
            header = [plain(c.value) for c in cells]
            while header and not header[-1]:
                header.pop()
            if m.patient_id and name_form(m.patient_id) not in map(name_form, header):
                check_header(_later(sheet, number), m.patient_id, where, "row")
            repeated = repeated_names([h for h in header if h])
            continue
        if skip:
            check_skipped(header, row, m, f"{where}, row {number}")
            skip -= 1
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
    """A cell's value; a whole number that the sheet shows with zeros or a text in front is the text that it shows, and
    one of more digits than a spreadsheet keeps is a number that has lost some."""
    v = c.value
    if isinstance(v, str):
        return v if v.strip() else None
    if not isinstance(v, int | float) or isinstance(v, bool) or not float(v).is_integer():
        return v
    if abs(v) >= _DIGITS:
        return f"{v:.14E}"
    form = (getattr(c, "number_format", None) or "").split(";")[0]
    return _shown(int(v), form) if v >= 0 and _SHOWN.fullmatch(form) else v


def _shown(number: int, form: str) -> str | int:
    """A whole number as a sheet shows it by zeros and plain characters (000-00-0000); by one zero with nothing in
    front, the number: what stands behind it is its unit (0" kg")."""
    parts = _PART.findall(form)
    zeros = [k for k, (*_, zero) in enumerate(parts) if zero]
    if not zeros or (len(zeros) == 1 and not "".join(map("".join, parts[: zeros[0]])).strip()):
        return number
    digits = str(number).zfill(len(zeros))
    first, text, k = len(digits) - len(zeros), "", 0  # what has no zero of its own stands before the first
    for *plainly, zero in parts:
        if not zero:
            text += "".join(plainly)
            continue
        text += digits[: first + 1] if k == 0 else digits[first + k]
        k += 1
    return text


def _later(sheet: Any, number: int) -> Iterator[tuple[int, list[str]]]:
    """Rows after one, some of them, with their numbers."""
    for k, cells in enumerate(sheet.iter_rows(min_row=number + 1, max_row=number + LOOKED_AT), number + 1):
        yield k, [plain(c.value) for c in cells]


def _chunk(where: str, header: list[str], rows: list, numbers: list[int], repeated: tuple[str, ...]) -> Chunk:
    columns: dict[str, pd.Series] = {}
    for i, h in enumerate(header):
        h = h or (nameless(i) if any(r[i] is not None for r in rows) else "")
        if h and h not in columns:
            columns[h] = pd.Series([r[i] for r in rows], dtype=object)
    return Chunk(where, pd.DataFrame(columns), np.array(numbers), "row", repeated)
