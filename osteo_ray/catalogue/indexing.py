"""The work of one header task: a part of the listing -> header rows and file rows. No Ray here.

A part is a run of listed entries, cut where the entries themselves say so (by a checksum of their URI), so that a new
file in an archive changes one part and leaves all others, and their results, as they are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.instances import FILE, INSTANCE, digest, file_row, instance_rows
from osteo_ray.catalogue.nifti import volume_rows
from osteo_ray.dicom.header import read_header
from osteo_ray.dicom.nifti import is_nifti
from osteo_ray.dicom.sources import (
    Entry,
    Source,
    is_sidecar,
    open_source,
    packed_kind,
    shared_of,
    sniff_archive,
    unreadable,
)
from osteo_ray.io.parquet_set import key_hash
from osteo_ray.io.store import Store
from osteo_ray.io.tables import to_table
from osteo_ray.io.trouble import is_transient, retry_for
from osteo_ray.outcomes import Phase, Rejected, State

T = TypeVar("T")
Row = dict[str, Any]
ENTRY = pa.schema(
    [
        ("uri", pa.string()),
        ("bytes", pa.int64()),
        ("stamp", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
INDEXED = INSTANCE.append(pa.field("study_hash", pa.int64())).append(pa.field("row_hash", pa.int64()))
"""study_hash: 0 .. 2^32, what rows are sent to assembly tasks by; row_hash: what a task's rows are known by."""
ORDER = [(name, "ascending") for name in ("study_hash", "series_uid")]
RUN_ROWS = 40_000
ATTEMPTS = "attempts/"
_FLUSH = 2000
_BATCH = 128  # ranges fetched together from an object store
INDEX_VERSION = 5  # raised when header rows change their meaning: older parts are read again


def part_key(part: list[Entry], cfg: IndexConfig) -> str:
    """Name of a part's results: over what was listed and every setting that header rows depend on."""
    listed = "".join(f"{e.uri}|{e.bytes}|{e.stamp}|{e.code}\n" for e in part)
    h = hashlib.blake2b(f"{header_config(cfg)}\n".encode(), digest_size=16)
    h.update(listed.encode("utf-8", "surrogateescape"))
    return h.hexdigest()


def header_config(cfg: IndexConfig) -> str:
    """Everything of a config that header rows depend on; the secret by its hash."""
    key = hashlib.blake2b((cfg.pseudonym_key or "").encode()).hexdigest()
    identity = f"{key}|{cfg.site}|{cfg.identity.model_dump_json()}"
    identity += f"|{cfg.nifti.model_dump_json()}"
    return f"{INDEX_VERSION}|{INSTANCE.to_string()}|{identity}|{cfg.walk_archives}|{cfg.limits.model_dump_json()}"


@dataclass(frozen=True)
class Run:
    """A file of header rows, sorted by the hash of the study. `digest`: sum of its rows' hashes."""

    name: str
    rows: int
    digest: int


@dataclass(frozen=True)
class PartRecord:
    """What became of a part of the listing."""

    key: str
    entries: int
    runs: tuple[Run, ...]
    files: int  # rows of `<key>.files.parquet`; no such file where 0
    unreadable: int  # of these, files that could not be read: a later index tries again
    reused: bool = False

    @property
    def instances(self) -> int:
        return sum(r.rows for r in self.runs)


def write_listing(part: list[Entry], store: Store, name: str) -> None:
    """Keep a part's entries as `<name>.list.parquet`, until its headers are read."""
    columns = [pa.array([getattr(e, f.name) for e in part], f.type) for f in ENTRY]
    store.put_table(f"{name}.list.parquet", pa.Table.from_arrays(columns, schema=ENTRY))


def read_listing(store: Store, name: str) -> list[Entry]:
    """What `write_listing` kept."""
    with store.parquet(f"{name}.list.parquet") as f:
        columns = [column.to_pylist() for column in f.read(columns=ENTRY.names).columns]
    return list(map(Entry, *columns))


