"""CSV and TSV. A line that does not fit the header is an error with its number, never shifted by a column.

UTF-8 (with or without a mark) and UTF-16 (with one) are read; any other encoding has to be named, and the error
proposes which. The delimiter is that of the header line.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from osteo_ray.patients.readers.compressed import open_bytes

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(r'"?sep=(.)"?', re.I)  # how a table tells a spreadsheet its delimiter
_DELIMITERS = ",;\t|"
_FIELD_LIMIT = 1 << 20
_END = "\x1a"  # ends a file of old systems


def read_text(path: Path, m: Mapping, name: str) -> Iterator[Chunk]:
    """The rows of a text table; every cell is text.

    Raises:
        RecordsError: empty, not in the encoding, an open quote, a row longer or shorter than the header.
    """
    encoding = _encoding(path, name, m.encoding)
    csv.field_size_limit(_FIELD_LIMIT)
    reader = None
    try:
        with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding=encoding, newline="") as f:
            above, lines = _header_lines(f, m, name)
            declared = _DECLARED.fullmatch(lines[0].strip("\r\n"))
            if declared:
                above, lines = above + 1, lines[1:]
                if not lines:
                    raise RecordsError([f"{name}: the file is empty; a header and rows are needed"])
            delimiter = declared[1] if declared and not m.delimiter else _delimiter(lines, m, path, name)
            f.seek(0)
            for _ in range(above):
                f.readline()
            reader = csv.reader(f, delimiter=delimiter, strict=True)
            yield from _chunks(reader, m, name, above, _fields_of(lines, delimiter))
    except UnicodeDecodeError as e:
        line = m.header_row + (reader.line_num if reader is not None else 0)
        raise RecordsError([_not_decodable(path, name, m, encoding, line, e)]) from None
    except LookupError:
        raise RecordsError([f"{name}: no such encoding: {encoding!r}; e.g. utf-8, gb18030, cp1252"]) from None
    except UnicodeError as e:  # UTF-16 without its mark, and the like
        raise RecordsError([f"{name}: not {encoding} ({e}); name the file's encoding: `encoding:`"]) from None
    except (OSError, EOFError) as e:
        raise RecordsError([f"{name}: can't be read: {e}"]) from None


def _header_lines(f, m: Mapping, name: str) -> tuple[int, list[str]]:
    """(lines above the header, empty ones among them; the header and some lines after it)."""
    above = m.header_row - 1
    for _ in range(above):
        f.readline()
    lines = [f.readline(1 << 20) for _ in range(LOOKED_AT)]
    while lines and not lines[0].strip("\ufeff ,;\t|\r\n"):
        if not lines[0] and m.header_row > 1:
            raise RecordsError([f"{name}: nothing stands in line {m.header_row} or after it; is `header_row` right?"])
        if not lines[0]:
            raise RecordsError([f"{name}: the file is empty; a header and rows are needed"])
        above, lines = above + 1, lines[1:]
    if not lines:
        raise RecordsError([f"{name}: the first {LOOKED_AT} lines are empty; where is the header? `header_row:`"])
    return above, [line for line in lines if line]


def _fields_of(lines: list[str], delimiter: str) -> list[list[str]]:
    """Lines cut into fields, one by one; only to look for a header."""
    return [[h.strip().strip('"').strip() for h in line.split(delimiter)] for line in lines]


def _delimiter(lines: list[str], m: Mapping, path: Path, name: str) -> str:
    if m.delimiter:
        if len(m.delimiter) != 1:
            raise RecordsError([f"{name}: delimiter {m.delimiter!r}: one character is wanted"])
        return m.delimiter
    if path.name.lower().removesuffix(".gz").endswith(".tsv"):
        return "\t"
    header = lines[0]
    found = [d for d in _DELIMITERS if d in header]
    if len(found) > 1:
        # Of several, the one that cuts the lines into as many fields as the header has.
        fits = [d for d in found if _fields(lines, d) is not None]
        if len(fits) != 1:
            fits = [max(found, key=header.count)] if not fits else [max(fits, key=header.count)]
        found = fits
    return found[0] if found else ","


def _fields(lines: list[str], delimiter: str) -> int | None:
    try:
        counts = {len(row) for row in csv.reader(lines, delimiter=delimiter) if row}
    except csv.Error:
        return None
    return counts.pop() if len(counts) == 1 else None


def _chunks(reader, m: Mapping, name: str, above: int, lines: list[list[str]]) -> Iterator[Chunk]:
    at = above + 1
    skip = m.skip_rows
    try:
        header = [h.strip().lstrip("\ufeff").strip() for h in next(reader)]
        at = above + reader.line_num  # a name may hold line ends
        while header and not header[-1]:
            header.pop()  # a comma behind the last name
        if m.patient_id and name_form(m.patient_id) not in map(name_form, header):
            check_header(enumerate(lines, above + 1), m.patient_id, name, "line")
        repeated = repeated_names([h for h in header if h])
        width = len(header)
        fields: int | None = None
        rows: list[list[str]] = []
        numbers: list[int] = []
        for row in reader:
            line, at = at, above + reader.line_num
            line += 1
            if not any(map(str.strip, row)) or row == [_END]:
                continue
            if skip:
                check_skipped(header, row, m, f"{name}, line {line}")
                skip -= 1
                continue
            if fields is None:
                # Where the first row ends in a delimiter that the header lacks, every row has to.
                fields = len(row) if len(row) > width and not any(c.strip() for c in row[width:]) else width
            if len(row) != fields or (fields > width and any(c.strip() for c in row[width:])):
                raise RecordsError([_misfit(name, line, row, fields, width, above + 1)])
            rows.append(row if fields == width else row[:width])
            numbers.append(line)
            if len(rows) == ROWS:
                yield _chunk(name, header, rows, numbers, repeated)
                rows, numbers = [], []
    except csv.Error as e:
        raise RecordsError([f"{name}, line {at + 1}: {_csv_problem(str(e))}"]) from None
    if fields is None:
        raise RecordsError([f"{name}: a header, but no rows"])
    if rows:
        yield _chunk(name, header, rows, numbers, repeated)


def _chunk(name: str, header: list[str], rows: list, numbers: list[int], repeated: tuple[str, ...]) -> Chunk:
    columns: dict[str, pd.Series] = {}
    for k, (h, cells) in enumerate(zip(header, zip(*rows, strict=True), strict=True)):
        h = h or (nameless(k) if any(map(str.strip, cells)) else "")
        if h and h not in columns:
            columns[h] = pd.Series(np.array(cells, dtype=object), dtype=object)
    return Chunk(name, pd.DataFrame(columns), np.array(numbers), "line", repeated)


def _misfit(name: str, line: int, row: list[str], fields: int, width: int, header_row: int) -> str:
    wanted = f"the header (line {header_row}) has {width} column{'s' if width != 1 else ''}"
    wanted += f" and the first row {fields} fields" if fields != width else ""
    why = "the row is cut short" if len(row) < fields else "a delimiter inside a value needs quotes around it"
    return f"{name}, line {line}: {len(row)} fields, but {wanted}; {why}, or the mapping's `delimiter` is wrong"


def _csv_problem(text: str) -> str:
    if "field larger" in text:
        return f"a cell of more than {_FIELD_LIMIT} characters; is a quote open, or the `delimiter` wrong?"
    if "unexpected end" in text:
        return "a quote is opened and never closed; close or double it"
    if "expected after" in text:
        return "text follows a closing quote; a quote inside a value has to be doubled"
    return text


def _encoding(path: Path, name: str, named: str | None) -> str:
    """What a file's mark says, whatever is named; else what is named; else UTF-8."""
    try:
        with open_bytes(path) as f:
            head = f.read(4096)
    except (OSError, EOFError) as e:
        raise RecordsError([f"{name}: can't be read: {e}"]) from None
    if not head.strip():
        raise RecordsError([f"{name}: the file is empty; a header and rows are needed"])
    if head.startswith(b"PK\x03\x04"):
        raise RecordsError([f"{name}: a workbook or zip, not a text file; call it .xlsx if it is one"])
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if named:
        return named
    if head[:64].count(b"\x00") > len(head[:64]) // 4:
        raise RecordsError([f"{name}: UTF-16 without its mark; name it: `encoding: utf-16-le` (or utf-16-be)"])
    return "utf-8"


