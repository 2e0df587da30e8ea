"""The HTTP interface as a plain ASGI app: it knows neither Ray nor Serve, and runs under any ASGI server.

    app = create(cfg, scoring, supervisor)         # FastAPI; OpenAPI at /v1/openapi.json

`scoring` holds the bundle (`scoring.Scoring`), `supervisor` starts and ends screenings (`context.Supervising`); in
`serve_app.py` both are Ray Serve's. The routes are in `screenings`, `worklist`, `studies` and `operations`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from osteo_ray import __version__
from osteo_ray.io.store import Store
from osteo_ray.reports.language import DISCLAIMER, LANGUAGES, words_in
from osteo_ray.service.audit import Audit
from osteo_ray.service.config import ServeConfig, ServiceLimits
from osteo_ray.service.http import operations, problems, screenings, studies, views, worklist
from osteo_ray.service.http.access import Access, NamesMiddleware, route
from osteo_ray.service.http.context import ApiContext, Supervising, language_of
from osteo_ray.service.http.uploads import local_spool, sweep
from osteo_ray.service.metrics import Metrics
from osteo_ray.service.runs import Runs
from osteo_ray.service.scoring import Pointer, Scoring

STATIC = Path(str(files("osteo_ray.service.http") / "static"))
SWEEP_S = 600.0
ROUTERS = (
    screenings.reading,
    screenings.submitting,
    worklist.reading,
    studies.scoring,
    operations.open_to_all,
    operations.reading,
    operations.administering,
)

page = APIRouter(route_class=route(None))


@page.get("/", include_in_schema=False)
def index() -> FileResponse:
    """The web page."""
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


@page.get("/words", include_in_schema=False)
def words(request: Request, lang: str | None = None) -> dict[str, Any]:
    """The catalogue of messages in one language: the one asked for, the configured one, or the browser's."""
    context: ApiContext = request.app.state.context
    language = language_of(lang, context.cfg.language, request.headers.get("Accept-Language"))
    return {"language": language, "languages": LANGUAGES, "texts": dict(words_in(language).texts)}


def create(cfg: ServeConfig, scoring: Scoring, supervisor: Supervising) -> FastAPI:
    """The app. `cfg` has been through `config.check`."""
    assert cfg.runs is not None
    runs = Runs(cfg.runs)
    spool = local_spool(runs.store)
    context = ApiContext(
        cfg=cfg,
        runs=runs,
        spool=spool,
        pointer=Pointer(runs.store),
        audit=Audit(runs.store),
        metrics=Metrics(runs),
        access=Access(cfg),
        scoring=scoring,
        supervisor=supervisor,
        studies=views.Studies(cfg),
        uploads=asyncio.Semaphore(cfg.limits.uploads),
        streams=asyncio.Semaphore(cfg.limits.streams),
    )
    app = FastAPI(
        title="osteo-ray",
        version=__version__,
        description=DISCLAIMER,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        responses=problems.responses(400, 401, 403, 404, 405, 408, 413, 421, 422, 500, 503),
        dependencies=[Depends(HTTPBearer(auto_error=False, description="a token that `osteo-ray serve token` made"))],
        exception_handlers={
            HTTPException: problems.on_http,
            RequestValidationError: problems.on_validation,
            Exception: problems.on_unforeseen,
        },
        lifespan=_swept(runs.store, spool, cfg.limits),
    )
    app.state.context = context
    metrics = context.metrics
    app.add_middleware(
        NamesMiddleware, cfg=cfg, requests=metrics.requests, seconds=metrics.seconds, model=context.pointer.label
    )
    for router in (*ROUTERS, page):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _swept(store: Store, spool: Path, limits: ServiceLimits) -> Any:
    """Uploads that a replica left behind when it died are removed, at the start and while this one runs."""
    older_s = limits.upload_s + limits.score_timeout_s + SWEEP_S

    async def sweep_often() -> None:
        while True:
            await run_in_threadpool(sweep, store, spool, older_s)
            await asyncio.sleep(SWEEP_S)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(sweep_often())
        yield
        task.cancel()

    return lifespan