def index_part(store: Store, folder: str, key: str, cfg: IndexConfig) -> PartRecord:
    """Read every header of a part; its rows go to `<key>.NNNN.headers.parquet` and `<key>.files.parquet`.

    Idempotent: names are the part's key, files appear whole or not at all, the record appears last.
    """
    name = f"{folder}{key}"
    try:
        return read_record(store, folder, key)
    except FileNotFoundError:
        pass
    marker = f"{folder}{ATTEMPTS}{key}.json"
    listed = read_listing(store, name)
    try:
        record = _read_part(store, name, key, listed, marker, cfg)
    except Exception:  # a store's failure, not a death: no file is to blame
        with suppress(Exception):
            store.remove([marker])
        raise
    store.put(f"{name}.done.json", json.dumps(asdict(record)).encode())
    store.remove([marker, f"{name}.list.parquet"])
    return record


def _read_part(store: Store, name: str, key: str, listed: list[Entry], marker: str, cfg: IndexConfig) -> PartRecord:
    entries, fatal = _survivable(listed, store, marker)
    rows, files = _Runs(store, name), _Files(store, f"{name}.files.parquet")
    for e in fatal:
        message = "reading it ended the worker process"
        files.add(file_row(e, Rejected(State.ERROR, "READER_DIED", Phase.HEADER, message)))
    one_by_one = not isinstance(entries, list)  # after a death: what is noted has to be what is read
    for kind, row in index_entries(entries, cfg, 1 if one_by_one else _BATCH):
        (rows if kind else files).add(row)
    return PartRecord(key, len(listed), rows.end(), files.end(), files.unreadable)


def read_record(store: Store, folder: str, key: str) -> PartRecord:
    """The record of a part that is done.

    Raises:
        FileNotFoundError: where it isn't.
    """
    r = json.loads(store.get(f"{folder}{key}.done.json"))
    return PartRecord(**(r | {"runs": tuple(Run(**x) for x in r["runs"]), "reused": True}))


def forget_part(store: Store, folder: str, record: PartRecord) -> None:
    """Have a part read again."""
    store.remove([f"{folder}{record.key}.done.json"])


def _survivable(entries: list[Entry], store: Store, marker: str) -> tuple[Iterable[Entry], list[Entry]]:
    """(entries to read, entries that killed earlier attempts at this part).

    Each attempt leaves a marker. Where one is found, a worker died on this part: from then on every entry is noted
    before it is read, and one being read at two deaths is left out. A file that kills its reader ends as a row;
    one that was only there when memory ran out gets a second chance.
    """
    try:
        past = json.loads(store.get(marker))
    except (FileNotFoundError, ValueError):
        _note(store, marker, {"at": None, "deaths": {}})
        return entries, []
    deaths: dict[str, int] = past["deaths"]
    if past["at"] is not None:
        deaths[past["at"]] = deaths.get(past["at"], 0) + 1
    fatal = {uri for uri, n in deaths.items() if n >= 2}

    def noted() -> Iterator[Entry]:
        for e in entries:
            if e.uri not in fatal:
                _note(store, marker, {"at": e.uri, "deaths": deaths})
                yield e
        _note(store, marker, {"at": None, "deaths": deaths})

    return noted(), [e for e in entries if e.uri in fatal]


def forget_attempts(store: Store, folder: str) -> None:
    """Remove the markers of an earlier run: that it was stopped is no file's fault."""
    store.remove(store.names(f"{folder}{ATTEMPTS}"))


def _note(store: Store, marker: str, what: Row) -> None:
    store.put(marker, json.dumps(what).encode())


