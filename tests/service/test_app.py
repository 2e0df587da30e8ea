"""Ray Serve for real: screenings outlive replicas and drivers, a bundle is swapped under load; the deploy file."""

import os
import socket
import subprocess
import sys
import threading
import time
from importlib import import_module
from inspect import isfunction
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from serving import config, runs_of, study_config, study_zip
from synthetic_bundle import synthetic_bundle

from osteo_ray.config import ConfigError
from osteo_ray.io.parquet_set import open_set
from osteo_ray.service.drivers import ActorDrivers, current_cluster, drivers_of_cluster
from osteo_ray.service.replica_port import on_loopback
from osteo_ray.service.runs import RunJob, RunState
from osteo_ray.service.screenings import Supervisor

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(true, what):
    end = time.monotonic() + 300  # a safeguard, not an expectation: the machine may be busy
    while time.monotonic() < end:
        if value := true():
            return value
        time.sleep(0.1)
    pytest.fail(f"waited in vain: {what}")


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/ready", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def test_deploy_file_is_what_serve_reads():
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "configs/serve_deploy.yaml").read_text()))
    module, _, name = schema.applications[0].import_path.partition(":")
    assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("::ffff:10.0.0.7", False),
    ],
)
def test_what_is_loopback(address, loopback):
    assert on_loopback(address) == loopback


def test_what_serve_deploy_imports_becomes_an_application(tmp_path):
    """As Serve itself does it: the arguments of the YAML file go through the builder's type."""
    from ray.serve import Application
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call

    from osteo_ray.service.serve_app import build

    shipped = yaml.safe_load((ROOT / "configs/serve_deploy.yaml").read_text())["applications"][0]["args"]
    serve_yaml = yaml.safe_load((ROOT / shipped["config"]).read_text()) | {"runs": str(tmp_path), "bundle": None}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(serve_yaml))
    assert isfunction(build)
    assert isinstance(call(build, shipped | {"config": str(tmp_path / "serve.yaml")}), Application)


@pytest.mark.ray
def test_a_service_on_loopback_listens_nowhere_else(tmp_path):
    """Every listening socket of every process of `osteo-ray serve`, and a knock on its replica's port."""
    port = free_port()
    argv = ["serve", "--runs", str(tmp_path / "runs"), "--port", str(port)]
    code = f"import sys; from osteo_ray.cli import main; sys.exit(main({argv!r}))"
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k == "RAY_worker_niceness"}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "serving" in process.stdout.readline()
        until(lambda: is_ready(port), "ready")
        parent = psutil.Process(process.pid)
        processes = [parent, *parent.children(recursive=True)]
        listening = [
            (p.name(), c.laddr.ip, c.laddr.port)
            for p in processes
            for c in p.net_connections(kind="inet")
            if c.status == psutil.CONN_LISTEN
        ]
        assert any(p == port for _, _, p in listening)
        assert any("ServeReplica" in name for name, _, _ in listening), "the replicas' own port is among them"
        assert [x for x in listening if not on_loopback(x[1])] == []
        # Nor does anybody answer who knocks from beyond loopback.
        beyond = [a.address for n in psutil.net_if_addrs().values() for a in n if a.family == socket.AF_INET]
        for address in (a for a in beyond if not on_loopback(a)):
            for p in {p for _, _, p in listening}:
                with socket.socket() as s, pytest.raises(ConnectionRefusedError):
                    s.connect((address, p))
    finally:
        process.terminate()
        process.wait(120)


def test_a_serve_that_others_reach_is_refused_without_tokens(bundle_dir, tmp_path):
    """Asked by the command and by each replica, which `serve deploy` starts, with the address that Serve has: nothing
    is opened to other machines to try it."""
    from osteo_ray.service.serve_app import refuse_public_without_tokens

    cfg = study_config(tmp_path, bundle_dir)
    assert cfg.on_loopback
    for host in ("0.0.0.0", "192.0.2.2", "::"):
        with pytest.raises(ConfigError, match="without tokens everybody"):
            refuse_public_without_tokens(cfg, host)
        refuse_public_without_tokens(cfg.model_copy(update={"tokens": tmp_path / "tokens"}), host)
    refuse_public_without_tokens(cfg, "127.0.0.1")
    refuse_public_without_tokens(cfg, None)  # no proxy at all


