"""Is this input like what the model was trained on? Mahalanobis distances of picks and record (numpy).

Input that lies further out than nearly all validation patients is not scored: the scorer abstains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.model.config import NoveltyConfig


@dataclass(frozen=True)
class Novelty:
    """Centre and shrunk covariance (Ledoit and Wolf 2004) of training patients, and the farthest distance accepted."""

    mean: np.ndarray  # [D]
    covariance: np.ndarray  # [D, D]
    threshold: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Distance [n] of x [n, D], as root mean square over its known dimensions; NaN is unknown, and all NaN is 0."""
        x = np.asarray(x, float)
        out = np.zeros(len(x))
        patterns, which = np.unique(np.isfinite(x), axis=0, return_inverse=True)
        for k, known in enumerate(patterns):
            if not known.any():
                continue
            rows = which.ravel() == k
            d = x[rows][:, known] - self.mean[known]
            solved = np.linalg.solve(self.covariance[np.ix_(known, known)], d.T).T
            out[rows] = np.sqrt((d * solved).sum(1) / known.sum())
        return out


def fit_novelty(train: np.ndarray, val: np.ndarray, cfg: NoveltyConfig) -> Novelty:
    """From training patients [n, D], with the threshold from validation patients [m, D]; NaN is unknown.

    With no validation patient nothing is ever too far.
    """
    from sklearn.covariance import LedoitWolf  # imported late: whoever scores doesn't need it, and it costs seconds

    known = np.isfinite(train)
    mean = np.where(known, train, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    # Unknown values count as the mean here, which shrinks covariances a little further.
    cov = LedoitWolf(assume_centered=True).fit(np.where(known, train - mean, 0.0)).covariance_
    cov = cov + 1e-6 * np.eye(len(cov))
    unset = Novelty(mean, cov, float("inf"))
    if len(val) == 0:
        return unset
    return Novelty(mean, cov, cfg.slack * float(np.quantile(unset(val), cfg.quantile)))


def picks_summary(bag: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean embedding of each patient's picks: bag [n, K, D], mask bool [n, K] -> [n, D]; NaN for an empty bag."""
    n = mask.sum(1, keepdims=True)
    return np.where(n > 0, (bag * mask[..., None]).sum(1) / np.maximum(n, 1), np.nan)
