"""Errors that come from Serve's proxy, not from the app, are problem documents too."""

import pytest
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.testclient import TestClient

from osteo_ray.service.http.problems import MEDIA_TYPE, respond
from osteo_ray.service.http.proxy import CALLBACK, VARIABLE, ProblemsMiddleware, middlewares

ANSWERS = {
    "/ok": PlainTextResponse("fine"),
    "/mine": respond(404, "NO_SCREENING", "there is no such screening"),
    "/404": PlainTextResponse("Path '/404' not found.", 404),
    "/503": PlainTextResponse("Request dropped due to backpressure", 503, {"Retry-After": "1"}),
    "/500": PlainTextResponse("Traceback ... Sonnenschein ...", 500),
    "/502": JSONResponse({"no": "problem"}, 502),
}


@pytest.fixture
def client():
    async def proxy(scope, receive, send):
        await ANSWERS[scope["path"]](scope, receive, send)

    return TestClient(ProblemsMiddleware(proxy))


def test_what_is_right_passes(client):
    assert client.get("/ok").text == "fine"
    assert client.get("/mine").json()["code"] == "NO_SCREENING"


@pytest.mark.parametrize(
    ("path", "code"), [("/404", "NO_SUCH_ROUTE"), ("/503", "BUSY"), ("/500", "PROXY"), ("/502", "PROXY")]
)
def test_errors_become_problem_documents(client, path, code):
    answer = client.get(path)
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert (answer.json()["code"], answer.json()["status"]) == (code, answer.status_code)
    assert "Sonnenschein" not in answer.text
    assert answer.headers.get("retry-after") == ("1" if path == "/503" else None)


def test_serve_finds_the_middleware_by_its_name():
    from ray._common.utils import import_attr
    from ray.serve._private import constants

    assert import_attr(CALLBACK)()[0].cls is middlewares()[0].cls
    assert hasattr(constants, VARIABLE)
