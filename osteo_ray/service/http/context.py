"""What the routers share: one object an app, found through the request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, Query
from starlette.requests import Request

from osteo_ray.reports.language import LANGUAGES, preferred
from osteo_ray.service.audit import Audit
from osteo_ray.service.config import ServeConfig
from osteo_ray.service.http.access import Access
from osteo_ray.service.http.problems import Problem
from osteo_ray.service.http.views import Studies
from osteo_ray.service.metrics import Metrics
from osteo_ray.service.runs import Run, Runs
from osteo_ray.service.scoring import Pointer, Scoring
from osteo_ray.service.tokens import TokenHolder


class Supervising(Protocol):
    """What the interface asks of whoever starts and ends screenings."""

    async def wake(self) -> None:
        """A screening waits; start it soon."""
        ...

    async def cancel(self, run_id: str) -> None: ...


@dataclass
class ApiContext:
    """Of one app."""

    cfg: ServeConfig
    runs: Runs
    spool: Path  # uploads while they are scored
    pointer: Pointer  # which bundle is wanted
    audit: Audit
    metrics: Metrics
    access: Access
    scoring: Scoring
    supervisor: Supervising
    studies: Studies
    uploads: asyncio.Semaphore
    streams: asyncio.Semaphore

    def run(self, run_id: str) -> Run:
        """A screening by its id.

        Raises:
            Problem: 404.
        """
        run = self.runs.get(run_id)
        if run is None:
            raise Problem(404, "NO_SCREENING", "there is no such screening", "list them with GET /v1/screenings")
        return run

    def row(self, run: Run, row_key: str) -> dict[str, Any]:
        """A result of a screening by its key.

        Raises:
            Problem: 404.
        """
        row = run.row(row_key)
        if row is None:
            raise Problem(404, "NO_RESULT", "the screening has no such result", "its worklist has the keys")
        return row


def language_of(asked: str | None, configured: str, accept: str | None) -> str:
    """A request's language: what its address says, else what the config says, else what the browser prefers."""
    if asked in LANGUAGES:
        return str(asked)
    return preferred(accept) if configured == "auto" else configured


# A dependency that is no coroutine costs a change of threads with each request.
async def _context(request: Request) -> ApiContext:
    return request.app.state.context


async def _caller(request: Request) -> TokenHolder:
    return request.state.caller


async def _language(
    request: Request,
    lang: Annotated[
        str | None, Query(max_length=16, description="en, de or zh: of texts for people; null: as configured")
    ] = None,
) -> str:
    configured = request.app.state.context.cfg.language
    return language_of(lang, configured, request.headers.get("Accept-Language"))


Language = Annotated[str, Depends(_language)]
Context = Annotated[ApiContext, Depends(_context)]
Caller = Annotated[TokenHolder, Depends(_caller)]
Offset = Annotated[int, Query(ge=0, le=2**31)]
