"""Errors of Ray Serve's own proxy as problem documents: no route yet, all replicas busy, a replica that died.

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=osteo_ray.service.http.proxy:middlewares

Serve's proxy asks this variable for middlewares where it starts; `osteo-ray serve` sets it for a Ray of its own, on a
cluster it belongs to the nodes' environment. Without it these answers are plain text, and a failure quotes the error.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osteo_ray.service.http.problems import MEDIA_TYPE, respond

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = f"{__name__}:middlewares"

ERRORS = {
    404: ("NO_SUCH_ROUTE", "nothing is served here (yet)", "see /v1/openapi.json for what there is"),
    408: ("SLOW", "the answer took too long", "try again"),
    503: ("BUSY", "the service takes no more requests now", "try again"),
}
OTHER = ("PROXY", "the service's proxy could not answer", "the service's log says why")


class ProblemsMiddleware:
    """ASGI middleware: an error that is no problem document becomes one; the app's own are some already."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        replaced = False

        async def out(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] >= 400:
                headers = Headers(raw=message["headers"])
                if not headers.get("content-type", "").startswith(MEDIA_TYPE):
                    replaced = True
                    kept = {k: headers[k] for k in ("retry-after", "allow") if k in headers}
                    await respond(message["status"], *ERRORS.get(message["status"], OTHER), kept)(scope, receive, send)
            if not replaced:
                await send(message)

        await self.app(scope, receive, out)


def middlewares() -> list[Middleware]:
    """What Serve's proxy puts around itself."""
    return [Middleware(ProblemsMiddleware)]
