"""Every job on two machines that share nothing but a bucket, or one path: see `rig`."""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from journey import LONG, SHORT, run, screenings, steps
from rig import Rig, cannot_build

from osteo_ray.io.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.skipif(bool(why := cannot_build()), reason=why or "-")]
FULL = pytest.mark.skipif("OSTEO_RAY_CLUSTER" not in os.environ, reason="`make test-cluster` runs it")


@pytest.fixture(scope="module")
def rig(s3):
    """A head without CPUs and one worker; both reach the bucket of `s3`."""
    with Rig() as r:
        yield r


@pytest.fixture(scope="module")
def shared(rig, cohort_run, bundle_dir) -> Path:
    """The path that both mount, with an archive, records and a bundle."""
    shutil.copytree(cohort_run.archive, rig.shared / "ct")
    shutil.copy(cohort_run.records, rig.shared / "records.csv")
    shutil.copytree(bundle_dir, rig.shared / "bundle")
    return rig.shared


@pytest.fixture(scope="module")
def bucket(rig, shared, s3) -> Store:
    """The same in a bucket; what the jobs need of it they reach there."""
    store = Store(f"{s3}/two-machines")
    for p in shared.rglob("*"):
        if p.is_file():
            store.put(str(p.relative_to(shared)), p.read_bytes())
    return store


def go(rig, at, jobs):
    for step in steps(at, jobs):
        done = run(rig, step)
        print(f"{done.job:12s} {'as it should' if done.good else 'WRONG'} {done.seconds:.0f} s", flush=True)
        assert done.good, f"{done.job}: {done.log[-4000:]}"


def test_what_a_node_does_not_see_is_said_before_any_work(rig, shared):
    """A folder of the head's disk, and one that the worker has of the same name with another content."""
    (rig.disk / "ct").mkdir()
    (rig.disk / "ct" / "a.dcm").write_bytes(b"123")
    (rig.worker_disk / "ct").mkdir()
    job = {"archive": str(rig.disk / "ct"), "out": str(rig.disk / "index")}
    good, log = rig.end(rig.start("index", job))
    assert not good
    assert f"out: {rig.disk}/index: what the driver wrote there is not there; mount the same folder" in log
    assert f"archive: {rig.disk}/ct: another folder than the driver's: it has no a.dcm" in log
    assert list(rig.disk.rglob(".*")) == []
    assert not (rig.disk / "index").exists()
    good, log = rig.end(rig.start("index", {"archive": "ct", "out": str(shared / "index")}))
    assert not good
    assert "archive: ct is relative" in log


def test_from_a_bucket_to_a_report(rig, bucket):
    go(rig, bucket.path, SHORT)
    assert bucket.exists("run/report.html")
    assert not any(p.is_file() for p in rig.worker_disk.rglob("*"))


def as_they_should(found) -> None:
    for what, good, seconds, error in found:
        print(f"{what:40s} {'as it should' if good else 'WRONG'} {seconds:.0f} s", flush=True)
        assert good, f"{what}: {error}"


@FULL
def test_a_screening_of_the_service_is_a_ray_job(rig, shared):
    """Its driver on the head, as by default."""
    unseen = rig.disk / "unseen"
    for home in (unseen, rig.worker_disk / "unseen"):
        home.mkdir()
    (unseen / "a.dcm").write_bytes(b"123")
    archives = {"roots": [str(shared / "ct"), str(unseen)]}
    as_they_should(screenings(rig, lambda name: str(shared / name), archives, {}, str(unseen)))


@FULL
def test_a_service_whose_screenings_lie_in_a_bucket_shares_no_disk(rig, bucket, s3):
    """Replicas and drivers on the node with the label that the config names."""
    there = {"driver_cpus": 0.5, "node_labels": {"market": "spot"}}
    as_they_should(screenings(rig, bucket.path, {"buckets": [s3]}, there))
    jobs = rig.client.list_jobs()
    drivers = {j.driver_node_id for j in jobs if "osteo_ray.service.drive s3://" in j.entrypoint}
    head = {j.driver_node_id for j in jobs if "jobs/serve.py" in j.entrypoint}
    assert drivers
    assert drivers.isdisjoint(head)


@FULL
def test_every_job_with_a_bucket(rig, bucket):
    go(rig, lambda name: bucket.path(name if name in ("ct", "records.csv", "bundle") else f"all-{name}"), LONG)
    assert bucket.exists("all-trained/bundle.json")


@FULL
def test_every_job_with_a_shared_path(rig, shared):
    go(rig, lambda name: str(shared / name), LONG)
    assert (shared / "run" / "report.html").exists()
