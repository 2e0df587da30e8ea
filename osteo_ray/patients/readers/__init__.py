"""Files as delivered, cut into chunks of rows; what is in them is not looked at yet (`wide`, `long`, `fhir` do that).

    for chunk in chunks(Path("labs.csv"), mapping): ...

Text (CSV, TSV), workbooks (XLSX) and Parquet. All are read piece by piece: a file may be larger than the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.mapping import Mapping
from osteo_ray.patients.readers.chunk import Chunk

TABLES = ("csv", "tsv", "txt", "parquet", "xlsx", "xlsm")
FHIR = ("ndjson", "jsonl", "json")


def kind_of(path: str | Path) -> str:
    """The kind of a file by its name, without .gz."""
    return Path(path).name.lower().removesuffix(".gz").rsplit(".", 1)[-1]


def chunks(path: Path, m: Mapping, name: str | None = None) -> Iterator[Chunk]:
    """The rows of a table, in chunks.

    Args:
        name: how the file is called in errors; None: its own name.

    Raises:
        RecordsError: a file that can't be read, naming line and remedy.
    """
    kind, shown = kind_of(path), name or path.name
    if kind in ("csv", "tsv", "txt"):
        from osteo_ray.patients.readers.text import read_text

        return read_text(path, m, shown)
    if kind in ("xlsx", "xlsm"):
        from osteo_ray.patients.readers.workbook import read_workbook

        return read_workbook(path, m, shown)
    if kind == "parquet":
        from osteo_ray.patients.readers.parquet import read_parquet

        return read_parquet(path, shown)
    if kind == "xls":
        raise RecordsError([f"{shown}: an old Excel file; save it as .xlsx or .csv"])
    raise RecordsError(
        [f"{shown}: records are read from .csv, .tsv, .xlsx, .parquet, .ndjson or a FHIR Bundle (.json), not .{kind}"]
    )


def first_rows(path: Path, name: str) -> list[tuple[dict[str, Any], list[tuple[int, list[str]]]]]:
    """What a file may be read as: (settings of a mapping, its first rows with their numbers); [] where nothing is open,
    as of Parquet.

    Raises:
        RecordsError: a file that can't be read.
    """
    if kind_of(path) in ("csv", "tsv", "txt"):
        from osteo_ray.patients.readers import text

        return list(text.first_rows(path, name))
    if kind_of(path) in ("xlsx", "xlsm"):
        from osteo_ray.patients.readers import workbook

        return list(workbook.first_rows(path, name))
    return []


__all__ = ["FHIR", "TABLES", "Chunk", "chunks", "first_rows", "kind_of"]
