"""Calibration per missingness pattern: logits -> P(osteoporosis) with an interval (scipy + numpy).

A logistic curve on the log-odds of osteoporosis against the rest, one per pattern of modalities, fitted
on validation patients. Patients who have more than a pattern's modalities count for it too, with the
surplus hidden. The interval is the calibrator's own: the fit is repeated on resampled patients.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.special import expit

from osteo_ray.patients.labels import NORMAL, OSTEOPENIA, OSTEOPOROSIS

MIN_EVENTS = 5
"""Fewest patients of each class a pattern's own calibrator is fitted on (fewer: scores abstain)."""


@dataclass(frozen=True)
class Calibrator:
    """P = sigmoid(slope * x + intercept), x the log-odds of osteoporosis against the rest."""

    pattern: str  # e.g. "demographics+labs+ct"
    slope: float
    intercept: float
    n: int
    events: int
    level: float  # of the interval
    resampled: tuple[tuple[float, float], ...]  # (slope, intercept) of each resample

    def __call__(self, log_odds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log-odds [n] -> probability, lower and upper bound, each [n]."""
        x = np.asarray(log_odds, float)
        ab = np.array(self.resampled)
        p = expit(self.slope * x + self.intercept)
        spread = expit(ab[:, :1] * x[None] + ab[:, 1:])
        tail = (1 - self.level) / 2
        low, high = np.quantile(spread, [tail, 1 - tail], axis=0)
        return p, np.minimum(low, p), np.maximum(high, p)

    def risk(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Class logits [n, 3] -> probability, lower and upper bound, each [n]."""
        return self(rest_log_odds(logits))

    def at_site(
        self, slope: float, intercept: float, resampled: tuple[tuple[float, float], ...], n: int, events: int
    ) -> Calibrator:
        """With a site's curve on the log-odds of the risk behind it; the interval is then the site's."""
        curve = tuple((s * self.slope, s * self.intercept + t) for s, t in resampled)
        return replace(
            self, slope=slope * self.slope, intercept=slope * self.intercept + intercept, resampled=curve,
            n=n, events=events,
        )  # fmt: skip

    def to_dict(self) -> dict:
        """Plain data for the bundle's JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict) -> Calibrator:
        """Inverse of `to_dict`."""
        return cls(**{**d, "resampled": tuple(tuple(r) for r in d["resampled"])})


def rest_log_odds(logits: np.ndarray) -> np.ndarray:
    """Class logits [n, 3] -> log-odds of osteoporosis against the other two together [n]."""
    return logits[:, OSTEOPOROSIS] - np.logaddexp(logits[:, NORMAL], logits[:, OSTEOPENIA])


def normal_log_odds(logits: np.ndarray) -> np.ndarray:
    """Class logits [n, 3] -> log-odds of osteoporosis against normal [n]."""
    return logits[:, OSTEOPOROSIS] - logits[:, NORMAL]


def class_probabilities(logits: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Class logits [n, 3] and calibrated P(osteoporosis) [n] -> probabilities [n, 3] that sum to 1.

    The other classes share what calibration leaves as the network splits it.
    """
    first = 1 / (1 + np.exp(logits[:, OSTEOPENIA] - logits[:, NORMAL]))
    return np.stack([(1 - p) * first, (1 - p) * (1 - first), p], axis=1)


def fit_calibrator(
    pattern: str, log_odds: np.ndarray, label: np.ndarray, seed: int, level: float = 0.9, resamples: int = 200
) -> Calibrator | None:
    """Fit on log-odds [n] and class indices [n]; None where fewer than MIN_EVENTS patients of a side exist."""
    y = np.asarray(label) == OSTEOPOROSIS
    x = np.asarray(log_odds, float)
    if min(y.sum(), (~y).sum()) < MIN_EVENTS:
        return None
    slope, intercept = _platt(x, y)
    rng = np.random.default_rng(seed)
    resampled = []
    # Resampled within each class, so that no resample loses one.
    pos, neg = np.flatnonzero(y), np.flatnonzero(~y)
    for _ in range(resamples):
        rows = np.r_[rng.choice(pos, len(pos)), rng.choice(neg, len(neg))]
        resampled.append(_platt(x[rows], y[rows]))
    return Calibrator(pattern, slope, intercept, len(y), int(y.sum()), level, tuple(resampled))


def _platt(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Logistic curve with Firth's penalty (1993): finite where the classes are separable, and nearly without the bias
    of few patients. Platt's smoothed targets, which are finite too, flatten the curve of fifty patients by a tenth.
    """
    design = np.c_[np.ones(len(x)), x]
    centre, scale = x.mean(), x.std() or 1.0
    design[:, 1] = (x - centre) / scale  # conditioned
    b = np.zeros(2)
    for _ in range(100):
        p = expit(design @ b)
        w = np.maximum(p * (1 - p), 1e-12)
        inverse = np.linalg.pinv(design.T * w @ design)
        leverage = ((design @ inverse) * design).sum(1) * w
        step = inverse @ design.T @ (y - p + leverage * (0.5 - p))
        b = b + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-7:
            break
    return float(b[1] / scale), float(b[0] - b[1] * centre / scale)
