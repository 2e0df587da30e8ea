"""Ray tasks: listing -> headers -> exchange -> series: `catalogue.parquet`, one row per series.

    summary = build("/data/archive", "runs/index", IndexConfig())
    print(*summary.lines(), sep="\\n")

Small tasks in passes: list a group of folders, read the headers of a part of the listing, merge header rows by study
(exchange.py), assemble the series of some studies. Tasks hand over files whose names say what they were made from, so
that the driver holds names and counts alone, an interrupted index continues where it was, and an archive that has not
changed is known by its listing (stat).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from osteo_ray.catalogue import exchange, listing
from osteo_ray.catalogue.assembly import assemble
from osteo_ray.catalogue.choice import choose
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.exchange import Piece
from osteo_ray.catalogue.indexing import (
    PartRecord,
    Run,
    forget_attempts,
    forget_part,
    header_config,
    index_part,
    part_key,
    write_listing,
)
from osteo_ray.catalogue.instances import FILE, INSTANCE
from osteo_ray.catalogue.schema import CATALOGUE
from osteo_ray.dicom.sources import Branch, Entry
from osteo_ray.dicom.stack import same_pixels
from osteo_ray.io.parquet_set import KEY_BITS, SetPart, is_finished, read_manifest, write_manifest
from osteo_ray.io.store import Store, watched
from osteo_ray.io.tables import Columns, to_columns, to_table
from osteo_ray.io.trouble import retry_for
from osteo_ray.io.uris import join
from osteo_ray.outcomes import InputError

T = TypeVar("T")
U = TypeVar("U")
WORK = "index/"
CATALOGUE_FILE, FILES_FILE, SUMMARY_FILE = "catalogue.parquet", "files.parquet", f"{WORK}summary.json"
PARTS_FILE = f"{WORK}parts.parquet"
SERIES_TOGETHER = 64  # rows of a row group: some megabytes, what a reader of a few series takes
LISTED_ALONE = 20_000  # entries that the driver lists itself: less than Ray's start would take
IN_FLIGHT = 1000  # tasks that wait or run at a time
UNITS = {"list": "files", "headers": "parts", "exchange": "merges", "series": "parts"}
"""What each stage's progress counts."""

Progress = Callable[[str, int, int | None], None]  # stage, done, total (None: unknown)


@dataclass
class CatalogueSummary:
    """What an index run saw. `series` and `files` count by "STATE CODE"; OPEN series go on to screening."""

    out: str
    entries: int = 0
    instances: int = 0
    series: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    parts: int = 0
    parts_reused: int = 0
    unchanged: bool = False
    store_calls: int = 0  # files of `out` that were opened, written, looked up or removed
    seconds: float = 0.0

    @property
    def n_series(self) -> int:
        return sum(self.series.values())

    @property
    def n_open(self) -> int:
        return self.series.get("OPEN", 0)

    def lines(self) -> list[str]:
        """The run in words, for printing."""
        note = " (unchanged)" if self.unchanged else f" ({self.parts_reused} of {self.parts} parts were indexed before)"
        out = [
            f"indexed {self.entries} entries: {self.instances} images in {self.n_series} series, "
            f"{self.seconds:.1f} s{note}"
        ]
        out += [f"  series  {n:7d}  {k}" for k, n in sorted(self.series.items(), key=lambda x: (-x[1], x[0]))]
        out += [f"  files   {n:7d}  {k}" for k, n in sorted(self.files.items(), key=lambda x: (-x[1], x[0]))]
        return [*out, f"catalogue: {join(self.out, CATALOGUE_FILE)}"]


def build(
    archive: str | Path | Sequence[str | Path], out: str | Path, cfg: IndexConfig, progress: Progress | None = None
) -> CatalogueSummary:
    """Index `archive` (folder, file, zip, tar, URI, or several) into `out`, a folder or the URI of one.

    Writes `catalogue.parquet` (schema.CATALOGUE) and `files.parquet` (instances.FILE: every listed file that belongs to
    no series), each a folder of Parquet files with a manifest (io.parquet_set), and `index/` (what a later run reuses).

    Raises:
        FileNotFoundError: an archive that isn't there.
        StoreError: where `out` could not be read or written for as long as `store_patience_s`.
    """
    start = time.monotonic()
    with watched(str(out), cfg.store_patience_s):
        return _Build(Store(out), cfg, progress or (lambda stage, done, total: None), start).run(archive)


