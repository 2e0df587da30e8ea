"""What people read of a screening: worklist, study pages, slices; and what they say of them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from osteo_ray.outcomes import State
from osteo_ray.reports.language import words_in
from osteo_ray.service.http import types as t
from osteo_ray.service.http import views
from osteo_ray.service.http.access import route
from osteo_ray.service.http.context import Caller, Context, Language, Offset
from osteo_ray.service.tokens import Role

reading = APIRouter(route_class=route(Role.READ))


@reading.get("/v1/screenings/{run_id}/worklist", tags=["worklist"])
def worklist(
    run_id: str,
    context: Context,
    caller: Caller,
    state: Annotated[list[State] | None, Query()] = None,
    sex: Literal["F", "M"] | None = None,
    age_min: Annotated[float | None, Query(ge=0, le=150)] = None,
    age_max: Annotated[float | None, Query(ge=0, le=150)] = None,
    modality: Literal["demographics", "labs", "ct"] | None = None,
    judged: Annotated[bool | None, Query(description="whether anybody gave feedback")] = None,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    language: Language = "en",
) -> t.WorklistPage:
    """Patients by falling risk; series without a score come last. Filters leave ranks as they are."""
    run = context.run(run_id)
    if context.cfg.identifiers:
        context.audit.write(caller.name, "worklist", screening=run.id)
    keep = views.Filter(state, sex, age_min, age_max, modality, judged)
    return context.studies.with_identities(run, views.worklist(run, keep, offset, limit, words_in(language)))


@reading.get("/v1/screenings/{run_id}/studies/{row_key}", tags=["worklist"])
def study(run_id: str, row_key: str, context: Context, caller: Caller, language: Language = "en") -> t.StudyPage:
    """One result with what the study page shows: chosen slices, overview, SHAP, quality checks."""
    run = context.run(run_id)
    row = context.row(run, row_key)
    context.audit.write(caller.name, "study", screening=run.id, row_key=row_key)
    return context.studies.page(run, row, language)


@reading.get(
    "/v1/screenings/{run_id}/studies/{row_key}/slices/{index}",
    tags=["worklist"],
    response_class=Response,
    responses={
        200: {
            "content": {"application/octet-stream": {}},
            "description": "int16 HU, little-endian, by rows",
            "headers": {
                "X-Rows": {"schema": {"type": "integer"}, "description": "rows of the slice"},
                "X-Cols": {"schema": {"type": "integer"}, "description": "columns of the slice"},
                "X-Spacing-Mm": {"schema": {"type": "string"}, "description": "between rows and columns, mm"},
                "X-Z-Mm": {"schema": {"type": "number"}, "description": "position along the body, mm"},
            },
        }
    },
)
def hounsfield(run_id: str, row_key: str, index: int, context: Context) -> Response:
    """HU of one axial slice (rows to posterior, columns to the patient's left); shape and spacing in headers."""
    run = context.run(run_id)
    cut = context.studies.slice(run, context.row(run, row_key), index)
    rows, cols = cut.hu.shape
    headers = {
        "X-Rows": str(rows),
        "X-Cols": str(cols),
        "X-Spacing-Mm": f"{cut.spacing_mm[0]:g} {cut.spacing_mm[1]:g}",
        "X-Z-Mm": f"{cut.z_mm:g}",
        "Cache-Control": "private, max-age=600",
    }
    return Response(cut.hu.tobytes(), media_type="application/octet-stream", headers=headers)


@reading.post("/v1/screenings/{run_id}/studies/{row_key}/feedback", status_code=201, tags=["worklist"])
def feedback(run_id: str, row_key: str, body: t.NewFeedback, context: Context, caller: Caller) -> t.Feedback:
    """Accept or reject a result; kept in the screening's folder for evaluation."""
    run = context.run(run_id)
    row = context.row(run, row_key)
    line = run.give_feedback(row_key, row["series_uid"], body.verdict, body.note, caller.name)
    context.audit.write(caller.name, "feedback", screening=run.id, row_key=row_key, verdict=body.verdict)
    return views.feedback(line)
