"""One screening for an hour at full load: does the memory of any process grow?

    python benchmarks/soak.py --work W --catalogues A/catalogue.parquet B/catalogue.parquet

The open series of the catalogues, one of each in turn, again and again under new UIDs, are one long archive, screened
by one run with `--actors` scorers, the bundle that ships and explanations on, until the time is over. This process
looks every 30 s at what each kind of process holds as its own (resident memory less shared pages) and how many rows are
done; the first five minutes are left out, and a line is laid through the rest. Its interval allows for samples that
resemble their neighbours (Newey-West, lags up to five minutes). Writes docs/results/soak.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import results_page
from chaos import done_rows

from osteo_ray import patients as records
from osteo_ray import ray_setup
from osteo_ray.config import validate
from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.store import Store
from osteo_ray.model import reference
from osteo_ray.screening.config import ScreenConfig

EVERY_S, WARM_UP_S, LAG_S = 30.0, 300.0, 300.0
SHOWN_S = 300.0
GROWTH, GROWTH_MB = 0.02, 5.0
"""Growth an hour that still counts as flat: of what a kind of process holds, and of one that holds little."""
KINDS = {
    "scorers": "osteo_ray.screening.scorer_process",
    "decoders": "osteo_ray.dicom.decode_guard",
    "actors": "ScoreBatch",
    "gcs": "gcs_server",
    "raylet": "raylet/raylet",
}
"""Words in the command line of one kind of process; the driver is known by its pid, the rest is Ray's."""
ALL = ("driver", *KINDS, "rest_of_ray")


