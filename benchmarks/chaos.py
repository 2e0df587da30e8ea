"""Kill a screening at random points and see whether anything is lost, double or different.

    python benchmarks/chaos.py --catalogue index/catalogue.parquet --records records.csv --bundle run/bundle --seed 0

Every run is over the same series (the catalogue's, repeated under new UIDs). An undisturbed one gives the digest that
the others are held against. Then, in turn: the driver is killed again and again and started again each time; scoring
actors are killed; nodes of a simulated cluster are killed and replaced; the disk that holds the results is full for a
while, and for longer than the run has patience (needs root: a small tmpfs); the S3 server that holds the results goes
away likewise. Prints one table; exits with 1 where a digest differs or a row is missing or double.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray import patients as records
from osteo_ray import ray_setup
from osteo_ray.config import validate
from osteo_ray.io.store import Store, StoreError
from osteo_ray.screening.config import ScreenConfig

SYSTEM = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}


@dataclass
class Chaos:
    """What all trials share."""

    catalogue: str
    records: str
    bundle: str
    work: Path
    rng: random.Random
    config: dict
    expected: str = ""  # digest
    series: int = 0

    def screen(self, out: str, **pipeline):
        from osteo_ray.screening.pipeline import screen

        cfg = validate(ScreenConfig, self.config | {"pipeline": self.config["pipeline"] | pipeline})
        return screen(self.catalogue, records.load(self.records), self.bundle, out, cfg, quiet=True)

    def verdict(self, out: str) -> dict:
        """How the finished run in `out` compares with the undisturbed one."""
        from osteo_ray.io.store import read_table

        keys = read_table(Store(out).path("results.parquet"), columns=["row_key"])["row_key"].to_pylist()
        digest = json.loads(Store(out).get("summary.json"))["digest"]
        missing, double = self.series - len(set(keys)), len(keys) - len(set(keys))
        return {"identical": digest == self.expected, "missing": missing, "double": double}


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


@contextmanager
def disturbing(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` beside the block; its own error ends the trial."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as e:
            failed.append(e)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    yield
    thread.join(timeout=120)
    if failed:
        raise failed[0]


def wait_for_more(out: str, more: int, limit_s: float = 300.0) -> bool:
    """Wait until `more` rows were added; False where the run had ended by then."""
    start, until = done_rows(out), time.monotonic() + limit_s
    while done_rows(out) < start + more:
        if time.monotonic() > until or Store(out).exists("summary.json"):
            return False
        time.sleep(0.05)
    return True


def kill_drivers(c: Chaos, kills: int) -> dict:
    """SIGKILL the driver after a random number of new rows, `kills` times, then let it finish."""
    out = str(c.work / "driver")
    again, n = 0, 0
    import ray

    env = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    spec = json.dumps([c.catalogue, c.records, c.bundle, out, c.config])
    while True:
        before = done_rows(out)
        log = (c.work / "driver.log").open("w")
        driver = subprocess.Popen([sys.executable, __file__, "--driver", spec], env=env, stdout=log, stderr=log)
        if n == kills:
            assert driver.wait() == 0, (c.work / "driver.log").read_text()[-2000:]
            reused = json.loads(Store(out).get("summary.json"))["reused"]
            again += before - reused
            break
        more, moment = c.rng.randint(0, max(1, c.series // (kills + 2))), c.rng.uniform(0, 0.5)
        while done_rows(out) < before + more and driver.poll() is None:
            time.sleep(0.02)
        time.sleep(moment)
        assert driver.poll() is None, f"the driver ended by itself: {(c.work / 'driver.log').read_text()[-2000:]}"
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        n += 1
        time.sleep(1)  # its tasks end with it
    return {"kind": "driver killed", "kills": n, "done again though written": again, **c.verdict(out)}


def kill_actors(c: Chaos, kills: int) -> dict:
    """SIGKILL a scoring actor's process, or the child that scores for it, after random numbers of new rows."""
    out, n = str(c.work / "actor"), 0

    def work() -> None:
        nonlocal n
        for k in range(kills):
            if not wait_for_more(out, c.rng.randint(1, max(2, c.series // (kills + 3)))):
                return
            marks = ("ScoreBatch",) if k % 2 == 0 else ("osteo_ray.screening.isolated",)
            victims = [
                p
                for p in psutil.process_iter(["cmdline"])
                if any(m in " ".join(p.info["cmdline"] or []) for m in marks)
            ]
            if victims:
                with suppress(psutil.NoSuchProcess):
                    c.rng.choice(victims).kill()
                    n += 1

    with disturbing(work):
        c.screen(out)
    return {"kind": "actor or its scorer killed", "kills": n, **c.verdict(out)}


def kill_nodes(c: Chaos, kills: int, cluster) -> dict:
    """Kill a node with everything on it, start another in its place."""
    out, n = str(c.work / "node"), 0

    def work() -> None:
        nonlocal n
        for _ in range(kills):
            if not wait_for_more(out, c.rng.randint(1, max(2, c.series // (kills + 3)))):
                return
            cluster.remove_node(c.rng.choice(list(cluster.worker_nodes)), allow_graceful=False)
            n += 1
            cluster.add_node(num_cpus=1)

    with disturbing(work):
        c.screen(out)
    return {"kind": "node killed", "kills": n, **c.verdict(out)}


def fill_disk(c: Chaos, long: bool) -> dict:
    """The disk that holds the results is full for some seconds; `long`: until the run gave up and is started again."""
    mount = c.work / f"disk{long:d}"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(mount)], check=True)
    out, ballast, gave_up, n = str(mount / "out"), mount / "ballast", 0, 0

    def work() -> None:
        nonlocal n
        if not wait_for_more(out, c.rng.randint(1, c.series // 2)):
            return
        with suppress(OSError), ballast.open("wb", buffering=0) as f:
            while True:
                f.write(b"\0" * 4096)
        n += 1
        if not long:
            time.sleep(5)
            ballast.unlink()

    try:
        with disturbing(work):
            try:
                c.screen(out, store_patience_s=2 if long else 120)
            except StoreError:
                gave_up = 1
                ballast.unlink()
        if gave_up:
            c.screen(out)
        kind = "disk full, run gave up" if long else "disk full for 5 s"
        return {"kind": kind, "kills": n, "gave up": gave_up, **c.verdict(out)}
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


class S3:
    """A loopback S3 server in a process of its own whose connections can be refused for a while."""

    def __init__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        os.environ.update(
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{self.port}",
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="test",
            AWS_DEFAULT_REGION="us-east-1",
            NO_PROXY="127.0.0.1",
        )
        self.start()
        import fsspec

        for _ in range(100):
            with suppress(Exception):
                fsspec.filesystem("s3", skip_instance_cache=True).mkdir("chaos")
                return
            time.sleep(0.3)
        raise RuntimeError("the S3 server did not start")

    def start(self) -> None:
        args = [sys.executable, "-c", S3_PROCESS, str(self.port)]
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.away(False)

    def away(self, gone: bool) -> None:
        """Refuse connections, or take them again; the objects stay."""
        assert self.process.stdin
        self.process.stdin.write("down\n" if gone else "up\n")
        self.process.stdin.flush()


S3_PROCESS = """
import sys
from moto.server import ThreadedMotoServer
server = None
for line in sys.stdin:
    if line.strip() == "up" and server is None:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
        server.start()
    elif line.strip() == "down" and server is not None:
        server.stop()
        server = None
"""


def lose_store(c: Chaos, long: bool, server: S3) -> dict:
    """The object store that holds the results does not answer for a while."""
    out, gave_up, n = f"s3://chaos/run{long:d}", 0, 0

    def work() -> None:
        nonlocal n
        if not wait_for_more(out, c.rng.randint(1, c.series // 3)):
            return
        server.away(True)
        n += 1
        if not long:
            time.sleep(8)
            server.away(False)

    with disturbing(work):
        try:
            c.screen(out, store_patience_s=2 if long else 300)
        except StoreError:
            gave_up = 1
            server.away(False)
    if gave_up:
        c.screen(out)
    kind = "store away, run gave up" if long else "store away for 8 s"
    return {"kind": kind, "kills": n, "gave up": gave_up, **c.verdict(out)}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--catalogue")
    p.add_argument("--records")
    p.add_argument("--bundle")
    p.add_argument("--times", type=int, default=8, help="how often each open series is repeated")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--drivers", type=int, default=8)
    p.add_argument("--actors", type=int, default=10)
    p.add_argument("--nodes", type=int, default=4)
    p.add_argument("--only", nargs="+", default=["driver", "actor", "node", "disk", "store"])
    p.add_argument("--driver", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.driver:
        catalogue, table, bundle, out, config = json.loads(a.driver)
        ray_setup.start()
        Chaos(catalogue, table, bundle, Path(out), random.Random(), config).screen(out)
        return 0
    config = {"pipeline": {"series_per_task": 2, "shard_rows": 40, "actors": 2}, "scoring": {"shap": False}}
    with tempfile.TemporaryDirectory(prefix="chaos-") as work:
        catalogue = repeated(a.catalogue, a.times, Path(work) / "catalogue.parquet")
        server = S3() if "store" in a.only else None
        cluster = _cluster()
        c = Chaos(
            catalogue,
            str(Path(a.records).absolute()),
            str(Path(a.bundle).absolute()),
            Path(work),
            random.Random(a.seed),
            config,
        )
        try:
            whole = c.screen(str(c.work / "whole"))
            c.expected, c.series = whole.digest, whole.series
            print(
                f"{c.series} series, {whole.scored_now} scored, undisturbed in {whole.seconds:.0f} s; {c.expected}",
                flush=True,
            )
            ways: dict[str, list[Callable[[], dict]]] = {
                "driver": [lambda: kill_drivers(c, a.drivers)],
                "actor": [lambda: kill_actors(c, a.actors)],
                "node": [lambda: kill_nodes(c, a.nodes, cluster)],
                "disk": [lambda: fill_disk(c, False), lambda: fill_disk(c, True)],
            }
            if server is not None:
                ways["store"] = [partial(lose_store, c, long, server) for long in (False, True)]
            found = []
            for way in a.only:
                for trial in ways[way]:
                    t = time.monotonic()
                    found.append(trial())
                    print(
                        "  ".join(f"{k} {v}" for k, v in found[-1].items()),
                        f" {time.monotonic() - t:.0f} s",
                        flush=True,
                    )
        finally:
            if server:
                server.away(False)
                server.process.kill()
            import ray

            ray.shutdown()
            cluster.shutdown()
    kills, identical = (sum(f[k] for f in found) for k in ("kills", "identical"))
    print(f"{kills} disturbances, {identical} of {len(found)} runs identical")
    return 0 if all(f["identical"] and not f["missing"] and not f["double"] for f in found) else 1


def _cluster():
    """A head without CPUs of its own, for the driver, and two nodes of one CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        shutdown_at_exit=False,  # its signal handler could be set in the main thread alone; nodes are added in another
        head_node_args={"num_cpus": 0, "_system_config": SYSTEM, "object_store_memory": 200 * 2**20},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    ray_setup.tune_data_context()
    return cluster


if __name__ == "__main__":
    sys.exit(main())
