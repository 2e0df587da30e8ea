"""What `osteo-ray tune` does: one function a target, as in `osteo_ray.commands`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import yaml
from pydantic import Field

from osteo_ray.commands import Action, Command
from osteo_ray.commands.train import TrainJob, sources
from osteo_ray.config import load, narrow, need, validate
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.tune_config import TuneConfig


class TuneJob(TuneConfig):
    """`osteo-ray tune`."""

    train: str | None = Field(None, description="YAML of the training that is tuned; what it has prepared is used")
    out: str | None = Field(None, description="folder for the trials and the best config, a path or URI")


def tune(target: str, job: TuneJob) -> list[str]:
    """Search a target's settings; the best training config is `<out>/<target>.yaml`."""
    from osteo_ray.io.store import Store
    from osteo_ray.training.tune import best_config
    from osteo_ray.training.tune import tune as run

    path = need(job, "train")
    training = load(TrainJob, path)
    store = Store(need(job, "out"))
    cfg = narrow(training, TrainConfig)
    summary = run(target, sources(training), cfg, narrow(job, TuneConfig), need(training, "out"), store.uri)
    given = yaml.safe_load(Path(path).read_text()) or {}
    found = store.path(f"{target}.yaml")
    head = (
        f"# osteo-ray train --config {found}\n# {path} with the best of `osteo-ray tune {target}`. It trains into the "
        "same folder, where the steps before the tuned ones are reused.\n"
    )
    best = best_config(given, summary.params)
    validate(TrainJob, best)  # what is written can be read
    store.put(f"{target}.yaml", (head + yaml.safe_dump(best, sort_keys=False, allow_unicode=True)).encode())
    return [*summary.lines(), f"best       {found}"]


COMMAND = Command(
    TuneJob,
    actions={
        "teachers": Action("the tabular and the image teacher, each by itself", partial(tune, "teachers")),
        "student": Action("the student and its distillation", partial(tune, "student")),
        "selection": Action("the slice policy and its reward", partial(tune, "selection")),
    },
)