def index_entries(entries: Iterable[Entry], cfg: IndexConfig, together: int = _BATCH) -> Iterator[tuple[bool, Row]]:
    """(True, header row) or (False, file row) of every entry, with archives expanded.

    `together`: headers fetched at once from an object store.
    """
    patience = _Patience(cfg.read_patience_s)
    batch: list[Entry] = []
    for e in entries:
        if e.code is not None:
            yield False, file_row(e, _listed(e))
        elif e.uri.startswith("dicomweb+"):
            yield from _service(e, cfg)
        else:
            source = shared_of(e.uri)
            if hasattr(source, "headers"):  # far away: many ranges at a time
                batch.append(e)
                if len(batch) >= together:
                    yield from _many(batch, cfg, patience)
                    batch.clear()
            else:
                yield from _one(_Patient(source, patience), e, cfg, cfg.walk_archives)
    yield from _many(batch, cfg, patience)


class _Patience:
    """Seconds that a part may spend on archive files that can't be read for the moment."""

    def __init__(self, seconds: float):
        self._left = seconds

    def __call__(self, work: Callable[[], T], uri: str) -> T:
        start = time.monotonic()
        try:
            return work()
        except Exception as e:
            if not is_transient(e) or self._left <= 0:
                raise
        try:
            return retry_for(work, "the archive", self._left, is_transient)
        finally:
            self._left -= time.monotonic() - start


class _Patient:
    """A source that is asked again where a file can't be read for the moment."""

    def __init__(self, source: Source, patience: _Patience):
        self._source, self.patience = source, patience

    def header(self, uri: str, n: int) -> bytes:
        return self.patience(lambda: self._source.header(uri, n), uri)

    def read(self, uri: str, offset: int = 0, length: int | None = None) -> bytes:
        return self.patience(lambda: self._source.read(uri, offset, length), uri)


def _many(batch: list[Entry], cfg: IndexConfig, patience: _Patience) -> Iterator[tuple[bool, Row]]:
    """Entries of one object store, their first bytes fetched together."""
    if not batch:
        return
    source = shared_of(batch[0].uri)
    full = [e for e in batch if e.bytes]
    heads = source.headers([e.uri for e in full], cfg.limits.header_read_bytes)  # type: ignore[attr-defined]
    got = dict(zip([e.uri for e in full], heads, strict=True))
    for e in batch:
        head = got.get(e.uri, b"")
        if isinstance(head, Exception):
            if not is_transient(head):
                yield False, file_row(e, unreadable(Phase.HEADER, e.uri, head))
                continue
            head = None
        yield from _one(_Patient(source, patience), e, cfg, cfg.walk_archives, head)


_SIDECAR = Rejected(State.EXCLUDED, "SIDECAR", Phase.HEADER, "a JSON file: read with the NIfTI volume of its name")


def _listed(e: Entry) -> Rejected:
    state = State.ERROR if e.code == "UNREADABLE" else State.EXCLUDED
    return Rejected(state, e.code or "", Phase.LIST, e.message or "")


def _one(
    source: _Patient, e: Entry, cfg: IndexConfig, expand: bool, head: bytes | None = None
) -> Iterator[tuple[bool, Row]]:
    try:
        if head is None:
            head = source.header(e.uri, cfg.limits.header_read_bytes)
        kind = sniff_archive(head)
        if is_nifti(head):
            rows = volume_rows(e, head, source, cfg)
        elif kind is None and (packed := packed_kind(head)):
            message = f"a {packed}: unpack it to index what it holds"
            raise Rejected(State.EXCLUDED, "PACKED_FILE", Phase.LIST, message)
        elif kind is None:
            h = read_header(lambda n: source.header(e.uri, n), e.bytes, cfg.limits, head)
            rows = instance_rows(e, h, digest(head), cfg)
        elif expand:
            yield from _expand(e, kind, cfg, source.patience)
            return
        else:
            raise Rejected(
                State.EXCLUDED, "NESTED_ARCHIVE", Phase.LIST, f"a {kind} inside an archive: unpack it to index it"
            )
    except Rejected as r:
        yield False, file_row(e, _SIDECAR if r.outcome.code == "NOT_DICOM" and is_sidecar(e.uri) else r)
        return
    except Exception as x:  # stores raise their own kinds of error
        yield False, file_row(e, unreadable(Phase.HEADER, e.uri, x))
        return
    for row in rows:
        yield True, row


