"""What tests share: one Ray, one small synthetic archive with its catalogue, one small bundle."""

import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from osteo_ray import ray_setup

# A slow example is no failure: the machine may be busy.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


def pytest_collection_modifyitems(items):
    """A test that asks for Ray, through whatever fixture, has its marker."""
    for item in items:
        if "ray_session" in item.fixturenames:
            item.add_marker("ray")


@pytest.fixture(scope="session")
def ray_session():
    """Starting Ray costs seconds, so the whole run shares one."""
    ray_setup.start(num_cpus=2, object_store_mb=512)
    import ray

    yield ray
    ray.shutdown()


@dataclass(frozen=True)
class CohortRun:
    """A synthetic archive on disk."""

    archive: Path
    records: Path
    truth: Path
    catalogue: Path


@pytest.fixture(scope="session")
def cohort_run(ray_session, tmp_path_factory) -> CohortRun:
    """A few synthetic patients as DICOM, indexed."""
    from osteo_ray.catalogue import build as catalogue
    from osteo_ray.catalogue.config import IndexConfig
    from osteo_ray.config import validate
    from osteo_ray.synthetic.config import CohortConfig
    from osteo_ray.synthetic.write import write_cohort

    root = tmp_path_factory.mktemp("cohort_run")
    cfg = {"seed": 5, "persons": 120, "scan": {"size_512_share": 0.0, "slice_max": 64, "protocols": {"abdomen": 1.0}}}
    write_cohort(root, validate(CohortConfig, cfg))
    catalogue.build(root / "archive", root / "index", IndexConfig())
    return CohortRun(root / "archive", root / "records.csv", root / "truth", root / "index" / "catalogue.parquet")


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory) -> Path:
    """An untrained bundle on disk."""
    from synthetic_bundle import synthetic_bundle

    folder = tmp_path_factory.mktemp("bundle")
    synthetic_bundle().save(folder)
    return folder


@pytest.fixture(scope="module")
def s3():
    """URI of a bucket on a loopback S3 server."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    import fsspec

    with pytest.MonkeyPatch.context() as m, socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        s.close()
        m.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            m.setenv(name, "test")
        m.setenv("AWS_DEFAULT_REGION", "us-east-1")
        m.setenv("NO_PROXY", "127.0.0.1")
        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        fsspec.filesystem("s3", skip_instance_cache=True).makedirs("runs", exist_ok=True)
        yield "s3://runs"
        server.stop()
        fsspec.filesystem("s3").clear_instance_cache()
