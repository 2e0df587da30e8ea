"""What a trial of a search does: one objective a model, plain functions over prepared data.

    objective(params, data, report)           # see kdamm.search.Objective

A fit is judged on patients it was not trained on, over several splits of training and validation patients, for one
split of few patients would be over-fitted by the search. Test and held-out patients are in none of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from osteo_ray.config import validate as checked
from osteo_ray.config import with_dotted
from osteo_ray.drlis.environment import SliceSelectionEnv
from osteo_ray.drlis.reward import posteriors
from osteo_ray.kdamm.objective import Rows
from osteo_ray.kdamm.teach import Teachers, fit_student, fit_teachers, has, present
from osteo_ray.kdamm.train import FitJob, Weights, fit, validate
from osteo_ray.model.acquisition import extend
from osteo_ray.model.embedding import Scans
from osteo_ray.model.networks import show_only
from osteo_ray.model.patterns import PATTERNS
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.standardise import fit_standardiser
from osteo_ray.outcomes import InputError
from osteo_ray.patients.schema import FEATURES
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.patients import part_of, rows_of
from osteo_ray.training.prepare import People
from osteo_ray.training.search import Report
from osteo_ray.training.search_space import Params

GROUPS = [str(f.group) for f in FEATURES]
VIEWS = ("ct", "demographics+labs", PATTERNS[-1])
"""What a student is judged on: complete patients with these modalities shown."""


@dataclass
class Split:
    """Rows to train on, with the teachers' outputs where the search leaves these as they are, and to judge on."""

    train: Rows
    val: Rows


@dataclass
class ModelData:
    """What a trial of a teacher or the student reads."""

    what: Literal["tabular", "image", "student"]
    splits: list[Split]
    cfg: TrainConfig
    metric: str
    report_every: int
    seed: int


@dataclass
class PolicyData:
    """What a trial of the selection reads."""

    train: Scans
    val: Scans
    scorers: list[AttentionPool]
    cfg: TrainConfig
    metric: str


def with_params(cfg: TrainConfig, params: Mapping[str, Any]) -> TrainConfig:
    """The config with some settings changed, by dotted key; `ConfigError` names a key that is not there."""
    return checked(type(cfg), with_dotted(cfg.model_dump(mode="json"), params))


def splits_of(
    people: People, bags: np.ndarray, masks: np.ndarray, cfg: TrainConfig, seeds: list[int | None]
) -> list[Split]:
    """Training and validation patients split anew by each seed (None: as the run split them), without test patients.

    Args:
        bags: the policy's picks of each scan [S, K, D], and masks [S, K], see `picks.Picks`.
    """
    p = people.patients
    bags = extend(bags, cfg.encoder.layout, people.scanned, cfg.acquisition)
    names = [f.name for f in FEATURES]
    develop = p.part != "test"
    out = []
    for seed in seeds:
        part = p.part
        if seed is not None:
            part = np.array([part_of(str(k), seed, 0.0, cfg.split.val) for k in p.key])
        train = np.flatnonzero(develop & (part == "train"))
        val = np.flatnonzero(develop & (part == "val") & (p.label >= 0) & p.judged)
        std = fit_standardiser(p.values[train], names, GROUPS)
        out.append(Split(rows_of(p, train, std, bags, masks), rows_of(p, val, std, bags, masks)))
    return out


def judged_on(what: str, val: Rows, metric: str) -> Rows:
    """The rows that a model is judged on.

    Raises:
        InputError: where no validation patient has what is needed.
    """
    if what != "student":
        rows = val.take(torch.where(has(what, val.batch, GROUPS))[0])
    else:
        complete = val.take(torch.where(present(val.batch, GROUPS).all(1))[0])
        views = VIEWS if metric == "log_likelihood" else PATTERNS[-1:]
        rows = _shown(complete, views)
    if len(rows) == 0:
        need = "CT and records" if what == "student" else "that modality"
        raise InputError(f"no validation patient has {need}: the {what} model can't be judged; give more patients")
    return rows


def _shown(rows: Rows, views: tuple[str, ...]) -> Rows:
    """Each patient once a view, with the other modalities hidden."""
    parts = [show_only(rows.batch, v, tuple(GROUPS)) for v in views]
    batch = type(rows.batch)(*(torch.cat([getattr(b, f) for b in parts]) for f in parts[0].__dataclass_fields__))
    return Rows(batch, rows.label.repeat(len(views)), rows.t_score.repeat(len(views)))


