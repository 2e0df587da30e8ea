"""What index and scorer ask of an archive, by its layout: requests, bytes and CPU of a study of 300 slices.

    python benchmarks/screening.py prepare --work W
    python benchmarks/archive_requests.py --work W

The same two series of 300 slices of 512 x 512, raw, lie on a disk, in a bucket as files, as a zip each (stored,
deflated), as a tar each and as one zip of both, and in an Orthanc (DICOMweb). Each study is indexed and scored by the
package's own functions in this process; a loopback S3 server, or a proxy before Orthanc, counts requests and bytes.
Mean of the two. CPU is this process's; on a machine with other work it is an upper bound. The seconds that a study
takes are measured with a server that answers each request after 0, 30 and 100 ms, with slices read ahead as they are
and one by one, in turn. Writes docs/results/archive-requests.json and .md.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import requests
import results_page
from s3_server import BUCKET, S3Server

sys.path.insert(0, str(results_page.ROOT / "tests" / "dicom"))

from osteo_ray.catalogue.study import index_archive
from osteo_ray.dicom import s3_ranges, sources
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.model import reference
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.config import ScoringConfig
from osteo_ray.screening.predictor import Predictor

WARM_UP = "imports and connections"
LATENCIES_S, BATCH, ROUNDS = (0.0, 0.03, 0.1), 8, 3
Asked = Callable[[], tuple[int, int]]
"""Requests and bytes so far."""


@dataclass
class Layout:
    """An archive, by its URIs (one or more, the studies in them), and what counts what is asked of it."""

    name: str
    archives: list[str]
    asked: Asked
    studies: int
    s3fs_alone: bool = False


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def packed(files: list[Path], how: str) -> bytes:
    """A zip ("stored", "deflated") or a tar of files."""
    sink = io.BytesIO()
    if how == "tar":
        with tarfile.open(fileobj=sink, mode="w") as t:
            for f in files:
                t.add(f, f"{f.parent.name}/{f.name}")
    else:
        kind = zipfile.ZIP_STORED if how == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(sink, "w", kind, compresslevel=1 if kind else None) as z:
            for f in files:
                z.write(f, f"{f.parent.name}/{f.name}")
    return sink.getvalue()


def in_buckets(server: S3Server, series: list[Path]) -> Iterator[Layout]:
    """The series in a bucket, one layout after the other."""

    def asked(folder: str) -> tuple[int, int]:
        return sum(n for k, n in server.counts().items() if k.endswith(f" {folder}")), server.sent().get(folder, 0)

    def layout(name: str, folder: str, put: dict[str, bytes], archives: list[str], studies: int = 1) -> Layout:
        for key, data in put.items():
            server.put(f"ct/{folder}/{key}", data)
        before = asked(folder)

        def since() -> tuple[int, int]:
            n, size = asked(folder)
            return n - before[0], size - before[1]

        return Layout(name, [f"s3://{BUCKET}/ct/{folder}/{a}" for a in archives], since, studies)

    names = [s.name for s in series]
    loose = {f"{s.name}/{f.name}": f.read_bytes() for s in series for f in files_of(s)}
    yield layout(WARM_UP, "warm", loose, names)
    yield layout("bucket, a file a slice", "files", loose, names)
    yield replace(layout("bucket, a file a slice, s3fs alone", "alone", loose, names), s3fs_alone=True)
    for how in ("stored", "deflated"):
        zips = {f"{s.name}.zip": packed(files_of(s), how) for s in series}
        yield layout(f"bucket, a zip a study ({how})", how, zips, list(zips))
    tars = {f"{s.name}.tar": packed(files_of(s), "tar") for s in series}
    yield layout("bucket, a tar a study", "tar", tars, list(tars))
    every = packed([f for s in series for f in files_of(s)], "stored")
    yield layout("bucket, a zip of two studies", "large", {"all.zip": every}, ["all.zip"], len(series))


@contextmanager
def counted_proxy(port: int) -> Iterator[tuple[int, Asked]]:
    """A port on loopback that passes requests on to another, and counts them and what comes back."""
    n, size = 0, 0
    local = threading.local()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            nonlocal n, size
            if not hasattr(local, "session"):
                local.session = requests.Session()
                local.session.trust_env = False
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
            got = local.session.get(f"http://127.0.0.1:{port}{self.path}", headers=headers, timeout=300)
            n, size = n + 1, size + len(got.content)
            self.send_response(got.status_code)
            self.send_header("Content-Type", got.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(got.content)))
            self.end_headers()
            self.wfile.write(got.content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], lambda: (n, size)
    server.shutdown()


@contextmanager
def in_orthanc(series: list[Path]) -> Iterator[Layout]:
    """The series in an Orthanc behind a proxy that counts."""
    from orthanc_running import running, store

    with tempfile.TemporaryDirectory() as home, running(Path(home)) as (base, session, netrc):
        os.environ |= {"NETRC": str(netrc), "NO_PROXY": "127.0.0.1"}
        store(session, base, (f.read_bytes() for s in series for f in files_of(s)))
        port, _, path = base.removeprefix("http://127.0.0.1:").partition("/")
        with counted_proxy(int(port)) as (own, asked):
            yield Layout("DICOMweb (Orthanc)", [f"dicomweb+http://127.0.0.1:{own}/{path}"], asked, len(series))


def measure(layout: Layout, scorer: Predictor) -> dict[str, Any]:
    """Requests, MB and CPU ms a study, of index and scoring."""
    alone = mock.patch.object(s3_ranges, "_plain_settings", return_value=False) if layout.s3fs_alone else nullcontext()
    sources.shared.cache_clear()
    with alone:
        return _measured(layout, scorer)


def _measured(layout: Layout, scorer: Predictor) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    t = time.process_time()
    for a in layout.archives:
        rows += index_archive(a).chosen
    index_s, (index_n, index_bytes) = time.process_time() - t, layout.asked()
    assert len(rows) == 2, [r["state"] for r in rows]
    none = np.full((1, len(NAMES)), np.nan)
    t = time.process_time()
    found = [scorer.score_rows([r], none)[0] for r in rows]
    score_s, (n, size) = time.process_time() - t, layout.asked()
    k = len(rows)
    return {
        "table": "layouts",
        "layout": layout.name,
        "index_requests": round(index_n / k, 1),
        "index_mb": round(index_bytes / k / 1e6, 2),
        "index_cpu_ms": round(1e3 * index_s / k),
        "scorer_requests": round((n - index_n) / k, 1),
        "scorer_mb": round((size - index_bytes) / k / 1e6, 2),
        "scorer_cpu_ms": round(1e3 * score_s / k),
        "slices_decoded": float(np.mean([r["slices_decoded"] for r in found])),
    }


def waited(server: S3Server, series: list[Path], scorer: Predictor) -> Iterator[dict[str, Any]]:
    """Seconds a study of a batch that lies in a bucket, by the server's latency."""
    none = np.full((BATCH, len(NAMES)), np.nan)
    for s in series:
        for f in files_of(s):
            server.put(f"ct/far/{s.name}/{f.name}", f.read_bytes())
    sources.shared.cache_clear()
    rows = [r for s in series for r in index_archive(f"s3://{BUCKET}/ct/far/{s.name}").chosen]
    batch = [rows[i % len(rows)] for i in range(BATCH)]
    for latency in LATENCIES_S:
        server.delay(latency)
        took: dict[str, list[float]] = {"ahead": [], "one by one": []}
        sent = server.sent()["far"]
        for _ in range(ROUNDS):
            for how, seconds in took.items():
                off = mock.patch.object(SliceStack, "read_ahead")
                with off if how == "one by one" else nullcontext():
                    t = time.perf_counter()
                    scorer.score_rows(batch, none)
                    seconds.append((time.perf_counter() - t) / BATCH)
        mb = (server.sent()["far"] - sent) / 1e6 / BATCH / ROUNDS / len(took)
        ahead, alone = (float(np.median(s)) for s in took.values())
        yield {
            "table": "latency", "latency_ms": round(1e3 * latency), "read_ahead_s": round(ahead, 2),
            "one_by_one_s": round(alone, 2), "times": round(alone / ahead, 2), "mb": round(mb, 2),
        }  # fmt: skip


