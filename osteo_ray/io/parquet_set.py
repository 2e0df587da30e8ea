"""A table in one Parquet file, or in a folder of them with a manifest; its rows are numbered through.

    rows = open_set("runs/index/catalogue.parquet")
    len(rows), rows.schema
    for batch in rows.batches(["series_uid", "state"]): ...
    rows.rows(2000, 4000)                                   # successive rows
    rows.take([7, 3])                                       # rows by number, in this order
    rows.read(["series_uid"], filters=pc.field("state").is_null())
    rows.of_key("1.2.3")                                    # the part that holds a key, where the set is partitioned

The manifest names the parts in order, with the rows of their row groups, so that a reader of some rows opens the parts
that hold them and no other. It is written last: a folder without one is not finished. Any Parquet reader reads the
folder as one table, for what begins with `_` is not data to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from osteo_ray.io.store import Store, local_file, open_parquet, read_table
from osteo_ray.io.uris import absolute, join
from osteo_ray.outcomes import InputError

T = TypeVar("T")
U = TypeVar("U")
MANIFEST = "_manifest.json"
KEY_BITS = 32
_READERS = 16  # parts read at a time: most of a small read is waiting


@lru_cache(maxsize=4096)
def key_hash(key: str) -> int:
    """The hash that parts are made by: 0 .. 2^32, the same on every machine and for ever."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=KEY_BITS // 8).digest())


