"""The work of one header task: a part of the listing -> header rows and file rows. No Ray here.

A part is a run of listed entries, cut where the entries themselves say so (by a checksum of their URI), so that a new
file in an archive changes one part and leaves all others, and their results, as they are.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.instances import FILE, INSTANCE, digest, file_row, instance_rows
from osteo_ray.dicom.header import read_header
from osteo_ray.dicom.sources import Entry, Source, open_source, shared_of, sniff_archive, unreadable
from osteo_ray.io.store import Store, read_table
from osteo_ray.io.tables import to_table
from osteo_ray.outcomes import Phase, Rejected, State

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
INDEXED = INSTANCE.append(pa.field("study_hash", pa.int64()))  # 0 .. 2^32: what assembly tasks select by
_FLUSH = 2000
_RUN = 10  # flushes that are sorted and written together
_BATCH = 128  # ranges fetched together from an object store
INDEX_VERSION = 2  # raised when header rows change their meaning: older parts are read again


def parts(entries: Iterable[Entry], cfg: IndexConfig) -> Iterator[list[Entry]]:
    """Cut a listing into parts of about `part_entries` entries or `part_bytes` bytes."""
    part: list[Entry] = []
    size = 0
    for e in entries:
        part.append(e)
        size += e.bytes
        cut = zlib.crc32(e.uri.encode("utf-8", "surrogateescape")) % cfg.part_entries == 0
        if cut or len(part) >= 4 * cfg.part_entries or size >= cfg.part_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part


def part_key(part: list[Entry], cfg: IndexConfig) -> str:
    """Name of a part's results: over what was listed and every setting that header rows depend on."""
    h = hashlib.blake2b(digest_size=16)
    key = hashlib.blake2b((cfg.pseudonym_key or "").encode()).hexdigest()
    identity = f"{cfg.site}|{cfg.identity.model_dump_json()}"
    h.update(f"{INDEX_VERSION}|{key}|{identity}|{cfg.walk_archives}|{cfg.limits.model_dump_json()}\n".encode())
    for e in part:
        h.update(f"{e.uri}|{e.bytes}|{e.stamp}|{e.code}\n".encode("utf-8", "surrogateescape"))
    return h.hexdigest()


def write_listing(part: list[Entry], store: Store, name: str) -> None:
    """Keep a part's entries as `<name>.list.parquet`."""
    store.put_table(f"{name}.list.parquet", pa.Table.from_pylist([asdict(e) for e in part], ENTRY))


def read_listing(store: Store, name: str) -> list[Entry]:
    """What `write_listing` kept."""
    return [Entry(**r) for r in read_table(store.path(f"{name}.list.parquet")).to_pylist()]


def index_part(store: Store, name: str, cfg: IndexConfig) -> dict[str, int]:
    """Read every header of a part; writes `<name>.headers.parquet` and `<name>.files.parquet` beside its listing.

    Idempotent: names are the part's key, files appear whole or not at all.
    """
    entries, fatal = _survivable(read_listing(store, name), store, f"{name}.attempt.json")
    # the headers' file is closed last: its presence says that the part is done
    with (
        _Sink(INDEXED, store, f"{name}.headers.parquet", order=("study_hash", "series_uid")) as rows,
        _Sink(FILE, store, f"{name}.files.parquet") as files,
    ):
        for e in fatal:
            message = "reading it ended the worker process"
            files.add(file_row(e, Rejected(State.ERROR, "READER_DIED", Phase.HEADER, message)))
        one_by_one = not isinstance(entries, list)  # after a death: what is noted has to be what is read
        for kind, row in index_entries(entries, cfg, 1 if one_by_one else _BATCH):
            (rows if kind else files).add(row)
    return {"files": files.count, "instances": rows.count}


def _survivable(entries: list[Entry], store: Store, marker: str) -> tuple[Iterable[Entry], list[Entry]]:
    """(entries to read, entries that killed earlier attempts at this part).

    Each attempt leaves a marker. Where one is found, a worker died on this part: from then on every entry is noted
    before it is read, and one being read at two deaths is left out. A file that kills its reader ends as a row;
    one that was only there when memory ran out gets a second chance.
    """
    try:
        past = json.loads(store.get(marker))
    except (OSError, ValueError):
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


