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


@pytest.fixture(scope="module")
def screened(head, made, bundle_dir, tmp_path_factory) -> Path:
    """Index, then screen, as jobs with the repository as working dir."""
    folder = tmp_path_factory.mktemp("jobs")
    config = folder / "index.yaml"
    config.write_text(yaml.safe_dump({"archive": str(made.archive), "out": str(folder / "index")}))
    done = submit(head, "jobs/index.py", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert pq.read_table(folder / "index" / "catalogue.parquet").equals(pq.read_table(made.catalogue))

    job = {
        "archive": str(folder / "index" / "catalogue.parquet"),
        "records": str(made.records),
        "bundle": str(bundle_dir),
        "out": str(folder / "out"),
        "scoring": {"shap": False},
    }
    config.write_text(yaml.safe_dump(job))
    done = submit(head, "jobs/screen.py", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    n = pq.read_metadata(made.catalogue).num_rows
    assert f"in all, of {n} indexed series" in done.stdout
    assert pq.read_metadata(folder / "out" / "results.parquet").num_rows == n
    return folder / "out"


def test_index_then_screen_as_jobs(screened):
    assert {"report.html", "worklist.csv", "patients.parquet"} <= {p.name for p in screened.iterdir()}


def test_every_other_job_runs_with_a_working_dir_of_its_config_alone(head, screened, made, bundle_dir, tmp_path):
    """As with the image: the scripts lie in it, and a job brings nothing but a folder of YAML."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    out = {k: str(tmp_path / k) for k in ("cohort", "evaluate", "report", "recalibrate", "train", "tune", "serve")}
    run = {"results": str(screened), "bundle": str(bundle_dir)}
    labels = {"labels": str(made.records)}
    absent = str(tmp_path / "absent")
    # Those that would run for long, or for ever, get as far as an input that is not there.
    jobs: dict[str, tuple[dict, str]] = {
        "cohort": ({"persons": 3, "missing": {"complete_share": 0.9}, "out": out["cohort"]}, "3 persons"),
        "evaluate": (run | labels | {"out": out["evaluate"], "resamples": 100}, "evaluation.json"),
        "drift": (run | {"baseline": str(screened), "out": str(tmp_path / "drift.json")}, "as before"),
        "report": ({"results": str(screened), "top": 1, "formats": ["json"], "out": out["report"]}, "1 results"),
        "recalibrate": (run | labels | {"site": "here", "out": out["recalibrate"]}, "at least 20 of each are needed"),
        "train": ({"catalogue": absent, "records": str(made.records), "out": out["train"]}, absent),
        "tune": ({"train": absent, "out": out["tune"]}, absent),
        "serve": ({"runs": out["serve"], "bundle": absent}, absent),
        "index": ({"archive": absent, "out": out["train"]}, absent),
        "screen": ({"archive": f"{absent}.parquet", "bundle": str(bundle_dir), "out": out["train"]}, absent),
    }
    scripts = {p.stem for p in (ROOT / "jobs").glob("*.py")}
    assert scripts - {"retry"} <= set(jobs), "a job without a run here"
    conf = tmp_path / "conf"
    conf.mkdir()
    for name, (config, _) in jobs.items():
        (conf / f"{name}.yaml").write_text(yaml.safe_dump(config))
    client = JobSubmissionClient(head[0])
    names = list(jobs)
    for wave in (names[0::2], names[1::2]):
        ids = {
            n: client.submit_job(
                entrypoint=f"{sys.executable} {ROOT / 'jobs' / f'{n}.py'} --config {n}.yaml",
                runtime_env={"working_dir": str(conf)},
            )
            for n in wave
        }
        end = time.monotonic() + 300
        while any(not client.get_job_status(i).is_terminal() for i in ids.values()) and time.monotonic() < end:
            time.sleep(0.5)
        for name, i in ids.items():
            told = client.get_job_logs(i)
            assert jobs[name][1] in told, f"{name}: {told[-2000:]}"
            works = name in ("cohort", "evaluate", "drift", "report")
            wanted = JobStatus.SUCCEEDED if works else JobStatus.FAILED
            assert client.get_job_status(i) == wanted, f"{name}: {told[-2000:]}"


def test_a_job_with_a_bad_key_fails_and_names_it(head):
    done = submit(head, "jobs/screen.py", "--set", "bundel=x")
    assert done.returncode != 0
    assert "did you mean bundle" in done.stdout + done.stderr
