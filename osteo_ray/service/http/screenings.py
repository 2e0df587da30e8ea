"""Screenings of archives: submit, list, follow, cancel, results."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, StreamingResponse

from osteo_ray.patients.mapping import shipped
from osteo_ray.reports.result_json import to_result
from osteo_ray.service.audit import place
from osteo_ray.service.http import problems, views
from osteo_ray.service.http import types as t
from osteo_ray.service.http.access import route
from osteo_ray.service.http.context import ApiContext, Caller, Context, Offset
from osteo_ray.service.http.problems import Problem
from osteo_ray.service.runs import OPEN, RESULTS_FILE, Run, RunJob, RunState
from osteo_ray.service.security import allowed_archive, under
from osteo_ray.service.tokens import Role, TokenHolder

PARQUET = "application/vnd.apache.parquet"
HEARTBEAT_S = 15.0
LOOK_S = 0.5  # how often an event stream looks at a run's folder

reading = APIRouter(route_class=route(Role.READ))
submitting = APIRouter(route_class=route(Role.SUBMIT))


@submitting.post("/v1/screenings", status_code=202, tags=["screenings"], responses=problems.responses(429))
async def submit(body: t.NewScreening, context: Context, caller: Caller) -> t.Screening:
    """Screen an archive. The answer comes at once; the work outlives this service's processes."""
    archive = await run_in_threadpool(allowed_archive, body.archive, context.cfg.archives)
    records = None if body.records is None else str(under(body.records, context.cfg.records, "records"))
    if records is not None and not os.path.isfile(records):
        raise Problem(422, "INVALID", "records: not a file", "give one CSV, Parquet or NDJSON file")
    mapping = body.mapping
    if mapping is not None and mapping not in shipped():
        mapping = str(under(mapping, context.cfg.records, "mapping"))
    await _room(context)
    bundle = context.pointer.get()
    if bundle is None:
        raise Problem(503, "NO_MODEL", "no bundle is deployed", "set `bundle` and start the service again")
    run = context.runs.create(
        RunJob(archive, records, mapping, body.options.model_dump(), bundle, caller.name, views.now())
    )
    places = (
        *context.cfg.archives.roots,
        *context.cfg.archives.buckets,
        *(f"dicomweb+{d}" for d in context.cfg.archives.dicomweb),
    )
    context.audit.write(caller.name, "submit", screening=run.id, **place(archive, places))
    await context.supervisor.wake()
    return await run_in_threadpool(views.screening, run)


@reading.get("/v1/screenings", tags=["screenings"])
def screenings(context: Context, offset: Offset = 0, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> t.Screenings:
    """All screenings, newest first."""
    every = context.runs.all()
    return t.Screenings(total=len(every), items=[views.screening(r) for r in every[offset : offset + limit]])


@reading.get("/v1/screenings/{run_id}", tags=["screenings"])
def screening(run_id: str, context: Context) -> t.Screening:
    """State, counts by outcome, progress, time left."""
    return views.screening(context.run(run_id))


@submitting.delete("/v1/screenings/{run_id}", tags=["screenings"], responses=problems.responses(409))
async def cancel(run_id: str, context: Context, caller: Caller) -> t.Screening:
    """Cancel; what was scored stays. One's own with the role submit, anybody's with admin."""
    run = context.run(run_id)
    _theirs(run, caller)
    if run.saved.state not in OPEN:
        raise Problem(409, "ENDED", f"the screening is {run.saved.state} already", "")
    await context.supervisor.cancel(run.id)
    context.audit.write(caller.name, "cancel", screening=run.id)
    return await run_in_threadpool(views.screening, run)


@submitting.post(
    "/v1/screenings/{run_id}:resume", status_code=202, tags=["screenings"], responses=problems.responses(409, 429)
)
async def resume(run_id: str, context: Context, caller: Caller) -> t.Screening:
    """Go on with a screening that failed or was cancelled; what was scored is not scored again."""
    run = context.run(run_id)
    _theirs(run, caller)
    if run.saved.state not in (RunState.FAILED, RunState.CANCELLED):
        raise Problem(409, "NOT_ENDED", f"the screening is {run.saved.state}", "only failed and cancelled ones go on")
    await _room(context)
    await run_in_threadpool(run.resume)
    context.audit.write(caller.name, "resume", screening=run.id)
    await context.supervisor.wake()
    return await run_in_threadpool(views.screening, run)


def _theirs(run: Run, caller: TokenHolder) -> None:
    if caller.role != Role.ADMIN and run.job.by != caller.name:
        raise Problem(403, "NOT_YOURS", "somebody else submitted it", "ask them, or somebody with the role admin")


async def _room(context: ApiContext) -> None:
    waiting = sum(r.saved.state == RunState.QUEUED for r in await run_in_threadpool(context.runs.open))
    if waiting >= context.cfg.limits.waiting:
        raise Problem(429, "QUEUE_FULL", f"{waiting} screenings wait", "try later", {"Retry-After": "60"})


@reading.get(
    "/v1/screenings/{run_id}/results",
    tags=["screenings"],
    response_model=t.ResultsPage,
    responses={200: {"content": {PARQUET: {}}}, **problems.responses(409)},
)
def results(
    run_id: str,
    context: Context,
    caller: Caller,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    format: Literal["json", "parquet"] = "json",
) -> Any:
    """Result documents by pages, or the whole table as Parquet once the screening is done."""
    run = context.run(run_id)
    whole = run.complete()
    context.audit.write(caller.name, "results", screening=run.id, format=format)
    if format == "parquet":
        if whole is None:
            raise Problem(409, "NOT_DONE", "there is no whole table yet", "wait for the state DONE, or page as JSON")
        name = f"results-{run.id}.parquet"
        if run.store.remote:
            headers = {"Content-Disposition": f'attachment; filename="{name}"'}
            return StreamingResponse(run.store.bytes_of(RESULTS_FILE), media_type=PARQUET, headers=headers)
        return FileResponse(whole, media_type=PARQUET, filename=name)
    total, rows = run.page(offset, limit)
    items = [t.ResultDocument(to_result(r)) for r in rows]
    return t.ResultsPage(total=total, offset=offset, partial=whole is None, items=items)


@reading.get(
    "/v1/screenings/{run_id}/events",
    tags=["screenings"],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **problems.responses(429)},
)
async def events(run_id: str, request: Request, context: Context, caller: Caller) -> StreamingResponse:
    """Server-sent events: `status` with the screening whenever it changes, until it ends."""
    run = await run_in_threadpool(context.run, run_id)
    if context.streams.locked():
        raise Problem(429, "STREAMS", "too many event streams", "ask for the status instead", {"Retry-After": "5"})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        _events(run, context, caller, request.headers), media_type="text/event-stream", headers=headers
    )


async def _events(run: Run, context: ApiContext, caller: TokenHolder, headers: Headers) -> AsyncIterator[str]:
    """Until the screening ends, the stream's time is over, or the token was revoked."""
    async with context.streams:
        loop = asyncio.get_running_loop()
        end, beat, last = loop.time() + context.cfg.limits.events_s, loop.time(), ""
        while loop.time() < end:
            now = await run_in_threadpool(views.screening, run)
            text = now.model_dump_json(exclude={"eta_s"})
            if text != last:
                last, beat = text, loop.time()
                yield f"event: status\ndata: {now.model_dump_json()}\n\n"
            elif loop.time() - beat > HEARTBEAT_S:
                beat = loop.time()
                yield ": still here\n\n"
            if now.state not in OPEN or not await run_in_threadpool(context.access.still, caller, headers):
                return
            await asyncio.sleep(LOOK_S)
