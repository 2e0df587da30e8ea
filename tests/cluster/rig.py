"""Two machines in one: a head with 0 CPUs and a worker whose disk, home and temporary files are its own.

    with Rig(folder) as rig:
        job = rig.start("index", {"archive": ..., "out": ...})
        rig.end(job)

The worker's mount namespace has another folder at `rig.disk`, at TMPDIR and at Ray's session, so that a path that only
the driver has is not there for tasks, as between two machines. `rig.shared` is the folder that both mount. A submitted
job brings a folder of YAML and nothing else. More workers can be added, and any of them killed, while jobs run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_S, JOB_S = 120, 580
START_TRIES = 3
"""A machine that others keep busy starts Ray too, in the second or third minute: Ray gives itself half of one."""


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


@dataclass(frozen=True)
class Worker:
    """A node beside the head: its first process, its disk, and the id by which Ray knows it."""

    process: subprocess.Popen
    disk: Path
    node_id: str


class Rig:
    """See the module.

    Args:
        cpus: of each worker.
        shared_mb: size of the shared folder, which is then a disk of its own that can be full.
        system: of Ray's own settings, such as how soon a node is taken for lost.
    """

    def __init__(
        self,
        env: dict[str, str] | None = None,
        cpus: int = 2,
        shared_mb: int | None = None,
        system: Mapping[str, Any] | None = None,
    ):
        self._given, self._cpus, self._shared_mb, self._system = env or {}, cpus, shared_mb, system
        self._head: subprocess.Popen | None = None
        self._started = 0
        self.workers: list[Worker] = []

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
        for p in own.values():
            p.mkdir()
        self.disk, self.shared, self.conf = own["disk"], own["shared"], own["conf"]
        if self._shared_mb is not None:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={self._shared_mb}m", "tmpfs", str(self.shared)]
            subprocess.run(mount, check=True)
        self._env = {
            **os.environ,
            **self._given,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(own["home"]),
            "TMPDIR": str(own["t"]),
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",  # or whatever else a machine does comes first
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        }
        self._env.pop("RAY_ADDRESS", None)
        port, dashboard = free_port(), free_port()
        self.serve_port = free_port()  # a cluster has one Serve
        head = [str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=0"]
        head += [f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        head += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        head += ["--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={own['s']}", "--disable-usage-stats"]
        head += ["--object-store-memory=200000000"]
        if self._system:
            head += [f"--system-config={json.dumps(dict(self._system))}"]
        self._head = self._spawn("head", head)
        self.address, self.gcs = f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}"
        version = f"{self.address}/api/version"
        self._wait(self._head, lambda: urllib.request.urlopen(version, timeout=1).close())
        self.add_worker()
        from ray.job_submission import JobSubmissionClient

        self.client = JobSubmissionClient(self.address)

    @property
    def pid(self) -> int:
        """Of the head's first process."""
        assert self._head is not None
        return self._head.pid

    @property
    def worker_disk(self) -> Path:
        """The disk of the first worker."""
        return self.workers[0].disk

    def add_worker(self) -> Worker:
        """Start one more worker, whose disk, home and temporary files are its own."""
        for tries_left in reversed(range(START_TRIES)):
            try:
                self.workers.append(self._worker())
                break
            except RuntimeError:
                if not tries_left:
                    raise
        return self.workers[-1]

    def _worker(self) -> Worker:
        self._started += 1
        name = "worker" if self._started == 1 else f"worker{self._started}"
        far = {n: self.root / f"{name}_{n}" for n in ("disk", "home", "t", "s")}
        for p in far.values():
            p.mkdir()
        binds = " && ".join(f"mount --bind {far[n]} {self.root / n}" for n in far)
        port = self.gcs.rpartition(":")[2]
        start = f"{sys.executable} {Path(__file__).with_name('worker_node.py')} {port} {self._cpus} {self.root / 's'}"
        process = self._spawn(
            name, ["unshare", "-m", "bash", "-c", f"{binds} && cd {self.root / 'home'} && exec {start}"]
        )
        log = self.root / f"{name}.log"

        def up() -> str:
            lines = [line for line in log.read_text().splitlines() if line.startswith("up ")]
            if not lines:
                raise OSError("the worker is not up")
            return lines[0].split()[1]

        return Worker(process, far["disk"], self._wait(process, up))

    def kill_worker(self, worker: Worker) -> None:
        """End all processes of a worker at once, as a machine that loses its power does."""
        self.workers.remove(worker)
        everything = [psutil.Process(worker.process.pid)]
        everything += everything[0].children(recursive=True)
        for p in everything:
            with suppress(psutil.NoSuchProcess):
                p.kill()
        worker.process.wait()

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen:
        with (self.root / f"{name}.log").open("w") as log:
            return subprocess.Popen(command, env=self._env, stdout=log, stderr=subprocess.STDOUT, cwd=self.root)

    def _wait(self, process: subprocess.Popen, ready: Callable[[], Any]) -> Any:
        limit = time.monotonic() + START_S
        while True:
            try:
                return ready()
            except OSError:
                if process.poll() is not None or time.monotonic() > limit:
                    process.kill()
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
        for p in [*(w.process for w in reversed(self.workers)), *([self._head] if self._head else [])]:
            p.send_signal(signal.SIGTERM)
            try:
                p.wait(30)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        if self._shared_mb is not None:
            subprocess.run(["umount", "-l", str(self.shared)], check=False)
        shutil.rmtree(self.root, ignore_errors=True)
