"""Does SHAP say what is in the data? The tabular teacher by the product's own explainer, against known effects.

    python benchmarks/shap_fidelity.py --people 6000                          # synthetic people: effects are planted
    python benchmarks/shap_fidelity.py --nhanes ../shared/data/nhanes/nhanes_bmd.parquet   # real people: a ranking

The planted effect of a feature is its SHAP value in the perfect reader of records: the generator's exact log-odds of
osteoporosis given a record, explained with the same players and background. Explained people have complete records, so
that values are compared and not the meaning of a gap. BMI is no player: it is weight and height over again.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from scipy.special import logit
from scipy.stats import norm, spearmanr
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score
from tabular import People, fitted_teacher, people_of, tabular_batch

from osteo_ray import patients as records
from osteo_ray.model.calibration import rest_log_odds
from osteo_ray.patients.labels import OSTEOPOROSIS_T
from osteo_ray.patients.schema import LABS, NAMES, feature
from osteo_ray.screening.explain import Predict, explain
from osteo_ray.synthetic import fast, labs
from osteo_ray.synthetic import population as pop
from osteo_ray.synthetic.config import CohortConfig

FEATURES = tuple(n for n in NAMES if n != "bmi")
CENTRES = 12


def perfect_reader(standardiser, features: tuple[str, ...]) -> Predict:
    """The generator's log-odds of osteoporosis against the rest given a record, on standardised values."""
    centre, scale = np.array(standardiser.centre), np.array(standardiser.scale)
    at = {n: features.index(n) for n in features}
    columns = [at[n] for n in labs.NAMES]

    def predict(values: np.ndarray, known: np.ndarray, ct: np.ndarray) -> np.ndarray:
        x = np.where(known, values * scale + centre, np.nan)
        age, male, weight, height = (x[:, at[n]] for n in ("age_y", "sex_male", "weight_kg", "height_cm"))
        male = np.clip(male, 0, 1)  # a background centre is a mix of men and women
        u, u_var = labs.bone_given_labs(x[:, columns], age, np.round(male), weight / (height / 100) ** 2)
        hu = male * pop.mean_hu(age, np.ones_like(age)) + (1 - male) * pop.mean_hu(age, np.zeros_like(age))
        sd = pop.sd_hu(age)
        mid = 0.035 * (age - 45) / 0.55
        degeneration = 0.55 * (mid * norm.cdf(mid) + norm.pdf(mid))  # mean of the normal cut at 0
        mean = pop.t_mean(hu + sd * u, weight, male, degeneration)
        spread = np.sqrt(pop.PER_HU**2 * sd**2 * u_var + pop.NOISE**2)
        return logit(np.clip(norm.cdf((OSTEOPOROSIS_T - mean) / spread), 1e-9, 1 - 1e-9))

    return predict


def explained(predict: Predict, z: np.ndarray, known: np.ndarray, bg: np.ndarray) -> tuple[np.ndarray, float]:
    """SHAP values [n, F] and the largest gap between base + sum and the model's own log-odds."""
    out, gap = [], 0.0
    for values, mask in zip(z, known, strict=True):
        e = explain(predict, values, mask, bg, np.ones(bg.shape, bool), has_ct=False)
        own = predict(values[None], mask[None], np.zeros(1, int))[0]
        gap = max(gap, abs(float(e.base + e.values.sum() - own)))
        out.append(e.values[:-1])
    return np.array(out), gap


def teacher_reader(train: People, seed: int):
    """The product's teacher as a predictor of standardised values, its standardiser, and background centres."""
    net, std = fitted_teacher(train, seed)

    @torch.no_grad()
    def predict(values: np.ndarray, known: np.ndarray, ct: np.ndarray) -> np.ndarray:
        batch = tabular_batch(np.where(known, values, 0.0).astype(np.float32), known)
        return rest_log_odds(net(batch).numpy()).astype(float)

    z, known = std(train.x)
    whole = z[known.all(1)] if known.all(1).sum() > 200 else z
    centres = KMeans(CENTRES, n_init=2, random_state=seed).fit(whole).cluster_centers_
    for j, name in enumerate(train.features):
        if feature(name).kind == "binary":  # the perfect reader knows no one between man and woman
            ends = np.unique(whole[:, j])
            centres[:, j] = ends[np.abs(centres[:, j, None] - ends).argmin(1)]
    return predict, std, centres.astype(np.float32)


