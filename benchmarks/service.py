"""What the service adds to the time of one study: Ray Serve, the same app under uvicorn, and the bare predictor.

    python benchmarks/service.py --rounds 40 --out docs/results/service.json

All three are up at once and asked in turns, so that the load of the machine meets them alike; figures are ratios
within a round. CPU time is that of the processes which work for a request, measured beside the wall time: it does not
depend on who else uses the machine. The study is made by rule (`service.built_in_study`), a zip of about 4 MB; the
bundle is the reference bundle unless one is given.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from osteo_ray.config import validate
from osteo_ray.model import reference
from osteo_ray.patients.schema import NAMES
from osteo_ray.service.built_in_study import write_study
from osteo_ray.service.config import ServeConfig, check

SIDE, SLICES = 256, 64
PARTS = {
    "ProxyActor": "proxy",
    "#Api#": "API replica",
    "ServeReplica:osteo-ray:Api": "API replica",
    "ServeReplica:osteo-ray:Scorers": "scorer replica",
    "isolated": "scorer's child",
}


class Server:
    """Something that scores the study; `ask` returns the seconds that it took."""

    def __init__(self, name: str, root: psutil.Process, ask: Callable[[], None]):
        self.name, self.root, self._ask = name, root, ask

    def ask(self) -> float:
        t = time.perf_counter()
        self._ask()
        return time.perf_counter() - t

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by part."""
        spent: dict[str, float] = {}
        for p in (self.root, *self.root.children(recursive=True)):
            try:
                text = f"{p.name()} {' '.join(p.cmdline())}"
                seconds = sum(p.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
            part = next((v for k, v in PARTS.items() if k in text), "rest")
            spent[part] = spent.get(part, 0.0) + seconds
        return spent


def config(home: Path, bundle: str, port: int, scorers: int = 1) -> ServeConfig:
    data: dict[str, Any] = {"runs": str(home / f"runs-{port}"), "bundle": bundle, "port": port, "names": ["127.0.0.1"]}
    data["deployment"] = {"scorers": scorers}
    return check(validate(ServeConfig, data))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def post(client: httpx.Client, port: int, study: bytes) -> None:
    client.post(f"http://127.0.0.1:{port}/v1/studies:score", files={"study": study}).raise_for_status()


# ---- the three


def bare(study: Path, bundle: str) -> None:
    """Child: one line in, one study scored, one line out."""
    from osteo_ray.catalogue.study import index_study
    from osteo_ray.screening.predictor import Predictor

    predictor = Predictor.load(bundle)
    values = np.full((1, len(NAMES)), np.nan)
    print("ready", flush=True)
    for _ in sys.stdin:
        predictor.score_rows([index_study(study)], values)
        print("done", flush=True)


def uvicorn_app(home: Path, bundle: str, port: int) -> None:
    """Child: the app without Serve, its scorer in a child of its own."""
    import uvicorn

    from osteo_ray.service.http.app import create
    from osteo_ray.service.runs import Runs
    from osteo_ray.service.scoring import ModelHost, Pointer

    cfg = config(home, bundle, port)
    assert cfg.runs is not None
    pointer = Pointer(Runs(cfg.runs).store)
    pointer.deploy(str(cfg.bundle))
    host: Any = ModelHost(pointer, cfg)
    host.refresh()

    class Scoring:
        score = staticmethod(host.score)
        fault = staticmethod(host.fault)

        @staticmethod
        async def model() -> Any:
            return host.model

    class Nobody:
        async def wake(self) -> None: ...

        async def cancel(self, run_id: str) -> None: ...

    uvicorn.run(create(cfg, Scoring(), Nobody()), host="127.0.0.1", port=port, log_level="warning")


def child(*argv: str) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, __file__, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )


def until_ready(port: int) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/v1/ready", timeout=60).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"no answer at port {port}")


# ---- measuring


def alone(servers: list[Server], rounds: int) -> dict[str, list[float]]:
    """Seconds of single requests, one server after the other in each round."""
    seen: dict[str, list[float]] = {s.name: [] for s in servers}
    for r in range(rounds):
        for s in servers[r % len(servers) :] + servers[: r % len(servers)]:
            seen[s.name].append(s.ask())
    return seen


def together(servers: list[Server], rounds: int, clients: int) -> dict[str, list[float]]:
    """Requests a second of `clients` that ask at once, three times each, in each round."""
    seen: dict[str, list[float]] = {s.name: [] for s in servers}
    for r in range(rounds):
        for s in servers[r % len(servers) :] + servers[: r % len(servers)]:
            with ThreadPoolExecutor(clients) as pool:
                t = time.perf_counter()
                n = len(list(pool.map(lambda _, s=s: s.ask(), range(3 * clients))))
                seen[s.name].append(n / (time.perf_counter() - t))
    return seen


def interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Median and its 95 % bootstrap interval."""
    drawn = np.median(rng.choice(values, (2000, len(values))), axis=1)
    return tuple(round(float(x), 3) for x in (np.median(values), *np.quantile(drawn, [0.025, 0.975])))  # type: ignore


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="?", default="run", choices=["run", "bare", "uvicorn"])
    p.add_argument("--bundle", default=None)
    p.add_argument("--rounds", type=int, default=40)
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--scorers", type=int, default=1, help="replicas of Serve that score")
    p.add_argument("--out", type=Path)
    p.add_argument("--home", type=Path)
    p.add_argument("--port", type=int)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    bundle = a.bundle or reference.bundle()
    if a.what == "bare":
        bare(a.home / "study.zip", bundle)
    elif a.what == "uvicorn":
        uvicorn_app(a.home, bundle, a.port)
    else:
        run(a, bundle)


def run(a: argparse.Namespace, bundle: str) -> None:
    from osteo_ray import ray_setup

    home = Path(tempfile.mkdtemp(prefix="service-"))
    study = write_study(home / "study.zip", SIDE, SLICES)
    data = study.read_bytes()
    given = ["--home", str(home), "--bundle", bundle]
    plain = child("bare", *given)
    port, uvicorn_port = free_port(), free_port()
    web = child("uvicorn", *given, "--port", str(uvicorn_port))
    assert plain.stdin is not None
    assert plain.stdout is not None
    try:
        ray_setup.start(num_cpus=2, object_store_mb=256)
        from ray import serve

        from osteo_ray.service.serve_app import NAME, application

        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(config(home, bundle, port, a.scorers)), name=NAME, route_prefix="/")
        plain.stdout.readline()
        until_ready(uvicorn_port)
        until_ready(port)

        def ask_bare() -> None:
            plain.stdin.write("\n")  # type: ignore[union-attr]
            plain.stdin.flush()  # type: ignore[union-attr]
            plain.stdout.readline()  # type: ignore[union-attr]

        client = httpx.Client(timeout=300)  # one for all: a new one takes 36 ms to read its certificates
        raylet = next(c for c in psutil.Process().children() if "raylet" in c.name())
        servers = [
            Server("bare predictor", psutil.Process(plain.pid), ask_bare),
            Server("uvicorn, the same app", psutil.Process(web.pid), lambda: post(client, uvicorn_port, data)),
            Server("Ray Serve", raylet, lambda: post(client, port, data)),
        ]
        alone(servers, 3)  # imports, first allocations
        rows, bars = measure(servers, a)
    finally:
        plain.kill()
        web.terminate()
    doc = {
        "command": f"python benchmarks/service.py --rounds {a.rounds} --clients {a.clients} --scorers {a.scorers}"
        f" --seed {a.seed}",
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "seed": a.seed,
        "study_mb": round(len(data) / 1e6, 1),
        "load_average": round(os.getloadavg()[1], 1),
        "rows": rows,
        "bars": bars,
    }
    text = json.dumps(doc, indent=1) + "\n"
    print(text)
    if a.out:
        a.out.write_text(text)


def measure(servers: list[Server], a: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rng = np.random.default_rng(a.seed)
    before = [s.cpu() for s in servers]
    single = alone(servers, a.rounds)
    after = [s.cpu() for s in servers]
    many = together(servers[1:], max(3, a.rounds // 8), a.clients)
    rows, bars = [], []
    base = np.array(single[servers[0].name])
    for s, b, e in zip(servers, before, after, strict=True):
        t = np.array(single[s.name])
        ratio = interval(base / t, rng)
        spent = {k: 1000 * (v - b.get(k, 0.0)) / a.rounds for k, v in e.items()}
        row: dict[str, Any] = {"table": "one client", "server": s.name, "n": len(t)}
        row |= {"p50_ms": round(1000 * float(np.median(t))), "p99_ms": round(1000 * float(np.quantile(t, 0.99)))}
        row |= {"rate over the bare predictor": ratio[0], "low": ratio[1], "high": ratio[2]}
        row["cpu_ms"] = round(sum(spent.values()))
        rows.append(row)
        rows += [
            {"table": "cpu", "server": s.name, "part": k, "cpu_ms": round(v)}
            for k, v in sorted(spent.items(), key=lambda x: -x[1])
            if v >= 0.5
        ]
        if s is not servers[0]:
            bars.append({"name": f"rate of one client over the bare predictor, {s.name}", "value": ratio[0],
                         "low": ratio[1], "high": ratio[2], "target": 0.7, "met": bool(ratio[1] >= 0.7)})  # fmt: skip
    for s in servers[1:]:
        rate = np.array(many[s.name])
        rows.append({"table": "many clients", "server": s.name, "clients": a.clients, "rounds": len(rate),
                     "per_s": round(float(np.median(rate)), 2),
                     "rate over the bare predictor": round(float(np.median(rate) * np.median(base)), 3),
                     "rate over one client": round(float(np.median(rate) * np.median(single[s.name])), 3)})  # fmt: skip
    return rows, bars


if __name__ == "__main__":
    main()
