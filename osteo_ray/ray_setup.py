"""How this project starts Ray: one place for the settings that a small machine needs.

Import it before `ray`: the environment variables are read when Ray is imported. A cluster that is
already there (`ray job submit`, RAY_ADDRESS) is joined as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Nothing is reported anywhere, on no cluster.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_REPORT_URL", "http://127.0.0.1:9")


START_TRIES = 4
"""A machine that others keep busy starts Ray too, in the second or third half minute."""


def joined() -> bool:
    """Whether Ray is a cluster that is there already, not one of our own on this machine."""
    return "RAY_ADDRESS" in os.environ


def submitted() -> bool:
    """Whether this process is the driver of a job that came by `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def nodes() -> list[dict[str, float]]:
    """What each live node has: CPU, GPU, memory in bytes."""
    import ray

    return [n["Resources"] for n in ray.nodes() if n["Alive"]]


def fitting(node: Mapping[str, float], cpus: float, gpus: float = 0.0, memory: int = 0) -> int:
    """Actors of this size, memory in bytes, that a node can hold; one that does not state its memory has enough."""
    fits = [node.get("CPU", 0.0) / cpus]
    if gpus:
        fits.append(node.get("GPU", 0.0) / gpus)
    if memory:
        fits.append(node.get("memory", float("inf")) / memory)
    return int(min(fits) + 1e-9)


def node_address() -> str:
    """Address of the node that this process runs on."""
    import ray

    return ray.util.get_node_ip_address()


if not joined():  # a Ray of our own: every port on loopback, where no token is handed out
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Records of past tasks, 3 KB each, are all that grows in Ray's control service (docs/results/soak.md).
    os.environ.setdefault("RAY_task_events_max_num_task_in_gcs", "10000")


def start(num_cpus: int | None = None, object_store_mb: int | None = None) -> None:
    """Join the cluster in RAY_ADDRESS, or start Ray on this machine; a no-op when already connected."""
    import logging

    import ray

    if ray.is_initialized():
        return
    kw: dict = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    if joined():
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    else:
        if object_store_mb:
            kw["object_store_memory"] = object_store_mb * 2**20
        # Never one that happens to be there: Ray would else join what a killed run left behind.
        kw |= {"address": "local", "num_cpus": num_cpus}
        for tries_left in reversed(range(START_TRIES)):
            try:
                ray.init(**kw)
                break
            except Exception as e:  # Ray's own words, for it has no type for it: it gives itself 30 s, at any load
                ray.shutdown()
                if "timed out during startup" not in str(e) or not tries_left:
                    raise
    tune_data_context()


def tune_data_context() -> None:
    """Ray Data settings that were measured to matter (docs/decisions): call in the driver before a pipeline."""
    import logging

    import ray

    ctx = ray.data.DataContext.get_current()
    # After the line above, which imports ray.data: its import sets up its own logging.
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the project has progress bars of its own
    # With the reservation on, half of a two-core machine idles. Blocks stay small, so memory is bounded without it.
    ctx.op_resource_reservation_enabled = False
    ctx.enable_progress_bars = False
    ctx.print_on_execution_start = False


@contextmanager
def retries_given() -> Iterator[None]:
    """Around a Ray Data call that bounds retries: what is killed at each try is otherwise started for ever.

    There is no named parameter for that, and the general way, which goes in Ray 2.64 (pinned below), warns at each use.
    """
    import warnings

    from ray.util.annotations import RayDeprecationWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated", category=RayDeprecationWarning)
        yield
