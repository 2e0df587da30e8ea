"""Tune what training does: searches over prepared data, and the best config as YAML that `osteo-ray train` takes.

    summary = tune("student", sources, train_cfg, tune_cfg, "runs/tune")

Slices, encoder, embeddings and picks are the training run's own, made there once and reused. In `<out>/<search>/` lie
trials.parquet, trials.csv, trials.md and parallel_coordinates.png; `<out>/<target>.yaml` is the best config.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from osteo_ray import ray_setup
from osteo_ray.config import ConfigError, with_dotted
from osteo_ray.drlis.reward import fit_scorers
from osteo_ray.io.step_cache import StepCache, digest
from osteo_ray.io.uris import join
from osteo_ray.kdamm.teach import fit_teachers, with_cross_fitted_outputs
from osteo_ray.outcomes import InputError
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.objectives import (
    GROUPS,
    ModelData,
    PolicyData,
    Split,
    fit_model,
    fit_policy,
    splits_of,
    with_params,
)
from osteo_ray.training.picks import picked
from osteo_ray.training.prepare import Prepared, Sources, prepare, scans_in, selection
from osteo_ray.training.search import best, params_of, search
from osteo_ray.training.search_space import Params
from osteo_ray.training.trials import parallel_coordinates, write_table
from osteo_ray.training.tune_config import SEARCHES, TuneConfig

TUNE_STATE = "ray"
FRESH = 5000
"""Split seeds of the confirmation start here, above the run's by this much: none is a search's."""


@dataclass(frozen=True)
class TuneSummary:
    """What a search came to, for printing."""

    tables: dict[str, pd.DataFrame]
    gains: dict[str, dict[str, Any]]
    params: Params
    folder: str  # path or URI

    def lines(self) -> list[str]:
        """A few lines for a terminal."""
        out = []
        for name, t in self.tables.items():
            states = ", ".join(f"{n} {s}" for s, n in t["state"].value_counts().items())
            top, first = best(t), t.iloc[0]
            out.append(f"{name:10s} {len(t)} trials: {states}")
            out.append(f"{'':10s} best {top['score']:.4f}, the config's own {first['score']:.4f}")
            g = self.gains.get(name)
            if g:
                out.append(
                    f"{'':10s} on {len(g['best'])} fresh splits {g['mean_best']:.4f} against {g['mean_own']:.4f}: "
                    f"{g['gain']:+.4f} (standard error {g['standard_error']:.4f}, between splits)"
                )
        out += [f"{'':10s} {k}: {v}" for k, v in self.params.items()]
        return [*out, f"trials     {self.folder}"]


def tune(
    target: str,
    src: Sources,
    train_cfg: TrainConfig,
    cfg: TuneConfig,
    train_out: str | Path,
    out: str | Path,
    quiet=False,
) -> TuneSummary:
    """Search the target's spaces; a search that was cut short is carried on, one that is done is reused.

    Raises:
        ConfigError: naming a key of the space that is not the training config's, or a value that can't be.
        InputError: where there is too little to judge by.
    """
    names = SEARCHES[target]
    for name in names:
        check_space(name, getattr(cfg, name), train_cfg)
    p = prepare(replace(src, heldout_slices=()), train_out, train_cfg, quiet)  # no search sees held-out people
    run = StepCache(out)
    tables, gains = {}, {}
    params: Params = {}
    for name in names:
        policy_key = "" if name == "selection" else selection(p, train_cfg, quiet)[2]
        space = getattr(cfg, name)
        how = cfg.selection_search if name == "selection" else cfg.search
        judged = cfg.model_dump(mode="json", exclude={"tabular", "image", "student", "selection", "search"})
        key = digest(p.key, policy_key, train_cfg.model_dump(mode="json"), how.model_dump(), judged,
                     {k: s.model_dump() for k, s in space.items()}, p.people.patients.values.tolist())  # fmt: skip

        def work(folder: Path, name: str = name) -> None:
            _search(folder, run.store.path(name), name, p, train_cfg, cfg, quiet)
            run.save(name)
            # Tune's own state; what it says is in the table.
            shutil.rmtree(folder / TUNE_STATE, ignore_errors=True)
            run.store.remove(run.store.tree(f"{name}/{TUNE_STATE}/"))

        folder = run.run(name, key, work)
        tables[name] = pd.read_parquet(folder / "trials.parquet")
        if (folder / "gain.json").exists():
            gains[name] = json.loads((folder / "gain.json").read_text())
        params |= params_of(best(tables[name]))
    return TuneSummary(tables, gains, params, run.store.uri)


def check_space(name: str, space: dict[str, Any], cfg: TrainConfig) -> None:
    """Every key is one of the config's, every value one that it takes, and the config's own value is among them."""
    if not space:
        raise ConfigError(f"{name}: no space to search; give at least one config key with what it may be")
    for key, s in space.items():
        for value in s.ends():
            with_params(cfg, {key: value})
        own = value_at(cfg, key)
        if not s.holds(own):
            raise ConfigError(
                f"{name}: {key} is {own!r} in the training config, which the space does not hold; widen it"
            )


def value_at(cfg: TrainConfig, key: str) -> Any:
    """A config's value at a dotted key."""
    node: Any = cfg
    for part in key.split("."):
        node = getattr(node, part)
    return node


def best_config(given: dict[str, Any], params: Params) -> dict[str, Any]:
    """A training config as it was written, with the best settings in it."""
    return with_dotted(given, params)


