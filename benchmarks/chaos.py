"""Disturb screenings at random on two machines that share nothing: is anything lost, double or different?

    python benchmarks/chaos.py --catalogue index/catalogue.parquet --records records.csv --seed 0 --times 3

The machines are those of tests/cluster (root and `unshare`): a head with 0 CPUs and workers whose disks are their own.
Jobs come by `ray job submit`; catalogue, records, bundle and results lie on a shared path that is a small disk, or in a
bucket. In each place an undisturbed run gives the digest that the disturbed one is held against. Disturbances come in
random order, each after a random number of new rows: the driver, an actor or its scorer's process is killed; a worker
is killed with all that runs on it, and another joins; a worker gets the notice of a spot market (`ray drain-node` with
a deadline), another joins, and the first is killed at the deadline; the disk is full, or the bucket away, for a while
that may be longer than the run has patience. A job that ended is submitted again. Exit code 1 where a digest differs
or a row is missing or double. Writes docs/results/screening-disturbed.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import results_page
from s3_server import BUCKET, S3Server

sys.path.insert(0, str(results_page.ROOT / "tests" / "cluster"))

from rig import BIN, Rig

from osteo_ray.io.store import Store, read_table
from osteo_ray.model import reference

SYSTEM = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 3,
}
"""A node that is gone is missed after some seconds, not after a minute."""
PATIENCE_S = 20.0
SHORT_S, LONG_S = (4.0, 10.0), (45.0, 60.0)
"""How long a disk is full or a bucket away: less than the run's patience, or more."""
NOTICE_S = 8
"""From the notice of a spot market to the end of the machine; clouds give 30 to 120 s."""
KINDS = ("driver killed", "actor killed", "scorer's process killed", "node killed", "preemption notice")
SHARED, BUCKET_PLACE = "shared path", "bucket"
STORE_KINDS = {SHARED: "disk full", BUCKET_PLACE: "bucket away"}
WORDS = {"actor killed": "ScoreBatch", "scorer's process killed": "osteo_ray.screening.scorer_process"}


def repeated(catalogue: str, times: int, path: Path) -> str:
    """The open series of a catalogue `times` times, each under a series UID of its own, and the closed ones once."""
    table = pq.read_table(catalogue)
    rows = table.to_pylist()
    opened = [r for r in rows if r["state"] is None]
    more = [r | {"series_uid": f"{r['series_uid']}.{k}"} for k in range(1, times) for r in opened]
    pq.write_table(pa.Table.from_pylist(rows + more, schema=table.schema), path, row_group_size=64)
    return str(path)


def done_rows(out: str) -> int:
    """Scored rows that lie in a run's folder."""
    store, n = Store(out), 0
    for name in store.names("parts/") + store.names("shards/"):
        with suppress(FileNotFoundError), store.parquet(name) as f:
            footer = (f.schema_arrow.metadata or {}).get(b"osteo_ray")
            n += sum(json.loads(footer)["scored"].values()) if footer else f.metadata.num_rows
    return n


@dataclass
class Place:
    """Where catalogue and results of a screening lie."""

    name: str
    at: Callable[[str], str]
    server: S3Server | None = None


