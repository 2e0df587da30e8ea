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
from pathlib import Path
from typing import Any

from osteo_ray import ray_setup
from osteo_ray.service.config import ServeConfig
from osteo_ray.service.runs import Run, RunJob, Runs, RunState

NAMESPACE = "osteo-ray"
log = logging.getLogger(__name__)


class Driver:
    """Ray actor: runs one screening to its end, and goes."""

    def run(self, folder: str, job: dict[str, Any]) -> None:
        import ray

        ray_setup.tune_data_context()
        drive(Run(Path(folder)), job)
        ray.actor.exit_actor()


def drive(run: Run, job: dict[str, Any]) -> None:
    """The work of `osteo-ray screen` in the run's folder; how it ended is written down there."""
    from osteo_ray.reports.run import screen_archive
    from osteo_ray.screening.config import ScreenJob

    try:
        screen_archive(ScreenJob.model_validate(job))
        run.end(RunState.DONE)
    except Exception as e:  # whatever it was, the screening ended by it, and says so
        log.exception("screening %s", run.id)
        run.end(RunState.FAILED, f"{type(e).__name__}: {e}"[:1000])


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

    def keep(self) -> int:
        """Start drivers for screenings that lack one; returns how many have one."""
        going = 0
        for run in self.runs.open():
            if self.driver(run) is not None:
                going += 1
            elif run.saved.attempt >= self.cfg.limits.attempts:
                run.end(RunState.FAILED, f"its driver died {run.saved.attempt} times; the cluster's logs say why")
            elif going < self.cfg.limits.running:
                self._start(run)
                going += 1
        return going

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

    def _start(self, run: Run) -> None:
        import ray

        run.begin()
        actor: Any = ray.remote(Driver).options(  # type: ignore[attr-defined]
            name=_name(run), namespace=NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0, max_restarts=0
        )
        actor.remote().run.remote(str(run.folder), screen_job(run, self.cfg))


def _name(run: Run) -> str:
    return f"screening-{run.id}"
