"""What it costs to start a run again that has scored a million series: seconds and memory.

    python benchmarks/resume.py --rows 1000000 --bundle run/bundle

Makes a catalogue and the finished shards of a run over it (rows as a scorer writes them, nothing decoded), then starts
the run again in fresh processes: with everything done, and with the rows of one shard missing (what a killed run
leaves), up to the moment at which scoring would begin.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray.catalogue.schema import CATALOGUE
from osteo_ray.io.store import Store
from osteo_ray.patients import RecordTable
from osteo_ray.patients.record_set import records_of
from osteo_ray.screening import ledger
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.pipeline import screen
from osteo_ray.screening.schema import RESULTS
from osteo_ray.screening.shards import Counts, digest_of

CFG = ScreenConfig()


def drawn_records(rows: int) -> RecordTable:
    """One dated record for every other patient."""
    n = rows // 2
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"patient_key": [f"p{2 * i:08d}" for i in range(n)], "alp_u_l": rng.uniform(40, 120, n)})
    frame["record_date"] = pd.Timestamp("2024-05-01")
    return RecordTable.of(frame)


def write_catalogue(path: Path, rows: int) -> None:
    with pq.ParquetWriter(path, CATALOGUE, compression="zstd") as w:
        for a in range(0, rows, 2048):
            i = range(a, min(a + 2048, rows))
            given = {
                "study_uid": [f"1.2.826.{k}" for k in i],
                "series_uid": [f"1.2.826.{k}.1" for k in i],
                "content_hash": [f"{k:032x}" for k in i],
                "patient_key": [f"p{k:08d}" for k in i],
                "instances": [[] for _ in i],
            }
            columns = [
                pa.array(given[f.name], f.type) if f.name in given else pa.nulls(len(i), f.type) for f in CATALOGUE
            ]
            w.write_table(pa.Table.from_arrays(columns, schema=CATALOGUE), row_group_size=256)


def write_shards(plan: ledger.Plan, out: Store) -> None:
    """Finished shards: 40 SHAP values, 8 picks and 12 checks a row, which is what a scored row weighs."""
    one = dict.fromkeys(RESULTS.names) | {
        "state": "SCORED",
        "code": "OK",
        "stage": "score",
        "attempt": 1,
        "risk_prob": 0.3,
    }
    shap = [{"feature": f"f{k}", "group": "labs", "value": 1.5 * k, "unit": "g/L", "shap": 0.01 * k} for k in range(40)]
    one["shap"] = shap
    one["selected"] = [
        {"sop_uid": f"1.2.3.{k}", "index": k, "z_mm": 3.0 * k, "weight": 0.1, "p_lumbar": 0.9} for k in range(8)
    ]
    one["gates"] = [{"gate": f"Q_{k}", "verdict": "pass", "value": "1", "threshold": "2"} for k in range(12)]
    rng, rows = np.random.default_rng(0), []
    for _ in range(CFG.pipeline.shard_rows):
        drawn = [
            e | {"value": float(v), "shap": float(x)} for e, (v, x) in zip(shap, rng.normal(size=(40, 2)), strict=True)
        ]
        rows.append(one | {"shap": drawn, "risk_prob": float(rng.uniform())})
    full = pa.Table.from_pylist(rows, schema=RESULTS)
    key = RESULTS.get_field_index("row_key")
    for s in plan.shards:
        keys = [k.decode() for k in plan.keys[s.start : s.stop].tolist()]
        t = full.slice(0, len(keys)).set_column(key, RESULTS.field(key), pa.array(keys))
        n = {"SCORED": len(keys)}
        counts = Counts(len(keys), n, {"OK": len(keys)}, n, digest_of(t.slice(0, 1)))
        out.put_table(replace(s, revision=1).file, t.replace_schema_metadata(counts.footer()))


def measured(what: str, work: Path, rows: int, bundle: str) -> None:
    """In a fresh process: do `what`, print seconds and peak memory as JSON."""
    table = drawn_records(rows)
    out, catalogue = Store(work / "out"), str(work / "catalogue.parquet")
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    t, cpu = time.perf_counter(), time.process_time()
    if what == "plan":
        plan = ledger.make_plan(catalogue, records_of(table), bundle, out, CFG)
        plan = ledger.settle(plan, out)
        scored = len(plan.pending)
    else:
        scored = screen(catalogue, table, bundle, work / "out", CFG, quiet=True).scored_now
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, cpu_s = time.perf_counter() - t, time.process_time() - cpu
    print(json.dumps({"s": seconds, "cpu_s": cpu_s, "mb": peak, "mb_before": base, "to_score": scored}))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=int, default=1_000_000)
    p.add_argument("--bundle", required=True)
    p.add_argument("--work", help="folder to keep; default: a temporary one")
    p.add_argument("--measure", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.measure:
        measured(a.measure, Path(a.work), a.rows, a.bundle)
        return
    with tempfile.TemporaryDirectory() as tmp:
        work = Path(a.work or tmp)
        work.mkdir(exist_ok=True)
        write_catalogue(work / "catalogue.parquet", a.rows)
        out = Store(work / "out")
        people = records_of(drawn_records(a.rows))
        plan = ledger.make_plan(str(work / "catalogue.parquet"), people, a.bundle, out, CFG)
        write_shards(plan, out)
        shards = out.names("shards/")
        bytes_ = sum(f.stat().st_size for f in (work / "out" / "shards").iterdir())
        print(f"{len(plan)} rows in {len(shards)} shards, {bytes_ / 2**20:.0f} MB")

        def run(name: str, what: str) -> None:
            args = [sys.executable, __file__, "--measure", what, "--work", work, "--rows", a.rows, "--bundle", a.bundle]
            done = subprocess.run(list(map(str, args)), check=True, capture_output=True, text=True)
            m = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{name:40s} {m['s']:7.1f} s ({m['cpu_s']:.1f} s CPU)  peak {m['mb']:6.0f} MB "
                f"(imports and records {m['mb_before']:.0f})  to score {m['to_score']}",
                flush=True,
            )

        run("all done, results.parquet to be written", "screen")
        run("all done", "screen")
        out.remove([shards[len(shards) // 2]])
        run("one shard missing, until scoring starts", "plan")


if __name__ == "__main__":
    main()
