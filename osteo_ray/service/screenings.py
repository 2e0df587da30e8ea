"""Who does the screenings: a detached Ray actor for each, and a supervisor that sees to it that each has one.

    supervisor = Supervisor(Runs("runs/service"), cfg)
    supervisor.keep()              # start what waits, take up what lost its driver
    supervisor.cancel(run)

A driver is only a driver: what is done lies in the run's folder, where `screen` resumes. Drivers belong to no replica,
so replicas and Serve may die and come back; if the driver or the whole cluster dies, the supervisor starts another,
which does what is missing.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from osteo_ray import ray_setup
from osteo_ray.dicom.library_logs import keep_values_out
from osteo_ray.patients.mapping import shipped
from osteo_ray.service.config import ServeConfig
from osteo_ray.service.http.problems import Problem
from osteo_ray.service.runs import Run, RunJob, Runs, RunState
from osteo_ray.service.security import allowed_archive, under

NAMESPACE = "osteo-ray"
SWEEP_S = 3600.0
log = logging.getLogger(__name__)


class Driver:
    """Ray actor: runs one screening to its end, and goes."""

    def run(self, folder: str, cfg: ServeConfig) -> None:
        import ray

        os.umask(0o077)  # results are the owner's alone
        keep_values_out()
        ray_setup.tune_data_context()
        drive(Run(Path(folder)), cfg)
        ray.actor.exit_actor()


def drive(run: Run, cfg: ServeConfig) -> None:
    """The work of `osteo-ray screen` in the run's folder; how it ended is written down there."""
    from osteo_ray.reports.run import screen_archive
    from osteo_ray.screening.config import ScreenJob

    try:
        check_again(run.job, cfg)
        screen_archive(ScreenJob.model_validate(screen_job(run, cfg)))
        run.end(RunState.DONE)
    except Problem as p:
        run.end(RunState.FAILED, f"{p.code}: {p.detail}")
    except Exception as e:  # whatever it was, the screening ended by it, and says so
        log.exception("screening %s", run.id)
        run.end(RunState.FAILED, f"{type(e).__name__}: {e}"[:1000])


def check_again(job: RunJob, cfg: ServeConfig) -> None:
    """What was allowed when it was submitted may have become a link, or the operator may have taken it off the list.

    Raises:
        Problem: it is not allowed now, or not what it was.
    """
    found = [(job.archive, allowed_archive(job.archive, cfg.archives))]
    if job.records is not None:
        found.append((job.records, str(under(job.records, cfg.records, "records"))))
    if job.mapping is not None and job.mapping not in shipped():
        found.append((job.mapping, str(under(job.mapping, cfg.records, "mapping"))))
    for before, now in found:
        if before != now:
            raise Problem(403, "NOT_ALLOWED", "a path leads elsewhere than when it was submitted")


def screen_job(run: Run, cfg: ServeConfig) -> dict[str, Any]:
    """The typed job of `osteo-ray screen` for what was asked. Links are never followed: see `security`."""
    job: RunJob = run.job
    o = job.options
    base = cfg.screening.model_dump(mode="json")
    base["index"]["follow_links"] = False
    if o.get("gate_policy") is not None:
        base["index"]["gates"]["policy"] = o["gate_policy"]
    if o.get("shap") is not None:
        base["scoring"]["shap"] = o["shap"]
    if o.get("worklist_top_n_per_week") is not None:
        base["worklist_top_n_per_week"] = o["worklist_top_n_per_week"]
    given = {"archive": job.archive, "records": job.records, "mapping": job.mapping, "bundle": job.bundle}
    return base | given | {"out": str(run.out)}


class Supervisor:
    """Keeps as many screenings going as are allowed, the oldest first."""

    def __init__(self, runs: Runs, cfg: ServeConfig):
        self.runs = runs
        self.cfg = cfg
        self._forgot_at = float("-inf")

    def keep(self) -> int:
        """Start drivers for screenings that lack one; returns how many have one."""
        going, cluster = 0, current_cluster()
        for run in self.runs.open():
            if self.driver(run) is not None:
                going += 1
            elif (stalls := run.stalls(cluster)) >= self.cfg.limits.attempts:
                text = f"its driver died {stalls} times without progress; the cluster's logs say why"
                run.end(RunState.FAILED, text)
            elif going < self.cfg.limits.running:
                self._start(run, cluster)
                going += 1
        self._forget()
        return going

    def _forget(self) -> None:
        """Once an hour, remove what the config does not keep."""
        days = self.cfg.limits.keep_days
        if days is None or time.monotonic() - self._forgot_at < SWEEP_S:
            return
        self._forgot_at = time.monotonic()
        for run_id in self.runs.forget(days * 86400):
            log.warning("screening %s was removed: it ended more than %g days ago", run_id, days)

    def cancel(self, run: Run) -> None:
        """End a screening; what was scored stays in its folder."""
        import ray

        run.end(RunState.CANCELLED)
        driver = self.driver(run)
        if driver is not None:
            ray.kill(driver)

    def driver(self, run: Run) -> Any | None:
        """The screening's actor, where it has one."""
        import ray

        try:
            return ray.get_actor(_name(run), namespace=NAMESPACE)
        except ValueError:
            return None

    def _start(self, run: Run, cluster: str) -> None:
        import ray

        run.begin(cluster)
        actor: Any = ray.remote(Driver).options(  # type: ignore[attr-defined]
            name=_name(run), namespace=NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0, max_restarts=0
        )
        actor.remote().run.remote(str(run.folder), self.cfg)


def current_cluster() -> str:
    """What tells this cluster from the one before a restart: its head node's id."""
    import ray

    heads = [n["NodeID"] for n in ray.nodes() if n["Alive"] and "node:__internal_head__" in n["Resources"]]
    return heads[0] if heads else ""


def _name(run: Run) -> str:
    return f"screening-{run.id}"
