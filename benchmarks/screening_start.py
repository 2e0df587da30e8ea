"""Where the time goes between `screen` being called and its first part file, in two versions of the package by turns.

    python benchmarks/screening.py prepare --work W
    python benchmarks/screening_start.py --work W --before c68d6af --rounds 5 --whole 5

`--whole` rounds: a fresh process screens the same catalogue by the reference bundle on a Ray of its own, with one
scorer and no SHAP. Moments are wall time since that process was started. They depend on what else the machine does; CPU
seconds, of every process until the first part file, hardly do. `--rounds` rounds: a scorer's process alone, without
Ray, from its start until eight studies are scored, without and with SHAP. The version of before is taken from git.
Runs are kept in W/start-runs.jsonl, and a command that is given again does what is missing. Writes
docs/results/screening-start.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from results_page import RESULTS, ROOT, bar, table, write

STUDIES = 8  # one part: once it is there, nothing more is scored
BEFORE, AFTER = "before", "after"
PARTS = {
    "scorer_process": "scorer's process",
    "isolated": "scorer's process",
    "ScoreBatch": "scorer's actor",
    "_AutoscalingCoordinatorActor": "Ray Data's own actors",
    "_StatsActor": "Ray Data's own actors",
    "ActorLocationTracker": "Ray Data's own actors",
    "gcs_server": "Ray's services",
    "raylet/raylet": "Ray's services",
    "monitor.py": "Ray's services",
    "dashboard": "Ray's services",
    "Agent": "Ray's services",
    "runtime_env": "Ray's services",
    "ray::": "reader and idle workers",
    "default_worker": "reader and idle workers",
}
"""What a command line holds, and the part of the program that it is; first match. The rest is the driver."""
MOMENTS = (
    ("imported", "package imported"),
    ("planned", "plan made"),
    ("ray", "Ray started, ray.data imported"),
    ("actor", "scorer's actor placed"),
    ("scorer", "scorer's process started"),
    ("first", "first part file"),
)


class Watch(threading.Thread):
    """Births and CPU time of the processes below this one, until a first part file lies in `out`."""

    def __init__(self, born: float, out: Path):
        super().__init__(daemon=True)
        self.at: dict[str, float] = {}
        self._born, self._out, self._cpu = born, out, {}  # type: ignore[var-annotated]

    def run(self) -> None:
        me = psutil.Process()
        while True:
            for f in self._out.glob("parts/*.parquet"):
                self.at.setdefault("first", f.stat().st_mtime - self._born)
            for p in me.children(recursive=True):
                with suppress(psutil.Error):
                    text = " ".join(p.cmdline())
                    if not text:  # it has ended
                        continue
                    part = next((v for k, v in PARTS.items() if k in text), "reader and idle workers")
                    self._cpu[p.pid] = part, sum(p.cpu_times()[:2])
                    if part == "scorer's process":
                        self.at.setdefault("scorer", p.create_time() - self._born)
                    elif part == "scorer's actor":
                        self.at.setdefault("actor", time.time() - self._born)
            if "first" in self.at:
                break
            time.sleep(0.1)
        own = time.process_time() - time.thread_time()
        self._cpu[me.pid] = "driver", own

    def cpu(self) -> dict[str, float]:
        """CPU seconds by part."""
        spent: dict[str, float] = {}
        for part, seconds in self._cpu.values():
            spent[part] = spent.get(part, 0.0) + seconds
        return spent


def scorer(catalogue: str, bundle: str, shap: bool) -> None:
    """In a fresh process: start a scorer's process, score, print the CPU seconds that it took as JSON."""
    import pyarrow.parquet as pq

    from osteo_ray.config import validate
    from osteo_ray.patients.schema import NAMES
    from osteo_ray.screening.config import ScreenConfig
    from osteo_ray.screening.isolated import IsolatedPredictor

    cfg = validate(ScreenConfig, {"scoring": {"shap": shap}})
    rows = pq.read_table(catalogue).to_pylist()
    with IsolatedPredictor(bundle, cfg.scoring, cfg.index, cfg.pipeline.limits) as scoring:
        assert all(r["model_sha256"] for r in scoring.score_rows(rows, np.full((len(rows), len(NAMES)), np.nan)))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"cpu": spent.ru_utime + spent.ru_stime}))


