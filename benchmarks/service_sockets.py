"""What can be reached from other machines while the service runs, and while a plain application of Ray Serve does.

    python benchmarks/service_sockets.py --out docs/results/service-sockets.json

Both run on this machine, on loopback, one after the other. Every listening socket of every process is listed, and each
port is knocked on at the machine's addresses beyond loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from osteo_ray.service.replica_port import on_loopback

PLAIN, OWN = "a plain application of Ray Serve", "osteo-ray serve"
PLAIN_APP = """
import sys, ray
from ray import serve

@serve.deployment
class App:
    async def __call__(self, request):
        return "hello"

ray.init(num_cpus=2, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(App.bind())
print("serving", flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def started(command: list[str]) -> subprocess.Popen[str]:
    """The process, once it says that it serves."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_USAGE_STATS_ENABLED": "0"}
    env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("serving"):
            return process
    raise RuntimeError(f"it ended with {process.wait()}")


def listening(root: int) -> Iterator[tuple[str, str, int]]:
    """(process name, address, port) of every listening socket of a process and what it started."""
    parent = psutil.Process(root)
    for p in (parent, *parent.children(recursive=True)):
        name = p.name().split(":")[1] if p.name().startswith("ray::") else p.name()
        for c in p.net_connections(kind="inet"):
            if c.status == psutil.CONN_LISTEN:
                yield name, c.laddr.ip, c.laddr.port


def answers(port: int, addresses: list[str]) -> bool:
    """Whether somebody accepts connections at one of the addresses."""
    for address in addresses:
        with socket.socket() as s:
            s.settimeout(5)
            if s.connect_ex((address, port)) == 0:
                return True
    return False


def measured(server: str, command: list[str], beyond: list[str]) -> list[dict[str, Any]]:
    process = started(command)
    try:
        found = list(listening(process.pid))
        reached = {port: answers(port, beyond) for _, _, port in found}
    finally:
        process.terminate()
        process.wait(120)
    counts = Counter((name, "loopback" if on_loopback(ip) else "every interface", reached[p]) for name, ip, p in found)
    return [
        {
            "table": "sockets",
            "server": server,
            "process": name,
            "bound_to": to,
            "sockets": n,
            "answers_from_outside": yes,
        }
        for (name, to, yes), n in sorted(counts.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/service-sockets.json"))
    args = parser.parse_args()
    inet = [a.address for n in psutil.net_if_addrs().values() for a in n if a.family == socket.AF_INET]
    beyond = [a for a in inet if not on_loopback(a)]
    with tempfile.TemporaryDirectory() as home:
        own = [sys.executable, "-m", "osteo_ray.cli", "serve", "--runs", f"{home}/runs", "--port", str(free_port())]
        rows = measured(PLAIN, [sys.executable, "-c", PLAIN_APP, str(free_port())], beyond)
        rows += measured(OWN, own, beyond)
    bars = []
    for name, server, target in (("plain", PLAIN, None), ("own", OWN, 0)):
        n = sum(r["sockets"] for r in rows if r["server"] == server and r["answers_from_outside"])
        met = None if target is None else n <= target
        bars.append({"name": name, "value": n, "low": None, "high": None, "target": target, "met": met})
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = f"python benchmarks/service_sockets.py --out {args.out}"
    document = {"command": command, "commit": commit, "seed": None, "rows": rows, "bars": bars}
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
