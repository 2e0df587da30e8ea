"""One driver and many scorers: store calls a row, rows a second, memory, with a store that answers after 30 ms.

    python benchmarks/scaling.py --work W --catalogue C/catalogue.parquet --actors 8 32 64
    python benchmarks/scaling.py ... --work W --before E      # the same by an earlier version (`--work E`) beside it

A number of scorers that is measured already, in `--work`, is not measured again.

Everything is the product's (plan, Ray Data, actors, parts, finishing, results) but for the scorer: in place of the
model's process a scorer sleeps for `--study-s` a study and answers with the row that the model gave for such a study.
Catalogue and run lie in a bucket of a loopback server that counts requests. No scorer begins before all have started;
the rate is from then until the last part is written, and what all scorers together could do at most is beside it. CPU
is of that stretch, too, by kind of process. Written to docs/results/scaling.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import results_page
from s3_server import BUCKET, S3Server

from osteo_ray import ray_setup
from osteo_ray.config import validate
from osteo_ray.model import reference
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.config import ScreenConfig

LATENCY_S = 0.03
KINDS = {"actors": "ScoreBatch", "gcs": "gcs_server", "raylet": "raylet/raylet", "ray's tasks": "ray::"}
"""Words in the command line of one kind of process, the first that fits; the driver is known by its pid."""


SHOWN = (
    *("actors", "rows", "rows_s", "possible", "of_that", "calls_a_row", "calls_a_batch"),
    *("driver_mb", "actor_mb", "tail_s", "ending_s"),
)


class SleepingScorer:
    """In place of a model's process: waits for a study's time, then answers with what the model gave for its like. The
    first wait is for the other scorers, so that none works while others still start."""

    def __init__(self, study_s: float, answers: Mapping[str, Mapping[str, Any]], meeting: str, actors: int, *_: Any):
        self._study_s, self._answers, self._meeting, self._waits_for = study_s, answers, meeting, actors

    def score_rows(self, rows: Sequence[Mapping[str, Any]], records: np.ndarray) -> list[dict[str, Any]]:
        while self._waits_for:
            with urllib.request.urlopen(f"{self._meeting}/{os.getpid()}", timeout=60) as answer:
                if json.loads(answer.read()) >= self._waits_for:
                    self._waits_for = 0
                    break
            time.sleep(2.0)
        time.sleep(self._study_s * len(rows))
        return [dict(self._answers[_scan(r)]) | {"series_uid": r["series_uid"]} for r in rows]


def _scan(row: Mapping[str, Any]) -> str:
    """The series that a row repeats."""
    return row["series_uid"].rpartition(".")[0]


def repeated(source: Path, n: int, to: Path) -> Path:
    """A catalogue of `n` rows: the open ones again and again, under UIDs of their own."""
    table = pq.read_table(source)
    table = table.filter(pc.is_null(table["state"]))
    uid = table.schema.get_field_index("series_uid")
    uids = table["series_uid"].to_pylist()
    with pq.ParquetWriter(to, table.schema, compression="zstd") as w:
        for start in range(0, n, 64):
            rows = range(start, min(start + 64, n))
            some = table.take(pa.array([i % len(uids) for i in rows]))
            names = pa.array([f"{uids[i % len(uids)]}.{i}" for i in rows])
            w.write_table(some.set_column(uid, table.schema.field(uid), names))
    return to


def answers_of(catalogue: Path) -> dict[str, dict[str, Any]]:
    """What the model gives for each open series of a catalogue."""
    from osteo_ray.screening.predictor import Predictor

    scorer = Predictor.load(reference.bundle(), ScreenConfig().scoring)
    rows = [r for r in pq.read_table(catalogue).to_pylist() if r["state"] is None]
    found = scorer.score_rows(rows, np.full((len(rows), len(NAMES)), np.nan, np.float32))
    return {row["series_uid"]: r for row, r in zip(rows, found, strict=True)}


def cpu_and_memory(driver: psutil.Process) -> dict[str, tuple[int, float, float]]:
    """Of each kind of process: how many, CPU seconds, private MB."""
    found: dict[str, tuple[int, float, float]] = {}
    for p in [driver, *driver.children(recursive=True)]:
        with suppress(psutil.Error):
            text, m, t = " ".join(p.cmdline()), p.memory_info(), p.cpu_times()
            kind = next((k for k, word in KINDS.items() if word in text), "rest")
            kind = "driver" if p.pid == driver.pid else kind
            n, cpu, mb = found.get(kind, (0, 0.0, 0.0))
            found[kind] = n + 1, cpu + t.user + t.system, mb + (m.rss - m.shared) / 2**20
    return found


def one(actors: int, rows: int, study_s: float, source: Path, work: Path, per_task: int | None) -> dict[str, Any]:
    """In a fresh process: one run; what it took."""
    from osteo_ray.io.store import Store
    from osteo_ray.screening.pipeline import screen

    answers = json.loads((work / "answers.json").read_text())
    catalogue = repeated(source, rows, work / "rows.parquet")
    pipeline: dict[str, Any] = {"actors": actors, "actor_cpus": 1.5 / actors, "actor_memory_mb": 1}
    if per_task is not None:
        pipeline["series_per_task"] = per_task
    cfg = validate(ScreenConfig, {"pipeline": pipeline})
    with S3Server(LATENCY_S) as server:
        Store(f"s3://{BUCKET}").upload(catalogue, "catalogue.parquet")
        before = server.counts()
        ray_setup.start(num_cpus=2, object_store_mb=512)
        driver, ended = psutil.Process(), threading.Event()
        samples: list[tuple[float, dict[str, tuple[int, float, float]]]] = []

        def look() -> None:
            while not ended.wait(2.0):
                samples.append((time.time(), cpu_and_memory(driver)))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        begun = time.time()
        scorer = partial(SleepingScorer, study_s, answers, server.meeting, actors)
        done = screen(
            f"s3://{BUCKET}/catalogue.parquet", None, str(reference.bundle()), f"s3://{BUCKET}/run", cfg,
            quiet=True, scorer_of=scorer,
        )  # fmt: skip
        whole = time.time() - begun
        ended.set()
        thread.join()
        counts = {k: v - before.get(k, 0) for k, v in server.counts().items() if v > before.get(k, 0)}
        parts = sorted(server.put_times("parts"))
    return _figures(actors, done.series, study_s, parts, samples, counts, begun + whole - parts[-1])


def _figures(
    actors: int,
    rows: int,
    study_s: float,
    parts: list[float],
    samples: list[tuple[float, dict[str, tuple[int, float, float]]]],
    counts: dict[str, int],
    tail_s: float,
) -> dict[str, Any]:
    each = rows / len(parts)
    # All began when the last of them had started; the first parts came one batch later. Until the work runs out.
    begin, end = parts[0] - study_s * each, parts[-1]
    full = [(t, s) for t, s in samples if begin <= t <= end]
    first, final = full[0][1], full[-1][1]
    rate = rows / (end - begin)
    n = rate * (full[-1][0] - full[0][0])
    ms = {k: round(1e3 * (v[1] - first.get(k, (0, 0.0, 0.0))[1]) / n, 2) for k, v in final.items()}
    highest = {k: max(s[k][2] for _, s in full if k in s) for k in final}
    return {
        "actors": actors,
        "rows": rows,
        "rows_s": round(rate, 1),
        "possible": round(actors / study_s, 1),
        "of_that": round(rate * study_s / actors, 2),
        "calls_a_row": round(sum(counts.values()) / rows, 3),
        "calls_a_batch": round(sum(n for k, n in counts.items() if k.endswith(" parts")) / len(parts), 2),
        "driver_mb": round(highest["driver"]),
        "actor_mb": round(highest["actors"] / actors),
        "tail_s": round(tail_s, 1),
        # Of the tail: until the last scorer's process has ended. A machine of a cluster ends its own, side by side.
        "ending_s": round(max((t for t, s in samples if "actors" in s), default=end) - end, 1),
        "ms_a_row": ms,
        "calls": counts,
        "parts": len(parts),
        "steady_s": round(end - begin, 1),
    }


def publish(a: argparse.Namespace) -> None:
    """JSON and page of what lies in the two folders."""
    rows: list[dict[str, Any]] = []
    for version, folder in (("before", a.before), ("now", a.work)):
        for n in a.actors:
            if folder and (folder / f"{n}.json").exists():
                found = json.loads((folder / f"{n}.json").read_text())
                shown = {"table": "scaling", "version": version, **{k: v for k, v in found.items() if k in SHOWN}}
                rows.append(shown)
                rows += [{"table": "calls", "version": version, "actors": n, "call": k, "n": v, "a_batch":
                          round(v / found["parts"], 2)} for k, v in sorted(found["calls"].items())]  # fmt: skip
                rows += [{"table": "cpu", "version": version, "actors": n, "process": k, "ms_a_row": v}
                         for k, v in found["ms_a_row"].items()]  # fmt: skip
    scaled = [r for r in rows if r["table"] == "scaling"]
    largest = max((r for r in scaled if r["version"] == "now"), key=lambda r: r["actors"])
    least = min(r["of_that"] for r in scaled if r["version"] == "now")
    bars = [
        results_page.bar("requests a batch, part files", largest["calls_a_batch"]),
        results_page.bar("scorers", largest["actors"]),
        results_page.bar("share of the possible rate", least),
        results_page.bar("driver MB", largest["driver_mb"]),
        results_page.bar("scorer's actor MB", largest["actor_mb"]),
    ]
    command = f"python benchmarks/scaling.py --work W --catalogue C --actors {' '.join(map(str, a.actors))}"
    command += f" --study-s {a.study_s:g} --rows-each {a.rows_each}"
    most = [r for r in rows if r["table"] == "calls" and r["actors"] == min(a.actors) and r["n"] > 20]
    open_numbers = " and ".join(str(n) for n in (8, 32, 64) if n not in {r["actors"] for r in scaled})
    missing = f" Not measured: {open_numbers} scorers." if open_numbers else ""
    text = f"""# Many scorers and a store far away

