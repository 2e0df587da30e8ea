"""Two machines in one: a head with 0 CPUs and a worker whose disk, home and temporary files are its own.

    with Rig(folder) as rig:
        job = rig.start("index", {"archive": ..., "out": ...})
        rig.end(job)

The worker's mount namespace has another folder at `rig.disk`, at TMPDIR and at Ray's session, so that a path that only
the driver has is not there for tasks, as between two machines. `rig.shared` is the folder that both mount. A submitted
job brings a folder of YAML and nothing else.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_S, JOB_S = 120, 580


def cannot_build() -> str:
    """Why this machine can't hold the rig; "" where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "two machines in one need Linux and root"
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return "unshare or mount is missing"
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        done = subprocess.run(["unshare", "-m", "mount", "--bind", a, b], capture_output=True, text=True)
    return f"no mount namespace: {done.stderr.strip()}" if done.returncode else ""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Rig:
    """See the module."""

    def __init__(self, env: dict[str, str] | None = None, cpus: int = 2):
        self._given, self._cpus = env or {}, cpus
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        # Ray's sockets need a short path.
        self.root = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        own = {n: self.root / n for n in ("disk", "home", "t", "s", "shared", "conf")}
        far = {n: self.root / f"worker_{n}" for n in ("disk", "home", "t", "s")}
        for p in (*own.values(), *far.values()):
            p.mkdir()
        self.disk, self.shared, self.conf, self.worker_disk = own["disk"], own["shared"], own["conf"], far["disk"]
        env = {
            **os.environ,
            **self._given,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(own["home"]),
            "TMPDIR": str(own["t"]),
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",  # or whatever else a machine does comes first
        }
        env.pop("RAY_ADDRESS", None)
        port, dashboard = free_port(), free_port()
        head = [str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=0"]
        head += [f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        head += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        head += ["--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={own['s']}", "--disable-usage-stats"]
        head += ["--object-store-memory=200000000"]
        self._spawn("head", head, env)
        self.address = f"http://127.0.0.1:{dashboard}"
        self._wait(lambda: urllib.request.urlopen(f"{self.address}/api/version", timeout=1).close())
        binds = " && ".join(f"mount --bind {far[n]} {own[n]}" for n in far)
        node = f"{sys.executable} {Path(__file__).with_name('worker_node.py')} {port} {self._cpus} {own['s']}"
        self._spawn("worker", ["unshare", "-m", "bash", "-c", f"{binds} && cd {own['home']} && exec {node}"], env)
        self._wait(self._nodes)
        from ray.job_submission import JobSubmissionClient

        self.client = JobSubmissionClient(self.address)

    def _nodes(self) -> None:
        if b"up" not in (self.root / "worker.log").read_bytes():
            raise OSError("the worker is not up")

    def _spawn(self, name: str, command: list[str], env: dict[str, str]) -> None:
        with (self.root / f"{name}.log").open("w") as log:
            p = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=self.root)
        self._processes.append(p)

    def _wait(self, ready: Any) -> None:
        limit = time.monotonic() + START_S
        while True:
            try:
                return ready()
            except OSError:
                dead = [p for p in self._processes if p.poll() is not None]
                if dead or time.monotonic() > limit:
                    logs = [p.read_text()[-2000:] for p in self.root.glob("*.log")]
                    raise RuntimeError("the rig did not come up\n" + "\n".join(logs)) from None
                time.sleep(0.3)

    def write(self, name: str, config: dict[str, Any]) -> None:
        """Put YAML into the folder that jobs bring."""
        (self.conf / f"{name}.yaml").write_text(yaml.safe_dump(config))

    def start(self, name: str, config: dict[str, Any], action: str = "") -> str:
        """Submit a job with this YAML; its id."""
        self.write(name, config)
        return self.client.submit_job(
            entrypoint=f"{sys.executable} {ROOT / 'jobs' / name}.py {action} --config {name}.yaml",
            runtime_env={"working_dir": str(self.conf)},
        )

    def end(self, job: str) -> tuple[bool, str]:
        """Wait for a job: whether it succeeded, and its log."""
        limit = time.monotonic() + JOB_S  # a safeguard, not an expectation
        while not self.client.get_job_status(job).is_terminal():
            if time.monotonic() > limit:
                self.client.stop_job(job)
                return False, f"not done in {JOB_S} s\n" + self.client.get_job_logs(job)
            time.sleep(0.3)
        return self.client.get_job_status(job) == "SUCCEEDED", self.client.get_job_logs(job)

    def __exit__(self, *exc: object) -> None:
        for p in reversed(self._processes):
            p.send_signal(signal.SIGTERM)
            try:
                p.wait(30)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        shutil.rmtree(self.root, ignore_errors=True)