def _search(
    folder: Path, stored: str, name: str, p: Prepared, train_cfg: TrainConfig, cfg: TuneConfig, quiet: bool
) -> None:
    """Search, and write what was found to `folder`; `stored`: where that folder is kept, a path or a URI."""
    ray_setup.start()
    space = getattr(cfg, name)
    start = {k: value_at(train_cfg, k) for k in space}
    data: Any
    if name == "selection":
        data = _policy_data(p, train_cfg, cfg, quiet)
        objective: Any = fit_policy
        how = cfg.selection_search
    else:
        seeds = _seeds(train_cfg, cfg)
        data = _model_data(folder, name, p, train_cfg, cfg, seeds, quiet)
        objective, how = fit_model, cfg.search
    table = search(name, objective, data, space, start, how, join(stored, TUNE_STATE), quiet)
    if name != "selection" and cfg.confirm:
        gain = _confirm(folder, name, p, train_cfg, cfg, [start, params_of(best(table))], quiet)
        (folder / "gain.json").write_text(json.dumps(gain, indent=1) + "\n")
    table.to_parquet(folder / "trials.parquet", index=False)
    write_table(table, folder)
    parallel_coordinates(table, space, folder / "parallel_coordinates.png")


def _seeds(train_cfg: TrainConfig, cfg: TuneConfig) -> list[int | None]:
    n = cfg.splits
    if n is None:
        n = 0 if train_cfg.pretrain.patient_weight else 3
    return [train_cfg.seed + 1 + i for i in range(n)] if n else [None]


def _model_data(
    folder: Path, name: Any, p: Prepared, train_cfg: TrainConfig, cfg: TuneConfig, seeds: list[int | None], quiet: bool
) -> ModelData:
    policy, scorers, key = selection(p, train_cfg, quiet)
    found = picked(p, policy, scorers, key, train_cfg.selection.view, quiet)
    bags, masks = found.bags, found.masks
    splits = splits_of(p.people, bags, masks, train_cfg, seeds)
    apart = ("kdamm.student.", "kdamm.distill.")
    touched = any(not k.startswith(apart) or k == "kdamm.distill.teacher_folds" for k in getattr(cfg, name))
    if name == "student" and not touched:
        _add_teachers(folder, splits, seeds, train_cfg)
    return ModelData(name, splits, train_cfg, cfg.metric, cfg.report_every, train_cfg.seed)


def _add_teachers(folder: Path, splits: list[Split], seeds: list[int | None], cfg: TrainConfig) -> None:
    """What each split's teachers say, found side by side, once: what a search that goes on needs again is in files."""
    import ray

    files = [folder / f"teacher-outputs-{s}.safetensors" for s in seeds]
    jobs = {}
    for split, file in zip(splits, files, strict=True):
        if not file.exists():
            jobs[file] = ray.remote(_teacher_outputs).remote(split, cfg)
    for file, job in jobs.items():
        save_file(ray.get(job), file)
    for split, file in zip(splits, files, strict=True):
        found = load_file(file)
        logits, features = ({k: found[f"{what}.{k}"] for k in SEARCHES["teachers"]} for what in ("logits", "features"))
        split.train = replace(split.train, logits=logits, features=features)


def _teacher_outputs(split: Split, cfg: TrainConfig) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    teachers = fit_teachers(split.train, split.val, GROUPS, cfg.kdamm, cfg.seed)
    known = with_cross_fitted_outputs(split.train, split.val, teachers, GROUPS, cfg.kdamm, cfg.seed)
    outputs = {"logits": known.logits, "features": known.features}
    return {f"{what}.{k}": values.contiguous() for what, each in outputs.items() for k, values in each.items()}


def _confirm(
    folder: Path, name: str, p: Prepared, train_cfg: TrainConfig, cfg: TuneConfig, both: list[Params], quiet: bool
) -> dict[str, Any]:
    """The config's own settings and the best ones on splits that no trial saw."""
    import ray

    own_split = _seeds(train_cfg, cfg) == [None]
    if own_split:  # the encoder knows the others: the run's own split, with other seeds for the fits
        seeds: list[int | None] = [None] * cfg.confirm
    else:
        seeds = [train_cfg.seed + FRESH + i for i in range(cfg.confirm)]
    data = _model_data(folder, name, p, train_cfg, cfg, seeds, quiet)
    jobs = []
    for params in both:
        for i, split in enumerate(data.splits):
            one = ModelData(data.what, [split], train_cfg, cfg.metric, cfg.report_every, FRESH + i)
            jobs.append(ray.remote(_score).remote(params, one))
    own, top = np.array(ray.get(jobs)).reshape(2, -1)
    d = top - own
    return {
        "metric": cfg.metric,
        "own": own.tolist(),
        "best": top.tolist(),
        "mean_own": float(own.mean()),
        "mean_best": float(top.mean()),
        "gain": float(d.mean()),
        "standard_error": float(d.std(ddof=1) / np.sqrt(len(d))) if len(d) > 1 else float("nan"),
    }


def _score(params: Params, data: ModelData) -> float:
    scores: list[float] = []
    fit_model(params, data, lambda done, score, **more: scores.append(score))
    return scores[-1]


def _policy_data(p: Prepared, train_cfg: TrainConfig, cfg: TuneConfig, quiet: bool) -> PolicyData:
    train, val = scans_in(p.people, "train"), scans_in(p.people, "val")
    val = val.take(val.label >= 0)
    if len(val) == 0:
        raise InputError("no labelled validation patient has a CT: the policy can't be judged; give more patients")
    sel = train_cfg.selection
    scorers = fit_scorers(train, sel.scorer, sel.view.keep, train_cfg.seed, quiet)
    return PolicyData(train, val, scorers, train_cfg, cfg.selection_metric)