@dataclass
class Trial:
    """One screening and what was done to it."""

    rig: Rig
    place: Place
    rng: random.Random
    jobs: int = 0
    done: list[dict[str, Any]] = field(default_factory=list)

    def screen(self, out: str) -> str:
        """Submit the job; its id."""
        self.jobs += 1
        paths = {"archive": "catalogue.parquet", "records": "records.csv", "bundle": "bundle", "out": out}
        pipeline = {"series_per_task": 2, "shard_rows": 40, "store_patience_s": PATIENCE_S, "actor_memory_mb": 700}
        config = {"scoring": {"shap": False}, "report_studies": 0, "pipeline": pipeline}
        return self.rig.start("screen", {k: self.place.at(v) for k, v in paths.items()} | config)

    def rows(self, out: str) -> int:
        """Rows done; asked until the store answers."""
        while True:
            with suppress(Exception):
                return done_rows(self.place.at(out))
            time.sleep(0.5)

    def disturbed(self, kinds: Sequence[str], more: int) -> dict[str, Any]:
        """One run with these disturbances, each after some of `more` new rows, to its end: the run's results."""
        out = "disturbed"
        job, done = self.screen(out), 0
        for kind in kinds:
            wanted, done = done + self.rng.randint(1, more), self.rows(out)
            while done < wanted and not self.ended(job):
                time.sleep(0.3)
                done = self.rows(out)
            if self.ended(job):  # whatever was before it; an end of its own is looked at below
                self.log(job)
                if self.rig.client.get_job_status(job) == "SUCCEEDED":
                    print(f"the run ended before: {kind}", flush=True)
                    break
                job = self.screen(out)
                self.wait_for_rows(out, done + 1, job)
            begun = time.monotonic()
            what = self.disturb(kind, job)
            self.done.append({"kind": kind, "after_rows": done, "what": what, "s": round(time.monotonic() - begun, 1)})
            print(self.place.name, self.done[-1], flush=True)
        while self.rig.client.get_job_status(job) != "SUCCEEDED":
            if self.ended(job):
                self.log(job)
                job = self.screen(out)
            time.sleep(0.5)
        return self.results(out)

    def ended(self, job: str) -> bool:
        return self.rig.client.get_job_status(job).is_terminal()

    def wait_for_rows(self, out: str, wanted: int, job: str) -> None:
        while self.rows(out) < wanted and not self.ended(job):
            time.sleep(0.3)

    def log(self, job: str) -> None:
        """How a job ended."""
        lines = self.rig.client.get_job_logs(job).strip().splitlines()
        print(f"  {self.rig.client.get_job_status(job)}: {lines[-1][:300] if lines else ''}", flush=True)

    def disturb(self, kind: str, job: str) -> str:
        """Do it; a word about it."""
        if kind == "driver killed":
            drivers = [p for p in self.processes("jobs/screen.py") if "python" in p.name()]
            for p in drivers:
                p.kill()
            return f"{len(drivers)} process"
        if kind in WORDS:
            victims = self.processes(WORDS[kind])
            if victims:
                self.rng.choice(victims).kill()
            return f"1 of {len(victims)}"
        if kind == "node killed":
            self.rig.kill_worker(self.rng.choice(self.rig.workers))
            self.rig.add_worker()
            return "another joined"
        if kind == "preemption notice":
            worker = self.rng.choice(self.rig.workers)
            notice = [str(BIN / "ray"), "drain-node", f"--address={self.rig.gcs}", f"--node-id={worker.node_id}"]
            notice += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the spot market takes it back"]
            subprocess.run([*notice, f"--deadline-remaining-seconds={NOTICE_S}"], check=True, capture_output=True)
            begun = time.monotonic()
            self.rig.add_worker()
            time.sleep(max(0.0, NOTICE_S - (time.monotonic() - begun)))
            self.rig.kill_worker(worker)
            return f"killed {NOTICE_S} s later or when another had joined"
        seconds = round(self.rng.uniform(*(LONG_S if self.rng.random() < 0.3 else SHORT_S)), 1)
        if self.place.server is not None:
            self.place.server.away(seconds)
            time.sleep(seconds)
        else:
            ballast = self.rig.shared / "ballast"
            with suppress(OSError), ballast.open("wb", buffering=0) as f:
                while True:
                    f.write(b"\0" * 4096)
            time.sleep(seconds)
            ballast.unlink()
        return f"for {seconds:g} s"

    def processes(self, words: str) -> list[psutil.Process]:
        """Of the rig, by words in their command lines."""
        found = []
        for p in psutil.Process(self.rig.pid).children(recursive=True) + [
            c for w in self.rig.workers for c in psutil.Process(w.process.pid).children(recursive=True)
        ]:
            with suppress(psutil.Error):
                if words in " ".join(p.cmdline()):
                    found.append(p)
        return found

    def results(self, out: str) -> dict[str, Any]:
        """Of a run that ended well."""
        store = Store(self.place.at(out))
        keys = read_table(store.path("results.parquet"), columns=["row_key"])["row_key"].to_pylist()
        summary = json.loads(store.get("summary.json"))
        return {"digest": summary["digest"], "series": summary["series"], "rows": len(keys), "keys": set(keys)}


def fill(place: Place, catalogue: Path, table: Path) -> None:
    """Catalogue, records and bundle into the place."""
    store = Store(place.at(""))
    store.upload(catalogue, "catalogue.parquet")
    store.upload(table, "records.csv")
    for p in Path(reference.bundle()).iterdir():
        store.upload(p, f"bundle/{p.name}")


def drawn(rng: random.Random, kinds: Sequence[str], n: int) -> list[str]:
    """Each kind about as often as the others, in random order."""
    some = [kinds[i % len(kinds)] for i in range(n)]
    rng.shuffle(some)
    return some


