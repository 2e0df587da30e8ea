"""Where the time goes between `screen` being called and its first part file, in two versions of the package by turns.

    python benchmarks/screening.py prepare --work W
    python benchmarks/screening_start.py --work W --before c68d6af --rounds 5

Each run is a fresh process that screens the same catalogue by the reference bundle on a Ray of its own, with one
scorer; the version of before is taken from git. Moments are wall time since that process was started. They depend on
what else the machine does; CPU seconds, of every process until the first part file, hardly do. Writes
docs/results/screening-start.json and .md.
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


def one(catalogue: str, bundle: str, shap: bool) -> None:
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
    cfg = validate(ScreenConfig, {"pipeline": {"actors": 1}, "scoring": {"shap": shap}})
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


def measured(trees: dict[str, Path], a: argparse.Namespace, catalogue: Path) -> dict[tuple[str, bool], list[Any]]:
    found: dict[tuple[str, bool], list[Any]] = {}
    for r in range(a.rounds):
        for shap in (False, True):
            names = list(trees)
            for name in names[r % 2 :] + names[: r % 2]:
                env = os.environ | {"PYTHONPATH": str(trees[name]), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
                argv = [sys.executable, __file__, "--one", str(catalogue), "--bundle", a.bundle, "--work", str(a.work)]
                done = subprocess.run(
                    argv + ["--shap"] * shap, env=env, cwd=trees[name], capture_output=True, text=True, check=True
                )
                seen = json.loads(done.stdout.splitlines()[-1])
                found.setdefault((name, shap), []).append(seen)
                print(name, "shap" if shap else "", seen, os.getloadavg()[0], file=sys.stderr, flush=True)
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--before", default="HEAD", help="commit to compare the working tree with")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--bundle")
    p.add_argument("--one", help=argparse.SUPPRESS)
    p.add_argument("--shap", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        one(a.one, a.bundle, a.shap)
        return
    from screening import repeated

    from osteo_ray.model import reference

    a.bundle = str(a.bundle or reference.bundle())
    catalogue = repeated(a.work / "explicit-le-index" / "catalogue.parquet", STUDIES, a.work / "start.parquet")
    with version_of(a.before) as before:
        found = measured({BEFORE: before, AFTER: ROOT}, a, catalogue)
    publish(found, a)


def median(values: list[float]) -> float:
    return round(float(np.median(values)), 1)


def publish(found: dict[tuple[str, bool], list[Any]], a: argparse.Namespace) -> None:
    """Write the results page: CPU seconds by part, moments, and the ratio of each round."""
    rows: list[dict[str, Any]] = []
    bars = []
    for shap in (False, True):
        of = {v: found[v, shap] for v in (BEFORE, AFTER)}
        said = "on" if shap else "off"
        for part in sorted({k for runs in of.values() for r in runs for k in r["cpu"]}):
            row: dict[str, Any] = {"table": "cpu", "SHAP": said, "part": part}
            rows.append(row | {v: median([r["cpu"].get(part, 0.0) for r in runs]) for v, runs in of.items()})
        whole = {v: np.array([sum(r["cpu"].values()) for r in runs]) for v, runs in of.items()}
        row = {"table": "cpu", "SHAP": said, "part": "all"}
        rows.append(row | {v: median(list(w)) for v, w in whole.items()})
        for key, what in MOMENTS:
            row = {"table": "moments", "SHAP": said, "moment": what}
            rows.append(row | {v: median([r["at"][key] for r in runs]) for v, runs in of.items()})
        wall = {v: np.array([r["at"]["first"] for r in runs]) for v, runs in of.items()}
        for what, x in (("CPU", whole), ("wall", wall)):
            ratio = x[AFTER] / x[BEFORE]
            name = f"{what} until the first part, after over before, SHAP {said}"
            bars.append(bar(name, *(round(float(f(ratio)), 2) for f in (np.median, np.min, np.max))))
    page = f"""# Start of a screening

`python benchmarks/screening_start.py --work W --before {a.before} --rounds {a.rounds}`: one scorer, eight studies to a
part, the two versions by turns ({a.rounds} rounds), medians. The machine has two cores and other work on them: wall
times of before and after compare with each other, not with those of an idle machine. A moment is when something
had been done, in seconds since the process was started.

CPU seconds of all processes until the first part file:

{table(rows, "cpu")}
Wall seconds:

{table(rows, "moments")}
Ratio of each round, median and range:

{chr(10).join(f"- {b['name']}: {b['value']} ({b['low']} to {b['high']})" for b in bars)}
"""
    command = f"python benchmarks/screening_start.py --work W --before {a.before} --rounds {a.rounds}"
    write(RESULTS / "screening-start.json", command, None, rows, bars, page)


if __name__ == "__main__":
    main()
