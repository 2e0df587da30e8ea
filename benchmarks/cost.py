"""What 10^6 and 10^7 studies cost, the index included, from recorded measurements.

    python benchmarks/cost.py --core-hour 0.04 --get 0.0004 --put 0.005

Nothing is measured here: CPU, requests and bytes of a study are those of docs/results (`PIECES` names file and figure).
Prices are the reader's: of a core-hour, of 1,000 reads, of 1,000 writes or listings. Writes docs/results/cost.json and
.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import results_page

SLICES = 300
NODES, CORES = 100, 16
NODE_MB_S = 125.0
"""One Gbit/s a node."""
LATENCY_S = 0.03
TOGETHER = 128
"""Headers of loose files that an index task asks for at once; members of a zip or tar come one after the other."""
PREFIX_GETS_S = 5500.0
"""Reads a second that S3 states for one prefix."""
RAY_MS = 7.0
"""Of a core, Ray's own share of a scored study: docs/results/screening-throughput.md."""
PACS_MB_S = 100.0
LOOSE, ZIPS, TARS, PACS = (
    "bucket, a file a slice",
    "bucket, a zip a study (stored)",
    "bucket, a tar a study",
    "DICOMweb (Orthanc)",
)
SHORT = {LOOSE: "files", ZIPS: "zips", TARS: "tars", PACS: "DICOMweb"}
CODECS = {"uncompressed": "explicit_le", "JPEG-LS": "jpeg_ls", "JPEG 2000": "j2k"}


def recorded(name: str) -> list[dict[str, Any]]:
    """Rows of a page of results."""
    return json.loads((results_page.RESULTS / f"{name}.json").read_text())["rows"]


@dataclass(frozen=True)
class Study:
    """A study of 300 slices in a layout: what it takes once, in the index, and each time that it is scored."""

    layout: str
    codec: str
    index_requests: float
    index_mb: float
    index_s: float
    requests: float
    mb: float
    score_s: float
    writes: float


PIECES = (
    ("CPU of scoring", "screening-breakdown.json", "total of each codec, explanations included"),
    ("bytes read", "screening-breakdown.json", "mb read"),
    ("requests of index and scorer, CPU of their client", "archive-requests.json", "each layout"),
    ("the index's own files", "index_scale.json", "planned store calls a 1000 at 10^6 studies"),
    ("exchange and assembly of the index", "index-speed.json", "end to end less header parser and row"),
    ("the run's own files", "scaling.json", "store calls a row"),
    ("Ray's share of scoring", "screening-throughput.md", "7 ms"),
)


def study_of(layout: str, codec: str) -> Study:
    """From the recorded measurements."""
    layouts = {r["layout"]: r for r in recorded("archive-requests") if r["table"] == "layouts"}
    breakdown = recorded("screening-breakdown")
    total_ms = next(r for r in breakdown if r["table"] == "stages" and r["stage"] == "total")[CODECS[codec]]
    read = {r["codec"].replace("-", "_"): r["mb_read"] for r in breakdown if r["table"] == "read"}
    speed = {r["reader"]: r["instances_s"] for r in recorded("index-speed") if r["table"] == "latest"}
    assembly_s = SLICES * (1 / speed["end to end"] - 1 / speed["header parser and row"])
    planned = json.loads((results_page.RESULTS / "index_scale.json").read_text())["planned"]
    index_files = max(p["store_calls"] / p["studies"] for p in planned)
    calls = min(r["calls_a_row"] for r in recorded("scaling") if r["table"] == "scaling")
    disk, here = layouts["disk, a file a slice"], layouts[layout]
    client_s = max(0.0, here["scorer_cpu_ms"] - disk["scorer_cpu_ms"]) / 1e3
    raw_mb = layouts[LOOSE]["scorer_mb"]
    return Study(
        layout=layout,
        codec=codec,
        index_requests=here["index_requests"],
        index_mb=here["index_mb"],
        index_s=here["index_cpu_ms"] / 1e3 + assembly_s,
        requests=here["scorer_requests"],
        mb=here["scorer_mb"] * read[CODECS[codec]] / raw_mb,
        score_s=(total_ms + RAY_MS) / 1e3 + client_s,
        writes=index_files + calls,
    )