def main() -> None:
    """Measure and write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="of `screening.py prepare`")
    p.add_argument("--out", type=Path, default=results_page.RESULTS / "archive-requests.json")
    a = p.parse_args()
    series = sorted(f for f in (a.work / "explicit-le").iterdir() if f.is_dir())
    scorer = Predictor.load(reference.bundle(), ScoringConfig(guard=False, shap=False))
    disk = Layout("disk, a file a slice", list(map(str, series)), lambda: (0, 0), 1)
    measure(disk, scorer)  # warm
    rows = [measure(disk, scorer)]
    with S3Server() as server:
        for layout in in_buckets(server, series):
            row = measure(layout, scorer)
            print(row, flush=True)
            rows += [row] if layout.name != WARM_UP else []
        latencies = list(waited(server, series, scorer))
    with in_orthanc(series) as layout:
        rows.append(measure(layout, scorer))
        print(rows[-1], flush=True)
    rows += latencies
    for key in ("index_requests", "index_mb", "scorer_requests", "scorer_mb"):
        rows[0][key] = None  # nobody counts on a disk
    command = "python benchmarks/archive_requests.py --work W"
    text = f"""# What index and scorer ask of an archive

`{command}`.
A study is one series of 300 slices of 512 x 512, uncompressed, 158 MB; mean of two, of which one needs further looks. A
loopback S3 server and a proxy before Orthanc count requests (listings included) and bytes. CPU is of the process that
indexes or scores, decoding and model included, SHAP left out. Buckets are read by obstore; the row that says so by s3fs
alone, as all were until obstore came ([why](../decisions/object-stores.md)).

{results_page.table(rows, "layouts")}
Seconds that a study takes one scorer where each answer of a bucket comes after so long, in batches of {BATCH}: slices
that are sure to be looked at are read side by side, those of the next study while one is worked on. The policy's own
looks come one after the other, since each depends on the one before.

{results_page.table(rows, "latency")}"""
    results_page.write(a.out, command, None, rows, [], text)


if __name__ == "__main__":
    main()
