"""From networks to risks: who scores each pattern of modalities, its calibration and its class sets.

Patients count by models that did not know them: validation patients by the bundle's own networks, training patients by
cross-fitted ones (`kdamm.teach.cross_fitted`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from osteo_ray.kdamm.objective import Rows
from osteo_ray.kdamm.teach import Models, present
from osteo_ray.model.calibration import fit_calibrator, normal_log_odds, rest_log_odds
from osteo_ray.model.conformal import fit_conformal
from osteo_ray.model.gaussian_calibration import Judged, fit_gaussians
from osteo_ray.model.networks import Batch, members, show_only
from osteo_ray.model.operating_point import OperatingPoint, operating_point
from osteo_ray.model.patterns import PATTERNS, modalities_of
from osteo_ray.model.scoring_bundle import AnyCalibrator, Prediction
from osteo_ray.patients.labels import OSTEOPENIA, OSTEOPOROSIS
from osteo_ray.patients.schema import NAMES
from osteo_ray.training.config import CalibrationConfig

AGE = NAMES.index("age_y")
MOST = 5.0
"""Largest weight of one patient, against a mean of 1: a single rare one must not decide the curve."""


@dataclass(frozen=True)
class Evidence:
    """Patients of one pattern as its scorer sees them. Arrays share the axis [n]; validation patients come first."""

    scorer: str  # student | tabular | image
    logits: np.ndarray  # float64 [n, 3]
    label: np.ndarray  # class index
    t_score: np.ndarray  # NaN unknown
    weight: np.ndarray  # 1 / P(the pattern is known), mean 1
    n_val: int


@dataclass(frozen=True)
class Calibrated:
    """What turns a pattern's logits into a risk, a class set and a line of the card; by pattern."""

    calibrators: dict[str, AnyCalibrator]
    scored_by: dict[str, str]
    conformal: dict[str, list[float]]
    operating_points: dict[str, OperatingPoint]
    metrics: dict[str, float | int | None]


def evidence(
    nets: Mapping[str, nn.Module], val: Rows, apart: Sequence[tuple[Rows, Models]], groups: list[str]
) -> dict[str, Evidence]:
    """Every pattern's patients; what they have beyond it is hidden.

    A pattern is scored by the student or, where its validation loss is lower, by the pattern's teacher.

    Args:
        nets: student, tabular, image.
        val: labelled validation patients.
        apart: cross-fitted training patients, with models that don't know them.
    """
    everyone = [val, *(rows for rows, _ in apart)]
    known = [present(r.batch, groups) for r in everyone]
    out = {}
    for pattern in PATTERNS:
        holders = [members(pattern, k) for k in known]
        if not len(holders[0]):
            continue
        shown = [show_only(r.batch.take(h), pattern, tuple(groups)) for r, h in zip(everyone, holders, strict=True)]
        rivals = ["student"]
        if "ct" not in modalities_of(pattern):
            rivals.append("tabular")
        elif pattern == "ct":
            rivals.append("image")
        label = [r.label[h].numpy() for r, h in zip(everyone, holders, strict=True)]
        loss = {n: _loss(nets[n], shown[0], label[0]) for n in rivals}
        best = min(loss, key=loss.__getitem__)
        by = [nets[best], *(getattr(m, best) for _, m in apart)]
        out[pattern] = Evidence(
            best,
            np.concatenate([_logits(net, b) for net, b in zip(by, shown, strict=True)]),
            np.concatenate(label),
            np.concatenate([r.t_score[h].numpy() for r, h in zip(everyone, holders, strict=True)]).astype(float),
            pattern_weights(everyone, holders),
            len(holders[0]),
        )
    return out