def archive(n: int, s: Study, a: argparse.Namespace) -> dict[str, Any]:
    """What `n` such studies take."""
    cores = NODES * CORES
    reads = n * (s.index_requests + s.requests)
    mb = n * (s.index_mb + s.mb)
    core_hours = n * (s.index_s + s.score_s) / 3600
    at_once = cores * (TOGETHER if s.layout == LOOSE else 1)
    waiting = n * (s.index_requests / at_once + s.requests / cores) * LATENCY_S / 3600
    moving = mb / (PACS_MB_S if s.layout == PACS else NODES * NODE_MB_S) / 3600
    return {
        "table": "archives",
        "studies": f"10^{len(str(n)) - 1}",
        "layout": SHORT[s.layout],
        "codec": s.codec,
        "m_reads": round(reads / 1e6),
        "tb": round(mb / 1e6, 1),
        "index_h": round(n * s.index_s / 3600),
        "score_h": round(n * s.score_s / 3600),
        "cores": round(core_hours * a.core_hour),
        "requests": round((reads * a.get + n * s.writes * a.put) / 1000) if s.layout != PACS else None,
        "cpu": round(core_hours / cores, 2),
        "moving": round(moving, 2),
        "waiting": round(waiting, 2),
        "prefix": round(reads / PREFIX_GETS_S / 3600, 1) if s.layout != PACS else None,
    }


def main() -> None:
    """Compute and write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--core-hour", type=float, default=0.04)
    p.add_argument("--get", type=float, default=0.0004, help="of 1,000 reads")
    p.add_argument("--put", type=float, default=0.005, help="of 1,000 writes or listings")
    p.add_argument("--out", type=Path, default=results_page.RESULTS / "cost.json")
    a = p.parse_args()
    kinds = [(layout, c) for layout in (LOOSE, ZIPS, TARS, PACS) for c in ("uncompressed", "JPEG 2000")]
    studies = {(layout, c): study_of(layout, c) for layout, c in kinds}
    rows: list[dict[str, Any]] = [
        {
            "table": "study",
            "layout": SHORT[s.layout],
            "codec": s.codec,
            "index_reads": round(s.index_requests),
            "index_mb": round(s.index_mb, 1),
            "index_cpu_s": round(s.index_s, 2),
            "scorer_reads": round(s.requests),
            "scorer_mb": round(s.mb, 1),
            "scorer_cpu_s": round(s.score_s, 2),
            "own_files": round(s.writes, 2),
        }
        for s in studies.values()
    ]
    rows += [archive(n, s, a) for n in (10**6, 10**7) for s in studies.values()]
    rows += [{"table": "pieces", "piece": w, "file": f, "figure": g} for w, f, g in PIECES]
    raw, j2k = studies[LOOSE, "uncompressed"], studies[LOOSE, "JPEG 2000"]
    million = {c: archive(10**6, s, a) for c, s in (("raw", raw), ("j2k", j2k))}
    bars = [
        results_page.bar("CPU s of scoring, uncompressed", round(raw.score_s, 2)),
        results_page.bar("CPU s of scoring, JPEG 2000", round(j2k.score_s, 2)),
        results_page.bar("CPU s of the index, loose files", round(raw.index_s, 2)),
        results_page.bar("core-hours per million, uncompressed", round(10**6 * (raw.index_s + raw.score_s) / 3600)),
        results_page.bar("core-hours per million, JPEG 2000", round(10**6 * (j2k.index_s + j2k.score_s) / 3600)),
        results_page.bar("reads a study, loose files", round(raw.index_requests + raw.requests)),
        results_page.bar("cost of cores per million, uncompressed", million["raw"]["cores"]),
        results_page.bar("cost of requests per million, uncompressed", million["raw"]["requests"]),
    ]
    command = f"python benchmarks/cost.py --core-hour {a.core_hour:g} --get {a.get:g} --put {a.put:g}"
    text = f"""# What 10^6 and 10^7 studies cost

`{command}`.
Computed from measurements that are recorded beside this page; **nothing was run on more than one machine**. A study is
one series of {SLICES} slices of 512 x 512. What one takes, once in the index and each time that it is scored:

{results_page.table(rows, "study")}
Own files: reads, writes and listings of index and run folder. CPU of the index is mostly the S3 client's,
and a tar's that of moving 256 KiB a header.

An archive of them, at example prices of {a.core_hour:g} a core-hour, {a.get:g} a 1,000 reads, {a.put:g} a 1,000 writes
or listings, on {NODES} nodes of {CORES} cores with 1 Gbit/s each, a store that answers after {1000 * LATENCY_S:.0f} ms,
a PACS of {PACS_MB_S:.0f} MB/s. Reads in millions, TB moved, core-hours of index and
scoring, what cores and requests cost, then hours by CPU, moving, waiting: the largest is what it takes. `prefix`: hours
where a bucket's keys all begin alike ({PREFIX_GETS_S:,.0f} reads a second).

{results_page.table(rows, "archives")}
Where each piece comes from:

{results_page.table(rows, "pieces")}"""
    results_page.write(a.out, command, None, rows, bars, text)


if __name__ == "__main__":
    main()