def check_not_empty(summary: CatalogueSummary, archive: str | Path | Sequence[str | Path] | None) -> None:
    """An archive without a CT series is an error: most often a volume that is not mounted, or the wrong folder.

    Raises:
        InputError: naming the archive and what it holds instead.
    """
    if summary.n_series:
        return
    named = archive if isinstance(archive, str | Path) else ", ".join(map(str, archive or ()))
    if not summary.entries:
        raise InputError(f"{named} holds no file; is its volume mounted?")
    codes = ", ".join(f"{k} {n}" for k, n in sorted(summary.files.items(), key=lambda x: -x[1]))
    raise InputError(f"{named} holds no CT series; its {summary.entries} files ended as {codes}")


class _Build:
    """One run of the index."""

    def __init__(self, store: Store, cfg: IndexConfig, progress: Progress, start: float):
        self.store, self.cfg, self.progress, self.start = store, cfg, progress, start
        self.calls = 0  # of the tasks' stores

    def run(self, archive: str | Path | Sequence[str | Path]) -> CatalogueSummary:
        store = self.store
        self._patiently(lambda: forget_attempts(store, WORK))
        known = self._patiently(self._known_parts)
        keys, entries = self._list(archive, known)
        fingerprint = _hash(header_config(self.cfg), _series_config(self.cfg), self.cfg.bucket_rows, *keys)
        if all(k in known for k in keys) and (done := _finished(store, fingerprint)) is not None:
            done.unchanged, done.seconds, done.store_calls = True, time.monotonic() - self.start, store.calls
            return done
        records = self._headers(keys, known)
        self._patiently(lambda: store.put_table(PARTS_FILE, _parts_table(records)))
        bits = exchange.partition_bits(sum(r.instances for r in records), self.cfg.bucket_rows)
        nodes, merged = self._exchange(records, bits)
        series, files = self._assemble(records, nodes, bits)
        summary = CatalogueSummary(store.uri, entries=entries, parts=len(records))
        summary.parts_reused = sum(r.reused for r in records)
        summary.series, summary.instances = _sum(series), sum(p.facts["instances"] for p in series)
        summary.files = _sum(files)
        by_file = ((CATALOGUE_FILE, series, ("study_uid", bits)), (FILES_FILE, files, ()))
        for name, parts, key in by_file:
            folder = Store(store.path(name))
            self._patiently(partial(write_manifest, folder, parts, *key))
            self.calls += folder.calls
        self._patiently(lambda: self._sweep(records, merged))
        summary.store_calls = self.calls + store.calls
        summary.seconds = time.monotonic() - self.start
        text = json.dumps({"fingerprint": fingerprint, "summary": asdict(summary)})
        self._patiently(lambda: store.put(SUMMARY_FILE, text.encode()))
        return summary

    def _patiently(self, work: Callable[[], T]) -> T:
        return retry_for(work, self.store.uri, self.cfg.store_patience_s)

    def _known_parts(self) -> dict[str, PartRecord]:
        """Parts whose headers an earlier run has read; those with files that it could not read are tried again."""
        try:
            with self.store.parquet(PARTS_FILE) as f:
                rows = f.read().to_pylist()
        except FileNotFoundError:
            return {}
        found = [PartRecord(**(r | {"runs": tuple(Run(**x) for x in r["runs"]), "reused": True})) for r in rows]
        for r in found:
            if r.unreadable:
                forget_part(self.store, WORK, r)
        return {r.key: r for r in found if not r.unreadable}

    def _list(self, archive: Any, known: Iterable[str]) -> tuple[list[str], int]:
        """Walk the sources; returns the parts' keys, in order, and the number of entries. New listings are written."""
        keys: dict[str, None] = {}
        total = 0
        groups = listing.groups(archive, self.cfg)
        seen = frozenset(known)

        def add(found: list[tuple[str, int]]) -> None:
            nonlocal total
            total += sum(n for _, n in found)
            keys.update(dict.fromkeys(k for k, _ in found))  # the same folder may have been named twice
            self.progress("list", total, None)

        def first() -> Iterator[Entry]:
            listed = 0
            for group in groups:
                for e in listing.entries(group, self.cfg):
                    listed += 1
                    yield e
                if listed > LISTED_ALONE:
                    return

        add(_write_parts(self.store, first(), self.cfg, seen))
        rest = list(groups)
        if rest:
            self._start_ray()
            found = dict(self._tasks(_list_group, [(g, self.cfg, seen) for g in rest]))
            for i in range(len(rest)):
                add(found[i])
        return list(keys), total

    def _headers(self, keys: list[str], known: dict[str, PartRecord]) -> list[PartRecord]:
        todo = [k for k in keys if k not in known]
        together = max(1, len(todo) // 4096)  # parts of a task: the driver has a few thousand tasks to look after
        tasks = [(todo[i : i + together], self.cfg) for i in range(0, len(todo), together)]
        done = dict(known)
        for _, found in self._tasks(_index_parts, tasks):
            done |= {r.key: r for r in found}
            self.progress("headers", len(done) - len(known), len(todo))
        return [done[k] for k in keys]

    def _exchange(self, records: list[PartRecord], bits: int) -> tuple[dict[int, list[Piece]], list[str]]:
        """Header rows by partition, and the names of the files that they passed through."""
        nodes = {0: exchange.of_parts(records)}
        known, merged = 0, []
        for level in exchange.digits(bits):
            tasks = list(exchange.merges(nodes, known, level, WORK))
            found = {}
            for i, pieces in self._tasks(exchange.merge, [(t,) for t in tasks]):
                found[i] = pieces
                self.progress("exchange", len(found), len(tasks))
            nodes = {}
            for i in range(len(tasks)):
                for prefix, piece in found[i].items():
                    nodes.setdefault(prefix, []).append(piece)
            known += level
            merged += [t.name for t in tasks]
        return nodes, merged

    def _assemble(
        self, records: list[PartRecord], nodes: dict[int, list[Piece]], bits: int
    ) -> tuple[list[SetPart], list[SetPart]]:
        """The parts of catalogue.parquet and of files.parquet, one of each for every partition."""
        with_files: dict[int, list[str]] = {}
        for r in records:
            if r.files:
                with_files.setdefault(int(r.key[:8], 16) >> (KEY_BITS - bits), []).append(r.key)
        settings = _hash(header_config(self.cfg), _series_config(self.cfg), CATALOGUE.to_string(), FILE.to_string())
        work: list[_Partition] = []
        for i in range(1 << bits):
            pieces, keys = nodes.get(i, []), sorted(with_files.get(i, []))
            digest = sum(p.digest for p in pieces) % 2**64
            name = _hash(settings, digest, sum(p.rows for p in pieces), *keys)
            work.append(_Partition(f"{i:06d}-{name[:20]}.parquet", tuple(pieces), tuple(keys)))
        outs = [Store(self.store.path(n)) for n in (CATALOGUE_FILE, FILES_FILE)]
        before: list[dict[str, SetPart]] = []
        for store, name in zip(outs, (CATALOGUE_FILE, FILES_FILE), strict=True):
            if self.store.is_file(name):  # a catalogue of one file, of an earlier version
                self.store.remove([name])
            found = read_manifest(store)
            before.append({p.name: p for p in found[0]} if found else {})
        series, files = ([old.get(w.name) for w in work] for old in before)
        todo = [i for i, both in enumerate(zip(series, files, strict=True)) if None in both]
        done = len(work) - len(todo)
        for i, (s, f) in self._tasks(_assemble_partition, [(work[i], self.cfg) for i in todo]):
            series[todo[i]], files[todo[i]] = s, f
            done += 1
            self.progress("series", done, len(work))
        return [p for p in series if p], [p for p in files if p]

    def _start_ray(self) -> None:
        from osteo_ray import ray_setup

        ray_setup.start(num_cpus=self.cfg.num_cpus)

    def _tasks(self, work: Callable[..., U], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, U]]:
        """(number, result) of `work(store, *arguments)`, as they come. Ray does a task again whose worker died; header
        tasks leave out what killed it. Where a store fails, the task tries again itself."""
        if not arguments:
            return
        self._start_ray()
        import ray

        task = ray.remote(_task).options(num_cpus=1, max_retries=-1)
        shared = ray.put((work, self.store.uri, self.cfg.store_patience_s))
        waiting = iter(enumerate(arguments))
        running: dict[Any, int] = {}
        while True:
            running |= {task.remote(shared, *a): i for i, a in islice(waiting, IN_FLIGHT - len(running))}
            if not running:
                return
            ray.wait(list(running), num_returns=1)
            for ref in ray.wait(list(running), num_returns=len(running), timeout=0)[0]:
                result, calls = ray.get(ref)
                self.calls += calls
                yield running.pop(ref), result

    def _sweep(self, records: list[PartRecord], merged: list[str]) -> None:
        """Remove what this run superseded: parts and merged files of earlier states of the archive."""
        keep = {SUMMARY_FILE, PARTS_FILE, *merged}
        for r in records:
            keep |= {f"{WORK}{r.key}.done.json", f"{WORK}{r.key}.files.parquet", *(run.name for run in r.runs)}
        self.store.remove([n for n in self.store.names(WORK) if n not in keep and not n.startswith(f"{WORK}attempts")])
        self.store.remove_unfinished(WORK)