@pytest.mark.ray
def test_swap_under_load_and_a_screening_that_outlives_replica_and_driver(
    ray_session, cohort_run, bundle_dir, tmp_path
):
    from ray import serve

    from osteo_ray.service.serve_app import NAME, application

    other = tmp_path / "other"
    sha = synthetic_bundle(seed=1).save(other)
    cfg = config(tmp_path, cohort_run, bundle_dir, bundles=[str(tmp_path)])
    runs = runs_of(cfg)
    study = study_zip(cohort_run, tmp_path / "study.zip").read_bytes()
    port = free_port()
    answers, stop = [], threading.Event()
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(cfg), name=NAME, route_prefix="/")
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)
        old = client.get("/v1/model").json()["sha256"]

        def ask():
            with httpx.Client(base_url=client.base_url, timeout=300) as own_client:
                while not stop.is_set():
                    answer = own_client.post("/v1/studies:score", files={"study": study})
                    ok = answer.status_code == 200
                    answers.append((answer.status_code, answer.json()["model"]["sha256"] if ok else answer.text))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for t in threads:
            t.start()
        until(lambda: len(answers) >= 2, "answers by the first bundle")
        assert client.put("/v1/model", json={"bundle": str(other)}).status_code == 202
        until(lambda: (200, sha) in list(answers), "an answer by the new bundle")
        stop.set()
        for t in threads:
            t.join()
        assert set(answers) == {(200, old), (200, sha)}  # none dropped, both seen

        job = {"archive": str(cohort_run.archive), "records": str(cohort_run.records), "options": {"shap": False}}
        new = client.post("/v1/screenings", json=job)
        assert new.status_code == 202, new.text
        run = runs.get(new.json()["id"])
        assert run is not None
        until(lambda: run.saved.state == RunState.RUNNING, "a driver")
        until(lambda: run.progress().total is not None, "the index")
        (replica,) = _replicas("Api")
        ActorDrivers(cfg).stop(run)
        ray_session.kill(ray_session.get_actor(replica, namespace="serve"))

        def ended():
            try:
                state = client.get(f"/v1/screenings/{run.id}").json()["state"]
            except (httpx.TransportError, ValueError, KeyError):  # the replica is being replaced
                return False
            assert state != "FAILED", run.saved.error
            return state == "DONE"

        until(ended, "the screening's end")
        status = client.get(f"/v1/screenings/{run.id}").json()
        assert status["attempt"] == 2
        assert replica not in _replicas("Api")
        keys = run.table(["row_key"])["row_key"].to_pylist()
        assert len(keys) == len(set(keys)) == sum(status["counts"].values()) == status["series"]
        assert status["series"] == len(open_set(cohort_run.catalogue))
    finally:
        stop.set()
        serve.shutdown()


def _replicas(deployment):
    """Actor names of a deployment's replicas."""
    from ray.util import list_named_actors

    names = [a["name"] for a in list_named_actors(all_namespaces=True) if a["namespace"] == "serve"]
    return [n for n in names if f"osteo-ray#{deployment}#" in n]


@pytest.mark.ray
def test_a_supervisor_gives_up_after_crashes_without_progress(ray_session, cohort_run, bundle_dir, tmp_path):
    cfg = config(tmp_path, cohort_run, bundle_dir, limits={"attempts": 2})
    runs = runs_of(cfg)
    run = runs.create(RunJob(str(cohort_run.archive), None, None, {}, str(bundle_dir), "tester", 1.0e9))
    for _ in range(2):
        run.begin(current_cluster())
    drivers = drivers_of_cluster(cfg)
    assert isinstance(drivers, ActorDrivers), "a Ray of our own has no dashboard, and so no Jobs API"
    assert Supervisor(runs, cfg, drivers).keep() == 0
    assert run.saved.state == RunState.FAILED
    assert "died 2 times without progress" in (run.saved.error or "")
