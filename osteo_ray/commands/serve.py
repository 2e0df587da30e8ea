"""What `osteo-ray serve` does: run the service, and make or revoke its tokens."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator

from pydantic import Field

from osteo_ray import ray_setup
from osteo_ray.commands import Action, Command
from osteo_ray.config import narrow, need
from osteo_ray.service.config import ServeConfig, check
from osteo_ray.service.replica_port import refuse_taken
from osteo_ray.service.tokens import Role, Tokens


class ServeJob(ServeConfig):
    """`osteo-ray serve`."""

    name: str | None = Field(None, description="whose token; for `serve token` and `serve revoke`")
    role: Role = Field(Role.READ, description="what the token may do")


def run(job: ServeJob) -> Iterator[str]:
    """Serve until interrupted. What was being screened goes on in a cluster that was joined; a Ray of our own ends with
    the service, and the next start takes its screenings up again.
    """
    cfg = check(narrow(job, ServeConfig))
    own = not ray_setup.joined()
    _look_first(cfg, own)
    if own:  # read when Ray is imported: nobody but this service's processes may ask them for anything
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
        os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # Serve's 5 s are few on a busy machine
    if cfg.deployment.haproxy:  # read when Serve is imported, here and in the processes that Ray starts
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    from osteo_ray.service.http.proxy import CALLBACK, VARIABLE

    os.environ.setdefault(VARIABLE, CALLBACK)  # read where Serve's proxy starts
    os.umask(0o077)  # uploads, results and feedback are the owner's alone; the processes that Ray starts inherit it
    ray_setup.start()
    from ray import serve

    from osteo_ray.service.drivers import drivers_of_cluster
    from osteo_ray.service.replica_port import OpenPortError, foreign_listeners
    from osteo_ray.service.serve_app import NAME, application, check_running

    drivers_of_cluster(cfg)  # refused before anything serves
    secured = cfg.tls.certificate is not None
    tls = {"ssl_certfile": cfg.tls.certificate, "ssl_keyfile": cfg.tls.key} if secured else {}
    serve.start(http_options={"host": cfg.host, "port": cfg.port, **tls})
    check_running(cfg)
    stop = threading.Event()
    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, lambda *_: stop.set())
    serve.run(application(cfg), name=NAME, route_prefix="/")
    if own and (beyond := list(foreign_listeners(frozenset([cfg.port])))):
        serve.shutdown()
        ports = ", ".join(f"{address}:{port} ({name})" for _, name, address, port in beyond)
        raise OpenPortError(f"ports of the service can be reached from other machines: {ports}; it was stopped")
    yield f"serving http{'s' if secured else ''}://{cfg.host}:{cfg.port}  (page at /, API at /v1/openapi.json)"
    sys.stdout.flush()
    stop.wait()
    if own:
        serve.shutdown()
    else:  # others' applications on the cluster go on
        serve.delete(NAME)
    yield "stopped; screenings under way are taken up at the next start"


def _look_first(cfg: ServeConfig, own: bool) -> None:
    """What would be found only when everything has started.

    Raises:
        StoreError: the folder of screenings can't be written.
        BundleError: there is no bundle to score with.
        ConfigError: somebody listens where this service would.
    """
    from osteo_ray.io.store import Store
    from osteo_ray.service.runs import Runs
    from osteo_ray.service.scoring import Pointer

    assert cfg.runs is not None
    assert cfg.bundle is not None
    Store(cfg.runs).check_writable()
    pointer = Pointer(Runs(cfg.runs).store)
    pointer.deploy(cfg.bundle)
    pointer.check()
    if own and cfg.port:  # a Serve that was joined listens there already
        refuse_taken(cfg.host, cfg.port)


def token(job: ServeJob) -> list[str]:
    """Make a token and show it, once."""
    secret = Tokens(need(job, "tokens")).add(need(job, "name"), job.role)
    return [secret, f"for {job.name}, role {job.role}; it is not stored and can't be shown again"]


def revoke(job: ServeJob) -> list[str]:
    """Remove a token; it stops working within a second."""
    Tokens(need(job, "tokens")).revoke(need(job, "name"))
    return [f"revoked {job.name}"]


def tokens(job: ServeJob) -> list[str]:
    """Who has a token."""
    return [f"{role:8s} {created}  {name}" for name, role, created in Tokens(need(job, "tokens")).names()] or [
        "no tokens"
    ]


COMMAND = Command(
    ServeJob,
    actions={
        "run": Action("serve until interrupted", run),
        "token": Action("make a token and show it, once", token),
        "revoke": Action("remove a token", revoke),
        "tokens": Action("list who has a token", tokens),
    },
    default_action="run",
)