@dataclass(frozen=True)
class SetPart:
    """One file of a set. `groups`: rows of each row group; `facts`: what the writer noted of the part."""

    name: str
    groups: tuple[int, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(self.groups)


@dataclass(frozen=True)
class Rows:
    """Some rows of one row group: `at` are their places in what was asked for, `take` in the group."""

    uri: str
    group: int
    take: np.ndarray
    at: np.ndarray

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        with open_parquet(self.uri) as f:
            return f.read_row_group(self.group, columns=columns).take(pa.array(self.take))


class ParquetSet:
    """See the module. Opening reads the manifest, or the footer of a single file."""

    def __init__(self, uri: str, parts: Sequence[SetPart], bits: int | None, single: bool):
        self.uri, self.parts, self._bits, self._single = uri, list(parts), bits, single
        counts = [n for p in self.parts for n in p.groups]
        self._groups = [(i, g) for i, p in enumerate(self.parts) for g in range(len(p.groups))]
        self._starts = np.fromiter(accumulate(counts, initial=0), np.int64, len(counts) + 1)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def schema(self) -> pa.Schema:
        with open_parquet(self._at(0)) as f:
            return f.schema_arrow.remove_metadata()

    def fingerprint(self) -> str:
        """Changes when the table does: parts are named by their content, a single file is known by its bytes."""
        h = hashlib.sha256()
        if self._single:
            with local_file(self.uri) as path, path.open("rb") as f:
                return hashlib.file_digest(f, "sha256").hexdigest()
        for p in self.parts:
            h.update(f"{p.name} {p.groups}\n".encode())
        return h.hexdigest()

    def _at(self, part: int) -> str:
        return self.uri if self._single else join(self.uri, self.parts[part].name)

    def locate(self, rows: Sequence[int] | np.ndarray) -> list[Rows]:
        """Where these rows lie, a row group at a time, in ascending order of the groups."""
        wanted = np.asarray(rows, np.int64)
        group = np.searchsorted(self._starts, wanted, side="right") - 1
        out = []
        for g in np.unique(group).tolist():
            at = np.flatnonzero(group == g)
            part, inner = self._groups[g]
            out.append(Rows(self._at(part), inner, wanted[at] - self._starts[g], at))
        return out

    def rows(self, start: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Successive rows, reading only the row groups that hold them."""
        found = [r.read(columns) for r in self.locate(np.arange(start, min(stop, len(self))))]
        return pa.concat_tables(found) if found else self._empty(columns)

    def take(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows by number, in the order asked for, reading only the row groups that hold them."""
        located = self.locate(rows)
        if not located:
            return self._empty(columns)
        order = np.argsort(np.concatenate([r.at for r in located]))
        return pa.concat_tables([r.read(columns) for r in located]).take(pa.array(order))

    def batches(self, columns: Sequence[str], batch_size: int = 65_536) -> Iterator[pa.RecordBatch]:
        """All rows in order; parts are read ahead."""
        if self._single:
            with open_parquet(self.uri) as f:
                yield from f.iter_batches(batch_size=batch_size, columns=list(columns))
            return
        for table in ahead(lambda i: self._part(i, columns, None), range(len(self.parts))):
            yield from table.to_batches(max_chunksize=batch_size)

    def read(self, columns: Sequence[str] | None = None, filters: pc.Expression | None = None) -> pa.Table:
        """All rows that a filter lets through, in order. Give columns: an archive's instances fit nowhere."""
        found = list(ahead(lambda i: self._part(i, columns, filters), range(len(self.parts))))
        return pa.concat_tables(found) if found else self._empty(columns)

    def of_key(self, keys: Iterable[str], filters: pc.Expression | None = None) -> pa.Table:
        """Rows of the parts that hold these keys, and whatever else lies there that the filter lets through."""
        if self._bits is None:
            return self.read(filters=filters)
        parts = sorted({key_hash(k) >> (KEY_BITS - self._bits) for k in keys})
        found = list(ahead(lambda i: self._part(i, None, filters), parts))
        return pa.concat_tables(found) if found else self._empty(None)

    def _part(self, i: int, columns: Sequence[str] | None, filters: pc.Expression | None) -> pa.Table:
        names = None if columns is None else list(columns)
        return read_table(self._at(i), columns=names, filters=filters).replace_schema_metadata(None)

    def _empty(self, columns: Sequence[str] | None) -> pa.Table:
        table = self.schema.empty_table()
        return table if columns is None else table.select(list(columns))


def ahead(work: Callable[[T], U], items: Iterable[T], at_a_time: int = _READERS) -> Iterator[U]:
    """`work` of each item, in order, some of them at a time."""
    todo = iter(items)
    with ThreadPoolExecutor(at_a_time) as pool:
        running: list[Future[U]] = [pool.submit(work, i) for i in islice(todo, at_a_time)]
        try:
            while running:
                yield running.pop(0).result()
                running += [pool.submit(work, i) for i in islice(todo, 1)]
        finally:
            for f in running:
                f.cancel()


def open_set(uri: str | Path) -> ParquetSet:
    """A Parquet file or a finished folder of them.

    Raises:
        FileNotFoundError: nothing is there.
        InputError: a folder without a manifest.
    """
    at = absolute(uri)
    parts = read_manifest(Store(at))
    if parts is not None:
        return ParquetSet(at, parts[0], parts[1], single=False)
    above, _, name = at.rpartition("/")
    if not Store(above).is_file(name):
        if Store(at).names(""):
            raise InputError(f"{at} has no {MANIFEST}: the index that writes it was not finished; run it again")
        raise FileNotFoundError(f"{at} is not there")
    with open_parquet(at) as f:
        groups = tuple(f.metadata.row_group(g).num_rows for g in range(f.metadata.num_row_groups))
    return ParquetSet(at, [SetPart(name, groups)], None, single=True)


def is_finished(uri: str | Path) -> bool:
    """Whether a table is there: a file, or a folder with its manifest."""
    at = absolute(uri)
    above, _, name = at.rpartition("/")
    return Store(at).exists(MANIFEST) or Store(above).is_file(name)


def read_manifest(folder: Store) -> tuple[list[SetPart], int | None] | None:
    """(parts, bits of the key's hash that number them) of a finished set; None where there is none."""
    try:
        found = json.loads(folder.get(MANIFEST))
        parts = [SetPart(p["name"], tuple(p["groups"]), p["facts"]) for p in found["parts"]]
        return parts, found["key_bits"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"{folder.path(MANIFEST)} can't be read ({type(e).__name__}): run the index again") from None


def write_manifest(folder: Store, parts: Sequence[SetPart], key: str | None = None, bits: int | None = None) -> None:
    """Finish a set: from now on it consists of these parts, in this order, and of nothing else that lies there.

    Args:
        key, bits: part i holds the rows whose `key_hash(row[key])` begins with the `bits` bits of i.
    """
    text = {"version": 1, "key": key, "key_bits": bits, "parts": [asdict(p) for p in parts]}
    folder.put(MANIFEST, json.dumps(text).encode())
    kept = {p.name for p in parts} | {MANIFEST}
    folder.remove([n for n in folder.names("") if n not in kept])
    folder.remove_unfinished("")