def one(catalogue: str, bundle: str) -> None:
    """In a fresh process: screen, print when what had happened and what it cost as JSON."""
    born = psutil.Process().create_time()
    from osteo_ray import ray_setup
    from osteo_ray.config import validate
    from osteo_ray.screening import ledger, pipeline
    from osteo_ray.screening.config import ScreenConfig

    at = {"imported": time.time() - born}

    def timed(module: Any, name: str, moment: str) -> None:
        work: Callable[..., Any] = getattr(module, name)

        def then(*args: Any, **kw: Any) -> Any:
            done = work(*args, **kw)
            at[moment] = time.time() - born
            return done

        setattr(module, name, then)

    timed(ledger, "settle", "planned")
    timed(ray_setup, "start", "ray")
    cfg = validate(ScreenConfig, {"pipeline": {"actors": 1}, "scoring": {"shap": False}})
    with tempfile.TemporaryDirectory() as tmp:
        watch = Watch(born, Path(tmp) / "out")
        watch.start()
        pipeline.screen(catalogue, None, bundle, Path(tmp) / "out", cfg, quiet=True)
        watch.join()
    print(json.dumps({"at": at | watch.at, "cpu": watch.cpu()}))


@contextmanager
def version_of(commit: str) -> Iterator[Path]:
    """The tree of a commit in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        tree = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "x", "-C", folder], input=tree, check=True)
        yield Path(folder)


def measure(trees: dict[str, Path], a: argparse.Namespace, catalogue: Path) -> list[dict[str, Any]]:
    """All runs: what is kept of an earlier command, and the rest, the versions by turns."""
    kept = a.work / "start-runs.jsonl"
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(r["kind"], r["round"], r["version"]) for r in runs}
    for kind, rounds in (("scorer", a.rounds), ("scorer --shap", a.rounds), ("one", a.whole)):
        for r in range(rounds):
            names = list(trees)
            for name in names[r % 2 :] + names[: r % 2]:
                if (kind, r, name) in done:
                    continue
                env = os.environ | {"PYTHONPATH": str(trees[name]), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
                argv = [sys.executable, __file__, *kind.split(), "--catalogue", str(catalogue), "--bundle", a.bundle]
                out = subprocess.run(argv, env=env, cwd=trees[name], capture_output=True, text=True, check=True).stdout
                run = {"kind": kind, "round": r, "version": name, "load": round(os.getloadavg()[0], 1)}
                runs.append(run | json.loads(out.splitlines()[-1]))
                with kept.open("a") as f:
                    f.write(json.dumps(runs[-1]) + "\n")
                print(runs[-1], file=sys.stderr, flush=True)
    return runs


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="?", default="run", choices=["run", "one", "scorer"])
    p.add_argument("--work", type=Path)
    p.add_argument("--before", default="HEAD", help="commit to compare the working tree with")
    p.add_argument("--rounds", type=int, default=5, help="of a scorer's process alone")
    p.add_argument("--whole", type=int, default=5, help="rounds of a whole start")
    p.add_argument("--bundle")
    p.add_argument("--catalogue")
    p.add_argument("--shap", action="store_true")
    a = p.parse_args()
    if a.what == "one":
        one(a.catalogue, a.bundle)
    elif a.what == "scorer":
        scorer(a.catalogue, a.bundle, a.shap)
    else:
        run(a)


def run(a: argparse.Namespace) -> None:
    from screening import repeated

    from osteo_ray.model import reference

    a.bundle = str(a.bundle or reference.bundle())
    catalogue = repeated(a.work / "explicit-le-index" / "catalogue.parquet", STUDIES, a.work / "start.parquet")
    with version_of(a.before) as before:
        runs = measure({BEFORE: before, AFTER: ROOT}, a, catalogue)
    publish(runs, a)


def median(values: list[float]) -> float:
    return round(float(np.median(values)), 1)


def publish(runs: list[dict[str, Any]], a: argparse.Namespace) -> None:
    """Write the results page: a scorer's process alone, CPU seconds by part and moments of a whole start."""

    def of(kind: str) -> dict[str, list[dict[str, Any]]]:
        return {v: [r for r in runs if (r["kind"], r["version"]) == (kind, v)] for v in (BEFORE, AFTER)}

    rows: list[dict[str, Any]] = []
    bars = []
    for kind, said in (("scorer", "off"), ("scorer --shap", "on")):
        cpu = {v: np.array([r["cpu"] for r in found]) for v, found in of(kind).items()}
        ratio = cpu[AFTER] / cpu[BEFORE]
        row: dict[str, Any] = {"table": "scorer", "shap": said, "rounds": len(ratio)}
        row |= {v: median(list(x)) for v, x in cpu.items()}
        middle, low, high = (round(float(f(ratio)), 2) for f in (np.median, np.min, np.max))
        rows.append(row | {"after_over_before": f"{middle} ({low}-{high})"})
        bars.append(bar(f"CPU of a scorer's start and first eight studies, after over before, SHAP {said}",
                        middle, low, high))  # fmt: skip
    whole = of("one")
    for part in sorted({k for found in whole.values() for r in found for k in r["cpu"]}):
        values = {v: median([r["cpu"].get(part, 0.0) for r in found]) for v, found in whole.items()}
        rows.append({"table": "cpu", "part": part} | values)
    values = {v: median([sum(r["cpu"].values()) for r in found]) for v, found in whole.items()}
    rows.append({"table": "cpu", "part": "all"} | values)
    for key, what in MOMENTS:
        values = {v: median([r["at"][key] for r in found]) for v, found in whole.items()}
        rows.append({"table": "moments", "moment": what} | values)
    spent, wall = (
        {v: np.array([f(r) for r in found]) for v, found in whole.items()}
        for f in (lambda r: sum(r["cpu"].values()), lambda r: r["at"]["first"])
    )
    for what, x in (("CPU", spent), ("wall", wall)):
        ratio = x[AFTER] / x[BEFORE]
        middle, low, high = (round(float(f(ratio)), 2) for f in (np.median, np.min, np.max))
        bars.append(bar(f"{what} of a whole start, after over before, SHAP off", middle, low, high))
    loads = [r["load"] for r in runs if r["kind"] == "one"]
    command = f"python benchmarks/screening_start.py --work W --before {a.before} --rounds {a.rounds} --whole {a.whole}"
    page = f"""# Start of a screening

`{command}`: two cores,
the versions by turns. Before: commit {a.before}.

A scorer's process alone, from its start until eight studies are scored, CPU seconds (median, and each round's ratio):

{table(rows, "scorer")}
A whole start without SHAP, one scorer, rounds: {a.whole}; CPU seconds of all processes until the first part file.

{table(rows, "cpu")}
When something had been done, seconds since the process was started, at a load average of {min(loads):g} to
{max(loads):g}. They hold for that load:

{table(rows, "moments")}
Of the whole start, after over before: CPU {bars[-2]["value"]}, wall {bars[-1]["value"]}.

{NOTES}"""
    write(RESULTS / "screening-start.json", command, None, rows, bars, page)


NOTES = """- A scorer's process imported `scipy.stats` for one distribution function, pandas and the index's builder for
  nothing that screening does, and matplotlib with SHAP. It now starts with its actor and loads while the first batch is
  read; it started when that batch had come.
- What is left is Ray's: its services, three actors of Ray Data's own and the imports of each worker take seven tenths
  of the CPU until the first part. No public setting of Ray 2.60 leaves any of them out.
"""


if __name__ == "__main__":
    main()
