"""`osteo-ray retry`: score again what ended with a code or a state."""

from __future__ import annotations

import json

from pydantic import Field

from osteo_ray.commands import Command
from osteo_ray.config import ConfigError, need
from osteo_ray.outcomes import InputError, State
from osteo_ray.screening.config import ScreenJob


class RetryJob(ScreenJob):
    """`osteo-ray retry`: the job of the run, and what of it to score again."""

    code: tuple[str, ...] = Field((), description="codes, e.g. TIMEOUT WORKER_DIED")
    state: tuple[State, ...] = Field((), description="states, e.g. ERROR")


def retry(job: RetryJob) -> list[str]:
    """Score again the series of a finished run that ended so, one attempt further; all others stay as they are.

    Raises:
        ConfigError: neither code nor state is given.
        InputError: the run isn't finished.
    """
    from osteo_ray.io.store import Store
    from osteo_ray.reports.run import screen_archive
    from osteo_ray.screening.ledger import NothingToRetry

    if not job.code and not job.state:
        raise ConfigError("code, state: give at least one code or state to score again")
    store = Store(need(job, "out"))
    if not store.exists("summary.json"):
        raise InputError(f"{store.uri} holds no finished run: `osteo-ray screen` with the same config finishes it")
    run = json.loads(store.get("summary.json"))["run_id"]
    try:
        return screen_archive(job, codes=frozenset(job.code), states=frozenset(map(str, job.state)), run_id=run)
    except NothingToRetry as e:
        return [f"nothing to do: {e}"]


COMMAND = Command(RetryJob, retry, positional="archive")