def lengthened(catalogues: Sequence[Path], rows: int, to: Path) -> None:
    """One catalogue of `rows` series: the open ones of all catalogues in turn, again and again."""
    tables = [open_set(c).read() for c in catalogues]
    opened = [[r for r in t.to_pylist() if r["state"] is None] for t in tables]
    schema = tables[0].schema
    with pq.ParquetWriter(to, schema, compression="zstd") as w:
        for start in range(0, rows, 64):
            part = []
            for i in range(start, min(start + 64, rows)):
                of = opened[i % len(opened)]
                row = of[i // len(opened) % len(of)]
                part.append(row | {"series_uid": f"{row['series_uid']}.{i}"})
            w.write_table(pa.Table.from_pylist(part, schema=schema))


def drive(catalogue: str, table: str | None, out: str, actors: int) -> None:
    """The run, in a process of its own."""
    from osteo_ray.screening.pipeline import screen

    ray_setup.start()
    cfg = validate(ScreenConfig, {"pipeline": {"actors": actors}})
    screen(catalogue, records.load(table) if table else None, reference.bundle(), out, cfg, quiet=True)


def sample(driver: psutil.Process) -> dict[str, tuple[int, float]]:
    """Number and private memory (MB) of each kind of process."""
    found = {k: (0, 0.0) for k in ALL}
    for p in [driver, *driver.children(recursive=True)]:
        with suppress(psutil.Error):
            memory, text = p.memory_info(), " ".join(p.cmdline())
            kind = next((k for k, word in KINDS.items() if word in text), "rest_of_ray")
            kind = "driver" if p.pid == driver.pid else kind
            n, mb = found[kind]
            found[kind] = n + 1, mb + (memory.rss - memory.shared) / 2**20
    return found


def slope(hours: np.ndarray, mb: np.ndarray) -> tuple[float, float, float]:
    """MB an hour and its 95 % interval: least squares, Newey-West variance (weights that fall to 0 at LAG_S)."""
    x = np.column_stack([np.ones(len(hours)), hours - hours.mean()])
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ mb
    score = x * (mb - x @ beta)[:, None]
    lags = int(LAG_S / EVERY_S)
    middle = score.T @ score
    for k in range(1, lags + 1):
        g = score[k:].T @ score[:-k]
        middle += (1 - k / (lags + 1)) * (g + g.T)
    half = 1.96 * float(np.sqrt((inverse @ middle @ inverse)[1, 1]))
    return float(beta[1]), float(beta[1]) - half, float(beta[1]) + half


def watch(driver: subprocess.Popen, out: str, limit_s: float) -> list[dict[str, Any]]:
    """Samples until the time is over.

    Raises:
        RuntimeError: the driver ended before.
    """
    curve: list[dict[str, Any]] = []
    process, begun = psutil.Process(driver.pid), time.monotonic()
    while time.monotonic() + EVERY_S <= begun + limit_s:
        time.sleep(EVERY_S - (time.monotonic() - begun) % EVERY_S)
        if driver.poll() is not None:
            raise RuntimeError(f"the driver ended by itself, exit code {driver.returncode}")
        found = sample(process)
        held = {k: round(mb, 1) for k, (_, mb) in found.items()}
        curve.append({"minutes": round((time.monotonic() - begun) / 60, 1), "rows_done": done_rows(out), **held})
        curve[-1]["load"] = round(os.getloadavg()[0], 1)
        print(json.dumps(curve[-1] | {"processes": {k: n for k, (n, _) in found.items()}}), flush=True)
    return curve


def written(out: str) -> tuple[Counter[str], int]:
    """Rows that lie in a run's folder: how many of each state, and how many are there twice."""
    store, states, double = Store(out), Counter[str](), 0
    seen: set[str] = set()
    for folder in ("shards/", "parts/"):
        keys: list[str] = []
        for name in store.names(folder):
            with store.parquet(name) as f:
                found = f.read(columns=["row_key", "state"]).to_pydict()
            keys += found["row_key"]
            # Parts of a shard that was just written may not be removed yet.
            states.update(s for k, s in zip(found["row_key"], found["state"], strict=True) if k not in seen)
        double += len(keys) - len(set(keys))
        seen |= set(keys)
    return states, double


def publish(a: argparse.Namespace, curve: list[dict[str, Any]], states: Counter[str], double: int) -> None:
    """Lines through the samples; JSON and page."""
    kept = [s for s in curve if s["minutes"] * 60 > WARM_UP_S]
    hours = np.array([s["minutes"] / 60 for s in kept])
    rows, bars = [], []
    for kind in ALL:
        mb = np.array([s[kind] for s in kept])
        per_hour, low, high = slope(hours, mb)
        limit = max(GROWTH_MB, GROWTH * float(mb.mean()))
        flat = high <= limit
        row = {"table": "growth", "processes": kind.replace("_", " "), "mb": round(float(mb.mean()), 1)}
        row |= {"highest": round(float(mb.max()), 1), "mb_an_hour": round(per_hour, 2)}
        rows.append(row | {"low": round(low, 2), "high": round(high, 2), "flat": "yes" if flat else "no"})
        name, aim = f"{kind.replace('_', ' ')}, MB an hour", f"interval ends below {limit:.1f}"
        bars.append(results_page.bar(name, round(per_hour, 2), round(low, 2), round(high, 2), aim, flat))
    shown = range(0, len(curve), round(SHOWN_S / EVERY_S))
    rows += [{"table": "curve", **curve[i]} for i in shown]
    minutes, n = curve[-1]["minutes"], sum(states.values())
    bars += [
        results_page.bar("minutes", minutes, target=">= 60", met=minutes >= 60),
        results_page.bar("series", n),
        results_page.bar("series scored twice", double, target=0, met=not double),
    ]
    ends = ", ".join(f"{k} {v:,}" for k, v in sorted(states.items()))
    text = f"""# An hour of screening: memory

`{a.command}`.
One run, stopped after {minutes:.0f} minutes and {n:,} series ({ends}), {double} of them twice; {a.actors} scorer at
full load, the bundle that ships, explanations on. {a.about}

MB: each kind of process's own memory (resident less shared pages), sampled every 30 s. Growth: a line through the
samples after the first five minutes, with its 95 % interval; flat where that ends below {100 * GROWTH:.0f} % of what
the processes hold an hour, or {GROWTH_MB:.0f} MB.

{results_page.table(rows, "growth")}
Every five minutes; load is that of the machine, which had other work.

{results_page.table(rows, "curve")}"""
    results_page.write(a.out, a.command, None, rows, bars, text)


def main() -> None:
    """Run, watch, write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="folder for catalogue and results; the run is removed")
    p.add_argument("--catalogues", type=Path, nargs="+", required=True)
    p.add_argument("--records", help="of the catalogues' patients")
    p.add_argument("--rows", type=int, default=20_000, help="more than can be done in the time")
    p.add_argument("--minutes", type=float, default=62.0)
    p.add_argument("--actors", type=int, default=1)
    p.add_argument("--about", default="", help="a sentence for the page: what the archive holds")
    p.add_argument("--out", type=Path, default=results_page.RESULTS / "soak.json")
    p.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    catalogue, out = a.work / "catalogue.parquet", a.work / "run"
    if a.drive:
        drive(str(catalogue), a.records, str(out), a.actors)
        return
    a.command = f"python benchmarks/soak.py --work W --catalogues ... --minutes {a.minutes:g} --actors {a.actors}"
    a.work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    lengthened(a.catalogues, a.rows, catalogue)
    command = [sys.executable, __file__, *sys.argv[1:], "--drive"]
    print(shlex.join(command), flush=True)
    # Ray puts its workers behind other processes (nice 15); beside other work they would wait.
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    driver = subprocess.Popen(command, env=env)
    try:
        curve = watch(driver, str(out), 60 * a.minutes)
    finally:
        driver.terminate()
        try:
            driver.wait(60)
        except subprocess.TimeoutExpired:
            driver.kill()
    publish(a, curve, *written(str(out)))
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
