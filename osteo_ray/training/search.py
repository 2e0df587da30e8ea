"""Ray Tune: search a space of settings with ASHA and Optuna, resumable, for any objective.

    table = search("student", objective, data, space, defaults, SearchConfig(), "runs/tune/student/ray")

An objective is a plain function: settings and data in, scores out through `report`. What lies here is how its trials
run: the data once in Ray's object store, one core a trial, bad ones stopped early. A search that is killed and started
again keeps the trials that had ended and goes on with the rest.

Tune's own restore isn't used: its snapshot is several files that a kill can leave of different ages, and a restored
search was seen to end early without a word. Each trial that ends is a small file instead, written whole or not at all,
and both Optuna's model and ASHA's rungs are filled from these files.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from ray import tune

from osteo_ray.io.store import Store
from osteo_ray.io.trouble import StoreError, reason
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
        StoreError: where a trial ended and that could not be written; the same search again goes on from the others.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the project has a progress bar of its own
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failure is a row of the table

    def trial(params: Params, shared: Any = None) -> None:
        def report(done: float, score: float, **more: float) -> None:
            tune.report({"score": float(score), "progress": min(DONE, math.ceil(DONE * done)), **more})

        objective(params, shared, report)

    resources = {"cpu": cfg.trial_cpus, "gpu": cfg.trial_gpus}
    trainable = tune.with_resources(tune.with_parameters(trial, shared=data), resources)
    ended = EndedTrials(Store(storage), f"{name}/ended/")
    earlier = ended.read()
    failed: list[dict[str, Any]] = []
    with progress_bar(f"tune {name}", cfg.trials, "trial", quiet) as advance:
        advance(len(earlier))
        if len(earlier) < cfg.trials:
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    num_samples=cfg.trials - len(earlier),
                    max_concurrent_trials=cfg.concurrent,
                    search_alg=_optuna(space, start, cfg, earlier),
                    scheduler=_asha(cfg, earlier),
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=name,
                    storage_path=str(storage),
                    failure_config=tune.FailureConfig(max_failures=cfg.retries),
                    verbose=0,
                    callbacks=[ended, Bar(advance)],
                ),
            )
            results = tuner.fit()
            for e in ended.unwritten.values():
                raise StoreError(f"{ended.store.path(ended.folder)}: {reason(e)}") from e
            failed = [
                _row(r.metrics, r.config, r.error) for r in map(results.__getitem__, range(len(results))) if r.error
            ]
    table = _table([*(_row(e["metrics"], e["params"]) for e in ended.read()), *failed], list(space))
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


class EndedTrials(tune.Callback):
    """Trials that ended without an error, a JSON file each: `params`, the last `metrics`, and `steps`, which are
    [percent done, score] of each report."""

    def __init__(self, store: Store, folder: str):
        self.store, self.folder = store, folder
        self.steps: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.unwritten: dict[str, OSError] = {}

    def read(self) -> list[dict[str, Any]]:
        """Those there, in the order they began."""
        found = [json.loads(self.store.get(n)) for n in self.store.names(self.folder) if n.endswith(".json")]
        return sorted(found, key=lambda e: _began(e["metrics"]))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.steps.pop(trial.trial_id, None)  # begun again after a failure

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "score" in result:
            self.steps[trial.trial_id].append((result["progress"], result["score"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        metrics = {k: v for k, v in (trial.last_result or {}).items() if isinstance(v, bool | int | float | str)}
        kept = {"params": trial.config, "metrics": metrics, "steps": self.steps.pop(trial.trial_id, [])}
        try:
            self.store.put(f"{self.folder}{trial.trial_id}.json", json.dumps(kept).encode())
        except OSError as e:  # Tune takes it for the trial's error, and begins the trial again
            self.unwritten[trial.trial_id] = e
            raise
        self.unwritten.pop(trial.trial_id, None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"steps": defaultdict(list)}


class Bar(tune.Callback):
    """Advances when a trial ends."""

    def __init__(self, advance: Callable[[int], object]):
        self.advance = advance

    def on_trial_complete(self, *args: Any, **kw: Any) -> None:
        self.advance(1)

    def on_trial_error(self, *args: Any, **kw: Any) -> None:
        self.advance(1)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks with the search; a bar belongs to the process


def _optuna(
    space: Mapping[str, Range | Choice], start: Params, cfg: SearchConfig, earlier: Sequence[Mapping[str, Any]]
) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    begun = any(e["params"] == start for e in earlier)
    searcher = OptunaSearch(
        {k: s.distribution() for k, s in space.items()},
        metric="score",
        mode="max",
        points_to_evaluate=None if begun else [start],
        # Another seed after each resumption: the same would draw the same random settings again.
        sampler=optuna.samplers.TPESampler(
            seed=cfg.seed + len(earlier), n_startup_trials=cfg.startup, multivariate=True
        ),
    )
    for e in earlier:
        score = e["metrics"].get("score", math.nan)
        searcher.add_evaluated_point(e["params"], score, error=not math.isfinite(score))
    return searcher


def _asha(cfg: SearchConfig, earlier: Sequence[Mapping[str, Any]]) -> Any:
    scheduler = tune.schedulers.AsyncHyperBandScheduler(
        time_attr="progress",
        metric="score",
        mode="max",
        max_t=DONE,
        grace_period=cfg.grace,
        reduction_factor=cfg.reduction,
    )
    controller: Any = None  # ASHA looks at none
    for e in earlier:
        trial: Any = SimpleNamespace(trial_id=e["metrics"]["trial_id"])
        scheduler.on_trial_add(controller, trial)
        for progress, score in e["steps"]:
            scheduler.on_trial_result(controller, trial, {"progress": progress, "score": score})
    return scheduler


def _row(
    metrics: Mapping[str, Any] | None, params: Params | None, error: BaseException | None = None
) -> dict[str, Any]:
    m = dict(metrics or {})
    progress = int(m.get("progress", 0))
    return {
        "trial": m.get("trial_id"),
        "state": "failed" if error is not None else "finished" if progress >= DONE else "stopped",
        "score": m.get("score", math.nan),
        "done": progress,
        "seconds": m.get("time_total_s", math.nan),
        "began": _began(m),
        "message": "" if error is None else _last_line(error),
        **{k: v for k, v in m.items() if k not in OWN and isinstance(v, int | float)},
        **{f"param:{k}": v for k, v in (params or {}).items()},
    }


def _began(metrics: Mapping[str, Any]) -> float:
    return float(metrics.get("timestamp", math.inf) - metrics.get("time_total_s", 0.0))


def _table(rows: list[dict[str, Any]], keys: list[str]) -> pd.DataFrame:
    named = list(dict.fromkeys(k for row in rows for k in row if not k.startswith("param:")))
    table = pd.DataFrame(rows, columns=[*named, *(f"param:{k}" for k in keys)])
    return table.sort_values("began", kind="stable").drop(columns="began").reset_index(drop=True)


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


def _last_line(e: BaseException) -> str:
    lines = [x for x in str(e).splitlines() if x.strip()]
    return lines[-1].strip() if lines else type(e).__name__