def _not_decodable(path: Path, name: str, m: Mapping, encoding: str, line: int, e: UnicodeDecodeError) -> str:
    return f"{name}: not {encoding} (at about line {line}: {e.reason}); {_proposal(path, m)}"


def _proposal(path: Path, m: Mapping) -> str:
    """Which encodings the file's bytes may be, with the first text that each would show.

    An encoding in which the texts of the mapping (its columns and codes) stand in the file comes first.
    """
    known = [t for t in _texts_of(m) if not t.isascii()]
    decoded = _decoded(path)
    if not decoded:
        return "name its encoding in the mapping: `encoding:`"
    order = sorted(decoded, key=lambda enc: -sum(t in decoded[enc] for t in known))
    shown = [f"{enc} ({_first_word(decoded[enc])!r})" for enc in order[:4]]
    return f"name its encoding in the mapping, e.g. `encoding: {order[0]}`; it would read: {', '.join(shown)}"


def _decoded(path: Path) -> dict[str, str]:
    """The beginning of a file in each encoding that it may be in, by name; those that say the same once."""
    from charset_normalizer import from_bytes

    with open_bytes(path) as f:
        sample = f.read(1 << 18)
    likely = [r.encoding for r in from_bytes(sample[: sample.rfind(b"\n") + 1] or sample)][:2]
    out: dict[str, str] = {}
    western = _as_text(sample, "cp1252")
    for encoding in ("gb18030", *likely, "cp1252", "shift_jis", "big5", "cp1251"):
        text = _as_text(sample, encoding)
        if text is not None and text not in out.values():
            out["cp1252" if text == western else encoding] = text  # of those that say the same, the usual one
    return out


def _as_text(sample: bytes, encoding: str) -> str | None:
    """The beginning of a file as text, its last character perhaps cut; None where it is not in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None


def first_rows(path: Path, name: str) -> Iterator[tuple[dict[str, Any], list[tuple[int, list[str]]]]]:
    """(what a mapping has to say of the file, its first lines cut into fields, with their numbers), in each encoding
    that the file may be in."""
    encoding = _encoding(path, name, None)
    with open_bytes(path) as f:
        sample = f.read(1 << 18)
    plainly = _as_text(sample, encoding)
    for enc, text in (_decoded(path) if plainly is None else {"": plainly}).items():
        lines = enumerate(text.splitlines()[:LOOKED_AT], 1)
        rows = [(k, _fields_of([line], max(_DELIMITERS, key=line.count))[0]) for k, line in lines if line.strip()]
        yield {"encoding": enc} if enc else {}, rows


def _texts_of(m: Mapping) -> list[str]:
    """Texts that a mapping expects in the file."""
    columns = [m.patient_id, m.date, m.test, m.value, m.unit, *m.t_score]
    quantities = [*m.features.values(), *m.tests.values()]
    columns += [c.column for c in m.features.values()] + [n for t in m.tests.values() for n in t.names]
    return [c for c in columns if c] + [t for q in quantities for t in q.codes or ()]


def _first_word(text: str) -> str:
    words = "".join(c if not c.isascii() else " " for c in text).split()
    return words[0][:12] if words else ""
