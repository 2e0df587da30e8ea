"""Statistics of a binary score: arrays in, numbers with intervals out.

    auc_delong(y, score)                  # Estimate(value=0.91, low=0.86, high=0.96, ...)
    confusion_at(y, score, 0.35)          # sensitivity, specificity, PPV, NPV, accuracy
    calibration(y, p), decision_curve(y, p, thresholds), bootstrap(fn, groups)

`y` is 0/1 (or bool), `score` is any number that grows with risk, `p` is a probability. What is undefined (one
class only, nobody) comes back as NaN with a `note` that says why; it is never an error and never a made-up number.
Arrays that can't be meant (lengths differ, NaN inside, y not 0/1) raise ValueError.

Sources: DeLong, DeLong, Clarke-Pearson, Biometrics 44:837 (1988); the midrank form is Sun and Xu, IEEE Signal
Processing Letters 21:1389 (2014); the logit interval is in Pepe, The Statistical Evaluation of Medical Tests, Oxford
(2003); Wilson, JASA 22:209 (1927); calibration as in Van Calster, J Clin Epidemiol 74:167 (2016); net benefit as in
Vickers and Elkin, Med Decis Making 26:565 (2006).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval and what it was counted on.

    For a proportion (sensitivity, PPV, ...) `n_pos + n_neg` is its denominator; for an AUC they are the two classes.
    """

    value: float
    low: float
    high: float
    n_pos: int
    n_neg: int
    note: str = ""

    @property
    def n(self) -> int:
        return self.n_pos + self.n_neg

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"n/a ({self.note})" if self.note else "n/a"
        span = "interval n/a" if math.isnan(self.low) else f"{self.low:.3f} to {self.high:.3f}"
        return f"{self.value:.3f} ({span})"


class Comparison(NamedTuple):
    """Difference of two AUCs of the same patients, a - b."""

    diff: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Confusion:
    """What a fixed threshold does; each figure with its Wilson interval."""

    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    accuracy: Estimate
    tp: int
    fp: int
    tn: int
    fn: int


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be taken at their word.

    `slope` is 1 and `intercept` 0 where they can. The intercept is calibration-in-the-large: the slope is held at 1,
    so it says by how much (log-odds) the risks are too low on average. `bins` are (mean p, observed share, n) over
    equal-count bins of p; `ece` is their mean absolute gap, weighted by n.
    """

    slope: Estimate
    intercept: Estimate
    ece: float
    brier: float
    bins: tuple[tuple[float, float, int], ...]
    note: str = ""


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit per patient at each threshold, of the model and of treating all (none is 0 everywhere)."""

    thresholds: tuple[float, ...]
    model: tuple[float, ...]
    treat_all: tuple[float, ...]
    n_pos: int
    n_neg: int


def auc_delong(
    y: ArrayLike, score: ArrayLike, level: float = 0.95, scale: Literal["logit", "plain"] = "logit"
) -> Estimate:
    """Area under the ROC curve with an interval from DeLong's variance. O(n log n).

    The interval is symmetric on the logit scale, which keeps its level for high AUCs and few patients and stays inside
    (0, 1). `scale="plain"` gives the usual symmetric interval, cut at 0 and 1, to compare with published ones: at a
    true AUC of 0.955 with 30 + 30 patients it covers 87 % where 95 % is said, the logit one 94 %.

    Without an interval (NaN, note) where one class has one member, or where the variance is 0 (complete separation):
    there DeLong would give an interval of no width, which says nothing.
    """
    truth, s = _pair(y, score)
    n_pos, n_neg = int(truth.sum()), int((~truth).sum())
    if n_pos == 0 or n_neg == 0:
        return Estimate(NAN, NAN, NAN, n_pos, n_neg, _absent(n_pos, n_neg))
    auc, v10, v01 = _placements(truth, s)
    if n_pos < 2 or n_neg < 2:
        return Estimate(auc, NAN, NAN, n_pos, n_neg, "one class has a single member: no interval")
    var = float(v10.var(ddof=1) / n_pos + v01.var(ddof=1) / n_neg)
    if var <= 1e-18:
        return Estimate(auc, NAN, NAN, n_pos, n_neg, "DeLong variance is 0: no interval")
    half = float(norm.ppf(0.5 + level / 2)) * math.sqrt(var)
    if scale == "plain":
        return Estimate(auc, max(0.0, auc - half), min(1.0, auc + half), n_pos, n_neg)
    # A positive variance means neither 0 nor 1: placements would all be equal there.
    half /= auc * (1 - auc)
    return Estimate(auc, float(expit(logit(auc) - half)), float(expit(logit(auc) + half)), n_pos, n_neg)


