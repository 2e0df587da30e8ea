"""Worklist and report over 10^5 to 3 x 10^6 results: seconds and peak memory.

    python benchmarks/report_scale.py      # docs/results/report_scale.{json,md}

Synthetic results, one series a patient, each with six slices, its checks and an explanation, in row groups of 2,000 as
screening writes them. Each size in a fresh process; memory is the peak above what imports take. Beside it what reading
the whole table takes, which is what listing and report once did.
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
import pyarrow as pa
import pyarrow.parquet as pq
from records_scale import peak_mb

from osteo_ray.outcomes import State
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.schema import RESULTS

GROUP = 2_000
OUT = Path(__file__).resolve().parent.parent / "docs" / "results" / "report_scale"


def results_of(start: int, rng: np.random.Generator) -> pa.Table:
    """A row group of results."""
    rows = []
    for i in range(start, start + GROUP):
        risk = float(rng.beta(1.2, 6))
        row = dict.fromkeys(RESULTS.names) | {
            "row_key": f"{i:032x}", "run_id": "run-1", "study_uid": f"1.2.826.0.1.3680043.10.{i}",
            "series_uid": f"1.2.826.0.1.3680043.10.{i}.1", "patient_key": f"{(i * 7919) % 2**61:016x}",
            "study_date": "20240131", "state": str(State.SCORED), "code": "OK", "stage": "score", "attempt": 1,
            "risk_prob": risk, "risk_low": risk * 0.7, "risk_high": min(1.0, risk * 1.3),
            "risk_class": "high" if risk > 0.3 else "low", "threshold": 0.3, "operating_point": "screening",
            "modalities": ["demographics", "labs", "ct"], "slices_total": 300, "slices_decoded": 20,
            "bytes_read": 10_500_000, "kvp": 120.0, "contrast": "none", "trabecular_hu": float(rng.normal(130, 40)),
            "age_y": 70.0, "sex": "F", "model_name": "bench", "model_version": "1", "model_sha256": "0" * 64,
            "select_s": 0.05, "score_s": 0.02,
        }  # fmt: skip
        row["selected"] = [{"sop_uid": f"{row['series_uid']}.{k}", "index": k, "z_mm": 3.0 * k} for k in range(6)]
        row["shap"] = [{"feature": n, "group": "labs", "value": 1.0, "unit": "g/L", "shap": 0.1} for n in NAMES]
        row["gates"] = [{"gate": f"Q_{k:02d}", "verdict": "pass", "value": "12", "limit": "<= 20"} for k in range(24)]
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=RESULTS)


def write_run(folder: Path, n: int) -> None:
    """A finished run's folder of n results."""
    rng = np.random.default_rng(0)
    parts = [results_of(a, rng) for a in range(0, 20 * GROUP, GROUP)]
    with pq.ParquetWriter(folder / "results.parquet", RESULTS, compression="zstd") as writer:
        for i in range(-(-n // GROUP)):  # the nested columns repeat; keys and risks are each row's own
            numbers = np.arange(i * GROUP, (i + 1) * GROUP)
            table = parts[i % len(parts)]
            for name, values in {
                "row_key": [f"{k:032x}" for k in numbers],
                "patient_key": [f"{(k * 7919) % 2**61:016x}" for k in numbers.tolist()],
                "series_uid": [f"1.2.826.0.1.3680043.10.{k}.1" for k in numbers],
                "risk_prob": rng.beta(1.2, 6, GROUP),
            }.items():
                at = RESULTS.get_field_index(name)
                table = table.set_column(at, RESULTS.field(at), pa.array(values, RESULTS.field(at).type))
            writer.write_table(table, row_group_size=GROUP)
    pq.write_table(pa.table({"study_uid": pa.array([], pa.string()), "series_uid": pa.array([], pa.string()),
                             "state": pa.array([], pa.string())}), folder / "catalogue.parquet")  # fmt: skip
    summary = {"run_id": "run-1", "series": n, "reused": 0, "seconds": 3600.0}
    (folder / "summary.json").write_text(json.dumps(summary))


def measured(what: str, folder: Path) -> dict[str, float]:
    """In a fresh process: seconds and peak memory of one step."""
    from osteo_ray.reports.run import write_report
    from osteo_ray.reports.worklist import write_worklist
    from osteo_ray.screening.config import PatientConfig
    from osteo_ray.screening.patients import write_patients

    file = folder / "results.parquet"
    base, t = peak_mb(), time.perf_counter()
    if what == "whole table":
        pq.read_table(file)
    elif what == "patients":
        write_patients(file, None, folder / "patients.parquet", PatientConfig())
    elif what == "worklist":
        write_worklist(folder / "worklist.csv", file, 25, folder / "patients.parquet")
    else:
        write_report(folder, folder / "catalogue.parquet", 10)
    return {"seconds": round(time.perf_counter() - t, 1), "mb": round(peak_mb() - base)}


STEPS = ("patients", "worklist", "report", "whole table")


def main() -> None:
    """Measure and write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 3_000_000])
    p.add_argument("--step", help="measure one step in this process")
    p.add_argument("--folder", type=Path)
    a = p.parse_args()
    if a.step:
        print(json.dumps(measured(a.step, a.folder)))
        return
    rows = []
    for n in a.sizes:
        with tempfile.TemporaryDirectory() as tmp:
            write_run(Path(tmp), n)
            for step in STEPS if n <= 1_000_000 else STEPS[:-1]:  # 14 GB of memory at three millions
                one = [sys.executable, __file__, "--step", step, "--folder", tmp]
                done = subprocess.run(one, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr)
                rows.append({"table": "steps", "rows": n, "step": step} | json.loads(done.stdout.splitlines()[-1]))
                print(rows[-1], flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = "python benchmarks/report_scale.py --sizes " + " ".join(map(str, a.sizes))
    found = {"command": command, "commit": commit, "seed": 0, "rows": rows, "bars": []}
    OUT.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    lines = "".join(f"| {r['rows']:,} | {r['step']} | {r['seconds']} | {r['mb']:,} |\n" for r in rows)
    OUT.with_suffix(".md").write_text(
        "# Worklist and report of 10^5 to 3 x 10^6 results\n\n"
        "Synthetic results, one a patient. Each step in a process of its own; peak\n"
        "memory above what imports take.\n\n"
        f"<!-- rows: steps -->\n\n| rows | step | seconds | MB |\n|---|---|---|---|\n{lines}\n"
        "- `whole table` is what reading every column takes: worklist and report sort and count in a database that\n"
        "  keeps what doesn't fit into its share of memory on disk, and read whole rows of the studies shown only.\n"
    )


if __name__ == "__main__":
    main()
