"""Sorting, counting and joining tables that need not fit into memory: DuckDB over Parquet files and Arrow tables.

    with database(results=(Path("out/results.parquet"), RESULTS)) as db:
        n = db.sql("SELECT count(*) FROM results").fetchone()

What doesn't fit into `MEMORY` is kept on disk, beside the first file.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray.io.trouble import StoreError
from osteo_ray.outcomes import InputError

MEMORY = "256MB"
"""What a database may hold in memory, beside what a Parquet reader needs."""

Table: TypeAlias = pa.Table | str | Path
"""In memory, or a Parquet file on this machine."""


@contextmanager
def database(**tables: tuple[Table, pa.Schema]) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a database with these tables; each is given with the schema that it should have.

    A column of the schema that a file does not have, as an earlier version wrote none, is null. Strings are ordered by
    their bytes.

    Raises:
        StoreError: the disk is full, or fails.
        InputError: a file is damaged.
    """
    files = [Path(t) for t, _ in tables.values() if not isinstance(t, pa.Table)]
    with (
        _named_errors(files),
        tempfile.TemporaryDirectory(prefix=".sort-", dir=files[0].parent if files else None) as spilled,
    ):
        # Two threads, so that memory is the same on a head of many cores; nothing is fetched from anywhere.
        settings: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": spilled, "threads": 2}
        settings |= {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        with duckdb.connect(config=settings) as db:
            for name, (table, schema) in tables.items():
                if isinstance(table, pa.Table):
                    db.register(name, table)
                    continue
                file = db.read_parquet(glob.escape(str(table)))
                if set(schema.names) <= set(pq.read_schema(table).names):
                    file.create_view(name)
                else:
                    db.register(f"{name}_schema", schema.empty_table())
                    file.create_view(f"{name}_file")
                    both = f"SELECT * FROM {name}_schema UNION ALL BY NAME SELECT * FROM {name}_file"
                    db.execute(f"CREATE VIEW {name} AS {both}")
            yield db


@contextmanager
def _named_errors(files: list[Path]) -> Iterator[None]:
    """DuckDB's errors as the program's own: what failed, and where."""
    where = ", ".join(map(str, files)) or "in memory"
    try:
        yield
    except (duckdb.IOException, duckdb.OutOfMemoryException) as e:  # what can't be kept on disk is "out of memory"
        folder = files[0].parent if files else tempfile.gettempdir()
        raise StoreError(f"{folder}: no way to sort {where} here (is the disk full?): {_first_line(e)}") from e
    except (duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException):
        raise  # a query that is wrong
    except (duckdb.Error, pa.ArrowInvalid) as e:
        raise InputError(f"{where}: a table that can't be read: {_first_line(e)}") from e


def _first_line(e: BaseException) -> str:
    return str(e).partition("\n")[0][:300]
