"""The HTTP interface as a plain ASGI app: it knows neither Ray nor Serve, and runs under any ASGI server.

    app = create(cfg, scoring, desk)         # FastAPI; OpenAPI at /v1/openapi.json

`scoring` holds the bundle (`scoring.Scoring`), `desk` starts and ends screenings (`DeskCalls`); in `app.py` both are
Ray Serve's.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from fastapi import Depends, FastAPI, File, Form, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from osteo_ray import __version__
from osteo_ray.model.bundle import BundleError
from osteo_ray.outcomes import State
from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.mapping import shipped
from osteo_ray.patients.table import from_mapping_dict
from osteo_ray.reports.result_json import to_result
from osteo_ray.reports.study_view import DISCLAIMER
from osteo_ray.service import problems, views
from osteo_ray.service import types as t
from osteo_ray.service.access import AccessMiddleware, json_object
from osteo_ray.service.audit import Audit, place
from osteo_ray.service.config import ServeConfig
from osteo_ray.service.metrics import Metrics
from osteo_ray.service.problems import Problem
from osteo_ray.service.runs import OPEN, Run, RunJob, Runs, RunState
from osteo_ray.service.scoring import Pointer, Scoring
from osteo_ray.service.security import allowed_archive, check_zip, under
from osteo_ray.service.tokens import Role, Who

PARQUET = "application/vnd.apache.parquet"
HEARTBEAT_S = 15.0
LOOK_S = 0.5  # how often an event stream looks at a run's folder

Offset = Annotated[int, Query(ge=0, le=2**31)]


class DeskCalls(Protocol):
    """What the API asks of the desk."""

    async def wake(self) -> None:
        """A screening waits; start it soon."""
        ...

    async def cancel(self, run_id: str) -> None: ...


def create(cfg: ServeConfig, scoring: Scoring, desk: DeskCalls) -> FastAPI:
    """The app. `cfg` has been through `config.check`."""
    assert cfg.runs is not None
    runs = Runs(cfg.runs)
    spool = runs.root / ".spool"
    spool.mkdir(mode=0o700, exist_ok=True)
    pointer = Pointer(runs.root / "model.json")
    audit = Audit(runs.root / "audit.jsonl")
    metrics = Metrics(runs)
    uploads = asyncio.Semaphore(cfg.limits.uploads)
    streams = asyncio.Semaphore(cfg.limits.streams)
    study_views = views.Studies(cfg)

    app = FastAPI(
        title="osteo-ray",
        version=__version__,
        description=DISCLAIMER,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        responses=problems.responses(400, 401, 403, 404, 405, 413, 421, 422),
        dependencies=[Depends(HTTPBearer(auto_error=False, description="a token that `osteo-ray serve token` made"))],
        exception_handlers={
            HTTPException: problems.on_http,
            RequestValidationError: problems.on_validation,
            Exception: problems.on_unforeseen,
        },
        lifespan=_swept(spool),
    )
    app.add_middleware(
        AccessMiddleware, cfg=cfg, requests=metrics.requests, seconds=metrics.seconds, model=pointer.label
    )

    def find(run_id: str) -> Run:
        run = runs.get(run_id)
        if run is None:
            raise Problem(404, "NO_SCREENING", "there is no such screening", "list them with GET /v1/screenings")
        return run

    def found_row(run: Run, row_key: str) -> dict[str, Any]:
        row = run.row(row_key)
        if row is None:
            raise Problem(404, "NO_RESULT", "the screening has no such result", "its worklist has the keys")
        return row

    # ---- screenings

    @app.post("/v1/screenings", status_code=202, tags=["screenings"], responses=problems.responses(429))
    async def submit(body: t.NewScreening, request: Request) -> t.Screening:
        """Screen an archive. The answer comes at once; the work outlives this service's processes."""
        caller = _caller(request)
        archive = await run_in_threadpool(allowed_archive, body.archive, cfg.archives)
        records = None if body.records is None else str(under(body.records, cfg.records, "records"))
        if records is not None and not os.path.isfile(records):
            raise Problem(422, "INVALID", "records: not a file", "give one CSV, Parquet or NDJSON file")
        mapping = body.mapping
        if mapping is not None and mapping not in shipped():
            mapping = str(under(mapping, cfg.records, "mapping"))
        waiting = sum(r.saved.state == RunState.QUEUED for r in await run_in_threadpool(runs.open))
        if waiting >= cfg.limits.waiting:
            raise Problem(429, "QUEUE_FULL", f"{waiting} screenings wait", "try later", {"Retry-After": "60"})
        bundle = pointer.get()
        if bundle is None:
            raise Problem(503, "NO_MODEL", "no bundle is deployed", "set `bundle` and start the service again")
        run = runs.create(
            RunJob(archive, records, mapping, body.options.model_dump(), bundle, caller.name, views.now())
        )
        places = (*cfg.archives.roots, *cfg.archives.buckets, *(f"dicomweb+{d}" for d in cfg.archives.dicomweb))
        audit.write(caller.name, "submit", screening=run.id, **place(archive, places))
        await desk.wake()
        return await run_in_threadpool(views.screening, run)

    @app.get("/v1/screenings", tags=["screenings"])
    def screenings(offset: Offset = 0, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> t.Screenings:
        """All screenings, newest first."""
        every = runs.all()
        return t.Screenings(total=len(every), items=[views.screening(r) for r in every[offset : offset + limit]])

    @app.get("/v1/screenings/{run_id}", tags=["screenings"])
    def screening(run_id: str) -> t.Screening:
        """State, counts by outcome, progress, time left."""
        return views.screening(find(run_id))

    @app.delete("/v1/screenings/{run_id}", tags=["screenings"], responses=problems.responses(409))
    async def cancel(run_id: str, request: Request) -> t.Screening:
        """Cancel; what was scored stays. One's own with the role submit, anybody's with admin."""
        caller, run = _caller(request), find(run_id)
        if caller.role != Role.ADMIN and run.job.by != caller.name:
            raise Problem(403, "NOT_YOURS", "somebody else submitted it", "ask them, or somebody with the role admin")
        if run.saved.state not in OPEN:
            raise Problem(409, "ENDED", f"the screening is {run.saved.state} already", "")
        await desk.cancel(run.id)
        audit.write(caller.name, "cancel", screening=run.id)
        return await run_in_threadpool(views.screening, run)

    @app.get(
        "/v1/screenings/{run_id}/results",
        tags=["screenings"],
        response_model=t.ResultsPage,
        responses={200: {"content": {PARQUET: {}}}, **problems.responses(409)},
    )
    def results(
        run_id: str,
        request: Request,
        offset: Offset = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        format: Literal["json", "parquet"] = "json",
    ) -> Any:
        """Result documents by pages, or the whole table as Parquet once the screening is done."""
        run = find(run_id)
        whole = run.complete()
        audit.write(_caller(request).name, "results", screening=run.id, format=format)
        if format == "parquet":
            if whole is None:
                raise Problem(
                    409, "NOT_DONE", "there is no whole table yet", "wait for the state DONE, or page as JSON"
                )
            return FileResponse(whole, media_type=PARQUET, filename=f"results-{run.id}.parquet")
        total, rows = run.page(offset, limit)
        items = [t.ResultDocument(to_result(r)) for r in rows]
        return t.ResultsPage(total=total, offset=offset, partial=whole is None, items=items)

    @app.get(
        "/v1/screenings/{run_id}/events",
        tags=["screenings"],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **problems.responses(429)},
    )
    async def events(run_id: str) -> StreamingResponse:
        """Server-sent events: `status` with the screening whenever it changes, until it ends."""
        run = await run_in_threadpool(find, run_id)
        if streams.locked():
            raise Problem(429, "STREAMS", "too many event streams", "ask for the status instead", {"Retry-After": "5"})
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            _events(run, streams, cfg.limits.events_s), media_type="text/event-stream", headers=headers
        )

    @app.get("/v1/screenings/{run_id}/worklist", tags=["worklist"])
    def worklist(
        run_id: str,
        state: Annotated[list[State] | None, Query()] = None,
        sex: Literal["F", "M"] | None = None,
        age_min: Annotated[float | None, Query(ge=0, le=150)] = None,
        age_max: Annotated[float | None, Query(ge=0, le=150)] = None,
        modality: Literal["demographics", "labs", "ct"] | None = None,
        judged: Annotated[bool | None, Query(description="whether anybody gave feedback")] = None,
        offset: Offset = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> t.WorklistPage:
        """Patients by falling risk; series without a score come last. Filters leave ranks as they are."""
        run = find(run_id)
        keep = views.Filter(state, sex, age_min, age_max, modality, judged)
        return views.worklist(run, keep, offset, limit)

    @app.get("/v1/screenings/{run_id}/studies/{row_key}", tags=["worklist"])
    def study(run_id: str, row_key: str, request: Request) -> t.StudyPage:
        """One result with what the study page shows: chosen slices, overview, SHAP, gates."""
        run = find(run_id)
        row = found_row(run, row_key)
        audit.write(_caller(request).name, "study", screening=run.id, row_key=row_key)
        return study_views.page(run, row)

    @app.get(
        "/v1/screenings/{run_id}/studies/{row_key}/slices/{index}",
        tags=["worklist"],
        response_class=Response,
        responses={
            200: {"content": {"application/octet-stream": {}}, "description": "int16 HU, little-endian, by rows"}
        },
    )
    def hounsfield(run_id: str, row_key: str, index: int) -> Response:
        """HU of one axial slice (rows to posterior, columns to the patient's left); shape and spacing in headers."""
        run = find(run_id)
        cut = study_views.slice(run, found_row(run, row_key), index)
        rows, cols = cut.hu.shape
        headers = {
            "X-Rows": str(rows),
            "X-Cols": str(cols),
            "X-Spacing-Mm": f"{cut.spacing_mm[0]:g} {cut.spacing_mm[1]:g}",
            "X-Z-Mm": f"{cut.z_mm:g}",
            "Cache-Control": "private, max-age=600",
        }
        return Response(cut.hu.tobytes(), media_type="application/octet-stream", headers=headers)

    @app.post("/v1/screenings/{run_id}/studies/{row_key}/feedback", status_code=201, tags=["worklist"])
    def feedback(run_id: str, row_key: str, body: t.NewFeedback, request: Request) -> t.Feedback:
        """Accept or reject a result; kept in the screening's folder for evaluation."""
        run, caller = find(run_id), _caller(request)
        row = found_row(run, row_key)
        line = run.give_feedback(row_key, row["series_uid"], body.verdict, body.note, caller.name)
        audit.write(caller.name, "feedback", screening=run.id, row_key=row_key, verdict=body.verdict)
        return views.feedback(line)

    # ---- one study

    @app.post(
        "/v1/studies:score",
        tags=["studies"],
        responses=problems.responses(429, 503, 504),
    )
    async def score(
        request: Request,
        study: Annotated[UploadFile | None, File(description="zip of one study's DICOM files")] = None,
        dicomweb: Annotated[str | None, Form(max_length=4096, description="https://host/root/studies/<uid>")] = None,
        record: Annotated[
            str | None, Form(max_length=65536, description='JSON, e.g. {"age_y": 67, "sex": "F"}')
        ] = None,
    ) -> t.ResultDocument:
        """Score one study: a zip, or its address in a DICOMweb service, with demographics and labs as far as known."""
        caller = _caller(request)
        if (study is None) == (dicomweb is None):
            raise Problem(422, "INVALID", "give either study or dicomweb", "send multipart/form-data with one of them")
        values = await run_in_threadpool(_values, record)
        if uploads.locked():
            raise Problem(429, "BUSY", "too many studies at once", "try again", {"Retry-After": "2"})
        async with uploads:
            if dicomweb is not None:
                where = await run_in_threadpool(allowed_archive, f"dicomweb+{dicomweb}", cfg.archives)
                if "/studies/" not in where:
                    raise Problem(422, "INVALID", "dicomweb: not one study", "end it with /studies/<StudyInstanceUID>")
                row = await _scored(where, values)
            else:
                assert study is not None
                path = spool / f"{secrets.token_hex(16)}.zip"
                try:
                    await run_in_threadpool(_keep, study, path)
                    await run_in_threadpool(check_zip, path, cfg.limits)
                    row = await _scored(str(path), values)
                finally:
                    path.unlink(missing_ok=True)
        audit.write(caller.name, "score", state=row["state"], code=row["code"], model=row["model_sha256"])
        metrics.scored.labels(row["state"]).inc()
        return t.ResultDocument(to_result(row))

    async def _scored(study: str, values: np.ndarray) -> dict[str, Any]:
        try:
            row = await asyncio.wait_for(scoring.score(study, values), cfg.limits.score_timeout_s)
        except TimeoutError:
            limit = cfg.limits.score_timeout_s
            raise Problem(504, "TIMEOUT", f"not scored within {limit:g} s", "send fewer slices, or try later") from None
        if "refused" in row:
            raise Problem(422, "NO_STUDY", row["refused"], "send the CT series of one study")
        return row

    # ---- the service itself

    @app.get("/v1/model", tags=["service"])
    async def model() -> t.ModelInfo:
        """The bundle that scores, and the one that is wanted."""
        m = await scoring.model()
        return t.ModelInfo(name=m.name, version=m.version, sha256=m.sha256, wanted=pointer.get() or "")

    @app.put("/v1/model", status_code=202, tags=["service"])
    def swap(body: t.NewModel, request: Request) -> t.ModelInfo:
        """Take another bundle. Scorers load it beside the old one and change over; no request is dropped."""
        folder = under(body.bundle, cfg.bundles, "bundle")
        try:
            m = pointer.want(str(folder))
        except BundleError as e:
            raise Problem(422, "BAD_BUNDLE", str(e), "give a folder that `osteo-ray train` wrote") from None
        audit.write(_caller(request).name, "model", model=m.sha256)
        return t.ModelInfo(name=m.name, version=m.version, sha256=m.sha256, wanted=str(folder))

    @app.get("/v1/health", tags=["service"])
    async def health() -> t.Health:
        """Whether this process answers."""
        return t.Health(status="ok")

    @app.get("/v1/ready", tags=["service"], responses=problems.responses(503))
    async def ready() -> t.Health:
        """Whether it can do its work: the bundle is loaded, and the folder of runs can be written."""
        if not os.access(runs.root, os.W_OK):
            raise Problem(503, "RUNS", "the folder of screenings can't be written", "look at its rights and its disk")
        try:
            await asyncio.wait_for(scoring.model(), 10)
        except Exception as e:
            raise Problem(
                503, "MODEL", f"the model is not ready ({type(e).__name__})", "the service's log says why"
            ) from e
        return t.Health(status="ok")

    @app.get("/v1/metrics", tags=["service"], response_class=Response)
    def prometheus() -> Response:
        """Prometheus text; screenings by state, series by outcome, requests and their times."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/audit", tags=["service"])
    def audited(lines: Annotated[int, Query(ge=1, le=1000)] = 100) -> t.AuditLines:
        """The last lines of the audit log."""
        return t.AuditLines(lines=audit.tail(lines))

    @app.get("/v1/me", tags=["service"])
    def me(request: Request) -> t.Me:
        """Whose token this is."""
        caller = _caller(request)
        return t.Me(name=caller.name, role=caller.role)

    @app.get("/v1/places", tags=["service"])
    def places() -> t.Places:
        """What may be screened here."""
        a = cfg.archives
        return t.Places(
            roots=list(a.roots), buckets=list(a.buckets), dicomweb=list(a.dicomweb), records=list(cfg.records)
        )

    static = Path(str(files("osteo_ray.service") / "static"))

    @app.get("/", include_in_schema=False)
    def index() -> FileResponse:
        return FileResponse(static / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=static), name="static")
    return app


def _caller(request: Request) -> Who:
    return request.state.caller


def _values(record: str | None) -> np.ndarray:
    """A record's JSON as values [F] in the schema's order."""
    given = {} if record is None or not record.strip() else json_object(record, "record")
    try:
        return from_mapping_dict(given).matrix()[0][0].astype(float)
    except RecordsError as e:
        raise Problem(422, "RECORD", str(e)[:2000], "values are in the units of the record schema") from None


def _keep(study: UploadFile, path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as f:
        shutil.copyfileobj(study.file, f, 1 << 20)


def _swept(spool: Path) -> Any:
    """At the start, uploads that a replica left behind when it died are removed."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        views.sweep(spool)
        yield

    return lifespan


async def _events(run: Run, streams: asyncio.Semaphore, limit_s: float) -> AsyncIterator[str]:
    async with streams:
        loop = asyncio.get_running_loop()
        end, beat, last = loop.time() + limit_s, loop.time(), ""
        while loop.time() < end:
            now = await run_in_threadpool(views.screening, run)
            text = now.model_dump_json(exclude={"eta_s"})
            if text != last:
                last, beat = text, loop.time()
                yield f"event: status\ndata: {now.model_dump_json()}\n\n"
            elif loop.time() - beat > HEARTBEAT_S:
                beat = loop.time()
                yield ": still here\n\n"
            if now.state not in OPEN:
                return
            await asyncio.sleep(LOOK_S)
