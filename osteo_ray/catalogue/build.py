"""Ray Data: listing -> headers -> series -> catalogue.parquet, one row per series.

    summary = build("/data/archive", "runs/index", IndexConfig())
    print(*summary.lines(), sep="\\n")

Two passes of small tasks: header tasks read one part of the listing each, assembly tasks take all rows of some studies.
Tasks hand over files with deterministic names, so rows in flight stay small, an interrupted index continues where
it was, and an archive that has not changed is recognised by its listing (stat) alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from osteo_ray.catalogue.assembly import assemble
from osteo_ray.catalogue.choice import choose
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.indexing import (
    INDEX_VERSION,
    INDEXED,
    forget_attempts,
    index_part,
    part_key,
    parts,
    write_listing,
)
from osteo_ray.catalogue.instances import FILE
from osteo_ray.catalogue.schema import CATALOGUE
from osteo_ray.dicom.sources import roots
from osteo_ray.dicom.stack import same_pixels
from osteo_ray.io.store import Store, join, read_table
from osteo_ray.io.tables import to_rows, to_table

WORK = "index/"
CATALOGUE_FILE, FILES_FILE, SUMMARY_FILE = "catalogue.parquet", "files.parquet", f"{WORK}summary.json"

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

    Writes `catalogue.parquet` (schema.CATALOGUE), `files.parquet` (instances.FILE: every listed file that belongs to no
    series) and `index/` (what a later run reuses).

    Raises:
        FileNotFoundError: an archive that isn't there.
    """
    start = time.monotonic()
    store = Store(out)
    existing = set(store.names(WORK))
    forget_attempts(store, existing)
    say = progress or (lambda stage, done, total: None)
    keys, entries = _list(archive, store, existing, cfg, say)
    todo = [k for k in keys if f"{WORK}{k}.headers.parquet" not in existing]
    fingerprint = _hash(INDEX_VERSION, _series_config(cfg), *keys)
    done = _finished(store, fingerprint)
    if done is not None and not todo:
        done.unchanged, done.seconds = True, time.monotonic() - start
        return done
    summary = CatalogueSummary(store.uri, entries=entries, parts=len(keys), parts_reused=len(keys) - len(todo))
    from osteo_ray import ray_setup

    ray_setup.start(num_cpus=cfg.num_cpus)
    for i, _ in enumerate(_run(_HeaderTask(store.uri, cfg), [{"part": k} for k in todo]), 1):
        say("headers", i, len(todo))
    buckets = _buckets(store, keys, cfg)
    to_assemble = [b for b in buckets if f"{b['name']}.series.parquet" not in existing]
    for i, _ in enumerate(_run(_AssembleTask(store.uri, keys, cfg), to_assemble), 1):
        say("series", i, len(buckets))
    _merge(store, CATALOGUE_FILE, CATALOGUE, [f"{b['name']}.series.parquet" for b in buckets])
    left = [f"{WORK}{k}.files.parquet" for k in keys] + [f"{b['name']}.left.parquet" for b in buckets]
    _merge(store, FILES_FILE, FILE, left)
    _count(summary, store)
    summary.seconds = time.monotonic() - start
    _sweep(store, keys, buckets)
    store.put(SUMMARY_FILE, json.dumps({"fingerprint": fingerprint, "summary": asdict(summary)}).encode())
    return summary


def _list(archive: Any, store: Store, existing: set[str], cfg: IndexConfig, say: Progress) -> tuple[list[str], int]:
    """Walk the sources; returns the parts' keys, and the number of entries. New parts' listings are written."""
    keys: list[str] = []
    seen: set[str] = set()
    n = 0

    def entries() -> Iterator:
        for source in roots(archive, cfg.follow_links):
            yield from source.list()

    for part in parts(entries(), cfg):
        key = part_key(part, cfg)
        n += len(part)
        say("list", n, None)
        if key in seen:  # the same folder was named twice
            continue
        seen.add(key)
        keys.append(key)
        if f"{WORK}{key}.headers.parquet" not in existing:
            write_listing(part, store, f"{WORK}{key}")
    return keys, n


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
        if saved["fingerprint"] == fingerprint and store.exists(CATALOGUE_FILE) and store.exists(FILES_FILE):
            return CatalogueSummary(**(saved["summary"] | {"out": store.uri}))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


class _HeaderTask:
    """part -> counts; the rows go to files."""

    def __init__(self, out: str, cfg: IndexConfig):
        self.out, self.cfg = out, cfg

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return index_part(Store(self.out), f"{WORK}{row['part']}", self.cfg)


