"""Tabular ground: how well records alone find osteoporosis in real people (NHANES, leave-one-cycle-out).

    python benchmarks/tabular.py ../shared/data/nhanes/nhanes_bmd.parquet

People of 50 and over with a femoral-neck DXA; osteoporosis is T <= -2.5 there. Each survey cycle is predicted by models
fitted to the others; Mean over cycles of the out-of-cycle AUC with a bootstrap interval, and of each cycle.
A later model is compared by giving `evaluate` its own `fit` function.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from osteo_ray import records
from osteo_ray.records.schema import LABS

BODY = ("age_y", "sex_male", "height_cm", "weight_kg")
# Skewed labs are taken as logarithms; the schema's lower limits are above zero.
Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class Ground:
    """The task: x float [n, F] with NaN, y bool [n], cycle [n]."""

    x: np.ndarray
    y: np.ndarray
    cycle: np.ndarray
    features: tuple[str, ...]


def ground(path: str, features: tuple[str, ...], task: str = "rest") -> Ground:
    """NHANES rows of people aged 50+ with a neck T-score; `task` is "rest" (all) or "normal" (osteopenia left out)."""
    t = records.load(path, "nhanes")
    f = t.frame
    keep = (f["age_y"] >= 50) & f["t_score"].notna()
    if task == "normal":
        keep &= f["label"] != "osteopenia"
    values, _ = t.matrix(features)
    rows = keep.to_numpy()
    return Ground(values[rows], (f["label"] == "osteoporosis").to_numpy()[rows], f["cycle"].to_numpy()[rows], features)


def logistic(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression on values, logarithms and missing-value indicators."""
    impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    logs = make_pipeline(
        FunctionTransformer(lambda v: np.log(np.maximum(v, 1e-3))),
        SimpleImputer(strategy="median", keep_empty_features=True),
    )
    model = make_pipeline(make_union(impute, logs), StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(x, y)
    return lambda v: model.predict_proba(v)[:, 1]


def boosting(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Histogram gradient boosting, missing values as they are."""
    model = HistGradientBoostingClassifier(
        learning_rate=0.04, max_iter=250, max_leaf_nodes=8, min_samples_leaf=60, l2_regularization=5.0, random_state=0
    )
    model.fit(x, y)
    return lambda v: model.predict_proba(v)[:, 1]


def osta(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The OSTA index, 0.2 (weight - age): no fitting. Expects BODY first."""
    return lambda v: v[:, 0] - v[:, 3]


MODELS: dict[str, Fit] = {"OSTA": osta, "logistic regression": logistic, "gradient boosting": boosting}


@dataclass(frozen=True)
class Result:
    """AUC by leave-one-cycle-out: mean over cycles of each cycle's AUC, its bootstrap interval, each cycle's."""

    mean: float
    low: float
    high: float
    by_cycle: dict[str, float]


def evaluate(g: Ground, fit: Fit, resamples: int = 400, seed: int = 0) -> Result:
    """Fit on all cycles but one, score that one; people are resampled within cycles for the interval."""
    scores, labels = {}, {}
    for c in np.unique(g.cycle):
        out = g.cycle == c
        x = np.where(np.isnan(g.x[out]) & (fit is osta), np.nanmedian(g.x[~out], 0), g.x[out])
        scores[c], labels[c] = fit(g.x[~out], g.y[~out])(x), g.y[out]
    by = {str(c): float(roc_auc_score(labels[c], scores[c])) for c in scores}
    rng = np.random.default_rng(seed)
    boots = []
    for _ in range(resamples):
        means = []
        for c in scores:
            i = rng.integers(len(labels[c]), size=len(labels[c]))
            means.append(roc_auc_score(labels[c][i], scores[c][i]))
        boots.append(np.mean(means))
    low, high = np.quantile(boots, (0.025, 0.975))
    return Result(float(np.mean(list(by.values()))), float(low), float(high), by)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("nhanes", help="nhanes_bmd.parquet")
    p.add_argument("--task", choices=("rest", "normal"), default="rest")
    args = p.parse_args()
    labs = tuple(n for n in LABS if n != "ldl_mmol_l")  # not in the extract
    shown = False
    for name, features in (("age, sex, height, weight", BODY), ("+ labs", BODY + labs)):
        g = ground(args.nhanes, features, args.task)
        if not shown:
            cycles = ", ".join(map(str, np.unique(g.cycle)))
            print(f"n={len(g.y)}, osteoporosis {int(g.y.sum())} ({g.y.mean():.1%}), cycles {cycles}")
            shown = True
        for model, fit in MODELS.items():
            if model == "OSTA" and features != BODY:
                continue
            r = evaluate(g, fit)
            cycles = "  ".join(f"{v:.3f}" for v in r.by_cycle.values())
            print(f"{name:<26} {model:<20} AUC {r.mean:.4f} [{r.low:.3f}, {r.high:.3f}]   by cycle {cycles}")


if __name__ == "__main__":
    main()