`{command}`.
A bucket of a loopback server that answers after {1000 * LATENCY_S:.0f} ms and counts requests; scorers that sleep for a
study's time ({a.study_s:g} s) in place of computing, everything else as it is (batches of 8). Rates are from when all
have started until the last part is written. Two cores for all of it: a rate below the possible one may be the
machine's, CPU is an upper bound, requests and MB are what they are. `tail s`: from the last part to the end of the
run; `ending s`: of that, until the last scorer's process had ended (looked at every 2 s): all share the two
cores, where each node of a cluster ends its own.{missing}

{results_page.table(rows, "scaling", SHOWN if a.before is None else ("version", *SHOWN[:-1]))}
A scorer lists its shard's parts once a task; parts of an interrupted run and finished shards are read side by side; and
where one driver has more than 32 scorers a task holds several batches (2 at 64, 50 at 1,600), each still a part of its
own. Before that, a batch was looked for by name before it was scored: 0.92 requests a row at 8 scorers.

Requests that grow with the rows, at {min(a.actors)} scorers:

{results_page.table(most, "calls", ("version", "call", "n", "a_batch"))}
CPU by kind of process, ms of one core a row:

{results_page.table(rows, "cpu")}"""
    results_page.write(a.out, command, None, [r for r in rows if r["table"] != "calls"] + most, bars, text)


def main() -> None:
    """Each number of scorers in a fresh process."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--catalogue", type=Path, required=True, help="of series whose rows are repeated")
    p.add_argument("--actors", type=int, nargs="+", default=[8, 32, 64])
    p.add_argument("--study-s", type=float, default=1.0)
    p.add_argument("--rows-each", type=int, default=96, help="rows for each scorer")
    p.add_argument("--per-task", type=int, help="pipeline.series_per_task, where not the default")
    p.add_argument("--before", type=Path, help="`--work` of an earlier version: write both into the page")
    p.add_argument("--out", type=Path, default=results_page.RESULTS / "scaling.json")
    p.add_argument("--one", type=int, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        print(json.dumps(one(a.one, a.one * a.rows_each, a.study_s, a.catalogue, a.work, a.per_task)))
        return
    a.work.mkdir(parents=True, exist_ok=True)
    if not (a.work / "answers.json").exists():
        (a.work / "answers.json").write_text(json.dumps(answers_of(a.catalogue)))
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    env["PYTHONPATH"] = os.pathsep.join([str(results_page.ROOT), str(Path(__file__).parent)])
    for n in a.actors:
        if (a.work / f"{n}.json").exists():
            continue
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--one", str(n)], env=env, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stderr[-4000:])
        print(done.stdout.splitlines()[-1], flush=True)
        (a.work / f"{n}.json").write_text(done.stdout.splitlines()[-1])
    publish(a)


if __name__ == "__main__":
    main()
