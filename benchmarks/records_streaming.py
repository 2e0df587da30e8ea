"""Memory and rate of reading long tables and FHIR exports piece by piece.

    python benchmarks/records_streaming.py

Each source is read in a process of its own (`osteo_ray.patients.source.read`), whose frames are counted and dropped.
Writes docs/results/records-streaming.json and .md.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[1] / "docs" / "results"
SEED = 0
TESTS = (
    ("14682-9", "umol/L", 75, 15), ("1742-6", "IU/L", 25, 8), ("1920-8", "IU/L", 25, 8), ("6768-6", "U/L", 80, 20),
    ("718-7", "g/dL", 13.5, 1.2), ("2000-8", "mmol/L", 2.3, 0.1), ("14749-6", "mmol/L", 6, 1),
    ("2951-2", "mmol/L", 140, 3), ("6690-2", "K/uL", 7, 1.5), ("777-3", "x10^9/L", 250, 50),
)  # fmt: skip
LONG = {"format": "long", "patient_id": "pid", "date": "at", "test": "test", "value": "result", "unit": "unit"}
ROWS_A_PATIENT = 100
SIZES = {"long": (10**5, 10**6, 10**7), "fhir": (10**5, 10**6)}


def rows(n: int):
    """(patient, time, code, value, unit) of n results, in order of time as an export has them, patients mixed."""
    rng = np.random.default_rng(SEED)
    people = max(1, n // ROWS_A_PATIENT)
    for start in range(0, n, 100_000):
        k = min(100_000, n - start)
        patients, tests = rng.integers(0, people, k).tolist(), rng.integers(0, len(TESTS), k).tolist()
        day, noise = rng.integers(0, 365, k), rng.normal(size=k).tolist()
        at = (np.datetime64("2023-01-01") + day).astype(str).tolist()
        for p, t, d, z in zip(patients, tests, at, noise, strict=True):
            code, unit, mean, sd = TESTS[t]
            yield p, d, code, round(max(mean / 4, mean + sd * z), 2), unit


def write_long(path: Path, n: int) -> None:
    with open(path, "w") as f:
        f.write("pid,at,test,result,unit\n")
        f.writelines(f"P{p:08d},{d}T08:00,{c},{v},{u}\n" for p, d, c, v, u in rows(n))


def write_fhir(path: Path, n: int) -> None:
    people = max(1, n // ROWS_A_PATIENT)
    with open(path, "w") as f:
        for p, d, c, v, u in rows(n):
            code = f'{{"coding":[{{"system":"http://loinc.org","code":"{c}"}}]}}'
            f.write(
                f'{{"resourceType":"Observation","status":"final","code":{code},"subject":{{"reference":"Patient/{p}"}},'
                f'"effectiveDateTime":"{d}T08:00:00Z","valueQuantity":{{"value":{v},"unit":"{u}"}}}}\n'
            )
        for p in range(people):
            mr = f'{{"type":{{"coding":[{{"code":"MR"}}]}},"value":"P{p:08d}"}}'
            f.write(
                f'{{"resourceType":"Patient","id":"{p}","gender":"female","birthDate":"1955-03-01","identifier":[{mr}]}}\n'
            )


def read_one(kind: str, path: str) -> None:
    """In a process of its own: what it took, as JSON on stdout."""
    from osteo_ray.patients.config import DEFAULT_IDENTITY
    from osteo_ray.patients.findings import Findings
    from osteo_ray.patients.mapping import Mapping
    from osteo_ray.patients.source import read

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu, found, records = time.perf_counter(), time.process_time(), Findings(), 0
    mapping = Mapping.model_validate(LONG) if kind == "long" else None
    for frame in read(path, mapping, "k", DEFAULT_IDENTITY, found):
        records += len(frame)
    found.check()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = {"records": records, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    print(json.dumps(done | {"peak_mb": peak / 1024, "imports_mb": before / 1024}))


def main(sizes: dict[str, tuple[int, ...]] = SIZES) -> None:
    out = []
    for kind, counts in sizes.items():
        for n in counts:
            with tempfile.TemporaryDirectory() as tmp:
                path = Path(tmp) / ("r.csv" if kind == "long" else "r.ndjson")
                (write_long if kind == "long" else write_fhir)(path, n)
                size = path.stat().st_size
                run = [sys.executable, __file__, "read", kind, str(path)]
                result = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
            row = {"source": kind, "rows": n, "file_mb": round(size / 2**20, 1), "records": result["records"]}
            row |= {
                "peak_mb": round(result["peak_mb"]),
                "above_imports_mb": round(result["peak_mb"] - result["imports_mb"]),
            }
            row |= {"cpu_s": round(result["cpu_s"], 1), "rows_per_cpu_s": round(n / result["cpu_s"])}
            out.append(row)
            print(row, flush=True)
            write(out)


def write(out: list[dict]) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    longest = max((r for r in out if r["source"] == "long"), key=lambda r: r["rows"], default=None)
    bars = []
    if longest:
        name, peak, target = f"peak memory reading {longest['rows']:,} long rows, MB", longest["peak_mb"], 1500
        bar = {"name": name, "value": peak, "low": None, "high": None, "target": target, "met": peak <= target}
        bars.append(bar)
    head = {"command": "python benchmarks/records_streaming.py", "commit": commit, "seed": SEED}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "records-streaming.json").write_text(json.dumps(head | {"rows": out, "bars": bars}, indent=1) + "\n")
    text = (
        f"`python benchmarks/records_streaming.py`: 10 tests, {ROWS_A_PATIENT} results a patient, patients mixed. Peak "
        "of the reading process, of which the imports are the same for all. Beyond 2 million observations they are "
        "kept on disk, in 64 partitions by patient, and gathered one partition at a time. CPU time on a machine "
        "shared with other work."
    )
    columns = ("source", "rows", "file_mb", "records", "peak_mb", "above_imports_mb", "cpu_s", "rows_per_cpu_s")
    names = ("source", "rows", "file, MB", "records", "peak, MB", "above imports, MB", "CPU, s", "rows per CPU second")
    lines = ["# Reading long tables and FHIR piece by piece", "", *textwrap.wrap(text, 118), ""]
    lines += [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for r in out:
        cells = [f"{r[c]:,}" if isinstance(r[c], int) else str(r[c]) for c in columns]
        lines.append(f"| {' | '.join(cells)} |")
    (OUT / "records-streaming.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        read_one(*sys.argv[2:4])
    else:
        main()