def forget_attempts(store: Store, names: Iterable[str]) -> None:
    """Remove the markers of an earlier run: that it was stopped is no file's fault."""
    store.remove([n for n in names if n.endswith(".attempt.json")])


def _note(store: Store, marker: str, what: Row) -> None:
    store.put(marker, json.dumps(what).encode())


def index_entries(entries: Iterable[Entry], cfg: IndexConfig, together: int = _BATCH) -> Iterator[tuple[bool, Row]]:
    """(True, header row) or (False, file row) of every entry, with archives expanded.

    `together`: headers fetched at once from an object store.
    """
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
                    yield from _many(batch, cfg)
                    batch.clear()
            else:
                yield from _one(source, e, cfg, cfg.walk_archives)
    yield from _many(batch, cfg)


def _many(batch: list[Entry], cfg: IndexConfig) -> Iterator[tuple[bool, Row]]:
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
            yield False, file_row(e, unreadable(Phase.HEADER, e.uri, head))
        else:
            yield from _one(source, e, cfg, cfg.walk_archives, head)


def _listed(e: Entry) -> Rejected:
    state = State.ERROR if e.code == "UNREADABLE" else State.EXCLUDED
    return Rejected(state, e.code or "", Phase.LIST, e.message or "")


def _one(
    source: Source, e: Entry, cfg: IndexConfig, expand: bool, head: bytes | None = None
) -> Iterator[tuple[bool, Row]]:
    try:
        if head is None:
            head = source.header(e.uri, cfg.limits.header_read_bytes)
        kind = sniff_archive(head)
        if kind is None:
            h = read_header(lambda n: source.header(e.uri, n), e.bytes, cfg.limits, head)
            rows = instance_rows(e, h, digest(head), cfg)
        elif expand:
            yield from _expand(e, kind, cfg)
            return
        else:
            raise Rejected(
                State.EXCLUDED, "NESTED_ARCHIVE", Phase.LIST, f"a {kind} inside an archive: unpack it to index it"
            )
    except Rejected as r:
        yield False, file_row(e, r)
        return
    except Exception as x:  # stores raise their own kinds of error
        yield False, file_row(e, unreadable(Phase.HEADER, e.uri, x))
        return
    for row in rows:
        row["study_hash"] = study_hash(row["study_uid"])
        yield True, row


def _expand(e: Entry, kind: str, cfg: IndexConfig) -> Iterator[tuple[bool, Row]]:
    source = open_source(f"{kind}://::{e.uri}")
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
                yield from _one(source, member, cfg, False)
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
                row["study_hash"] = study_hash(row["study_uid"])
                yield True, row
    except Rejected as r:
        yield False, file_row(e, r)
    except Exception as x:
        yield False, file_row(e, unreadable(Phase.HEADER, e.uri, x))


def study_hash(study_uid: str) -> int:
    return zlib.crc32(study_uid.encode())


class _Sink:
    """Rows -> a Parquet file that appears whole or not at all.

    A few thousand rows at a time become Arrow, some ten thousand are sorted and written: a part costs the same memory
    whether it holds one file or a zip of a million.
    """

    def __init__(self, schema: pa.Schema, store: Store, name: str, order: tuple[str, ...] = ()):
        self.schema, self.count = schema, 0
        self._order = [(column, "ascending") for column in order]
        self._rows: list[Row] = []
        self._tables: list[pa.Table] = []
        self._file = store.parquet_writer(name, schema)

    def __enter__(self) -> _Sink:
        self._writer = self._file.__enter__()
        return self

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= _FLUSH:
            self._flush()
            if len(self._tables) >= _RUN:
                self._write()

    def _flush(self) -> None:
        self._tables.append(to_table(self._rows, self.schema))
        self._rows = []

    def _write(self) -> None:
        table = pa.concat_tables(self._tables)
        self._tables = []
        if table.num_rows:
            self._writer.write_table(table.sort_by(self._order) if self._order else table, row_group_size=_FLUSH)

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()
            self._write()
        self._file.__exit__(*error)
