"""The door: host names, tokens and roles, sizes, and the headers of every answer. Plain ASGI, before any body is read.

A framework reads a body before it asks its dependencies, so a stranger could make it store two gigabytes first; here
who asks is known before the first byte of a body.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osteo_ray.service.config import ServeConfig
from osteo_ray.service.problems import Problem, respond
from osteo_ray.service.tokens import Role, Tokens, Who, allows

OPEN_PATHS = ("/", "/v1/health", "/v1/ready", "/v1/openapi.json")
UPLOAD = "/v1/studies:score"
LOCAL = Who("local", Role.ADMIN)

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


def needed(method: str, path: str) -> Role | None:
    """The role that a request needs; None for what is open to all."""
    if path in OPEN_PATHS or path.startswith("/static/"):
        return None
    if path == "/v1/audit" or (path == "/v1/model" and method not in ("GET", "HEAD")):
        return Role.ADMIN
    if method in ("GET", "HEAD") or path.endswith("/feedback"):
        return Role.READ
    return Role.SUBMIT


class AccessMiddleware:
    """ASGI middleware around the whole app."""

    def __init__(
        self, app: ASGIApp, cfg: ServeConfig, requests: Counter, seconds: Histogram, model: Callable[[], str | None]
    ):
        self.app = app
        self.cfg = cfg
        self.tokens = Tokens(cfg.tokens) if cfg.tokens else None
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
                if scope["path"].startswith("/v1/"):
                    headers.setdefault("Cache-Control", "no-store")
                    if model := self.model():
                        headers.setdefault("X-Model", model)
            await send(message)

        try:
            try:
                limit = self._admit(scope)
            except Problem as p:
                await respond(p.status_code, p.code, str(p.detail), p.remedy, p.headers)(scope, receive, out)
                return
            await self.app(scope, _limited(receive, limit), out)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.requests.labels(scope["method"], route, str(status[0])).inc()
            self.seconds.labels(scope["method"], route).observe(time.perf_counter() - t)

    def _admit(self, scope: Scope) -> int:
        """Refuse, or give the number of bytes that the body may have; who asks goes into the scope."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        # A page elsewhere may make a browser call this machine under a name of its own; names are a list.
        if _name(host) not in self.names:
            raise Problem(421, "WRONG_HOST", "the Host header names another host", "add the name to `names`")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Problem(403, "CROSS_ORIGIN", "a page of another origin asks", "use the page that this service serves")
        role = needed(scope["method"], scope["path"])
        if role is not None:
            caller = self._caller(headers)
            scope.setdefault("state", {})["caller"] = caller
            if not allows(caller.role, role):
                raise Problem(
                    403, "ROLE", f"this needs the role {role}, the token has {caller.role}", "use another token"
                )
        limits = self.cfg.limits
        # Multipart adds a few hundred bytes a part to what is sent.
        limit = (limits.upload_mb << 20) + (1 << 20) if scope["path"] == UPLOAD else limits.body_kb << 10
        stated = headers.get("content-length")
        if stated is not None and (not stated.isdigit() or int(stated) > limit):
            raise _too_large(limit)
        return limit

    def _caller(self, headers: Headers) -> Who:
        if self.tokens is None:
            return LOCAL  # loopback only; `config.check` sees to it
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        caller = self.tokens.holder(secret.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            remedy = "send `Authorization: Bearer <token>`; the operator makes one with `osteo-ray serve token`"
            raise Problem(401, "NO_TOKEN", "no valid token", remedy, {"WWW-Authenticate": "Bearer"})
        return caller


def _limited(receive: Receive, limit: int) -> Receive:
    """A body that is longer than it may be ends the request, also where no length was stated."""
    seen = 0

    async def take() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
        return message

    return take


def _too_large(limit: int) -> Problem:
    return Problem(413, "TOO_LARGE", f"the body is longer than {limit >> 10} kB", "send less", {"Connection": "close"})


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
