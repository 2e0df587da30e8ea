"""Who may ask what: names and headers for every answer, roles and body sizes for each route.

    router = APIRouter(route_class=route(Role.SUBMIT))           # every route of it needs the role
    router = APIRouter(route_class=route(None))                  # open to all

A framework reads a body before it asks its dependencies, so a stranger could make it store two gigabytes first. A
route of `route` knows who asks before the first byte of a body. Roles belong to routes, never to paths: a service
under a prefix has the same roles.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import anyio
from fastapi.routing import APIRoute
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osteo_ray.service.config import ServeConfig, ServiceLimits
from osteo_ray.service.http.problems import Problem, respond
from osteo_ray.service.tokens import Role, TokenHolder, Tokens, allows

PIECE = 1 << 20
"""Bytes of a body that are handed on at once."""
LOCAL = TokenHolder("local", Role.ADMIN)
PROBES = ("/v1/health", "/v1/ready")

CSP = (
    "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Access:
    """Tokens of one service; `caller` says whose a request is."""

    def __init__(self, cfg: ServeConfig):
        self.tokens = Tokens(cfg.tokens) if cfg.tokens else None
        self.limits = cfg.limits

    def caller(self, headers: Headers) -> TokenHolder:
        """Who asks.

        Raises:
            Problem: 401 without a valid token.
        """
        if self.tokens is None:
            return LOCAL  # loopback only; `config.check` and `serve_app.check_running` see to it
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        caller = self.tokens.holder(secret.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            remedy = "send `Authorization: Bearer <token>`; the operator makes one with `osteo-ray serve token`"
            raise Problem(401, "NO_TOKEN", "no valid token", remedy, {"WWW-Authenticate": "Bearer"})
        return caller

    def still(self, caller: TokenHolder, headers: Headers) -> bool:
        """Whether a long answer may go on: its token was not revoked."""
        try:
            return self.caller(headers) == caller
        except Problem:
            return False


def route(role: Role | None, upload: bool = False) -> type[APIRoute]:
    """The class of routes that need `role`; None is open to all.

    Args:
        upload: the body is a study, not a short document; so many at once as `limits.uploads` allows.
    """

    class GuardedRoute(APIRoute):
        needs = role

        def get_route_handler(self) -> Callable[[Request], Any]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Any:
                context = request.app.state.context
                access: Access = context.access
                if role is not None:
                    caller = access.caller(request.headers)
                    request.state.caller = caller
                    if not allows(caller.role, role):
                        text = f"this needs the role {role}, the token has {caller.role}"
                        raise Problem(403, "ROLE", text, "use another token")
                bounded = Request(request.scope, _bounded(request, access.limits, upload))
                if not upload:
                    return await handle(bounded)
                if context.uploads.locked():  # counted before the body: slow ones would take every request else
                    raise Problem(429, "BUSY", "too many studies at once", "try again", {"Retry-After": "2"})
                async with context.uploads:
                    return await handle(bounded)

            return guarded

    return GuardedRoute


def _bounded(request: Request, limits: ServiceLimits, upload: bool) -> Receive:
    """The request's body, with an end: too long, too slow or silent bodies are refused, stated length or not."""
    # Multipart adds a few hundred bytes a part to what is sent.
    limit = (limits.upload_mb << 20) + (1 << 20) if upload else limits.body_kb << 10
    stated = request.headers.get("content-length")
    if stated is not None and (not stated.isdigit() or int(stated) > limit):
        raise _too_large(limit)
    receive, received = request.receive, 0
    end = anyio.current_time() + (limits.upload_s if upload else limits.body_s)

    async def one() -> Message:
        try:
            # What comes after the body (a client that goes away) may take its time.
            wait = min(limits.idle_s, end - anyio.current_time())
            with anyio.fail_after(max(0.0, wait)) if not request.scope.get("body_read") else anyio.CancelScope():
                return await receive()
        except TimeoutError:
            text = f"the body did not arrive within {limits.idle_s:g} s of silence, or was too slow as a whole"
            raise Problem(408, "SLOW_BODY", text, "send it at once", {"Connection": "close"}) from None

    async def take() -> Message:
        nonlocal received
        message = await one()
        if message["type"] != "http.request":
            return message
        parts = [message.get("body", b"")]
        received += len(parts[0])
        # The parser of forms costs much for each message, however short; servers cut a body into pieces of 64 KiB.
        while message.get("more_body") and received <= limit and sum(map(len, parts)) < PIECE:
            message = await one()
            if message["type"] != "http.request":
                return message
            parts.append(message.get("body", b""))
            received += len(parts[-1])
        if received > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            request.scope["body_read"] = True
        return {**message, "body": b"".join(parts)}

    return take


def _too_large(limit: int) -> Problem:
    return Problem(413, "TOO_LARGE", f"the body is longer than {limit >> 10} kB", "send less", {"Connection": "close"})


class NamesMiddleware:
    """ASGI middleware around the whole app: host names and origins, headers of every answer, counts of requests."""

    def __init__(
        self, app: ASGIApp, cfg: ServeConfig, requests: Counter, seconds: Histogram, model: Callable[[], str | None]
    ):
        self.app = app
        self.requests = requests
        self.seconds = seconds
        self.model = model
        names = {cfg.host, "localhost", "127.0.0.1", "::1", *cfg.names}
        self.names = {n.lower() for n in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        t = time.perf_counter()
        status = [500]

        async def out(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                headers = MutableHeaders(scope=message)
                for k, v in HEADERS.items():
                    headers.setdefault(k, v)
                if isinstance(scope.get("route"), APIRoute):
                    headers.setdefault("Cache-Control", "no-store")
                    if model := self.model():
                        headers.setdefault("X-Model", model)
            await send(message)

        try:
            try:
                self._admit(scope)
            except Problem as p:
                await respond(p.status_code, p.code, str(p.detail), p.remedy, p.headers)(scope, receive, out)
                return
            await self.app(scope, receive, out)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.requests.labels(scope["method"], path, str(status[0])).inc()
            self.seconds.labels(scope["method"], path).observe(time.perf_counter() - t)

    def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        # A page elsewhere may make a browser call this machine under a name of its own; names are a list. Probes ask
        # by address: what health and readiness say is no secret.
        if _name(host) not in self.names and path not in PROBES:
            raise Problem(421, "WRONG_HOST", "the Host header names another host", "add the name to `names`")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Problem(403, "CROSS_ORIGIN", "a page of another origin asks", "use the page that this service serves")


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def json_object(text: str, what: str) -> dict:
    """A JSON object from a form's field.

    Raises:
        Problem: 422 where it is none.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Problem(422, "INVALID", f"{what}: not JSON", 'send an object, e.g. {"age_y": 67, "sex": "F"}') from None
    if not isinstance(value, dict):
        raise Problem(422, "INVALID", f"{what}: not a JSON object", 'send e.g. {"age_y": 67, "sex": "F"}')
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