def delong_test(y: ArrayLike, a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Comparison:
    """Paired test that two scores of the same patients have one AUC.

    All NaN where an AUC is undefined; two scores that order the patients alike give (0, 0, 0, 1).
    """
    truth, sa = _pair(y, a)
    _, sb = _pair(y, b)
    n_pos, n_neg = int(truth.sum()), int((~truth).sum())
    if n_pos == 0 or n_neg == 0:
        return Comparison(NAN, NAN, NAN, NAN)
    auc_a, a10, a01 = _placements(truth, sa)
    auc_b, b10, b01 = _placements(truth, sb)
    diff = auc_a - auc_b
    if n_pos < 2 or n_neg < 2:
        return Comparison(diff, NAN, NAN, NAN)
    var = float((a10 - b10).var(ddof=1) / n_pos + (a01 - b01).var(ddof=1) / n_neg)
    if var <= 1e-18:
        same = abs(diff) < 1e-12
        return Comparison(diff, 0.0, 0.0, 1.0) if same else Comparison(diff, NAN, NAN, NAN)
    half = float(norm.ppf(0.5 + level / 2)) * math.sqrt(var)
    return Comparison(diff, diff - half, diff + half, float(2 * norm.sf(abs(diff) / math.sqrt(var))))


def confusion_at(y: ArrayLike, score: ArrayLike, threshold: ArrayLike, level: float = 0.95) -> Confusion:
    """Sensitivity, specificity, PPV, NPV, accuracy when `score >= threshold` is called positive.

    Args:
        threshold: one number, or one per patient (thresholds may differ by missingness pattern).
    """
    truth, s = _pair(y, score)
    cut = np.asarray(threshold, dtype=np.float64)
    if cut.ndim and cut.shape != s.shape:
        raise ValueError(f"threshold: {cut.shape} given for {s.shape} scores; give one number or one per score")
    if np.isnan(cut).any():
        raise ValueError("threshold: NaN inside; drop those patients first")
    called = s >= cut
    tp, fp = int((called & truth).sum()), int((called & ~truth).sum())
    fn, tn = int((~called & truth).sum()), int((~called & ~truth).sum())
    return Confusion(
        sensitivity=_proportion(tp, tp + fn, 0, level, "no positives"),
        specificity=_proportion(tn, 0, tn + fp, level, "no negatives"),
        ppv=_proportion(tp, tp, fp, level, "nobody called positive"),
        npv=_proportion(tn, fn, tn, level, "nobody called negative"),
        accuracy=_proportion(tp + tn, tp + fn, tn + fp, level, "nobody"),
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
    )


def calibration(y: ArrayLike, p: ArrayLike, level: float = 0.95, bins: int = 10) -> Calibration:
    """Slope, intercept, ECE and Brier score of probabilities `p` in [0, 1].

    The regressions are maximum likelihood (statsmodels); p is held away from 0 and 1 by 1e-6 for them only.
    """
    truth, prob = _pair(y, p)
    if ((prob < 0) | (prob > 1)).any():
        raise ValueError(f"p: probabilities lie in [0, 1], these span {prob.min():g} to {prob.max():g}")
    n_pos, n_neg = int(truth.sum()), int((~truth).sum())
    if not len(prob):
        none = Estimate(NAN, NAN, NAN, 0, 0, "nobody")
        return Calibration(none, none, NAN, NAN, (), "nobody")
    brier = float(np.mean((prob - truth) ** 2))
    table = _bins(truth, prob, bins)
    ece = float(sum(n * abs(mean_p - share) for mean_p, share, n in table) / len(prob))
    if n_pos == 0 or n_neg == 0:
        why = _absent(n_pos, n_neg)
        undefined = Estimate(NAN, NAN, NAN, n_pos, n_neg, why)
        return Calibration(undefined, undefined, ece, brier, table, why)
    x = _log_odds(prob)
    slope = _slope(truth, x, level)
    return Calibration(slope, _in_the_large(truth, x, level), ece, brier, table, slope.note)


def calibration_slope(y: ArrayLike, p: ArrayLike, level: float = 0.95) -> Estimate:
    """The slope of `calibration` alone."""
    truth, prob = _pair(y, p)
    n_pos, n_neg = int(truth.sum()), int((~truth).sum())
    if n_pos == 0 or n_neg == 0:
        return Estimate(NAN, NAN, NAN, n_pos, n_neg, _absent(n_pos, n_neg))
    return _slope(truth, _log_odds(prob), level)


def decision_curve(y: ArrayLike, p: ArrayLike, thresholds: ArrayLike) -> DecisionCurve:
    """Net benefit `TP/n - FP/n * t/(1-t)` at each threshold probability t, 0 <= t < 1."""
    truth, prob = _pair(y, p)
    ts = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    if ((ts < 0) | (ts >= 1)).any():
        raise ValueError("thresholds: threshold probabilities lie in [0, 1)")
    n, n_pos = len(truth), int(truth.sum())
    if n == 0:
        nans = (NAN,) * len(ts)
        return DecisionCurve(tuple(map(float, ts)), nans, nans, 0, 0)
    odds = ts / (1 - ts)
    called = prob[None, :] >= ts[:, None]
    model = (called & truth).sum(1) / n - (called & ~truth).sum(1) / n * odds
    everyone = n_pos / n - (n - n_pos) / n * odds
    return DecisionCurve(tuple(map(float, ts)), tuple(map(float, model)), tuple(map(float, everyone)), n_pos, n - n_pos)


def bootstrap(
    fn: Callable[[NDArray[np.intp]], float],
    groups: Sequence[object] | NDArray,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Percentile interval of `fn(rows)` with whole groups (patients) drawn with replacement.

    Args:
        fn: takes row indices [m] and returns a number; NaN where a draw leaves it undefined.
        groups: one label per row; rows of one label are drawn together.

    Draws that give NaN are left out and counted in the note. `n_pos` is the number of groups, `n_neg` is 0.
    """
    labels = np.asarray(groups)
    if labels.ndim != 1:
        raise ValueError("groups: one label per row")
    if not len(labels):
        return Estimate(NAN, NAN, NAN, 0, 0, "nobody")
    _, code = np.unique(labels, return_inverse=True)
    order = np.argsort(code, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(code[order])) + 1)
    value = float(fn(np.arange(len(labels))))
    rng = np.random.default_rng(seed)
    draws = np.empty(n_boot)
    for b in range(n_boot):
        pick = rng.integers(0, len(members), len(members))
        draws[b] = fn(np.concatenate([members[i] for i in pick]))
    kept = draws[~np.isnan(draws)]
    lost = n_boot - len(kept)
    note = f"{lost} of {n_boot} draws undefined" if lost else ""
    if not len(kept):
        return Estimate(value, NAN, NAN, len(members), 0, note)
    low, high = np.quantile(kept, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(value, float(low), float(high), len(members), 0, note)


def roc_points(y: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(false positive rate, sensitivity) from (0, 0) to (1, 1); empty arrays where one class is absent."""
    truth, s = _pair(y, score)
    if truth.all() or not truth.any():
        return np.empty(0), np.empty(0)
    from sklearn.metrics import roc_curve  # imported late: it costs a second, and only figures need it

    fpr, tpr, _ = roc_curve(truth, s)
    return fpr, tpr


def _pair(y: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth, s = np.asarray(y), np.asarray(score, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != s.shape:
        raise ValueError(f"y and score must be two lists of one length, these are {truth.shape} and {s.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("y: only 0 and 1 are allowed")
    if np.isnan(s).any():
        raise ValueError(f"score: {int(np.isnan(s).sum())} of {len(s)} are NaN; drop unscored patients first")
    return truth.astype(bool), s


def _absent(n_pos: int, n_neg: int) -> str:
    if n_pos == 0 and n_neg == 0:
        return "nobody"
    return "no positives" if n_pos == 0 else "no negatives"


def _placements(truth: NDArray[np.bool_], s: NDArray[np.float64]) -> tuple[float, NDArray, NDArray]:
    """AUC and DeLong's structural components: V10 [n_pos], V01 [n_neg]."""
    pos, neg = s[truth], s[~truth]
    m, n = len(pos), len(neg)
    both = rankdata(np.concatenate([pos, neg]))
    v10 = (both[:m] - rankdata(pos)) / n
    v01 = 1 - (both[m:] - rankdata(neg)) / m
    return float(v10.mean()), v10, v01


def proportion(hits: int, n: int, level: float = 0.95) -> Estimate:
    """`hits` of `n` with a Wilson interval; `n_pos` are the hits."""
    e = _proportion(hits, n, 0, level, "nobody")
    return Estimate(e.value, e.low, e.high, hits, n - hits, e.note)


def _proportion(hits: int, n_pos: int, n_neg: int, level: float, empty: str) -> Estimate:
    n = n_pos + n_neg
    if n == 0:
        return Estimate(NAN, NAN, NAN, n_pos, n_neg, empty)
    from statsmodels.stats.proportion import proportion_confint  # imported late: statsmodels costs a second

    low, high = proportion_confint(hits, n, alpha=1 - level, method="wilson")
    # Rounding can leave the bounds 1e-17 outside [0, 1] or on the wrong side of 0 and 1.
    value = hits / n
    return Estimate(value, min(max(float(low), 0.0), value), max(min(float(high), 1.0), value), n_pos, n_neg)


def _bins(truth: NDArray[np.bool_], p: NDArray[np.float64], bins: int) -> tuple[tuple[float, float, int], ...]:
    # A bin ends at the last patient of each n-th; ties stay in one bin, whatever the order of the patients.
    ranks = np.ceil(len(p) * np.arange(1, bins + 1) / bins).astype(int) - 1
    where = np.searchsorted(np.unique(np.sort(p)[ranks]), p, side="left")
    groups = (where == b for b in np.unique(where))
    return tuple((float(p[g].mean()), float(truth[g].mean()), int(g.sum())) for g in groups)


def _log_odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return logit(np.clip(p, 1e-6, 1 - 1e-6))


def _slope(truth: NDArray[np.bool_], x: NDArray[np.float64], level: float) -> Estimate:
    n_pos, n_neg = int(truth.sum()), int((~truth).sum())
    if np.ptp(x) < 1e-12:
        return Estimate(NAN, NAN, NAN, n_pos, n_neg, "all probabilities are equal: no slope")
    if x[truth].min() >= x[~truth].max() or x[truth].max() <= x[~truth].min():
        return Estimate(NAN, NAN, NAN, n_pos, n_neg, "classes are separated: the slope has no finite estimate")
    import statsmodels.api as sm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = sm.Logit(truth.astype(float), sm.add_constant(x)).fit(disp=0, maxiter=200)
    if not fit.mle_retvals["converged"]:
        return Estimate(NAN, NAN, NAN, n_pos, n_neg, "the calibration regression did not converge")
    low, high = fit.conf_int(alpha=1 - level)[1]
    return Estimate(float(fit.params[1]), float(low), float(high), n_pos, n_neg)


def _in_the_large(truth: NDArray[np.bool_], x: NDArray[np.float64], level: float) -> Estimate:
    import statsmodels.api as sm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = sm.GLM(truth.astype(float), np.ones((len(x), 1)), family=sm.families.Binomial(), offset=x).fit()
    low, high = fit.conf_int(alpha=1 - level)[0]
    return Estimate(float(fit.params[0]), float(low), float(high), int(truth.sum()), int((~truth).sum()))