@dataclass(frozen=True)
class _Partition:
    """What one assembly task reads; `name` of its part of catalogue.parquet and of files.parquet."""

    name: str
    pieces: tuple[Piece, ...]
    with_files: tuple[str, ...]


def _task(shared: tuple[Callable[..., Any], str, float], *arguments: Any) -> tuple[Any, int]:
    """In a Ray worker: the work, tried again while the store fails, and how often the store was asked."""
    work, uri, patience_s = shared
    store = Store(uri)
    return retry_for(lambda: work(store, *arguments), uri, patience_s), store.calls


def _list_group(store: Store, group: list[Branch], cfg: IndexConfig, known: frozenset[str]) -> list[tuple[str, int]]:
    """(key, entries) of each part of a group of folders."""
    return _write_parts(store, listing.entries(group, cfg), cfg, known)


def _write_parts(
    store: Store, listed: Iterable[Entry], cfg: IndexConfig, known: frozenset[str]
) -> list[tuple[str, int]]:
    found = []
    for part in listing.parts(listed, cfg):
        key = part_key(part, cfg)
        found.append((key, len(part)))
        if key not in known and not store.exists(f"{WORK}{key}.done.json"):
            write_listing(part, store, f"{WORK}{key}")
    return found


def _index_parts(store: Store, keys: list[str], cfg: IndexConfig) -> list[PartRecord]:
    return [index_part(store, WORK, k, cfg) for k in keys]