def calibrate(found: Mapping[str, Evidence], cfg: CalibrationConfig, seed: int) -> Calibrated:
    """A calibrator and an operating point per pattern, which rest on everybody; class sets and the AUC rest on
    validation patients."""
    calibrators = fit_calibrators(found, cfg, seed)
    points: dict[str, OperatingPoint] = {}
    conformal: dict[str, list[float]] = {}
    metrics: dict[str, float | int | None] = {}
    for pattern, c in calibrators.items():
        e = found[pattern]
        points[pattern] = operating_point(
            c.risk(e.logits)[0], e.label, _counted(e, cfg), cfg.sensitivity, cfg.sensitivity_confidence,
            cfg.useful_specificity,
        )  # fmt: skip
        logits, label = e.logits[: e.n_val], e.label[: e.n_val]
        conformal[pattern] = fit_conformal(Prediction.of(logits, c).probabilities, label, cfg.conformal)
        metrics[f"val_auc {pattern}"] = _auc(logits, label)
        metrics[f"val_n {pattern}"] = len(label)
        metrics[f"val_events {pattern}"] = int((label == OSTEOPOROSIS).sum())
    return Calibrated(calibrators, {p: found[p].scorer for p in calibrators}, conformal, points, metrics)


def fit_calibrators(
    found: Mapping[str, Evidence], cfg: CalibrationConfig, seed: int, resamples: int = 200
) -> dict[str, AnyCalibrator]:
    """By the config's method, one for each pattern that has the patients for it."""
    if cfg.method == "gaussian":
        judged = {p: Judged(e.logits, e.label, e.t_score, _counted(e, cfg)) for p, e in found.items()}
        return dict(fit_gaussians(judged, seed, cfg.level, resamples, cfg.pool))
    fits = {
        p: fit_calibrator(p, rest_log_odds(e.logits), e.label, seed, cfg.level, resamples) for p, e in found.items()
    }
    return {p: c for p, c in fits.items() if c is not None}


def _counted(e: Evidence, cfg: CalibrationConfig) -> np.ndarray:
    """How much each patient counts, [n]."""
    return e.weight if cfg.population == "everyone" else np.ones(len(e.label))


def pattern_weights(everyone: Sequence[Rows], holders: Sequence[torch.Tensor]) -> np.ndarray:
    """1 / P(a patient's modalities hold the pattern), by logistic regression on T-score and age, for the holders.

    Who gets a CT, or labs, is chosen by frailty; patients without have a T-score as well, so the choice can be seen.
    A class without a T-score counts as its middle.
    """
    t = np.concatenate([np.where(r.t_score.isfinite(), r.t_score, _MIDDLE[r.label]).astype(float) for r in everyone])
    age = np.concatenate([r.batch.values[:, AGE].numpy() for r in everyone])
    aged = np.concatenate([r.batch.known[:, AGE].numpy() for r in everyone]).astype(float)
    has = np.concatenate([np.isin(np.arange(len(r)), h.numpy()) for r, h in zip(everyone, holders, strict=True)])
    if has.all():
        return np.ones(len(has))
    x = np.c_[t, age * aged, aged]
    chance = LogisticRegression(C=1e3, max_iter=1000).fit(x, has).predict_proba(x)[has, 1]
    w = has.mean() / np.maximum(chance, 1e-6)
    w = np.minimum(w / w.mean(), MOST)
    return w / w.mean()


_MIDDLE = np.array([0.0, -1.75, -3.2])


@torch.no_grad()
def _logits(net: nn.Module, b: Batch) -> np.ndarray:
    return net(b).numpy().astype(float)


@torch.no_grad()
def _loss(net: nn.Module, b: Batch, label: np.ndarray) -> float:
    return float(F.cross_entropy(net(b), torch.from_numpy(label)))


def _auc(logits: np.ndarray, label: np.ndarray) -> float | None:
    """AUC of osteoporosis against normal; None where a class is absent."""
    ends = label != OSTEOPENIA
    y = label[ends] == OSTEOPOROSIS
    if y.all() or not y.any():
        return None
    return float(roc_auc_score(y, normal_log_odds(logits[ends])))
