"""Calibration on the T-score: risk = Phi((-2.5 - offset - slope m) / sigma), m the T-score that a model expects.

Every model says a Gaussian over the T-score, so what is wrong with it is a shift, a stretch and a spread: three numbers
that each patient's T-score teaches, where a logistic curve learns from the class alone. With `pool` a pattern's numbers
are drawn towards those of the patterns like it, the more so the less certain they are (DerSimonian and Laird 1986).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr, ndtri_exp

from osteo_ray.model.calibration import MIN_EVENTS
from osteo_ray.patients.labels import NORMAL, NORMAL_T, OSTEOPOROSIS, OSTEOPOROSIS_T

Floats = NDArray[np.float64]
EDGE = 1e-9


@dataclass(frozen=True)
class GaussianCalibrator:
    """T-score ~ N(offset + slope m, sigma^2); a site's curve, where it has one, lies on the risk's log-odds."""

    pattern: str
    offset: float
    slope: float
    sigma: float
    n: int
    events: int
    level: float  # of the interval
    resampled: tuple[tuple[float, float, float], ...]  # (offset, slope, sigma) of each resample
    site: tuple[float, float] = (1.0, 0.0)  # slope and intercept on the log-odds of the risk
    site_resampled: tuple[tuple[float, float], ...] = ()  # of each resample of the site's patients
    method: str = "gaussian"

    def risk(self, logits: np.ndarray) -> tuple[Floats, Floats, Floats]:
        """Class logits [n, 3] -> probability, lower and upper bound, each [n]."""
        m = t_score_mean(logits)
        p = _at_site(_risk(m, self.offset, self.slope, self.sigma), *self.site)
        if self.site_resampled:  # the site's few patients are less certain than all who trained the bundle
            a, b = np.array(self.site_resampled).T[:, :, None]
            spread = _at_site(_risk(m, self.offset, self.slope, self.sigma), a, b)
        else:
            spread = _at_site(_risk(m, *np.array(self.resampled).T[:, :, None]), *self.site)
        tail = (1 - self.level) / 2
        low, high = np.quantile(spread, [tail, 1 - tail], axis=0)
        return p, np.minimum(low, p), np.maximum(high, p)

    def at_site(
        self, slope: float, intercept: float, resampled: tuple[tuple[float, float], ...], n: int, events: int
    ) -> GaussianCalibrator:
        """With a site's curve on the log-odds of the risk behind it; the interval is then the site's."""
        a, b = self.site
        curve = tuple((s * a, s * b + t) for s, t in resampled)
        return replace(self, site=(slope * a, slope * b + intercept), site_resampled=curve, n=n, events=events)

    def to_dict(self) -> dict:
        """Plain data for the bundle's JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict) -> GaussianCalibrator:
        """Inverse of `to_dict`."""
        pairs = {k: tuple(tuple(r) for r in d[k]) for k in ("resampled", "site_resampled")}
        return cls(**{**d, **pairs, "site": tuple(d["site"])})


def t_score_mean(logits: np.ndarray) -> Floats:
    """Mean [n] of the Gaussian whose cuts give the class log-probabilities [n, 3]."""
    x = np.minimum(np.asarray(logits, float), -1e-12)
    low, high = ndtri_exp(x[:, OSTEOPOROSIS]), -ndtri_exp(x[:, NORMAL])
    width = np.maximum(high - low, 1e-3)
    return OSTEOPOROSIS_T - low * (NORMAL_T - OSTEOPOROSIS_T) / width


@dataclass(frozen=True)
class Judged:
    """Patients of one pattern, by models that did not know them. Arrays share the axis [n]."""

    logits: np.ndarray  # [n, 3]
    label: np.ndarray  # class index
    t_score: np.ndarray  # NaN where the class alone is known
    weight: np.ndarray  # how much each counts, mean 1


def fit_gaussians(
    judged: Mapping[str, Judged], seed: int, level: float = 0.9, resamples: int = 200, pool: bool = False
) -> dict[str, GaussianCalibrator]:
    """A calibrator for each pattern with `MIN_EVENTS` patients of both sides.

    Args:
        pool: draw small patterns towards the others; patterns with a CT are alike, and patterns without.
    """
    raw, n, events = {}, {}, {}
    for pattern, j in judged.items():
        case = j.label == OSTEOPOROSIS
        if min(case.sum(), (~case).sum()) < MIN_EVENTS:
            continue
        m, low, high = t_score_mean(j.logits), *_bounds(j)
        rng = np.random.default_rng(seed)
        whole = _fit(m, low, high, j.weight)
        rows = [np.arange(len(m)), *(rng.integers(len(m), size=len(m)) for _ in range(resamples))]
        raw[pattern] = np.array([_fit(m[r], low[r], high[r], j.weight[r], whole) for r in rows])
        n[pattern], events[pattern] = len(m), int(case.sum())
    if pool:
        for kind in (True, False):
            like = [p for p in raw if ("ct" in p.split("+")) is kind]
            for p, values in zip(like, pooled([raw[p] for p in like]), strict=True):
                raw[p] = values
    out = {}
    for p, (first, *others) in raw.items():
        drawn = tuple(_natural(v) for v in others)
        out[p] = GaussianCalibrator(p, *_natural(first), n[p], events[p], level, drawn)
    return out


