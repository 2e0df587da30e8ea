"""Index against the size of the archive: store calls and time of an archive doubled again and again; memory.

    python benchmarks/archive_scale.py --studies 125 250 500 1000 2000 --plan 10000 100000 1000000

Archives are generated (generated_archive.py): 300 instances a study, headers as a scanner writes them, computed while
they are read; nothing of listing, header parsing, exchange and assembly is left out, but a store's own latency is. Each
size is indexed by a fresh driver with one worker, in two layouts: a folder a study, and all instances shuffled. Memory
of the driver and the worker is sampled from /proc. `--plan`: sizes that are planned without reading (what the driver
holds at that size: a record for every part, a piece for every row group of the exchange), with evenly spread hashes.

Writes docs/results/index_scale.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS.parent / "docs" / "results"
PART_ROWS = 2000


def resident(pid: int) -> float:
    """MB of private memory (shared pages, such as the object store's, left out); 0 where the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0.0
    return (int(fields[1]) - int(fields[2])) * 4096 / 2**20


def workers(session: int) -> dict[int, str]:
    """Ray workers below this driver's session: pid -> title."""
    out = {}
    for p in Path("/proc").iterdir():
        if p.name.isdigit():
            try:
                title = (p / "cmdline").read_bytes().split(b"\0")[0].decode("latin-1")
                if title.startswith("ray::") and os.getsid(int(p.name)) == session:
                    out[int(p.name)] = title
            except OSError:
                continue
    return out


@contextmanager
def peaks() -> Iterator[dict[str, float]]:
    """Peaks of private memory while it is open, MB: `driver_mb` of this process, `worker_mb` of its largest Ray worker.

    This process leads a session of its own; its Ray workers are found by that.
    """
    peak = {"driver_mb": 0.0, "worker_mb": 0.0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            peak["driver_mb"] = max(peak["driver_mb"], resident(os.getpid()))
            peak["worker_mb"] = max([peak["worker_mb"], *(resident(w) for w in workers(os.getsid(0)))])

    thread = threading.Thread(target=watch)
    thread.start()
    yield peak
    stop.set()
    thread.join()


def measure(archive: str, out: str) -> dict:
    import generated_archive

    from osteo_ray import ray_setup
    from osteo_ray.catalogue.build import build
    from osteo_ray.catalogue.config import IndexConfig

    generated_archive.register()
    import ray

    hook = {"worker_process_setup_hook": generated_archive.register, "env_vars": {"PYTHONPATH": _path()}}
    ray.init(
        address="local",
        num_cpus=1,
        runtime_env=hook,
        log_to_driver=False,
        include_dashboard=False,
        object_store_memory=256 << 20,
    )
    ray_setup.tune_data_context()
    stages: dict[str, float] = {}
    last = time.monotonic()

    def progress(stage: str, done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        stages[stage] = stages.get(stage, 0.0) + now - last
        last = now

    with peaks() as peak:
        s = build(archive, out, IndexConfig(num_cpus=1), progress)
    t = time.monotonic()
    again = build(archive, out, IndexConfig(num_cpus=1))
    return peak | {
        "instances": s.instances,
        "series": s.n_series,
        "open": s.n_open,
        "parts": s.parts,
        "store_calls": s.store_calls,
        "seconds": s.seconds,
        "stages_s": {k: round(v, 2) for k, v in stages.items()},
        "again_s": time.monotonic() - t,
        "unchanged": again.unchanged,
    }


def _path() -> str:
    return os.pathsep.join([str(BENCHMARKS.parent), str(BENCHMARKS)])


def plan(studies: int) -> dict:
    """Store calls and the driver's memory at a size that is not read: the plan of the exchange alone."""
    from osteo_ray.catalogue import exchange
    from osteo_ray.catalogue.config import IndexConfig
    from osteo_ray.catalogue.exchange import Piece
    from osteo_ray.catalogue.indexing import PartRecord, Run

    before = resident(os.getpid())
    rows = studies * 300
    cfg = IndexConfig()
    keys = [f"{i:032x}" for i in range(-(-rows // PART_ROWS))]
    records = [PartRecord(k, PART_ROWS, (Run(f"index/{k}.0000.headers.parquet", PART_ROWS, 1),), 0, 0) for k in keys]
    bits = exchange.partition_bits(rows, cfg.bucket_rows)
    nodes = {0: exchange.of_parts(records)}
    known = opens = 0
    levels = exchange.digits(bits)
    for digit in levels:
        tasks = list(exchange.merges(nodes, known, digit, "index/"))
        opens += sum(len(t.pieces) for t in tasks) + 2 * len(tasks)  # pieces; a look whether it is done; the file
        nodes = {}
        for t in tasks:
            total = sum(p.rows for p in t.pieces)
            for c in range(1 << digit):
                piece = Piece(t.name, c, total >> digit, 1)
                nodes.setdefault(t.prefix << digit | c, []).append(piece)
        known += digit
    opens += sum(len(p) for p in nodes.values()) + 5 * (1 << bits)  # its two files: looked for, written, read
    opens += 9 * len(records)  # listing, headers, record: looked for, written, read, removed
    return {
        "studies": studies,
        "instances": rows,
        "parts": len(records),
        "partitions": 1 << bits,
        "levels": len(levels),
        "store_calls": opens,
        "parts_x_partitions": len(records) << bits,
        "driver_mb": resident(os.getpid()) - before,
    }


def _child(*args: str) -> dict:
    env = os.environ | {"PYTHONPATH": _path(), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, __file__, *args]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, start_new_session=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def main(layouts: list[str], studies: list[int], planned: list[int]) -> None:
    rows = []
    for layout in layouts:
        for n in studies:
            with tempfile.TemporaryDirectory() as tmp:
                r = _child("--measure", f"ctgen://{layout}-{n}", str(Path(tmp) / "out"))
            assert r["unchanged"]
            assert r["open"] == n
            rows.append({"layout": layout, "studies": n} | r)
            print(json.dumps(rows[-1]), flush=True)
            write(rows, [])
    write(rows, [_child("--plan-one", str(n)) for n in planned])


def write(rows: list[dict], planned: list[dict]) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=BENCHMARKS, capture_output=True, text=True).stdout.strip()
    ratios = {}
    for layout in sorted({r["layout"] for r in rows}):
        calls = [r["store_calls"] / r["instances"] for r in rows if r["layout"] == layout]
        ratios[layout] = calls[-1] / calls[0]
    if planned:
        calls = [r["store_calls"] / r["instances"] for r in planned]
        ratios["planned"] = max(calls) / min(calls)
    bars = [
        {"name": f"store calls an instance, {k}: most / least", "value": round(v, 3), "low": None, "high": None}
        | {"target": 1.5, "met": v <= 1.5}
        for k, v in ratios.items()
    ]
    command = "python benchmarks/archive_scale.py"
    result = {"command": command, "commit": commit, "seed": 0, "rows": rows, "planned": planned}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "index_scale.json").write_text(json.dumps(result | {"bars": bars}, indent=1) + "\n")
    lines = [
        "# Index against the size of the archive",
        "",
        "`python benchmarks/archive_scale.py`: generated archives (headers computed while they are read; no disk",
        "or store latency of the archive), 300 instances a study, one worker, a machine of two cores shared with",
        "other work: times move by a factor of several between rows, store calls and memory do not. `store calls`:",
        "files of the index opened, written, looked for or removed, by all tasks and the driver. MB: peaks of private",
        "resident memory.",
        "",
    ]
    if rows:
        lines += [
            "| layout | studies | instances | store calls | a 1000 | seconds | instances/s | driver MB | "
            "worker MB | again, s |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
    else:
        lines += ["Not measured yet by reading; the plan alone:"]
    for r in rows:
        per = 1000 * r["store_calls"] / r["instances"]
        rate = r["instances"] / r["seconds"]
        lines.append(
            f"| {r['layout']} | {r['studies']:,} | {r['instances']:,} | {r['store_calls']:,} | {per:.1f} | "
            f"{r['seconds']:.1f} | {rate:,.0f} | {r['driver_mb']:.0f} | {r['worker_mb']:.0f} | {r['again_s']:.1f} |"
        )
    if planned:
        lines += [
            "",
            "Planned, not read: records of all parts and the pieces of the exchange for evenly spread studies, with",
            "the store calls that the plan comes to; MB is what the driver's plan holds beside its imports.",
            "",
            "| studies | instances | parts | partitions | levels | store calls | a 1000 | "
            "parts x partitions (before) | driver MB |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
    for r in planned:
        per = 1000 * r["store_calls"] / r["instances"]
        lines.append(
            f"| {r['studies']:,} | {r['instances']:,} | {r['parts']:,} | {r['partitions']:,} | {r['levels']} | "
            f"{r['store_calls']:,} | {per:.1f} | {r['parts_x_partitions']:,} | {r['driver_mb']:.0f} |"
        )
    (RESULTS / "index_scale.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3])))
    elif sys.argv[1:2] == ["--plan-one"]:
        print(json.dumps(plan(int(sys.argv[2]))))
    else:
        p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        p.add_argument("--layouts", nargs="*", default=["local", "shuffled"])
        p.add_argument("--studies", type=int, nargs="*", default=[125, 250, 500, 1000, 2000])
        p.add_argument("--plan", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
        a = p.parse_args()
        main(a.layouts, a.studies, a.plan)
