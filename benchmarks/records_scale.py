"""Records of 10^5 to 10^7 rows beside CTs: how fast they are partitioned and joined, and what driver and node hold.

    python benchmarks/records_scale.py --sizes 100000 1000000 10000000     # docs/results/records_scale.{json,md}

Synthetic records (two a patient, all labs) go through `partition_records` (Ray Data). Then, each in a fresh process:
the driver's share (a digest for each of 20,000 CTs), and a reading task's (the join of shards of 2,000 CTs, as the
screening pipeline reads them, with the bytes of the row groups read). Beside it the memory of the whole table in one
process, which is what a broadcast costs every node.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from archive_scale import peaks

from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.record_set import open_record_set, partition_of, partitions_for, to_arrow, values_at_ct
from osteo_ray.patients.schema import LABS

CTS, SHARD, CHUNK = 20_000, 2_000, 250_000


def keys_of(patients: np.ndarray) -> list[str]:
    """Keys that look like pseudonyms: 16 hex characters in no order."""
    mixed = (patients.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return [f"{v:016x}" for v in mixed.tolist()]


def write_sources(folder: Path, rows: int) -> list[str]:
    """Parquet files in the schema's columns; rows 2i and 2i + 1 are of one patient."""
    files = []
    for a in range(0, rows, CHUNK):
        n, rng = min(CHUNK, rows - a), np.random.default_rng(a)
        frame = pd.DataFrame({lab: rng.normal(70, 9, n).round(1) for lab in LABS})
        frame["patient_key"] = keys_of(np.arange(a, a + n) // 2)
        frame["record_date"] = np.datetime64("2023-12-01", "s") + rng.integers(0, 90, n).astype("timedelta64[D]")
        frame["age_y"], frame["sex_male"] = 60.0, (np.arange(a, a + n) // 2 % 2).astype(float)
        files.append(str(folder / f"records-{a:09d}.parquet"))
        pq.write_table(to_arrow(frame), files[-1], compression="zstd")
    return files


def peak_mb() -> float:
    """Peak of resident memory since this program began; `ru_maxrss` starts at what its parent held."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measured(what: str, work: Path, rows: int) -> dict[str, float]:
    """In a fresh process: seconds, CPU seconds and peak memory of one share of the work."""
    cts = keys_of(np.random.default_rng(7).integers(0, rows // 2, CTS))
    base, t, cpu = peak_mb(), time.perf_counter(), time.process_time()
    more: dict[str, float] = {}
    if what == "steps":
        more = steps(work, partitions_for(rows))
    elif what == "partition":
        from osteo_ray.patients.partition import partition_records

        files = sorted(map(str, (work / "sources").glob("*.parquet")))
        with peaks() as peak:
            record_set = partition_records(files, str(work / "set"), partitions_for(rows))
        more = {"partitions": record_set.partitions, "patients": record_set.patients, **peak}
    elif what == "driver":
        found = open_record_set(str(work / "set")).digests(cts)
        more = {"met": int((found != 0).sum())}
    elif what == "task":
        records, read = open_record_set(str(work / "set")), 0
        for a in range(0, CTS, SHARD):
            part = cts[a : a + SHARD]
            values = values_at_ct(records, part, ["20240301"] * len(part), TimelineConfig())
            read += int(np.isfinite(values).any(1).sum())
        more = {"met": read, "read_mb": bytes_of(records, cts[:SHARD]) / 2**20, "shard": SHARD}
    else:
        pa.concat_tables([pq.read_table(f) for f in sorted((work / "sources").glob("*.parquet"))]).to_pandas()
    return {"s": time.perf_counter() - t, "cpu_s": time.process_time() - cpu, "mb": peak_mb() - base, **more}


def steps(work: Path, n: int) -> dict[str, float]:
    """`partition_records` without Ray: its two steps, a block and a partition at a time, in this process."""
    from osteo_ray.io.store import Store
    from osteo_ray.patients.partition import _Gather, _Split
    from osteo_ray.patients.record_set import write_facts

    split, gather, uri = _Split(str(work / "set"), n), _Gather(str(work / "set")), str(work / "set")
    files = sorted((work / "sources").glob("*.parquet"))
    rows = sum(split(pq.read_table(f))["rows"][0].as_py() for f in files)
    patients = sum(int(gather({"id": np.array([p])})["patients"][0]) for p in range(n))
    write_facts(Store(uri), n, rows, patients)
    return {"partitions": n, "patients": patients}


def bytes_of(records, keys: list[str]) -> int:
    """Compressed bytes of the row groups that a join of these patients reads."""
    wanted, total = np.unique(np.array(keys)), 0
    of = partition_of(wanted, records.partitions)
    for p in np.unique(of).tolist():
        meta = pq.read_metadata(f"{records.uri}/part-{p:05d}.parquet")
        groups = [meta.row_group(g) for g in range(meta.num_row_groups)]
        last = np.array([g.column(0).statistics.max for g in groups])
        for g in np.unique(np.searchsorted(last, wanted[of == p])).tolist():
            total += sum(groups[g].column(c).total_compressed_size for c in range(meta.num_columns))
    return total


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    p.add_argument("--out", default="docs/results")
    p.add_argument("--one-process", action="store_true", help="partition without Ray, one block after another")
    p.add_argument("--measure", help=argparse.SUPPRESS)
    p.add_argument("--work", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.measure:
        print(json.dumps(measured(a.measure, Path(a.work), a.sizes[0])))
        return
    rows = []
    for n in a.sizes:
        with tempfile.TemporaryDirectory() as tmp:
            work = Path(tmp)
            (work / "sources").mkdir()
            write_sources(work / "sources", n)
            row: dict[str, object] = {"records": n}
            for what in ("steps" if a.one_process else "partition", "driver", "task", "broadcast"):
                args = [sys.executable, __file__, "--measure", what, "--work", str(work), "--sizes", str(n)]
                done = subprocess.run(args, capture_output=True, text=True, check=True, start_new_session=True)
                row["partition" if what == "steps" else what] = json.loads(done.stdout.strip().splitlines()[-1])
            row["set_mb"] = sum(f.stat().st_size for f in (work / "set").glob("part-*")) / 2**20
        rows.append(row)
        print(json.dumps(row), flush=True)
        write(Path(a.out), rows, " --one-process" if a.one_process else "")


def write(out: Path, rows: list, how: str) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    sizes = " ".join(str(r["records"]) for r in rows)
    command = f"python benchmarks/records_scale.py --sizes {sizes}{how}"
    text = {"command": command, "commit": commit, "seed": 7, "rows": rows, "bars": []}
    (out / "records_scale.json").write_text(json.dumps(text, indent=1) + "\n")
    lines = [
        "# Records of any size beside CTs",
        "",
        f"`{command}`.",
        "Two cores shared with other work: seconds of CPU say more than",
        "seconds. Memory is what a process holds beyond its start. A task joins shards of 2,000 CTs in turn.",
        "Driver: digests of 20,000 CTs. Shard: MB read for one shard. Table: MB of the whole table in one process.",
        "Writing: seconds, and peaks of private memory of the driver and its largest worker.",
        "",
        "| records | parts | s | driver, MB | worker, MB | disk, MB | driver, CPU s | MB | CTs/CPU s "
        "| MB | shard | table |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        k, d, j, b = (r[x] for x in ("partition", "driver", "task", "broadcast"))
        lines.append(
            f"| {r['records']:,} | {k['partitions']} | {k['s']:.0f} | {k.get('driver_mb', np.nan):.0f} "
            f"| {k.get('worker_mb', np.nan):.0f} | {r['set_mb']:.0f} | {d['cpu_s']:.1f} "
            f"| {d['mb']:.0f} | {CTS / j['cpu_s']:,.0f} | {j['mb']:.0f} | {j['read_mb']:.1f} | {b['mb']:,.0f} |"
        )
    lines += [
        "",
        "**Bytes a node.** A node that scores its share of N CTs over k nodes reads N / 2000 / k shards, each the",
        "bytes of the last column but one; a task holds one shard's rows at a time. Nothing is broadcast: what a node",
        "reads falls with the number of nodes, where the whole table (last column) would lie on every node.",
    ]
    (out / "records_scale.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