def pooled(raw: list[Floats]) -> list[Floats]:
    """Estimates drawn towards their common mean by how uncertain each is.

    Args:
        raw: of each pattern [1 + resamples, 3]: the estimate, then its resamples, which say how uncertain it is.
    """
    if len(raw) < 2 or len(raw[0]) < 3:
        return raw
    value = np.array([r[0] for r in raw])
    variance = np.maximum(np.array([r[1:].var(0) for r in raw]), 1e-8)
    w = 1 / variance
    mean = (w * value).sum(0) / w.sum(0)
    excess = (w * (value - mean) ** 2).sum(0) - (len(raw) - 1)
    between = np.maximum(excess / (w.sum(0) - (w**2).sum(0) / w.sum(0)), 0.0)
    w = 1 / (variance + between)
    mean = (w * value).sum(0) / w.sum(0)
    own = between / (between + variance)
    # A resample moves with its pattern's own patients and, through the mean, with all patterns' patients.
    moved = [r - r[0] for r in raw]
    common = sum(wi * mi for wi, mi in zip(w / w.sum(0), moved, strict=True))
    return [mean + own_i * (v - mean) + own_i * m + (1 - own_i) * common
            for own_i, v, m in zip(own, value, moved, strict=True)]  # fmt: skip


def _fit(m: Floats, low: Floats, high: Floats, w: Floats, start: Floats | None = None) -> Floats:
    """Maximum likelihood of (T-score expected where m is -2.5, slope, log sigma); T-scores lie between low and high.

    Expectation-maximisation: a class is a T-score that is known to lie between two cuts.
    """
    x = m - OSTEOPOROSIS_T
    at, slope, log_sigma = (OSTEOPOROSIS_T, 1.0, 0.0) if start is None else map(float, start)
    cut = low != high
    for _ in range(200 if cut.any() else 1):
        t, extra = low.copy(), np.zeros_like(m)
        if cut.any():
            mean, sigma = (at + slope * x)[cut], np.exp(log_sigma)
            t[cut], extra[cut] = _truncated(mean, sigma, low[cut], high[cut])
        total, mx = w.sum(), (w * x).sum() / w.sum()
        spread = max((w * (x - mx) ** 2).sum(), 1e-9)
        new_slope = float((w * (x - mx) * t).sum() / spread)
        new_at = float((w * t).sum() / total - new_slope * mx)
        square = (w * ((t - new_at - new_slope * x) ** 2 + extra)).sum() / total
        # Two numbers are fitted to as many patients as the weights are worth.
        worth = total**2 / (w**2).sum()
        new_log = float(0.5 * np.log(max(square * worth / max(worth - 2, 1.0), 1e-4)))
        done = max(abs(new_at - at), abs(new_slope - slope), abs(new_log - log_sigma)) < 1e-5
        at, slope, log_sigma = new_at, new_slope, new_log
        if done:
            break
    return np.array([at, slope, log_sigma])


def _truncated(mean: Floats, sigma: float, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of Gaussians between two cuts."""
    a, b = (low - mean) / sigma, (high - mean) / sigma
    mass = np.maximum(ndtr(b) - ndtr(a), EDGE)
    pa, pb = _density(a), _density(b)
    shift = (pa - pb) / mass
    inner = np.where(np.isfinite(a), a, 0) * pa - np.where(np.isfinite(b), b, 0) * pb
    return mean + sigma * shift, sigma**2 * np.clip(1 + inner / mass - shift**2, 0, 1)


def _density(x: Floats) -> Floats:
    """Of the standard normal distribution: `scipy.stats`, which has it, takes a second to import."""
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def _bounds(j: Judged) -> tuple[Floats, Floats]:
    """Between which T-scores each patient lies: twice the same where it is known."""
    edges = np.array([[NORMAL_T, np.inf], [OSTEOPOROSIS_T, NORMAL_T], [-np.inf, OSTEOPOROSIS_T]])[j.label]
    known = np.isfinite(j.t_score)
    low, high = (np.where(known, j.t_score, edges[:, k]).astype(float) for k in (0, 1))
    return low, high


def _natural(v: Floats) -> tuple[float, float, float]:
    """(T-score where m is -2.5, slope, log sigma) -> (offset, slope, sigma)."""
    return float(v[0] - v[1] * OSTEOPOROSIS_T), float(v[1]), float(np.exp(v[2]))


def _risk(m, offset, slope, sigma) -> Floats:
    return ndtr((OSTEOPOROSIS_T - offset - slope * m) / sigma)


def _at_site(p: Floats, slope, intercept) -> Floats:
    if np.ndim(slope) == 0 and (slope, intercept) == (1.0, 0.0):
        return p
    return expit(slope * logit(np.clip(p, EDGE, 1 - EDGE)) + intercept)
