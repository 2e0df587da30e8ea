"""What `osteo-ray listen` does: live mode until it is told to end (SIGTERM, SIGINT)."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from osteo_ray.commands import Command
from osteo_ray.config import narrow, need
from osteo_ray.dicom.library_logs import keep_values_out
from osteo_ray.model import reference
from osteo_ray.outcomes import InputError
from osteo_ray.patients.config import RecordsOfCt
from osteo_ray.service.listen_config import ListenConfig
from osteo_ray.service.replica_port import refuse_taken


class ListenJob(RecordsOfCt, ListenConfig):
    """`osteo-ray listen`."""

    bundle: str | None = Field(None, description="null: the reference bundle, which is not validated on patients")
    spool: str | None = Field(None, description="folder for what arrives, where it stands, and reports")


def listen(job: ListenJob) -> Iterator[str]:
    """Take studies by C-STORE, screen each when it is complete, send its reports back."""
    from osteo_ray.patients.record_set import open_records
    from osteo_ray.screening.isolated import IsolatedPredictor

    try:
        from osteo_ray.service.listen import Listener
    except ModuleNotFoundError as e:
        raise InputError(f"{e.name} is missing; pip install 'osteo-ray[listen]' brings it") from None

    cfg = narrow(job, ListenConfig)
    records = open_records(job.records, job.mapping, cfg.index) if job.records else None
    bundle = job.bundle or reference.bundle()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)  # below that it prints what it is sent
    keep_values_out()
    os.umask(0o077)  # images and reports are the owner's alone
    if cfg.port:
        refuse_taken(cfg.host, cfg.port)
    # A study that hangs, crashes or eats memory ends itself, not the service.
    with IsolatedPredictor(bundle, cfg.scoring, cfg.index, cfg.limits) as scorer:
        scorer.start()  # the bundle is sound, before anything is taken
        with Listener(cfg, Path(need(job, "spool")), scorer, scorer.model, records) as listener:
            for s in (signal.SIGTERM, signal.SIGINT):
                signal.signal(s, lambda *_: listener.stop())
            if not job.bundle:
                yield reference.NOTICE
            if cfg.destination is not None and not cfg.reports.identifiers:
                to = cfg.destination.ae_title
                yield f"warning: reports go to {to} under the pseudonym. Where it holds the patients under their own "
                yield "         numbers they will not file there: set reports.identifiers to true"
            yield f"listening at {cfg.host}:{listener.port} as {cfg.ae_title} for {', '.join(cfg.callers)}"
            listener.serve_forever()
    yield "ended; what is unfinished is taken up at the next start"


COMMAND = Command(ListenJob, listen)
