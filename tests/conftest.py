"""What tests share: one Ray, one small made archive with its catalogue, one small bundle."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from osteo_ray import rayenv


@pytest.fixture(scope="session")
def ray_session():
    """Starting Ray costs seconds, so the whole run shares one."""
    rayenv.start(num_cpus=2, object_store_mb=512)
    import ray

    yield ray
    ray.shutdown()


@dataclass(frozen=True)
class Made:
    """A made archive on disk."""

    archive: Path
    records: Path
    truth: Path
    catalogue: Path


@pytest.fixture(scope="session")
def made(ray_session, tmp_path_factory) -> Made:
    """A few made patients as DICOM, indexed."""
    from osteo_ray.archive import catalogue
    from osteo_ray.archive.config import IndexConfig
    from osteo_ray.cohort.config import CohortConfig
    from osteo_ray.cohort.write import write_cohort
    from osteo_ray.config import validate

    root = tmp_path_factory.mktemp("made")
    cfg = {"seed": 5, "persons": 120, "scan": {"size_512_share": 0.0, "slice_max": 64, "chest_only_share": 0.0}}
    write_cohort(root, validate(CohortConfig, cfg))
    catalogue.build(root / "archive", root / "index", IndexConfig())
    return Made(root / "archive", root / "records.csv", root / "truth", root / "index" / "catalogue.parquet")


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory) -> Path:
    """An untrained bundle on disk."""
    from made_bundle import made_bundle

    folder = tmp_path_factory.mktemp("bundle")
    made_bundle().save(folder)
    return folder
