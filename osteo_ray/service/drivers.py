"""Ray: the processes that drive screenings, so that each has one and no two have the same.

    drivers = drivers_of_cluster(cfg)       # Ray jobs, or on one machine without a dashboard an actor
    drivers.start(run)
    drivers.look(run).state                 # NONE, ALIVE, STOPPED or ENDED
    drivers.stop(run)

A job is named by its screening and its attempt, and a cluster takes each name once: two supervisors that start the same
attempt start one driver. Of actors that have ended a cluster knows nothing, so theirs is the screening's alone.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from osteo_ray import ray_setup
from osteo_ray.config import ConfigError
from osteo_ray.dicom.library_logs import keep_values_out
from osteo_ray.service.config import ServeConfig
from osteo_ray.service.drive import MODULE, drive
from osteo_ray.service.runs import Run

NAMESPACE = "osteo-ray"
ANSWER_S = 30.0
"""Longest wait for an answer of the Jobs API."""


class DriverState(StrEnum):
    """What has become of a driver."""

    NONE = "none"  # the cluster never heard of it
    ALIVE = "alive"  # waiting for a node, or at work
    STOPPED = "stopped"  # by somebody who asked the cluster for it
    ENDED = "ended"


@dataclass(frozen=True)
class DriverStatus:
    """`why`: what the cluster says of an end."""

    state: DriverState
    why: str = ""


class Drivers(Protocol):
    """Starts and ends the drivers of a cluster."""

    def look(self, run: Run) -> DriverStatus:
        """The driver of the run's latest attempt."""
        ...

    def start(self, run: Run) -> None:
        """A driver for the run's latest attempt, where it has none."""
        ...

    def stop(self, run: Run) -> None:
        """End the driver of the run's latest attempt, where it lives."""
        ...


class _Client(JobSubmissionClient):
    """One whose requests end, also where the dashboard hangs."""

    def _do_request(self, method: str, endpoint: str, **kw: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": ANSWER_S} | kw)

    def is_of(self, session: str) -> bool:
        """Whether it talks to the cluster of that session: where a cluster has no dashboard, Ray names the port at
        which another one on this machine may have its own."""
        return self._do_request("GET", "/api/version").json().get("session_name") == session


def jobs_api() -> JobSubmissionClient | None:
    """The Jobs API of the cluster that this process is connected to, with the token that Ray was given; None: it has
    none, or doesn't answer."""
    context = ray.get_runtime_context()
    try:
        client = _Client(address=context.gcs_address)
        return client if client.is_of(context.get_session_name()) else None
    except (OSError, RuntimeError, ValueError, AuthenticationError):  # the last: another cluster's, with its own token
        return None


def drivers_of_cluster(cfg: ServeConfig) -> Drivers:
    """Ray jobs; where there is no Jobs API and one node, which is then the one that stays, a detached actor.

    Raises:
        ConfigError: several nodes and no Jobs API.
    """
    client = jobs_api()
    if client is not None:
        return JobDrivers(client, cfg)
    if sum(n["Alive"] for n in ray.nodes()) > 1:
        raise ConfigError(
            "the cluster has several nodes and no Jobs API, by which screenings are started on a node that stays: "
            "start its head with the dashboard (--include-dashboard=true), and give ray[default] to its image"
        )
    return ActorDrivers(cfg)


class JobDrivers:
    """A Ray job each: `ray job list`, `logs` and `stop` know it, and so does the dashboard."""

    def __init__(self, client: JobSubmissionClient, cfg: ServeConfig):
        self.client = client
        self.cfg = cfg

    def look(self, run: Run) -> DriverStatus:
        try:
            job = self.client.get_job_info(job_id(run))
        except RuntimeError as e:  # Ray has no type for it
            if "status code 404" in str(e):
                return DriverStatus(DriverState.NONE)
            raise
        if not job.status.is_terminal():
            return DriverStatus(DriverState.ALIVE)
        state = DriverState.STOPPED if job.status == JobStatus.STOPPED else DriverState.ENDED
        return DriverStatus(state, (job.message or "").strip())

    def start(self, run: Run) -> None:
        run.give_config(self.cfg)
        d = self.cfg.deployment
        try:
            self.client.submit_job(
                submission_id=job_id(run),
                entrypoint=shlex.join([sys.executable, "-m", MODULE, run.uri]),
                metadata={"screening": run.id, "attempt": str(run.saved.attempt)},
                runtime_env=own_environment(),
                entrypoint_num_cpus=d.driver_cpus,
                entrypoint_label_selector=dict(d.node_labels) or None,
            )
        except RuntimeError as e:
            if "already exists" not in str(e):  # another supervisor was faster
                raise

    def stop(self, run: Run) -> None:
        if self.look(run).state == DriverState.ALIVE:
            self.client.stop_job(job_id(run))


class ActorDrivers:
    """A detached actor each, without CPUs: on one node there is no choice of nodes, and nobody else to ask for it."""

    def __init__(self, cfg: ServeConfig):
        self.cfg = cfg

    def look(self, run: Run) -> DriverStatus:
        return DriverStatus(DriverState.ALIVE if self.actor(run) is not None else DriverState.ENDED)

    def actor(self, run: Run) -> Any | None:
        """The screening's actor, where it has one."""
        try:
            return ray.get_actor(_actor_name(run), namespace=NAMESPACE)
        except ValueError:
            return None

    def start(self, run: Run) -> None:
        actor: Any = ray.remote(_Driver).options(  # type: ignore[attr-defined]
            name=_actor_name(run),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=0,
        )
        actor.remote().run.remote(run.uri, self.cfg)

    def stop(self, run: Run) -> None:
        if (actor := self.actor(run)) is not None:
            ray.kill(actor)


class _Driver:
    """Ray actor: runs one screening to its end, and goes."""

    def run(self, folder: str, cfg: ServeConfig) -> None:
        os.umask(0o077)  # results are the owner's alone
        keep_values_out()
        ray_setup.tune_data_context()
        drive(Run.at(folder), cfg)
        ray.actor.exit_actor()


def _actor_name(run: Run) -> str:
    return f"screening-{run.id}"


def job_id(run: Run) -> str:
    """Submission id of the driver of a run's latest attempt."""
    return f"screening-{run.id}-{run.saved.attempt}"


def current_cluster() -> str:
    """What tells this cluster from the one before a restart: its head node's id."""
    heads = [n["NodeID"] for n in ray.nodes() if n["Alive"] and "node:__internal_head__" in n["Resources"]]
    return heads[0] if heads else ""


def own_environment() -> dict[str, Any]:
    """The runtime environment of this process: what `serve` brought with it, its screenings have too.

    A working directory is given by the path at which Ray unpacked it for this process, so that its package is uploaded
    again where the cluster has it no more: after a screening's job was stopped, that was seen while `serve` still ran.
    """
    env = {k: v for k, v in dict(ray.get_runtime_context().runtime_env).items() if not k.startswith("_")}
    here = Path.cwd()
    if here.name and Path(str(env.get("working_dir", ""))).stem == here.name:
        env["working_dir"] = str(here)
    return env