def fit_model(params: Params, data: ModelData, report: Report) -> None:
    """Fit a teacher or the student on each split, in turn; the score is the mean over the splits so far."""
    torch.set_num_threads(1)
    cfg = with_params(data.cfg, params).kdamm
    done: list[dict[str, float]] = []
    for k, split in enumerate(data.splits):
        judged = judged_on(data.what, split.val, data.metric)

        def watch(job: FitJob, k: int = k) -> Callable[[dict[str, float]], None]:
            def on_epoch(row: dict[str, float]) -> None:
                # Only fits of the model itself, and not the last epoch: that is reported when the fit is whole.
                share = (row["epoch"] + 1) / job.fit.epochs
                if (row["epoch"] + 1) % data.report_every == 0 and share < 1:
                    now = _figures([*done, row], data.metric)
                    report((k + share) / len(data.splits), **now)

            return on_epoch

        reported: list[bool] = []

        def run(job: FitJob, watch=watch, judged=judged, reported=reported) -> Weights:
            # Of several fits of one model (a warm start, an ensemble) only the first's way is shown.
            own = job.kind == data.what and not reported
            reported.extend([True] * own)
            job.val = judged if own else job.val
            return fit(job, on_epoch=watch(job) if own else None)

        if data.what == "student":
            known = bool(split.train.logits)
            teachers: Teachers = {} if known else fit_teachers(split.train, split.val, GROUPS, cfg, data.seed)
            model: Any = fit_student(split.train, split.val, teachers, GROUPS, cfg, data.seed, run)
        else:
            kinds = (data.what,)
            model = fit_teachers(split.train, split.val, GROUPS, cfg, data.seed, run=run, kinds=kinds)[data.what]
        done.append(validate(model, judged))
        report((k + 1) / len(data.splits), **_figures(done, data.metric))


def _figures(rows: list[dict[str, float]], metric: str) -> dict[str, float]:
    """Score (mean over splits), its spread, and the means of both metrics."""
    loss, auc = (np.array([r[k] for r in rows], float) for k in ("loss", "auc"))
    each = -loss if metric == "log_likelihood" else auc
    return {
        "score": float(each.mean()),
        "spread": float(each.std()),
        "log_likelihood": float(-loss.mean()),
        "auc": float(auc.mean()),
        "splits": len(rows),
    }


def fit_policy(params: Params, data: PolicyData, report: Report) -> None:
    """Train a policy; every `assess_every` steps it is tried on validation scans, judged by the config's own reward."""
    from osteo_ray.drlis.rllib import assess, train_policy

    torch.set_num_threads(1)
    cfg = with_params(data.cfg, params).selection
    cfg = cfg.model_copy(update={"policy": cfg.policy.model_copy(update={"env_runners": 0})})  # a core a trial

    def watch(steps: int, policy: PolicyNet) -> None:
        seen = assess(policy, data.scorers, data.val, cfg.view)
        gained = greedy_return(policy, data, cfg.view)
        score = gained if data.metric == "return" else seen["val_auc"]
        report(min(1.0, steps / cfg.policy.env_steps), score, val_return=gained, **seen)

    with tempfile.TemporaryDirectory(prefix="osteo-ray-") as folder:
        train_policy(data.train, data.scorers, cfg, folder, data.cfg.seed, True, None, watch)


@torch.no_grad()
def greedy_return(policy: PolicyNet, data: PolicyData, view: Any) -> float:
    """Mean return of the greedy policy on the validation scans, by the reward of the config that is tuned."""
    sel = data.cfg.selection
    env = SliceSelectionEnv(
        {
            "scans": data.val,
            "scorers": data.scorers,
            "posteriors": posteriors(data.val, data.scorers, sel.scorer.posterior_slices),
            "view": view,
            "reward": sel.reward,
            "seed": data.cfg.seed,
        }
    )
    total = 0.0
    for i in range(len(data.val)):
        obs, _ = env.reset(options={"scan": i})
        ended = False
        while not ended:
            logits, _ = policy({k: torch.from_numpy(v)[None] for k, v in obs.items()})
            obs, reward, ended, _, _ = env.step(int(logits[0].argmax()))
            total += reward
    return total / len(data.val)
