"""Ray Tune: search a space of settings with ASHA and Optuna, resumable, for any objective.

    table = search("student", objective, data, space, defaults, SearchConfig(), "runs/tune/student/ray")

An objective is a plain function: settings and data in, scores out through `report`. What lies here is how its trials
run: the data once in Ray's object store, one core a trial, bad ones stopped early. A search that is killed and started
again keeps its finished trials and goes on with the rest.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from ray import tune

from osteo_ray.outcomes import InputError
from osteo_ray.progress import progress_bar
from osteo_ray.training.search_space import Choice, Params, Range, SearchConfig

Report = Callable[..., None]
"""report(done, score, **more): share of the trial's work done so far, 0..1; its score so far, more is better."""
Objective = Callable[[Params, Any, Report], None]

DONE = 100


def search(
    name: str,
    objective: Objective,
    data: Any,
    space: Mapping[str, Range | Choice],
    start: Params,
    cfg: SearchConfig,
    storage: str | Path,
    quiet: bool = False,
) -> pd.DataFrame:
    """Run or go on with a search; Ray must be running.

    Args:
        objective: called as objective(params, data, report) in a worker; it reports until all of its work is done.
        start: the config's own values, which the first trial has; inside the space.
        storage: folder for Tune's state, or a URI that every node reaches; a search that lies there is carried on.

    Returns:
        One row a trial in the order they began: trial, state (finished, stopped, failed), score, done (percent),
        seconds, message, what else the objective reported, and a column `param:<key>` a setting.

    Raises:
        InputError: where no trial was finished.
    """
    # A snapshot a second: what was finished before a kill is not done again.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the project has a progress bar of its own
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failure is a row of the table

    def trial(params: Params, shared: Any = None) -> None:
        def report(done: float, score: float, **more: float) -> None:
            tune.report({"score": float(score), "progress": min(DONE, math.ceil(DONE * done)), **more})

        objective(params, shared, report)

    resources = {"cpu": cfg.trial_cpus, "gpu": cfg.trial_gpus}
    trainable = tune.with_resources(tune.with_parameters(trial, shared=data), resources)
    folder = f"{str(storage).rstrip('/')}/{name}"
    with progress_bar(f"tune {name}", cfg.trials, "trial", quiet) as advance:
        Bar.advance = staticmethod(advance)
        if tune.Tuner.can_restore(folder):
            tuner = tune.Tuner.restore(folder, trainable=trainable, restart_errored=True)
            Bar.advance(sum(bool((r.metrics or {}).get("done")) for r in _each(tuner.get_results())))
        else:
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    metric="score",
                    mode="max",
                    num_samples=cfg.trials,
                    max_concurrent_trials=cfg.concurrent,
                    search_alg=_optuna(space, start, cfg),
                    scheduler=tune.schedulers.AsyncHyperBandScheduler(
                        time_attr="progress", max_t=DONE, grace_period=cfg.grace, reduction_factor=cfg.reduction
                    ),
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=name,
                    storage_path=str(storage),
                    failure_config=tune.FailureConfig(max_failures=cfg.retries),
                    verbose=0,
                    callbacks=[Bar()],
                ),
            )
        table = _table(tuner.fit(), list(space))
    if not (table["state"] == "finished").any():
        messages = "; ".join(sorted({m for m in table["message"] if m}))
        raise InputError(f"no trial of the search {name!r} was finished: {messages or 'all were stopped early'}")
    return table


def best(table: pd.DataFrame) -> pd.Series:
    """The finished trial with the highest score; ties go to the earlier one."""
    return table[table["state"] == "finished"].sort_values("score", ascending=False, kind="stable").iloc[0]


def params_of(row: pd.Series) -> Params:
    """A trial's settings as plain values."""
    out = {str(k).removeprefix("param:"): v for k, v in row.items() if str(k).startswith("param:")}
    return {k: v.item() if hasattr(v, "item") else v for k, v in out.items()}


def _optuna(space: Mapping[str, Range | Choice], start: Params, cfg: SearchConfig) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return OptunaSearch(
        {k: s.distribution() for k, s in space.items()},
        metric="score",
        mode="max",
        points_to_evaluate=[start],
        sampler=optuna.samplers.TPESampler(seed=cfg.seed, n_startup_trials=cfg.startup, multivariate=True),
    )


class Bar(tune.Callback):
    """Advances when a trial ends. Tune stores its callbacks with the search; a bar belongs to the process."""

    advance: ClassVar[Callable[[int], object]] = staticmethod(lambda n: None)

    def on_trial_complete(self, *args: Any, **kw: Any) -> None:
        Bar.advance(1)

    def on_trial_error(self, *args: Any, **kw: Any) -> None:
        Bar.advance(1)


def _table(results: Any, keys: list[str]) -> pd.DataFrame:
    rows = []
    for r in _each(results):
        m = dict(r.metrics or {})
        rows.append(
            {
                "trial": m.get("trial_id"),
                "state": _state(r),
                "score": m.get("score", math.nan),
                "done": int(m.get("progress", 0)),
                "seconds": m.get("time_total_s", math.nan),
                "began": m.get("timestamp", math.inf) - m.get("time_total_s", 0.0),
                "message": "" if r.error is None else _last_line(r.error),
                **{k: v for k, v in m.items() if k not in OWN and isinstance(v, int | float)},
                **{f"param:{k}": (r.config or {}).get(k) for k in keys},
            }
        )
    table = pd.DataFrame(rows).sort_values("began", kind="stable").drop(columns="began").reset_index(drop=True)
    return table


OWN = {
    "score",
    "done",
    "progress",
    "trial_id",
    "time_total_s",
    "timestamp",
    "time_this_iter_s",
    "time_since_restore",
    "iterations_since_restore",
    "training_iteration",
    "checkpoint_dir_name",
    "pid",
}
"""What Tune itself puts beside an objective's figures, or what the table has under another name."""


def _each(results: Any) -> Iterator[Any]:
    return (results[i] for i in range(len(results)))


def _state(result: Any) -> str:
    if result.error is not None:
        return "failed"
    return "finished" if (result.metrics or {}).get("progress", 0) >= DONE else "stopped"


def _last_line(e: BaseException) -> str:
    lines = [x for x in str(e).splitlines() if x.strip()]
    return lines[-1].strip() if lines else type(e).__name__