def _expand(e: Entry, kind: str, cfg: IndexConfig, patience: _Patience) -> Iterator[tuple[bool, Row]]:
    source = patience(lambda: open_source(f"{kind}://::{e.uri}"), e.uri)
    members = _Patient(source, patience)
    try:
        for k, member in enumerate(source.list()):
            if k >= cfg.limits.max_members:
                message = f"more than {cfg.limits.max_members} members; the rest is not indexed"
                yield False, file_row(e, Rejected(State.QUARANTINED, "TOO_MANY_MEMBERS", Phase.LIST, message))
                return
            if member.code is not None:
                state = State.QUARANTINED
                yield False, file_row(member, Rejected(state, member.code, Phase.LIST, member.message or ""))
            else:
                yield from _one(members, member, cfg, False)
    except Rejected as r:  # the archive breaks off in the middle: what was read stays
        yield False, file_row(e, r)
    finally:
        source.close()


def _service(e: Entry, cfg: IndexConfig) -> Iterator[tuple[bool, Row]]:
    try:
        for member, h, crc in shared_of(e.uri).series_headers(e.uri):  # type: ignore[attr-defined]
            try:
                rows = instance_rows(member, h, crc, cfg)
            except Rejected as r:
                yield False, file_row(member, r)
                continue
            for row in rows:
                yield True, row
    except Rejected as r:
        yield False, file_row(e, r)
    except Exception as x:
        yield False, file_row(e, unreadable(Phase.HEADER, e.uri, x))


def row_hash(row: Row) -> int:
    """64 bits over what a header row was read from, signed: where the object lies and what its beginning holds."""
    text = f"{row['uri']}|{row['frame']}|{row['bytes']}|{row['digest']}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), signed=True)


class _Runs:
    """Header rows -> sorted files of at most `RUN_ROWS` rows; a part costs the same memory whether it holds one file or
    a zip of a million."""

    def __init__(self, store: Store, name: str):
        self._store, self._name = store, name
        self._rows: list[Row] = []
        self._tables: list[pa.Table] = []
        self._runs: list[Run] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= _FLUSH:
            self._flush()
            if sum(t.num_rows for t in self._tables) >= RUN_ROWS:
                self._write()

    def _flush(self) -> None:
        for r in self._rows:
            r["study_hash"], r["row_hash"] = key_hash(r["study_uid"]), row_hash(r)
        self._tables.append(to_table(self._rows, INDEXED))
        self._rows = []

    def _write(self) -> None:
        table = pa.concat_tables(self._tables).sort_by(ORDER)
        self._tables = []
        run = Run(f"{self._name}.{len(self._runs):04d}.headers.parquet", table.num_rows, digest_sum(table))
        self._store.put_table(run.name, table, row_group_size=max(table.num_rows, 1))
        self._runs.append(run)

    def end(self) -> tuple[Run, ...]:
        self._flush()
        if sum(t.num_rows for t in self._tables):
            self._write()
        return tuple(self._runs)


def digest_sum(table: pa.Table) -> int:
    """Sum of the rows' hashes modulo 2^64: the same however the rows lie in files."""
    return int(np.add.reduce(table["row_hash"].to_numpy().view(np.uint64), dtype=np.uint64))


class _Files:
    """Rows of files that belong to no series -> one file, where there are any."""

    def __init__(self, store: Store, name: str):
        self._store, self._name = store, name
        self._rows: list[Row] = []
        self.unreadable = 0

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self.unreadable += row["code"] == "UNREADABLE"

    def end(self) -> int:
        if self._rows:
            self._store.put_table(self._name, to_table(self._rows, FILE))
        return len(self._rows)
