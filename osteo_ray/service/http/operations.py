"""The service itself: model, health, metrics, audit, who one is, what may be screened."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from osteo_ray.model.bundle_files import BundleError
from osteo_ray.service.http import problems
from osteo_ray.service.http import types as t
from osteo_ray.service.http.access import route
from osteo_ray.service.http.context import Caller, Context
from osteo_ray.service.http.problems import Problem
from osteo_ray.service.scoring import Model
from osteo_ray.service.security import under
from osteo_ray.service.tokens import Role

READY_S = 20.0

open_to_all = APIRouter(route_class=route(None))
reading = APIRouter(route_class=route(Role.READ))
administering = APIRouter(route_class=route(Role.ADMIN))


@reading.get("/v1/model", tags=["service"])
async def model(context: Context) -> t.ModelInfo:
    """The bundle that scores, and the one that is wanted."""
    m = await context.scoring.model()
    return _info(m, context.pointer.get() or "", context.pointer.fault())


@administering.put("/v1/model", status_code=202, tags=["service"])
def swap(body: t.NewModel, context: Context, caller: Caller) -> t.ModelInfo:
    """Take another bundle. Scorers load it beside the old one and change over; no request is dropped."""
    folder = under(body.bundle, context.cfg.bundles, "bundle")
    try:
        m = context.pointer.want(str(folder))
    except BundleError as e:
        raise Problem(422, "BAD_BUNDLE", str(e), "give a folder that `osteo-ray train` wrote") from None
    context.audit.write(caller.name, "model", model=m.sha256)
    return _info(m, str(folder), None)


def _info(m: Model, wanted: str, fault: str | None) -> t.ModelInfo:
    return t.ModelInfo(name=m.name, version=m.version, sha256=m.sha256, wanted=wanted, fault=fault)


@open_to_all.get("/v1/health", tags=["service"])
async def health() -> t.Health:
    """Whether this process answers."""
    return t.Health(status="ok")


@open_to_all.get("/v1/ready", tags=["service"], responses=problems.responses(503))
async def ready(context: Context) -> t.Health:
    """Whether it can do its work: the folder of runs can be written, and a study was just scored, if need be a built-in
    one."""
    if not await run_in_threadpool(context.runs.writable):
        raise Problem(503, "RUNS", "the folder of screenings can't be written", "look at its rights and its disk")
    try:
        fault = await asyncio.wait_for(context.scoring.fault(), READY_S)
    except TimeoutError:
        fault = f"no study was scored within {READY_S:g} s"
    except Exception as e:
        fault = type(e).__name__
    if fault is not None:
        raise Problem(503, "MODEL", f"single studies can't be scored ({fault})", "the service's log says why")
    return t.Health(status="ok")


@reading.get("/v1/metrics", tags=["service"], response_class=Response)
def prometheus(context: Context) -> Response:
    """Prometheus text; screenings by state, series by outcome, requests and their times."""
    return Response(context.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@administering.get("/v1/audit", tags=["service"])
def audited(context: Context, lines: Annotated[int, Query(ge=1, le=1000)] = 100) -> t.AuditLines:
    """The last lines of the audit log."""
    return t.AuditLines(lines=context.audit.tail(lines))


@reading.get("/v1/me", tags=["service"])
def me(caller: Caller) -> t.Me:
    """Whose token this is."""
    return t.Me(name=caller.name, role=caller.role)


@reading.get("/v1/places", tags=["service"])
def places(context: Context) -> t.Places:
    """What may be screened here."""
    a = context.cfg.archives
    return t.Places(
        roots=list(a.roots), buckets=list(a.buckets), dicomweb=list(a.dicomweb), records=list(context.cfg.records)
    )
