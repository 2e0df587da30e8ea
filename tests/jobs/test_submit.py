"""`ray job submit` for real: a head of its own on this machine, the repository as working dir."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from osteo_ray import rayenv  # noqa: F401 (Ray's environment for the processes started here)

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def head():
    """Address of the dashboard of a Ray head that is this test's own."""
    port = free_port()
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    env.pop("RAY_ADDRESS", None)
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as temp:
        command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}"]
        command += [f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"]
        command += [f"--ray-client-server-port={free_port()}", f"--temp-dir={temp}", "--object-store-memory=300000000"]
        log = (Path(temp) / "head.log").open("w")
        ray = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{address}/api/version", timeout=1)
                    break
                except OSError:
                    assert ray.poll() is None, Path(temp, "head.log").read_text()
                    time.sleep(0.5)
            else:
                pytest.fail("Ray's head did not come up:\n" + Path(temp, "head.log").read_text())
            yield address, env
        finally:
            ray.send_signal(signal.SIGTERM)
            ray.wait(60)


def submit(head, *command: str) -> subprocess.CompletedProcess:
    address, env = head
    return subprocess.run(
        [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--", "python", *command],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_index_then_screen_as_jobs(head, made, bundle_dir, tmp_path):
    config = tmp_path / "index.yaml"
    config.write_text(yaml.safe_dump({"archive": str(made.archive), "out": str(tmp_path / "index")}))
    done = submit(head, "jobs/index.py", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert pq.read_table(tmp_path / "index" / "catalogue.parquet").equals(pq.read_table(made.catalogue))

    job = {
        "archive": str(tmp_path / "index" / "catalogue.parquet"),
        "records": str(made.records),
        "bundle": str(bundle_dir),
        "out": str(tmp_path / "out"),
        "scoring": {"shap": False},
    }
    config.write_text(yaml.safe_dump(job))
    done = submit(head, "jobs/screen.py", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    n = pq.read_metadata(made.catalogue).num_rows
    assert f"in all, of {n} indexed series" in done.stdout
    assert pq.read_metadata(tmp_path / "out" / "results.parquet").num_rows == n
    assert (tmp_path / "out" / "report.html").exists()


def test_a_job_with_a_bad_key_fails_and_names_it(head):
    done = submit(head, "jobs/screen.py", "--set", "bundel=x")
    assert done.returncode != 0
    assert "did you mean bundle" in done.stdout + done.stderr