def on_synthetic(people: int, shown: int, seed: int) -> None:
    """Fit on synthetic records with gaps, explain other people's complete records, compare with the perfect reader."""
    cfg = CohortConfig(persons=people, seed=303 + seed)
    table = fast.records_of(fast.people(cfg), cfg)
    train = people_of(table, np.zeros(len(table)), FEATURES, "rest", 0)
    predict, std, bg = teacher_reader(train, seed)
    fresh = CohortConfig(persons=shown, seed=404 + seed)
    test = fast.records_of([p.complete() for p in fast.people(fresh)], fresh)
    z, known = std(test.matrix(FEATURES)[0])
    truth, gap_truth = explained(perfect_reader(std, FEATURES), z, known, bg)
    found, gap = explained(predict, z, known, bg)
    planted, ours = np.abs(truth).mean(0), np.abs(found).mean(0)
    # Nothing to find: neither planted nor of use beside what is.
    null = np.array([planted[j] < 0.01 for j in range(len(FEATURES))])
    order = np.argsort(-ours)
    print(f"synthetic people: {len(train.y)} to learn from, {shown} explained, {len(FEATURES)} features, seed {seed}")
    print(f"{'rank':>4} {'feature':<26}{'mean |SHAP|':>12}{'planted':>9}{'r per person':>14}")
    for rank, j in enumerate(order, 1):
        r = np.corrcoef(found[:, j], truth[:, j])[0, 1] if planted[j] > 1e-6 else np.nan
        print(f"{rank:>4} {FEATURES[j]:<26}{ours[j]:>12.3f}{planted[j]:>9.3f}{r:>14.2f}{'   null' if null[j] else ''}")
    lab = np.array([n in LABS for n in FEATURES])
    per_person = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(found, truth, strict=True)])
    ranks = np.empty(len(order), int)
    ranks[order] = np.arange(1, len(order) + 1)
    rho = [spearmanr(planted[rows], ours[rows]).statistic for rows in (np.full(len(lab), True), lab)]
    print(f"rank correlation with the planted effects: all {rho[0]:.3f}, labs {rho[1]:.3f}")
    print(f"correlation over features within a person, mean: {per_person:.3f}")
    print(
        f"null features rank {sorted(ranks[null].tolist())} of {len(order)}; "
        f"AUC of planted against null by mean |SHAP|: {roc_auc_score(~null, ours):.3f}"
    )
    print(f"largest |base + sum - log-odds|: teacher {gap:.1e}, perfect reader {gap_truth:.1e}")


def nhanes(path: str, shown: int, seed: int) -> None:
    """Fit on three cycles, explain people of the last."""
    t = records.load(path, "nhanes")
    features = tuple(n for n in FEATURES if n != "ldl_mmol_l")
    p = people_of(t, t.frame["cycle"].to_numpy(), features, "rest", 50)
    last = np.unique(p.cycle)[-1]
    predict, std, bg = teacher_reader(p.take(p.cycle != last), seed)
    rows = np.random.default_rng(seed).choice(np.flatnonzero(p.cycle == last), shown, replace=False)
    z, known = std(p.x[rows])
    found, gap = explained(predict, z, known, bg)
    size = np.abs(found).mean(0)
    print(f"NHANES: {int((p.cycle != last).sum())} to learn from, {shown} of cycle {last} explained")
    print(f"{'rank':>4} {'feature':<26}{'mean |SHAP|':>12}{'rank correlation with the value':>34}")
    for rank, j in enumerate(np.argsort(-size), 1):
        have = known[:, j]
        rho = spearmanr(z[have, j], found[have, j]).statistic if len(np.unique(z[have, j])) > 1 else np.nan
        print(f"{rank:>4} {features[j]:<26}{size[j]:>12.3f}{rho:>34.2f}")
    print(f"largest |base + sum - log-odds|: {gap:.1e}")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--people", type=int, default=6000, help="synthetic people to learn from")
    p.add_argument("--explained", type=int, default=120)
    p.add_argument("--nhanes", help="nhanes_bmd.parquet: real people instead")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    torch.set_num_threads(1)
    if args.nhanes:
        nhanes(args.nhanes, args.explained, args.seed)
    else:
        on_synthetic(args.people, args.explained, args.seed)


if __name__ == "__main__":
    main()