def _buckets(store: Store, keys: list[str], cfg: IndexConfig) -> list[dict[str, Any]]:
    """Ranges of the study hash, of about `bucket_rows` rows each; studies are never cut."""
    total = 0
    for k in keys:
        with store.parquet(f"{WORK}{k}.headers.parquet") as f:
            total += f.metadata.num_rows
    n = max(1, -(-total // cfg.bucket_rows))
    edges = [i * 2**32 // n for i in range(n + 1)]
    stem = _hash(INDEX_VERSION, _series_config(cfg), *keys)
    return [{"name": f"{WORK}{stem}-{i:05d}-{n}", "low": edges[i], "high": edges[i + 1]} for i in range(n)]


class _AssembleTask:
    """Range of studies -> their catalogue rows, in a file."""

    def __init__(self, out: str, keys: list[str], cfg: IndexConfig):
        self.out, self.keys, self.cfg = out, keys, cfg

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        store = Store(self.out)
        low, high = int(row["low"]), int(row["high"])
        wanted = (pc.field("study_hash") >= low) & (pc.field("study_hash") < high)
        tables = [read_table(store.path(f"{WORK}{k}.headers.parquet"), filters=wanted) for k in self.keys]
        table = pa.concat_tables([t for t in tables if t.num_rows] or [INDEXED.empty_table()])
        series, left = assemble_table(table, self.cfg)
        for name, t in ((f"{row['name']}.left.parquet", left), (f"{row['name']}.series.parquet", series)):
            store.put_table(name, t, row_group_size=256)
        return {"series": series.num_rows, "left": left.num_rows}


def assemble_table(table: pa.Table, cfg: IndexConfig) -> tuple[pa.Table, pa.Table]:
    """Header rows of whole studies -> (catalogue, files) tables; Python objects of one study at a time."""
    table = table.sort_by([("study_uid", "ascending"), ("series_uid", "ascending")])
    uids = table.column("study_uid").to_pylist()
    series_out, files_out = [CATALOGUE.empty_table()], [FILE.empty_table()]
    at = 0
    for _, run in groupby(uids):
        n = sum(1 for _ in run)
        rows = to_rows(table.slice(at, n))
        at += n
        found, files = [], []
        for _, one in groupby(rows, key=lambda r: r["series_uid"]):
            got, left = assemble(one, cfg, same_pixels)
            found += got
            files += left
        choose(found, cfg)
        series_out.append(to_table(found, CATALOGUE))
        if files:
            files_out.append(to_table(files, FILE))
    return pa.concat_tables(series_out), pa.concat_tables(files_out)


def _run(task: Any, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One Ray Data stage: a task a row. Ray retries a task whose worker died; header tasks leave out what killed it."""
    if not rows:
        return
    import ray

    ds = ray.data.from_items(rows, override_num_blocks=len(rows))
    yield from ds.map(task, num_cpus=1).iter_rows()


def _merge(store: Store, name: str, schema: pa.Schema, files: list[str]) -> None:
    """Join part files into one, a row group at a time."""
    with store.parquet_writer(name, schema) as w:
        for part in files:
            with store.parquet(part) as f:
                for i in range(f.num_row_groups):
                    t = f.read_row_group(i)
                    if t.num_rows:
                        w.write_table(t.cast(schema))


def _count(summary: CatalogueSummary, store: Store) -> None:
    series: Counter[str] = Counter()
    with store.parquet(CATALOGUE_FILE) as f:
        for b in f.iter_batches(columns=["state", "code", "n_slices"]):
            for r in b.to_pylist():
                series["OPEN" if r["state"] is None else f"{r['state']} {r['code']}"] += 1
                summary.instances += r["n_slices"]
    files: Counter[str] = Counter()
    with store.parquet(FILES_FILE) as f:
        for b in f.iter_batches(columns=["state", "code"]):
            files.update(f"{r['state']} {r['code']}" for r in b.to_pylist())
    summary.series, summary.files = dict(series), dict(files)


def _sweep(store: Store, keys: list[str], buckets: list[dict[str, Any]]) -> None:
    """Remove what this run superseded: listings, parts and buckets of earlier states of the archive."""
    keep = {f"{WORK}{k}.{kind}.parquet" for k in keys for kind in ("headers", "files")}
    keep |= {f"{b['name']}.{kind}.parquet" for b in buckets for kind in ("series", "left")} | {SUMMARY_FILE}
    store.remove([n for n in store.names(WORK) if n not in keep])
    store.remove_unfinished(WORK)
