"""`serve` as a job on two machines, and screenings that it starts: each a Ray job.

with Service(rig, {"runs": ..., "bundle": ..., "archives": {...}}) as service:
    run = service.screen("s3://site/ct")
    service.until(run, "DONE")
"""

from __future__ import annotations

import time
from typing import Any, Self

import httpx
from rig import JOB_S, Rig

SMALL = {"scoring": {"shap": False}, "report_studies": 1, "pipeline": {"series_per_task": 2}}


class Service:
    """See the module."""

    def __init__(self, rig: Rig, config: dict[str, Any]):
        self.rig, self.port = rig, rig.serve_port
        self.config = {"port": self.port, "screening": SMALL} | config

    def __enter__(self) -> Self:
        self.job = self.rig.start("serve", self.config)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)
        try:
            self._wait(lambda: self._ask("GET", "/v1/ready").get("status") == "ok")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()
        self.rig.client.stop_job(self.job)
        self.rig.end(self.job)

    def screen(self, archive: str) -> str:
        """Submit a screening; its id."""
        return self.http.post("/v1/screenings", json={"archive": archive}).raise_for_status().json()["id"]

    def resume(self, run: str) -> None:
        self.http.post(f"/v1/screenings/{run}:resume").raise_for_status()

    def until(self, run: str, *states: str) -> dict[str, Any]:
        """Wait until a screening is in one of the states; its status."""
        return self._wait(
            lambda: s if (s := self._ask("GET", f"/v1/screenings/{run}")).get("state") in states else None
        )

    def ray_job(self, run: str, attempt: int, *statuses: str) -> Any:
        """Wait until the screening's Ray job, as `ray job list` has it, is in one of the statuses."""

        def found() -> Any:
            jobs = self.rig.client.list_jobs()
            wanted = {"screening": run, "attempt": str(attempt)}
            return next((j for j in jobs if (j.metadata or {}) == wanted and j.status.value in statuses), None)

        return self._wait(found)

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        try:
            return self.http.request(method, path).json()
        except (httpx.TransportError, ValueError):  # it is starting
            return {}

    def _wait(self, found: Any) -> Any:
        limit = time.monotonic() + JOB_S  # a safeguard, not an expectation
        while not (value := found()):
            over = self.rig.client.get_job_status(self.job).is_terminal()
            if over or time.monotonic() > limit:
                raise AssertionError(self.rig.client.get_job_logs(self.job)[-4000:])
            time.sleep(0.3)
        return value
