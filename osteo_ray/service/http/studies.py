"""One study, scored while its client waits."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, UploadFile
from starlette.concurrency import run_in_threadpool

from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.table import from_mapping_dict
from osteo_ray.reports.result_json import to_result
from osteo_ray.service.http import problems
from osteo_ray.service.http import types as t
from osteo_ray.service.http.access import json_object, route
from osteo_ray.service.http.context import ApiContext, Caller, Context
from osteo_ray.service.http.problems import Problem
from osteo_ray.service.http.uploads import SPOOL
from osteo_ray.service.security import allowed_archive, check_zip
from osteo_ray.service.tokens import Role

scoring = APIRouter(route_class=route(Role.SUBMIT, upload=True))


@scoring.post(
    "/v1/studies:score",
    tags=["studies"],
    responses=problems.responses(429, 503, 504),
)
async def score(
    context: Context,
    caller: Caller,
    study: Annotated[UploadFile | None, File(description="zip of one study's DICOM files")] = None,
    dicomweb: Annotated[str | None, Form(max_length=4096, description="https://host/root/studies/<uid>")] = None,
    record: Annotated[str | None, Form(max_length=65536, description='JSON, e.g. {"age_y": 67, "sex": "F"}')] = None,
) -> t.ResultDocument:
    """Score one study: a zip, or its address in a DICOMweb service, with demographics and labs as far as known."""
    if (study is None) == (dicomweb is None):
        raise Problem(422, "INVALID", "give either study or dicomweb", "send multipart/form-data with one of them")
    values = await run_in_threadpool(_values, record)
    if dicomweb is not None:
        where = await run_in_threadpool(allowed_archive, f"dicomweb+{dicomweb}", context.cfg.archives)
        if "/studies/" not in where:
            raise Problem(422, "INVALID", "dicomweb: not one study", "end it with /studies/<StudyInstanceUID>")
        row = await _scored(context, where, values)
    else:
        assert study is not None
        path, store = context.spool / f"{secrets.token_hex(16)}.zip", context.runs.store
        far = f"{SPOOL}/{path.name}" if store.remote else None  # for a scorer on another machine
        try:
            await run_in_threadpool(_keep, study, path)
            await run_in_threadpool(check_zip, path, context.cfg.limits)
            if far is not None:
                await run_in_threadpool(store.upload, path, far)
            row = await _scored(context, str(path) if far is None else store.path(far), values)
        finally:
            path.unlink(missing_ok=True)
            if far is not None:
                with suppress(Exception):  # each store has its own errors; what stays is swept, and the result counts
                    await run_in_threadpool(store.remove, [far])
    context.audit.write(caller.name, "score", state=row["state"], code=row["code"], model=row["model_sha256"])
    context.metrics.scored.labels(row["state"]).inc()
    return t.ResultDocument(to_result(row))


REFUSALS = {"NO_STUDY": 422, "TIMEOUT": 504, "NOT_READY": 503}
"""Status of an answer without a result; any other code is the study's own doing: 422."""
REMEDIES = {
    "TIMEOUT": "send fewer slices, or try later",
    "NOT_READY": "try later; /v1/ready says when",
    "WORKER_DIED": "the study can't be borne by a reader of CT; leave it out",
    "OUT_OF_MEMORY": "send fewer slices",
}


async def _scored(context: ApiContext, study: str, values: np.ndarray) -> dict[str, Any]:
    limit = context.cfg.limits.score_timeout_s
    try:
        answer = await asyncio.wait_for(context.scoring.score(study, values), limit)
    except TimeoutError:
        raise Problem(504, "TIMEOUT", f"not scored within {limit:g} s", REMEDIES["TIMEOUT"]) from None
    if answer.row is None:
        remedy = REMEDIES.get(answer.code, "send the CT series of one study")
        raise Problem(REFUSALS.get(answer.code, 422), answer.code, answer.message, remedy)
    return answer.row


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