def _assemble_partition(store: Store, work: _Partition, cfg: IndexConfig) -> tuple[SetPart, SetPart]:
    """Header rows of some studies -> their part of the catalogue, and the part of files.parquet that goes with it."""
    series_at, files_at = f"{CATALOGUE_FILE}/{work.name}", f"{FILES_FILE}/{work.name}"
    try:
        return _written(store, series_at, work.name), _written(store, files_at, work.name)
    except FileNotFoundError:
        pass
    tables = [exchange.read_piece(store, p) for p in work.pieces]
    series, left = assemble_table(pa.concat_tables([*tables, INSTANCE.empty_table()], promote_options="default"), cfg)
    refused = [left]
    for key in work.with_files:
        with store.parquet(f"{WORK}{key}.files.parquet") as f:
            refused.append(f.read().replace_schema_metadata(None))
    files = pa.concat_tables(refused).sort_by([("uri", "ascending"), ("code", "ascending")])
    ends = Counter(
        "OPEN" if s is None else f"{s} {c}"
        for s, c in zip(series["state"].to_pylist(), series["code"].to_pylist(), strict=True)
    )
    refusals = Counter(map(" ".join, zip(files["state"].to_pylist(), files["code"].to_pylist(), strict=True)))
    instances = sum(series["n_slices"].to_pylist())
    for at, table, facts in (
        (files_at, files, {"counts": refusals}),
        (series_at, series, {"counts": ends, "instances": instances}),
    ):
        footer = {_FACTS: json.dumps(facts).encode()}
        store.put_table(at, table.replace_schema_metadata(footer), row_group_size=SERIES_TOGETHER)
    return _written(store, series_at, work.name), _written(store, files_at, work.name)


