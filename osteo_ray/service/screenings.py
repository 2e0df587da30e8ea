"""The supervisor: it sees to it that each screening has a driver, and writes down what became of those that died.

    supervisor = Supervisor(Runs("runs/service"), cfg, drivers_of_cluster(cfg))
    supervisor.keep()              # start what waits, take up what lost its driver
    supervisor.cancel(run)

A driver is only a driver: what is done lies in the run's folder, where `screen` resumes. Drivers belong to no replica,
so replicas and Serve may die and come back; if the driver or the whole cluster dies, the supervisor starts another,
which does what is missing.
"""

from __future__ import annotations

import logging
import threading
import time

from osteo_ray.service.config import ServeConfig
from osteo_ray.service.drivers import Drivers, DriverState, current_cluster
from osteo_ray.service.runs import OPEN, Run, Runs, RunState

SWEEP_S = 3600.0
log = logging.getLogger(__name__)


class Supervisor:
    """Keeps as many screenings going as are allowed, the oldest first.

    Two of them may live for a while, where Serve replaces one. An attempt is written down before its driver is started;
    whoever finds one without a driver starts that very attempt, and the cluster takes each but once.
    """

    def __init__(self, runs: Runs, cfg: ServeConfig, drivers: Drivers):
        self.runs = runs
        self.cfg = cfg
        self.drivers = drivers
        self._turn = threading.Lock()  # a screening is not begun while it is being cancelled
        self._unstopped: dict[str, Run] = {}
        self._swept_at = float("-inf")

    def keep(self) -> int:
        """Start drivers for screenings that lack one; returns how many have one."""
        driven, cluster = 0, current_cluster()
        for run in self.runs.open():
            with self._turn:
                driven += self._keep(run, cluster, may_start=driven < self.cfg.limits.running)
        with self._turn:
            for run in list(self._unstopped.values()):
                if run.saved.state in OPEN:  # resumed meanwhile
                    del self._unstopped[run.id]
                else:
                    self._stop(run)
        self._sweep()
        return driven

    def _keep(self, run: Run, cluster: str, may_start: bool) -> bool:
        """Whether it has a driver now."""
        now = run.saved
        if now.state not in OPEN:
            return False
        driver = self.drivers.look(run)
        if driver.state == DriverState.ALIVE:
            return True
        if driver.state == DriverState.STOPPED and now.state == RunState.RUNNING:
            run.end(RunState.CANCELLED, "its Ray job was stopped")
            return False
        if driver.state == DriverState.ENDED and (stalls := run.stalls(cluster)) >= self.cfg.limits.attempts:
            text = f"its driver died {stalls} times without progress; the cluster's logs say why"
            run.end(RunState.FAILED, f"{text}: {driver.why}"[:1000] if driver.why else text)
            return False
        if not may_start:
            return False
        if now.state == RunState.QUEUED or driver.state != DriverState.NONE or now.cluster != cluster:
            run.begin(cluster)
        self.drivers.start(run)
        return True

    def _sweep(self) -> None:
        """Once an hour, find what lost its mark, and remove what the config does not keep."""
        if time.monotonic() - self._swept_at < SWEEP_S:
            return
        self._swept_at = time.monotonic()
        self.runs.mark_open()
        days = self.cfg.limits.keep_days
        for run_id in [] if days is None else self.runs.forget(days * 86400):
            log.warning("screening %s was removed: it ended more than %g days ago", run_id, days)

    def cancel(self, run: Run) -> None:
        """End a screening; what was scored stays in its folder."""
        with self._turn:
            run.end(RunState.CANCELLED)
            self._stop(run)

    def _stop(self, run: Run) -> None:
        """End its driver; where the cluster does not answer, later."""
        try:
            self.drivers.stop(run)
            self._unstopped.pop(run.id, None)
        except Exception:  # Ray has no one type for it
            log.exception("the driver of screening %s can't be stopped now", run.id)
            self._unstopped[run.id] = run
