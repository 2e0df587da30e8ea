"""`ray job submit` for real: a head of its own on this machine, the repository as working dir."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import yaml
from small_training import TRAIN

from osteo_ray import ray_setup  # noqa: F401 (Ray's environment for the processes started here)
from osteo_ray.io.parquet_set import open_set
from osteo_ray.model.bundle import Bundle

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serving_labels() -> str:
    """Of the nodes that the shipped RayService serves on, as `ray start --labels` takes them."""
    (service,) = [d for d in yaml.safe_load_all((ROOT / "deploy" / "rayservice.yaml").read_text()) if "spec" in d]
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (labels,) = [g["labels"] for g in groups if g["groupName"] == "serving"]
    return ",".join(f"{key}={value}" for key, value in labels.items())


@pytest.fixture(scope="module")
def head():
    """Address of the dashboard of a Ray head that is this test's own."""
    port = free_port()
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    env.pop("RAY_ADDRESS", None)
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as temp:
        command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}"]
        command += [f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"]
        command += [f"--ray-client-server-port={free_port()}", f"--temp-dir={temp}", "--object-store-memory=300000000"]
        command += [f"--labels={serving_labels()}"]
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
def screened(head, cohort_run, bundle_dir, tmp_path_factory) -> Path:
    """Index, then screen, as jobs with the repository as working dir."""
    folder = tmp_path_factory.mktemp("jobs")
    config = folder / "index.yaml"
    config.write_text(yaml.safe_dump({"archive": str(cohort_run.archive), "out": str(folder / "index")}))
    done = submit(head, "jobs/index.py", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert pq.read_table(folder / "index" / "catalogue.parquet").equals(pq.read_table(cohort_run.catalogue))

    job = {
        "archive": str(folder / "index" / "catalogue.parquet"),
        "records": str(cohort_run.records),
        "bundle": str(bundle_dir),
        "out": str(folder / "out"),
        "scoring": {"shap": False},
    }
    config.write_text(yaml.safe_dump(job))
    done = submit(head, "jobs/screen.py", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    n = len(open_set(cohort_run.catalogue))
    assert f"in all, of {n} indexed series" in done.stdout
    assert pq.read_metadata(folder / "out" / "results.parquet").num_rows == n
    return folder / "out"


def test_index_then_screen_as_jobs(screened):
    assert {"report.html", "worklist.csv", "patients.parquet"} <= {p.name for p in screened.iterdir()}


class Jobs:
    """Submits scripts of `jobs/` as to an image that holds them: what a job brings is one folder of YAML."""

    def __init__(self, address: str, conf: Path):
        from ray.job_submission import JobSubmissionClient

        self.client = JobSubmissionClient(address)
        self.conf = conf

    def start(self, name: str, config: dict, action: str = "") -> str:
        (self.conf / f"{name}.yaml").write_text(yaml.safe_dump(config))
        return self.client.submit_job(
            entrypoint=f"{sys.executable} {ROOT / 'jobs' / name}.py {action} --config {name}.yaml",
            runtime_env={"working_dir": str(self.conf)},
        )

    def end(self, job: str, works: bool, says: str) -> str:
        limit = time.monotonic() + 400  # a safeguard, not an expectation
        while not self.client.get_job_status(job).is_terminal() and time.monotonic() < limit:
            time.sleep(0.5)
        log = self.client.get_job_logs(job)
        assert self.client.get_job_status(job) == ("SUCCEEDED" if works else "FAILED"), log[-3000:]
        assert says in log
        return log


@pytest.fixture(scope="module")
def jobs(head, tmp_path_factory) -> Jobs:
    return Jobs(head[0], tmp_path_factory.mktemp("conf"))


def test_what_follows_a_screening(jobs, screened, cohort_run, bundle_dir, tmp_path):
    run = {"results": str(screened), "bundle": str(bundle_dir)}
    labels = {"labels": str(cohort_run.records)}
    started = {
        "evaluate": jobs.start("evaluate", run | labels | {"out": str(tmp_path / "evaluate"), "resamples": 100}),
        "drift": jobs.start("drift", run | {"baseline": str(screened), "out": str(tmp_path / "drift.json")}),
    }
    jobs.end(started["evaluate"], True, "evaluation.json")
    jobs.end(started["drift"], False, "nothing could be compared")  # of so few patients
    one = {"results": str(screened), "top": 1, "formats": ["json"], "out": str(tmp_path / "report")}
    started = {
        "report": jobs.start("report", one),
        "recalibrate": jobs.start("recalibrate", run | labels | {"site": "here", "out": str(tmp_path / "new")}),
    }
    jobs.end(started["report"], True, "1 results")
    jobs.end(started["recalibrate"], False, "at least 20 of each are needed")  # a dozen CTs are no basis


def test_train_then_tune(jobs, tmp_path):
    cohort_dir = str(tmp_path / "made")
    people = {
        "seed": 6,
        "persons": 330,
        "scan": {"size_512_share": 0, "slice_max": 40},
        "positions": 16,
        "out": cohort_dir,
    }
    jobs.end(jobs.start("cohort", people | {"missing": {"complete_share": 0.2}}, "slices"), True, "with CT")
    train = TRAIN | {
        "records": f"{cohort_dir}/records.csv",
        "extra_slices": [f"{cohort_dir}/slices"],
        "out": str(tmp_path / "run"),
    }
    jobs.end(jobs.start("train", train), True, "bundle")
    assert Bundle.load(tmp_path / "run" / "bundle").calibrators
    tune = {
        "train": "train.yaml",
        "out": str(tmp_path / "tune"),
        "splits": 2,
        "search": {"trials": 2, "startup": 1},
        "tabular": {"kdamm.tabular.epochs": {"kind": "int", "low": 1, "high": 5}},
        "image": {"kdamm.image.lr": {"kind": "loguniform", "low": 0.001, "high": 0.01}},
    }
    jobs.end(jobs.start("tune", tune, "teachers"), True, "2 trials")
    assert (tmp_path / "tune" / "teachers.yaml").exists()


OTHER = """
import sys

from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Other:
    async def __call__(self, request):
        return "somebody else's"


serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Other.bind(), name="other", route_prefix="/other")
"""


@pytest.fixture(scope="module")
def serve_port(jobs) -> int:
    """Where the cluster's Serve listens; an application of somebody else's is there already."""
    port = free_port()
    (jobs.conf / "other.py").write_text(OTHER)
    job = jobs.client.submit_job(
        entrypoint=f"{sys.executable} other.py {port}", runtime_env={"working_dir": str(jobs.conf)}
    )
    jobs.end(job, True, "")
    return port


def asked(port: int, path: str) -> str | None:
    """What Serve answers; None: nothing is there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.read().decode()
    except OSError:
        return None


def wait_for(what: Callable[[], Any], job: Callable[[], str] = lambda: "") -> Any:
    limit = time.monotonic() + 300  # a safeguard, not an expectation
    while not (found := what()) and time.monotonic() < limit:
        time.sleep(0.5)
    assert found, job()
    return found


def test_serve_answers_until_it_is_stopped_and_takes_nobody_along(jobs, serve_port, bundle_dir, tmp_path):
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "readme.txt").write_text("no CT")
    config = {"runs": str(tmp_path / "runs"), "bundle": str(bundle_dir), "port": serve_port}
    job = jobs.start("serve", config | {"archives": {"roots": [str(tmp_path)]}})
    model = wait_for(lambda: asked(serve_port, "/v1/model"), lambda: jobs.client.get_job_logs(job))
    assert json.loads(model)["sha256"] == Bundle.load(bundle_dir).sha256
    # A screening is a Ray job, which `ray job list` and `ray job logs` know, and ends as the screening does.
    new = httpx.post(f"http://127.0.0.1:{serve_port}/v1/screenings", json={"archive": str(tmp_path / "ct")}, timeout=60)
    run = new.raise_for_status().json()["id"]
    driver = f"screening-{run}-1"
    wait_for(lambda: any(j.submission_id == driver for j in jobs.client.list_jobs()))
    wait_for(lambda: jobs.client.get_job_status(driver).is_terminal())
    ended = jobs.client.get_job_info(driver)
    assert (ended.status, ended.metadata) == ("FAILED", {"screening": run, "attempt": "1"})
    assert "no CT series" in jobs.client.get_job_logs(driver)
    status = json.loads(asked(serve_port, f"/v1/screenings/{run}") or "{}")
    assert (status["state"], status["attempt"]) == ("FAILED", 1)
    assert "no CT series" in status["error"]
    jobs.client.stop_job(job)
    wait_for(lambda: jobs.client.get_job_status(job).is_terminal())
    assert asked(serve_port, "/other") == "somebody else's"
    assert asked(serve_port, "/v1/model") is None


@pytest.mark.parametrize("ships", ["configs/serve_deploy.yaml", "deploy/rayservice.yaml"])
def test_what_ships_for_serve_deploy_is_deployed(head, serve_port, ships, bundle_dir, tmp_path):
    """As it ships, but for the folders and the address, which are this machine's."""
    documents = list(yaml.safe_load_all((ROOT / ships).read_text()))
    if len(documents) == 1:
        (deploy,) = documents
        config = yaml.safe_load((ROOT / deploy["applications"][0]["args"]["config"]).read_text())
    else:
        config, service = documents
        deploy = yaml.safe_load(service["spec"]["serveConfigV2"])
        config = yaml.safe_load(config["data"]["serve.yaml"])
    own = {"runs": str(tmp_path / "runs"), "bundle": str(bundle_dir), "host": "127.0.0.1", "tokens": None}
    small = {"api_replicas": 1, "scorers": 1}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config | own | {"deployment": config["deployment"] | small}))
    deploy["http_options"] = {"host": "127.0.0.1", "port": serve_port}
    deploy["applications"][0]["args"]["config"] = str(tmp_path / "serve.yaml")
    (tmp_path / "deploy.yaml").write_text(yaml.safe_dump(deploy))
    address, env = head
    command = [BIN / "serve", "deploy", "--address", address, tmp_path / "deploy.yaml"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    def status() -> str:
        return subprocess.run(
            [BIN / "serve", "status", "--address", address], env=env, capture_output=True, text=True
        ).stdout

    model = wait_for(lambda: (tmp_path / "runs" / "model.json").exists() and asked(serve_port, "/v1/model"), status)
    assert json.loads(model)["sha256"] == Bundle.load(bundle_dir).sha256


def test_there_is_a_run_of_each_job():
    """A new script in `jobs/` needs its submission here, or on two machines."""
    scripts = {p.stem for p in (ROOT / "jobs").glob("*.py")}
    text = Path(__file__).read_text() + (ROOT / "tests" / "cluster" / "journey.py").read_text()
    forms = 'start("{}"', "jobs/{}.py", 'Step("{}"'
    assert {s for s in scripts if not any(f.format(s) in text for f in forms)} == set()


def test_a_job_with_a_bad_key_fails_and_names_it(head):
    done = submit(head, "jobs/screen.py", "--set", "bundel=x")
    assert done.returncode != 0
    assert "did you mean bundle" in done.stdout + done.stderr