_FACTS = b"osteo-ray.facts"


def _written(store: Store, at: str, name: str) -> SetPart:
    with store.parquet(at) as f:
        groups = tuple(f.metadata.row_group(g).num_rows for g in range(f.metadata.num_row_groups))
        return SetPart(name, groups, json.loads(f.schema_arrow.metadata[_FACTS]))


def _parts_table(records: list[PartRecord]) -> pa.Table:
    run = pa.struct([("name", pa.string()), ("rows", pa.int64()), ("digest", pa.uint64())])
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("entries", pa.int64()),
            ("runs", pa.list_(run)),
            ("files", pa.int64()),
            ("unreadable", pa.int64()),
        ]
    )
    return pa.Table.from_pylist([asdict(r) for r in records], schema=schema)


def _hash(*parts: object) -> str:
    h = hashlib.blake2b(digest_size=16)
    for p in parts:
        h.update(f"{p}\n".encode())
    return h.hexdigest()


def _series_config(cfg: IndexConfig) -> str:
    return json.dumps(
        [getattr(cfg, n).model_dump(mode="json") for n in ("geometry", "gates", "choice")], sort_keys=True
    )


def _finished(store: Store, fingerprint: str) -> CatalogueSummary | None:
    """The summary of an earlier run over exactly this listing and config."""
    try:
        saved = json.loads(store.get(SUMMARY_FILE))
        if saved["fingerprint"] == fingerprint and all(
            is_finished(store.path(n)) for n in (CATALOGUE_FILE, FILES_FILE)
        ):
            return CatalogueSummary(**(saved["summary"] | {"out": store.uri}))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _sum(parts: Iterable[SetPart]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for p in parts:
        total.update(p.facts["counts"])
    return dict(total)


_ROWS_TOGETHER = 2000  # header rows of whole studies that are Python objects at a time


def assemble_table(table: pa.Table, cfg: IndexConfig) -> tuple[pa.Table, pa.Table]:
    """Header rows of whole studies -> (catalogue, files) tables; Python objects of some studies at a time."""
    table = table.sort_by([("study_uid", "ascending"), ("series_uid", "ascending")])
    series_out, files_out = [CATALOGUE.empty_table()], [FILE.empty_table()]
    at = n = 0
    for _, run in groupby(table.column("study_uid").to_pylist()):
        n += sum(1 for _ in run)
        if n >= _ROWS_TOGETHER or at + n == table.num_rows:
            found, files = _assemble_studies(to_columns(table.slice(at, n)), cfg)
            series_out.append(to_table(found, CATALOGUE))
            files_out.append(to_table(files, FILE))
            at, n = at + n, 0
    return pa.concat_tables(series_out), pa.concat_tables(files_out)


def _assemble_studies(columns: dict[str, list[Any]], cfg: IndexConfig) -> tuple[list[dict], list[dict]]:
    """Sorted header rows of whole studies -> rows of the catalogue, and of files.parquet."""
    out: list[dict] = []
    files: list[dict] = []
    at = 0
    for _, study in groupby(zip(columns["study_uid"], columns["series_uid"], strict=True), key=itemgetter(0)):
        found = []
        for _, series in groupby(study):
            n = sum(1 for _ in series)
            got, left = assemble(Columns.of({k: v[at : at + n] for k, v in columns.items()}), cfg, same_pixels)
            at += n
            found += got
            files += left
        choose(found, cfg)
        out += found
    return out, files
