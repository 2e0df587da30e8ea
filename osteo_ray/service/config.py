"""Typed config of `osteo-ray serve`: where it listens, what it may read, and how much of everything."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from osteo_ray.config import ConfigError, Section
from osteo_ray.io.uris import absolute
from osteo_ray.model import reference
from osteo_ray.reports.config import CharacterSet
from osteo_ray.screening.config import ScreenConfig


class Tls(Section):
    """PEM files; both, or neither for plain HTTP."""

    certificate: str | None = Field(None, description="PEM file of the certificate chain; null: plain HTTP")
    key: str | None = Field(None, description="PEM file of the private key; null: plain HTTP")

    @model_validator(mode="after")
    def _both(self) -> Tls:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give certificate and key, or neither")
        return self


class Archives(Section):
    """What may be screened. Everything else is refused; an empty list allows nothing of its kind."""

    roots: tuple[str, ...] = Field((), description="folders; links that lead out of them are not followed")
    buckets: tuple[str, ...] = Field((), description="prefixes such as s3://ct-archive/2024/")
    dicomweb: tuple[str, ...] = Field(
        (), description="service roots such as https://pacs.example/dicom-web; loopback only as address and port"
    )


class ServiceLimits(Section):
    """Bounds on what one request may cost; beyond them it is refused with a code."""

    upload_mb: int = Field(2048, ge=1, description="size of one study's zip as it is sent, MiB")
    unzipped_mb: int = Field(8192, ge=1, description="size that its members may come to, MiB")
    members: int = Field(20_000, ge=1, description="files in one study's zip")
    ratio: int = Field(200, ge=2, description="unzipped against zipped bytes of one member; CT reaches 3")
    body_kb: int = Field(256, ge=1, description="size of any other request, KiB")
    body_s: float = Field(20.0, gt=0, description="time for the body of any other request to arrive, s")
    upload_s: float = Field(900.0, gt=0, description="time for a study's zip to arrive, s")
    idle_s: float = Field(15.0, gt=0, description="silence within a body after which its request ends, s")
    score_timeout_s: float = Field(120.0, gt=0, description="wall time of scoring one study, its turn awaited, s")
    uploads: int = Field(16, ge=1, description="studies being received or scored at once, in one replica")
    running: int = Field(1, ge=1, description="screenings at once; more wait")
    waiting: int = Field(100, ge=1, description="screenings that may wait")
    attempts: int = Field(
        3, ge=1, description="drivers of a screening that may die in a row without progress; a restart is none"
    )
    keep_days: float | None = Field(
        None, gt=0, description="screenings are removed, results and feedback too, so long after their end; null: kept"
    )
    events_s: float = Field(1800.0, gt=0, description="after this an event stream ends; a client opens it again")
    streams: int = Field(
        16,
        ge=1,
        description="event streams at once, in one replica; with uploads at most half of deployment.max_ongoing, "
        "checked",
    )


class Deployment(Section):
    """How Ray Serve runs it. Processor shares of 0 leave the machine to the screenings."""

    api_replicas: int = Field(1, ge=1, description="replicas of the HTTP interface")
    scorers: int = Field(1, ge=1, description="replicas that hold the bundle; each scores one upload after the other")
    scorer_cpus: float = Field(0.0, ge=0, description="processor share that Ray reserves for each scorer")
    driver_cpus: float = Field(
        0.0,
        ge=0,
        description="processors that Ray reserves for the driver of a screening, which is a Ray job; with 0 and no "
        "node_labels it runs on the head node, as every job does",
    )
    node_labels: dict[str, str] = Field(
        {}, description="labels of the nodes that stay: replicas and drivers of screenings run on such nodes alone"
    )
    max_ongoing: int = Field(64, ge=1, description="requests in one replica at once")
    graceful_s: float = Field(20.0, ge=0, description="time for a replica that is replaced to finish its requests")
    haproxy: bool = Field(
        False, description="faster proxy without TLS; it opens ports 8404, 9101 and 30000 up on every interface"
    )


class ServeConfig(Section):
    """Everything `osteo-ray serve` does."""

    host: str = Field("127.0.0.1", description="address to listen at; anything beyond loopback needs tokens")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0: any free one")
    names: tuple[str, ...] = Field((), description="host names by which browsers reach it, beside `host` and localhost")
    tls: Tls = Tls()
    tokens: str | None = Field(None, description="file that `osteo-ray serve token` writes; required beyond loopback")
    runs: str | None = Field(
        None, description="folder of screenings, one folder each: a path that all nodes mount, or a bucket (s3://...)"
    )
    bundle: str | None = Field(None, description="the bundle to begin with, by path or URI; null: the reference bundle")
    bundles: tuple[str, ...] = Field((), description="folders from which PUT /v1/model may take another")
    archives: Archives = Archives()
    records: tuple[str, ...] = Field((), description="folders from which records may be read")
    screening: ScreenConfig = ScreenConfig()
    language: Literal["auto", "en", "de", "zh"] = Field(
        "auto", description="of the page; auto: what the browser prefers. `?lang=` and the page's choice go before it"
    )
    identifiers: bool = Field(
        False,
        description="worklist and study page show name, number and accession number, read from the images' headers "
        "when they are shown and kept nowhere; false: the pseudonym alone",
    )
    character_set: CharacterSet = Field(
        None,
        description="with `identifiers`: DICOM term of the character set of images that declare none",
    )
    limits: ServiceLimits = ServiceLimits()
    deployment: Deployment = Deployment()

    @property
    def on_loopback(self) -> bool:
        """Whether nobody but this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def check(cfg: ServeConfig) -> ServeConfig:
    """The config with absolute paths, which every process reads alike; what must not start is refused.

    Raises:
        ConfigError: naming the key and the remedy: no tokens beyond loopback, TLS files that aren't there, HAProxy
            with TLS, a folder that isn't there.
    """
    from osteo_ray.service.tokens import Tokens

    if cfg.runs is None:
        raise ConfigError(f"runs: not given; {ServeConfig.model_fields['runs'].description}")
    if not cfg.on_loopback and (cfg.tokens is None or not Tokens(cfg.tokens).any()):
        raise ConfigError(
            f"host: {cfg.host} can be reached from other machines and there is no token; make one with "
            "`osteo-ray serve token --tokens tokens.json --name me --role admin` and set tokens, or listen on 127.0.0.1"
        )
    for key in ("certificate", "key"):
        path = getattr(cfg.tls, key)
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"tls.{key}: {path} is not there")
    for key, folders in (("archives.roots", cfg.archives.roots), ("records", cfg.records), ("bundles", cfg.bundles)):
        for f in folders:
            if not Path(f).is_dir():
                raise ConfigError(f"{key}: the folder {f} is not there")
    if cfg.deployment.haproxy and cfg.tls.certificate:
        raise ConfigError("deployment.haproxy: Ray's HAProxy has no TLS; set it to false, or put tls before it")
    if cfg.deployment.haproxy and cfg.on_loopback:
        raise ConfigError(
            f"deployment.haproxy: it opens ports on every interface, which host: {cfg.host} forbids; set it to false"
        )
    slow = cfg.limits.streams + cfg.limits.uploads
    if 2 * slow > cfg.deployment.max_ongoing:
        raise ConfigError(
            f"limits.streams, limits.uploads: {slow} event streams and uploads may take more than half of the "
            f"{cfg.deployment.max_ongoing} requests of deployment.max_ongoing; lower one or raise the other"
        )
    return cfg.model_copy(
        update={
            "tokens": _absolute(cfg.tokens),
            "runs": absolute(cfg.runs),
            "bundle": reference.bundle() if cfg.bundle is None else absolute(cfg.bundle),
            **{k: tuple(map(_absolute, getattr(cfg, k))) for k in ("bundles", "records")},
            "tls": Tls(certificate=_absolute(cfg.tls.certificate), key=_absolute(cfg.tls.key)),
            "archives": cfg.archives.model_copy(update={"roots": tuple(map(_absolute, cfg.archives.roots))}),
        }
    )


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())
