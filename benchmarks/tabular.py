"""Tabular ground: how well records alone find osteoporosis, by the product's tabular teacher and its rivals.

    python benchmarks/tabular.py ../shared/data/nhanes/nhanes_bmd.parquet            # real people, leave-one-cycle-out
    python benchmarks/tabular.py ../shared/data/nhanes/nhanes_bmd.parquet --without  # and each lab hidden in turn
    python benchmarks/tabular.py --synthetic 6000 --without  # synthetic people, scored on fresh ones

NHANES: people of 50 and over with a femoral-neck DXA; osteoporosis is T <= -2.5 there. Each survey cycle is predicted
by models fitted to the others; mean over cycles of the out-of-cycle AUC with a bootstrap interval, and of each cycle.
The teacher's difference to each rival is taken on the same draws. Rivals learn the two classes; the teacher also learns
from osteopenia and the T-score, as it does in the product; a seventh of its training people are its validation part.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from osteo_ray import patients as records
from osteo_ray.kdamm.config import FitConfig
from osteo_ray.kdamm.objective import Rows, build
from osteo_ray.kdamm.train import FitJob
from osteo_ray.kdamm.train import fit as fit_model
from osteo_ray.model.calibration import rest_log_odds
from osteo_ray.model.config import ModelConfig
from osteo_ray.model.networks import Batch
from osteo_ray.model.standardise import fit_standardiser
from osteo_ray.patients.labels import CLASSES
from osteo_ray.patients.schema import LABS, feature
from osteo_ray.patients.table import RecordTable

BODY = ("age_y", "sex_male", "height_cm", "weight_kg")
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class People:
    """x float [n, F] with NaN, label int [n] (index into CLASSES), T-score [n], cycle [n], names of the columns."""

    x: np.ndarray
    label: np.ndarray
    t_score: np.ndarray
    cycle: np.ndarray
    features: tuple[str, ...]

    @property
    def y(self) -> np.ndarray:
        """Osteoporosis, bool [n]."""
        return self.label == CLASSES.index("osteoporosis")

    def take(self, rows: np.ndarray) -> People:
        """The people at `rows`."""
        return replace(self, x=self.x[rows], label=self.label[rows], t_score=self.t_score[rows], cycle=self.cycle[rows])


Fit = Callable[[People], Predict]


def people_of(table: RecordTable, cycle: np.ndarray, features: tuple[str, ...], task: str, age_min: float) -> People:
    """Labelled rows of a table; `task` is "rest" (all) or "normal" (osteopenia left out)."""
    f = table.frame
    keep = (f["age_y"] >= age_min) & f["t_score"].notna()
    if task == "normal":
        keep &= f["label"] != "osteopenia"
    rows = keep.to_numpy()
    label = f["label"].map({c: i for i, c in enumerate(CLASSES)}).to_numpy()[rows].astype(int)
    return People(table.matrix(features)[0][rows], label, f["t_score"].to_numpy()[rows], cycle[rows], features)


def ground(path: str, features: tuple[str, ...], task: str = "rest") -> list[tuple[People, People]]:
    """NHANES, aged 50+ with a neck T-score: (all other cycles, one cycle) for each cycle."""
    t = records.load(path, "nhanes")
    p = people_of(t, t.frame["cycle"].to_numpy(), features, task, 50)
    return [(p.take(p.cycle != c), p.take(p.cycle == c)) for c in np.unique(p.cycle)]


def synthetic_ground(n: int, features: tuple[str, ...], task: str = "rest") -> list[tuple[People, People]]:
    """Synthetic people with their records' missing values, by seed: one pair, as many to judge as to learn from."""
    from osteo_ray.synthetic import fast
    from osteo_ray.synthetic.config import CohortConfig

    sides = []
    for seed in (101, 202):
        cfg = CohortConfig(persons=n, seed=seed)
        t = fast.records_of(fast.people(cfg), cfg)
        sides.append(people_of(t, np.full(len(t), f"seed {seed}"), features, task, 0))
    return [(sides[0], sides[1])]


