"""One Ray for the whole test run: starting it costs seconds, so it is shared by the session."""

import pytest

from osteo_ray import rayenv


@pytest.fixture(scope="session")
def ray_session():
    rayenv.start(num_cpus=2, object_store_mb=512)
    import ray

    yield ray
    ray.shutdown()
