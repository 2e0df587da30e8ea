"""How many scorers fit where (no Ray)."""

import pytest

from osteo_ray.config import validate
from osteo_ray.outcomes import InputError
from osteo_ray.screening.config import PipelineConfig
from osteo_ray.screening.pool import pool_of, this_machine

GIB = 2**30
HEAD = {"memory": 10.0 * GIB}
WORKER = {"CPU": 16.0, "memory": 80.0 * GIB}


def cfg(**keys):
    return validate(PipelineConfig, keys)


def test_as_many_as_fit():
    pool = pool_of(cfg(), 10_000, [HEAD, WORKER, WORKER], grows=False)
    assert (pool.start, pool.most, pool.cpus) == (32, 32, 1.0)
    assert pool.memory == (700 + 3072) * 2**20


def test_memory_bounds_them_before_cores_do():
    small = WORKER | {"memory": 20.0 * GIB}
    assert pool_of(cfg(), 10_000, [small], grows=False).start == 5
    assert pool_of(cfg(limits={"series_memory_mb": 512}), 10_000, [small], grows=False).start == 16
    assert pool_of(cfg(actor_memory_mb=10_000), 10_000, [small], grows=False).start == 2


def test_a_machine_smaller_than_the_limits_has_one():
    pool = pool_of(cfg(), 100, [{"CPU": 2.0, "memory": 2.0 * GIB}], grows=False)
    assert (pool.start, pool.most, pool.memory) == (1, 1, 2 * GIB)


def test_no_more_than_there_are_batches_or_than_is_asked_for():
    assert pool_of(cfg(), 3, [WORKER], grows=False).most == 3
    assert pool_of(cfg(actors=4), 100, [WORKER], grows=False).start == 4
    pool = pool_of(cfg(actors=40), 100, [WORKER], grows=True)
    assert (pool.start, pool.most) == (16, 40)


def test_a_cluster_may_grow_from_nothing():
    pool = pool_of(cfg(), 10_000, [HEAD], grows=True)
    assert pool.waits
    assert pool.most == 10_000
    assert pool.helpers == 16
    assert pool_of(cfg(), 10_000, [WORKER] * 100, grows=True).helpers == 64
    assert pool_of(cfg(), 10_000, [WORKER], grows=False).helpers == 2


@pytest.mark.parametrize(("keys", "words"), [({"actor_cpus": 17}, "actor_cpus: 17"), ({"actor_gpus": 1}, "actor_gpus")])
def test_what_never_fits_is_said_at_once(keys, words):
    with pytest.raises(InputError, match=words):
        pool_of(cfg(**keys), 10, [WORKER], grows=False)


def test_gpus_bound_them_too():
    gpu = WORKER | {"GPU": 2.0}
    assert pool_of(cfg(actor_gpus=0.25), 1000, [gpu, WORKER], grows=False).start == 8


def test_one_fits_on_this_machine():
    assert pool_of(cfg(), 10, this_machine(), grows=False).start >= 1


def test_many_scorers_are_given_several_batches_at_a_time():
    """One batch each until the driver would be too slow; then more, but never so many that scorers idle at the end."""
    assert pool_of(cfg(), 10**6, [WORKER], grows=False).task.batches == 1
    assert pool_of(cfg(), 10**6, [WORKER] * 100, grows=False).task.batches == 50
    assert pool_of(cfg(), 1600 * 8 * 3, [WORKER] * 100, grows=False).task.batches == 3
    assert pool_of(cfg(), 1600, [WORKER] * 100, grows=False).task.batches == 1
    assert pool_of(cfg(series_per_task=4), 10, [WORKER], grows=False).task.series == 4