def logistic(p: People) -> Predict:
    """Logistic regression on values, logarithms and missing-value indicators."""
    impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    logs = make_pipeline(
        FunctionTransformer(lambda v: np.log(np.maximum(v, 1e-3))),
        SimpleImputer(strategy="median", keep_empty_features=True),
    )
    model = make_pipeline(make_union(impute, logs), StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(p.x, p.y)
    return lambda v: model.predict_proba(v)[:, 1]


def boosting(p: People) -> Predict:
    """Histogram gradient boosting, missing values as they are."""
    model = HistGradientBoostingClassifier(
        learning_rate=0.04, max_iter=250, max_leaf_nodes=8, min_samples_leaf=60, l2_regularization=5.0, random_state=0
    )
    model.fit(p.x, p.y)
    return lambda v: model.predict_proba(v)[:, 1]


def osta(p: People) -> Predict:
    """The OSTA index, 0.2 (weight - age): only the median for who lacks one is fitted."""
    age, weight = p.features.index("age_y"), p.features.index("weight_kg")
    middle = np.nanmedian(p.x, axis=0)

    def predict(v: np.ndarray) -> np.ndarray:
        v = np.where(np.isnan(v), middle, v)
        return v[:, age] - v[:, weight]

    return predict


def tabular_batch(values: np.ndarray, known: np.ndarray) -> Batch:
    """A batch of records without CT, from standardised values and mask [n, F]."""
    n = len(values)
    bag = torch.zeros(n, 1, 1), torch.zeros(n, 1, dtype=torch.bool)
    return Batch(torch.from_numpy(values), torch.from_numpy(known), *bag)


def fitted_teacher(p: People, seed: int = 0):
    """The product's tabular teacher with its default config: (network, standardiser)."""
    groups = [str(feature(n).group) for n in p.features]
    std = fit_standardiser(p.x, list(p.features), groups)
    order = np.random.default_rng(seed).permutation(len(p.y))
    cut = len(order) // 7

    def rows(which: np.ndarray) -> Rows:
        t_score = torch.from_numpy(p.t_score[which].astype(np.float32))
        return Rows(tabular_batch(*std(p.x[which])), torch.from_numpy(p.label[which]), t_score)

    cfg = ModelConfig()
    job = FitJob("tabular", rows(order[cut:]), rows(order[:cut]), groups, cfg, FitConfig(), seed)
    net = build("tabular", groups, 1, cfg)
    net.load_state_dict(fit_model(job))
    return net.eval(), std


def teacher(p: People) -> Predict:
    """TabM over values and masks, as `osteo-ray train` fits it."""
    net, std = fitted_teacher(p)

    @torch.no_grad()
    def predict(v: np.ndarray) -> np.ndarray:
        return rest_log_odds(net(tabular_batch(*std(v))).numpy())

    return predict


MODELS: dict[str, Fit] = {"OSTA": osta, "logistic regression": logistic, "gradient boosting": boosting}
TEACHER = "tabular teacher"


@dataclass(frozen=True)
class Scores:
    """A model's scores of the people it was not fitted to, by fold, and the predictors that gave them."""

    by_fold: list[np.ndarray]
    predict: list[Predict]


def scores_of(folds: list[tuple[People, People]], fit: Fit) -> Scores:
    """Fit on the first of each pair, score the second."""
    predict = [fit(train) for train, _ in folds]
    return Scores([f(test.x) for f, (_, test) in zip(predict, folds, strict=True)], predict)


def means(truth: list[np.ndarray], scores: list[list[np.ndarray]], resamples: int = 400, seed: int = 0) -> np.ndarray:
    """Mean AUC over folds, of the data as they are and then of each bootstrap draw: [1 + resamples, models].

    People are drawn within folds, the same ones for every model.
    """
    rng = np.random.default_rng(seed)
    out = []
    for b in range(resamples + 1):
        rows = [np.arange(len(y)) if b == 0 else rng.integers(len(y), size=len(y)) for y in truth]
        out.append(
            [np.mean([roc_auc_score(y[r], s[r]) for y, s, r in zip(truth, m, rows, strict=True)]) for m in scores]
        )
    return np.array(out)


def interval(draws: np.ndarray, sign: str = "+") -> str:
    """The figure and its percentile interval; `sign` is "+" for differences."""
    low, high = np.quantile(draws[1:], (0.025, 0.975))
    return f"{draws[0]:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def print_without(folds: list[tuple[People, People]], fitted: Scores) -> None:
    """The teacher's AUC where one lab is hidden from everyone it scores, one lab at a time; all of them last."""
    names = folds[0][0].features
    labs = [n for n in names if n in LABS]
    hidden = []
    for gone in [[n] for n in labs] + [labs]:
        columns = [names.index(n) for n in gone]
        by_fold = []
        for f, (_, test) in zip(fitted.predict, folds, strict=True):
            x = test.x.copy()
            x[:, columns] = np.nan
            by_fold.append(f(x))
        hidden.append(by_fold)
    draws = means([t.y for _, t in folds], [fitted.by_fold, *hidden])
    print(f"\n{'hidden from the teacher':<26} {'change of AUC':<32} known in")
    for j, hidden_name in enumerate([*labs, "all labs"]):
        known = (
            np.mean([np.isfinite(t.x[:, names.index(hidden_name)]).mean() for _, t in folds])
            if hidden_name in names
            else None
        )
        share = "" if known is None else f"{known:.0%}"
        print(f"{hidden_name:<26} {interval(draws[:, 1 + j] - draws[:, 0]):<32} {share}")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("nhanes", nargs="?", help="nhanes_bmd.parquet")
    p.add_argument("--synthetic", type=int, help="synthetic people to learn from, instead of NHANES")
    p.add_argument("--task", choices=("rest", "normal"), default="rest")
    p.add_argument("--without", action="store_true", help="also hide each lab in turn")
    args = p.parse_args()
    if (args.nhanes is None) == (args.synthetic is None):
        p.error("give NHANES's file, or --synthetic N")
    labs = tuple(n for n in LABS if args.synthetic or n != "ldl_mmol_l")  # LDL is not in the extract
    shown = False
    for name, features in (("age, sex, height, weight", BODY), ("+ labs", BODY + labs)):
        folds = (
            synthetic_ground(args.synthetic, features, args.task)
            if args.synthetic
            else ground(args.nhanes, features, args.task)
        )
        truth = [t.y for _, t in folds]
        if not shown:
            n, cases = sum(map(len, truth)), sum(int(y.sum()) for y in truth)
            cycles = ", ".join(str(t.cycle[0]) for _, t in folds)
            print(f"n={n}, osteoporosis {cases} ({cases / n:.1%}), scored in turn: {cycles}")
            shown = True
        models = {k: f for k, f in MODELS.items() if k != "OSTA" or features == BODY} | {TEACHER: teacher}
        scores = {k: scores_of(folds, f) for k, f in models.items()}
        draws = means(truth, [s.by_fold for s in scores.values()])
        for j, (model, s) in enumerate(scores.items()):
            by = "  ".join(f"{roc_auc_score(y, v):.3f}" for y, v in zip(truth, s.by_fold, strict=True))
            ahead = "" if model == TEACHER else f"   teacher - this {interval(draws[:, -1] - draws[:, j])}"
            print(f"{name:<26} {model:<20} AUC {interval(draws[:, j], sign='')}   by cycle {by}{ahead}", flush=True)
    if args.without:
        print_without(folds, scores[TEACHER])


if __name__ == "__main__":
    main()
