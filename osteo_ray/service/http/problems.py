"""Errors of the service as RFC 9457 problem documents: what is wrong, with what, and what to do.

raise Problem(404, "NO_SCREENING", "there is no screening 4f2a", "list them with GET /v1/screenings")
"""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class ProblemDocument(BaseModel):
    """RFC 9457, with a stable code and a remedy."""

    type: str = Field(description="urn:osteo-ray:problem:<code>")
    title: str
    status: int
    detail: str
    code: str = Field(description="stable and short; what programs should look at")
    remedy: str = Field(description="what to do; empty where nothing can be said")


class Problem(HTTPException):
    """Raised anywhere below a route; the handlers turn it into a document.

    It is an HTTPException, so that FastAPI lets it through where it would turn others into its own.
    """

    def __init__(self, status: int, code: str, detail: str, remedy: str = "", headers: dict[str, str] | None = None):
        super().__init__(status, detail, headers)
        self.code = code
        self.remedy = remedy


TITLES = {
    400: "Bad request",
    401: "A token is needed",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    408: "Too slow",
    409: "Not in this state",
    413: "Too large",
    415: "Unsupported media type",
    421: "Wrong host",
    422: "Can't be used",
    429: "Too many",
    500: "Failed",
    503: "Not ready",
    504: "Took too long",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route's errors: FastAPI's own way would give the document a wrong media type."""
    schema = ProblemDocument.model_json_schema()
    return {s: {"description": TITLES[s], "content": {MEDIA_TYPE: {"schema": schema}}} for s in statuses}


def respond(status: int, code: str, detail: str, remedy: str = "", headers: Any = None) -> JSONResponse:
    """A problem as a response."""
    doc = ProblemDocument(
        type=f"urn:osteo-ray:problem:{code.lower().replace('_', '-')}",
        title=TITLES.get(status, "Error"),
        status=status,
        detail=detail,
        code=code,
        remedy=remedy,
    )
    return JSONResponse(doc.model_dump(), status, headers, MEDIA_TYPE)


async def on_http(request: Request, e: Exception) -> JSONResponse:
    """Problems of ours, and those that the framework raises (no such route, wrong method)."""
    assert isinstance(e, HTTPException)
    if isinstance(e, Problem):
        return respond(e.status_code, e.code, str(e.detail), e.remedy, e.headers)
    code = {404: "NO_SUCH_ROUTE", 405: "METHOD_NOT_ALLOWED"}.get(e.status_code, f"HTTP_{e.status_code}")
    return respond(e.status_code, code, str(e.detail), "see /v1/openapi.json for what there is", e.headers)


async def on_validation(request: Request, e: Exception) -> JSONResponse:
    """A body or parameter that doesn't fit its type: each bad field, without echoing the value."""
    assert isinstance(e, RequestValidationError)
    text = "; ".join(f"{'.'.join(str(p) for p in err['loc'])}: {err['msg']}" for err in e.errors()[:10])
    return respond(422, "INVALID", text, "see /v1/openapi.json for the types")


async def on_unforeseen(request: Request, e: Exception) -> JSONResponse:
    """What should not happen. The type is named, the text is not: it may quote a path or a header."""
    return respond(500, "UNFORESEEN", f"{type(e).__name__} in the service", "the service's log has the trace")