@contextmanager
def places(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rig and what is needed for each place."""
    with S3Server() as server, Rig(cpus=1, shared_mb=256, system=SYSTEM) as rig:
        rig.add_worker()
        every = {
            SHARED: Place(SHARED, lambda n: str(rig.shared / "run" / n)),
            BUCKET_PLACE: Place(BUCKET_PLACE, lambda n: f"s3://{BUCKET}/run/{n}".rstrip("/"), server),
        }
        yield {"rig": rig, "places": [every[n] for n in names]}


def main() -> int:
    """Run, compare, write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--catalogue", required=True)
    p.add_argument("--records", type=Path, required=True)
    p.add_argument("--times", type=int, default=3, help="how often each open series is there")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--disturbances", type=int, default=12, help="in each place")
    p.add_argument("--places", nargs="+", choices=STORE_KINDS, default=list(STORE_KINDS))
    p.add_argument("--out", type=Path, default=results_page.RESULTS / "screening-disturbed.json")
    a = p.parse_args()
    rng = random.Random(a.seed)
    rows: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    work = Path(os.environ.get("TMPDIR", "/tmp")) / f"chaos-{os.getpid()}"
    work.mkdir()
    with places(a.places) as found:
        for place in found["places"]:
            fill(place, Path(repeated(a.catalogue, a.times, work / "catalogue.parquet")), a.records)
            trial = Trial(found["rig"], place, rng)
            begun = time.monotonic()
            good, log = trial.rig.end(trial.screen("whole"))
            assert good, log[-3000:]
            whole = trial.results("whole")
            seconds, trial.jobs = time.monotonic() - begun, 0
            print(f"{place.name}: {whole['series']} series, undisturbed {seconds:.0f} s, {whole['digest']}", flush=True)
            kinds = drawn(rng, [*KINDS, STORE_KINDS[place.name]], a.disturbances)
            begun = time.monotonic()
            got = trial.disturbed(kinds, max(2, whole["series"] // (2 * a.disturbances)))
            runs.append(
                {
                    "table": "runs",
                    "place": place.name,
                    "series": whole["series"],
                    "disturbances": len(trial.done),
                    "jobs_submitted": trial.jobs,
                    "seconds": round(time.monotonic() - begun),
                    "undisturbed_s": round(seconds),
                    "bit_identical": "yes" if got["digest"] == whole["digest"] else "NO",
                    "missing": len(whole["keys"] - got["keys"]),
                    "double": got["rows"] - len(got["keys"]),
                }
            )
            print(runs[-1], flush=True)
            counts = Counter(d["kind"] for d in trial.done)
            rows += [{"table": "disturbances", "place": place.name, "kind": k, "times": n} for k, n in counts.items()]
            rows += [{"table": "in_order", "place": place.name, **d} for d in trial.done]
    shutil.rmtree(work)
    publish(a, runs + rows)
    good = all(r["bit_identical"] == "yes" and not r["missing"] and not r["double"] for r in runs)
    return 0 if good else 1


def publish(a: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """JSON and page."""
    command = f"python benchmarks/chaos.py --catalogue C --records R --seed {a.seed} --times {a.times}"
    command += f" --disturbances {a.disturbances}"
    runs = [r for r in rows if r["table"] == "runs"]
    n = sum(r["disturbances"] for r in runs)
    identical = sum(r["bit_identical"] == "yes" for r in runs)
    wrong = sum(r["missing"] + r["double"] for r in runs)
    bars = [
        results_page.bar("disturbances", n, target=">= 20", met=n >= 20),
        results_page.bar("runs bit-identical", identical, target=len(runs), met=identical == len(runs)),
        results_page.bar("rows missing or double", wrong, target=0, met=not wrong),
    ]
    text = f"""# Screening disturbed at random

`{command}`.
The demo's archive with each open series {a.times} times, on the [two machines](cluster-rig.md) that share nothing: a
head without CPUs and two workers of one CPU with disks of their own, jobs by `ray job submit`. In each place an
undisturbed run first, then one that is disturbed after random numbers of new rows; a job that ended is submitted again.

{results_page.table(rows, "runs")}
{n} disturbances. The disk, or the bucket, is away for {SHORT_S[0]:g} to {SHORT_S[1]:g} s or for {LONG_S[0]:g} to
{LONG_S[1]:g} s; the run tries again for {PATIENCE_S:g} s and then ends with code 5. Preemption: `ray drain-node` with
a deadline; the node is killed {NOTICE_S} s later, or when another has joined.

{results_page.table(rows, "disturbances")}
In the order in which they came:

{results_page.table(rows, "in_order")}"""
    results_page.write(a.out, command, a.seed, rows, bars, text)


if __name__ == "__main__":
    sys.exit(main())
