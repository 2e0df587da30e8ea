r"""What tuning gained, once, on people whom no search, fit or calibration saw.

    osteo-ray tune teachers --config configs/tune.yaml --train configs/reference.yaml --out runs/reference/tune
    osteo-ray tune student --config configs/tune.yaml --train runs/reference/tune/teachers.yaml \
        --out runs/reference/tune
    python benchmarks/tuning.py configs/reference.yaml runs/reference/tune/student.yaml --seeds 5

Each config's teachers and student are fitted on the run's training patients with several seeds and judged on the
config's held-out slice sets: log-likelihood of the class and AUC, for complete people and for the same people with
modalities hidden. The difference is paired: 95 % bootstrap interval over people of the mean over seeds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from osteo_ray import ray_setup
from osteo_ray.commands.train import TrainJob, sources
from osteo_ray.config import load, narrow
from osteo_ray.evaluation.resample import Order, interval, weighted_auc
from osteo_ray.kdamm.objective import Rows
from osteo_ray.kdamm.teach import fit_all, present
from osteo_ray.model.acquisition import extend
from osteo_ray.model.calibration import rest_log_odds
from osteo_ray.model.networks import show_only
from osteo_ray.model.standardise import fit_standardiser
from osteo_ray.patients.schema import FEATURES
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.objectives import GROUPS, VIEWS
from osteo_ray.training.patients import rows_of
from osteo_ray.training.picks import pick_slices, picked
from osteo_ray.training.prepare import prepare, selection

Scores = dict[str, np.ndarray]
"""By view: class log-probabilities [n, 3]."""


@dataclass
class Fitting:
    """What one config is fitted and judged on."""

    train: Rows
    val: Rows
    test: Rows
    cfg: TrainConfig


def prepared(path: Path) -> Fitting:
    """Steps up to the picks, done or reused."""
    job = load(TrainJob, path)
    cfg = narrow(job, TrainConfig)
    if job.out is None:
        raise SystemExit(f"{path} names no out")
    p = prepare(sources(job), job.out, cfg)
    policy, scorers, key = selection(p, cfg)
    if p.heldout is None:
        raise SystemExit(f"{path} names no heldout_slices")
    fitted, fresh = p.people.patients, p.heldout.patients
    train, val = fitted.rows("train", labelled=False), fitted.rows("val")
    std = fit_standardiser(fitted.values[train], [f.name for f in FEATURES], GROUPS)

    def read(people, picks):
        return extend(picks.bags, cfg.encoder.layout, people.scanned, cfg.acquisition), picks.masks

    own = read(p.people, picked(p, policy, scorers, key, cfg.selection.view))
    other = read(p.heldout, pick_slices(p.heldout.scans, policy, scorers, cfg.selection.view))
    test = rows_of(fresh, np.flatnonzero((fresh.label >= 0) & fresh.judged), std, *other)
    test = test.take(torch.where(present(test.batch, GROUPS).all(1))[0])
    return Fitting(rows_of(fitted, train, std, *own), rows_of(fitted, val, std, *own), test, cfg)


def scored(f: Fitting, seed: int) -> Scores:
    """Fit everything once and score the held-out people, complete and with modalities hidden."""
    torch.set_num_threads(1)
    student = fit_all(f.train, f.val, GROUPS, f.cfg.kdamm, seed).student
    with torch.no_grad():
        return {v: student(show_only(f.test.batch, v, tuple(GROUPS))).numpy() for v in VIEWS}


def figures(label: np.ndarray) -> dict[str, Any]:
    """By name: scores [n, 3] -> a function of bootstrap weights."""
    ends = label != 1

    def auc_normal(s: np.ndarray):
        order = Order.of(label[ends] == 2, (s[:, 2] - s[:, 0])[ends])
        return lambda w: weighted_auc(order, w[ends])

    def auc_rest(s: np.ndarray):
        order = Order.of(label == 2, rest_log_odds(s))
        return lambda w: weighted_auc(order, w)

    def log_likelihood(s: np.ndarray):
        own = s[np.arange(len(label)), label]
        return lambda w: float((w * own).sum() / w.sum())

    return {"log-likelihood": log_likelihood, "AUC vs normal": auc_normal, "AUC vs rest": auc_rest}


def table(default: list[Scores], tuned: list[Scores], label: np.ndarray) -> list[str]:
    """Markdown rows: view, figure, both means over seeds, paired difference."""
    out = ["| has | figure | defaults | tuned | difference (95 % interval) |", "|---|---|---|---|---|"]
    patients = np.arange(len(label))

    def mean(fns, w):
        return float(np.mean([f(w) for f in fns]))

    def difference(a, b, w):
        return mean(b, w) - mean(a, w)

    for view in default[0]:
        for name, of in figures(label).items():
            a, b = [of(s[view]) for s in default], [of(s[view]) for s in tuned]
            d = interval(partial(difference, a, b), patients)
            each = [f"{mean(fns, np.ones(len(label))):.4f}" for fns in (a, b)]
            out.append(f"| {view} | {name} | {each[0]} | {each[1]} | {d.value:+.4f} ({d.low:+.4f} to {d.high:+.4f}) |")
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("default", type=Path)
    p.add_argument("tuned", type=Path)
    p.add_argument("--seeds", type=int, default=5)
    args = p.parse_args()
    ray_setup.start()
    import ray

    both = [prepared(args.default), prepared(args.tuned)]
    run = ray.remote(scored)
    refs = [ray.put(f) for f in both]
    got = ray.get([run.remote(r, seed) for r in refs for seed in range(args.seeds)])
    label = both[0].test.label.numpy()
    print(f"{len(label)} held-out people, {args.seeds} seeds a config")
    print("\n".join(table(got[: args.seeds], got[args.seeds :], label)))


if __name__ == "__main__":
    main()
