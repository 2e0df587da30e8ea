"""Ray Serve: the API, the scorers behind it, and the supervisor that keeps screenings going.

    serve.run(application(cfg), name="osteo-ray")            # or: serve deploy configs/serve_deploy.yaml

Three deployments. `Api` (any number) reads bodies and folders; `Scorers` (any number) hold the bundle and score studies
of several requests together; `Keeper` (one) starts drivers. Only the run folders are shared, so any of them may die.

This module has no postponed annotations: Serve reads the type of `build`'s argument.
"""

import asyncio
import contextlib
import logging
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from osteo_ray.config import ConfigError, load
from osteo_ray.dicom.library_logs import keep_values_out
from osteo_ray.model.bundle_files import BundleError
from osteo_ray.service import replica_port
from osteo_ray.service.config import ServeConfig, check
from osteo_ray.service.drivers import drivers_of_cluster
from osteo_ray.service.http.app import create
from osteo_ray.service.runs import Runs
from osteo_ray.service.scoring import Answer, Model, ModelHost, Pointer
from osteo_ray.service.screenings import Supervisor

NAME = "osteo-ray"
replica_port.bind()  # before a replica of this module opens its port
KEEP_S = 2.0  # how often the supervisor looks for screenings without a driver
LOOK_S = 1.0  # how often a scorer looks which bundle is wanted
log = logging.getLogger(__name__)


def pointer(cfg: ServeConfig) -> Pointer:
    assert cfg.runs is not None
    return Pointer(Runs(cfg.runs).store)


class Scorers:
    """Holds the bundle, and scores studies one after the other."""

    def __init__(self, cfg: ServeConfig):
        self.host = ModelHost(pointer(cfg), cfg)
        self._watch: asyncio.Task[None] | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called at the start, and by a redeploy that changes the bundle; the replica goes on answering."""
        await asyncio.to_thread(self.host.pointer.deploy, user_config["bundle"])
        try:
            await asyncio.to_thread(self.host.refresh)
        except BundleError:
            if not self.host.loaded:
                raise
            log.exception("the wanted bundle can't be loaded; %s goes on scoring", self.host.model)
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if await asyncio.to_thread(self.host.refresh):
                    log.warning("now scoring with %s", self.host.model)
            except Exception:  # the old bundle goes on
                log.exception("the wanted bundle can't be loaded")

    async def score(self, study: str, values: np.ndarray) -> Answer:
        return await self.host.score(study, values)

    async def model(self) -> Model:
        return self.host.model

    async def fault(self) -> str | None:
        return await self.host.fault()

    def __del__(self) -> None:
        self.host.close()


class Keeper:
    """One supervisor. Where it dies Serve starts another; drivers go on meanwhile."""

    def __init__(self, cfg: ServeConfig):
        assert cfg.runs is not None
        self.runs = Runs(cfg.runs)
        self.supervisor = Supervisor(self.runs, cfg, drivers_of_cluster(cfg))
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called at the start, on the replica's event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.supervisor.keep)
            except Exception:
                log.exception("supervisor")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), KEEP_S)
            self._wake.clear()

    async def wake(self) -> None:
        self._wake.set()

    async def cancel(self, run_id: str) -> None:
        run = self.runs.get(run_id)
        if run is not None:
            await asyncio.to_thread(self.supervisor.cancel, run)
        self._wake.set()  # another may begin


class _Scoring:
    """`scoring.Scoring` through a handle."""

    def __init__(self, handle: DeploymentHandle):
        self.handle = handle

    async def score(self, study: str, values: np.ndarray) -> Answer:
        answer = self.handle.score.remote(study, values)
        try:
            return await answer
        except asyncio.CancelledError:  # out of time, or its client is gone: no process should go on for it
            answer.cancel()
            raise

    async def model(self) -> Model:
        return await self.handle.model.remote()

    async def fault(self) -> str | None:
        return await self.handle.fault.remote()


class _SupervisorHandle:
    """`http.context.Supervising` through a handle."""

    def __init__(self, handle: DeploymentHandle):
        self.handle = handle

    async def wake(self) -> None:
        await self.handle.wake.remote()

    async def cancel(self, run_id: str) -> None:
        await self.handle.cancel.remote(run_id)


class Api:
    """The HTTP interface; `http.app.create` makes it where the replica runs."""

    def __init__(self, cfg: ServeConfig, scorers: DeploymentHandle, keeper: DeploymentHandle):
        keep_values_out()
        # `serve deploy` asks nobody else: its file may say another address than the config.
        refuse_public_without_tokens(cfg, _http_options().host)
        self.http_app = create(cfg, _Scoring(scorers), _SupervisorHandle(keeper))

    def __serve_build_asgi_app__(self) -> Any:
        return self.http_app


def application(cfg: ServeConfig) -> Application:
    """The Serve application of a checked config."""
    d = cfg.deployment
    common: dict[str, Any] = {"max_ongoing_requests": d.max_ongoing, "graceful_shutdown_timeout_s": d.graceful_s}
    # Screenings need the processors: what only waits and reads takes no share of them.
    nodes = {"label_selector": dict(d.node_labels)} if d.node_labels else {}
    idle = {"num_cpus": 0, **nodes}
    deployment: Any = serve.deployment
    scorers = deployment(Scorers).options(
        num_replicas=d.scorers,
        ray_actor_options={"num_cpus": d.scorer_cpus, **nodes},
        user_config={"bundle": cfg.bundle},
        **common,
    )
    keeper = deployment(Keeper).options(num_replicas=1, ray_actor_options=idle, user_config={}, **common)
    api = deployment(serve.ingress()(Api)).options(num_replicas=d.api_replicas, ray_actor_options=idle, **common)
    return api.bind(cfg, scorers.bind(cfg), keeper.bind(cfg))


class BuildArgs(BaseModel):
    """`args` of a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    config: str
    overrides: list[str] = []


def build(args: BuildArgs) -> Application:
    """What `serve deploy` imports: the application of a config file."""
    return application(check(load(ServeConfig, args.config, args.overrides)))


def _http_options() -> Any:
    """Where Serve listens; in a driver and in a replica."""
    from ray.serve._private.api import _get_global_client

    client = _get_global_client()
    assert client is not None, "Serve has been started"
    return client.http_config


def refuse_public_without_tokens(cfg: ServeConfig, host: str | None) -> None:
    """Without tokens everybody is admin: only this machine may reach what Serve listens on.

    Raises:
        ConfigError: other machines reach it, and there are no tokens.
    """
    if cfg.tokens is None and host is not None and not cfg.model_copy(update={"host": host}).on_loopback:
        raise ConfigError(
            f"Ray Serve listens on {host}: without tokens everybody there would be "
            "admin; make some with `osteo-ray serve token` and set tokens, or stop that Serve"
        )


def check_running(cfg: ServeConfig) -> None:
    """Compare where Serve really listens with what the config says; call it after `serve.start`.

    Serve may have been started by somebody else, with other settings, which a later start does not change.

    Raises:
        ConfigError: Serve listens elsewhere than the config says, or to everybody while there are no tokens.
    """
    options = _http_options()
    refuse_public_without_tokens(cfg, options.host)
    if (options.host, options.port) != (cfg.host, cfg.port):
        raise ConfigError(
            f"Ray Serve runs here already, on {options.host}:{options.port}, not on {cfg.host}:{cfg.port} as host and "
            "port say; set them to where it runs, or stop that Serve"
        )
    if (options.ssl_certfile, options.ssl_keyfile) != (cfg.tls.certificate, cfg.tls.key):
        raise ConfigError("Ray Serve runs here already with other TLS files than tls says; stop that Serve first")
