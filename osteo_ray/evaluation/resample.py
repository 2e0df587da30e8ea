"""Bootstrap over patients: whole patients are drawn with replacement, with all of their rows. Arrays in, figures out.

    auc_clustered(y, score, patient)                       # Estimate
    mean_clustered(losses, patient)                        # e.g. the Brier score
    difference(lambda w: weighted_auc(order_a, w) - weighted_auc(order_b, w), patient)

A draw is a weight per row, how often its patient was drawn, so that scores are sorted once: O(n) a draw.
Percentile intervals (Efron); patients as the unit as in Obuchowski, Biometrics 53:567 (1997).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osteo_ray.evaluation.metrics import NAN, Estimate

Weights = NDArray[np.float64]
N_BOOT = 1000


@dataclass(frozen=True)
class Order:
    """Rows sorted by score once, ties together, for the AUC under many weights."""

    rows: NDArray[np.intp]  # row at each place
    starts: NDArray[np.intp]  # place at which each distinct score begins
    truth: NDArray[np.bool_]  # at each place

    @classmethod
    def of(cls, y: ArrayLike, score: ArrayLike) -> Order:
        """y [n] 0/1 and score [n] without NaN."""
        s = np.asarray(score, np.float64)
        rows = np.argsort(s, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(s[rows]) > 0]) if len(s) else np.empty(0, np.intp)
        return cls(rows, starts, np.asarray(y).astype(bool)[rows])


def weighted_auc(order: Order, weights: Weights) -> float:
    """AUC in which a row counts `weights` [n] times; NaN where a class has no weight."""
    if not len(order.rows):
        return NAN
    w = weights[order.rows]
    pos = np.add.reduceat(np.where(order.truth, w, 0.0), order.starts)
    neg = np.add.reduceat(np.where(order.truth, 0.0, w), order.starts)
    total = pos.sum() * neg.sum()
    return float((pos * (np.cumsum(neg) - neg / 2)).sum() / total) if total > 0 else NAN


def draws(groups: Sequence[Any] | NDArray[Any], n_boot: int = N_BOOT, seed: int = 0) -> Iterator[Weights]:
    """`n_boot` weights [n]: how often each row's group was drawn."""
    _, code = np.unique(np.asarray(groups), return_inverse=True)
    n = int(code.max()) + 1 if len(code) else 0
    rng = np.random.default_rng(seed)
    for _ in range(n_boot if n else 0):
        yield np.bincount(rng.integers(0, n, n), minlength=n).astype(float)[code]


def interval(
    fn: Callable[[Weights], float],
    groups: Sequence[Any] | NDArray[Any],
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """`fn` at the data as they are, and its percentile interval; `n_pos` counts the groups.

    Draws that give NaN are left out and counted in the note.
    """
    n = len(groups)
    value = fn(np.ones(n)) if n else NAN
    many = len(np.unique(np.asarray(groups)))
    got = np.array([fn(w) for w in draws(groups, n_boot, seed)])
    kept = got[~np.isnan(got)]
    lost = len(got) - len(kept)
    note = f"{lost} of {n_boot} draws undefined" if lost else "" if n else "nobody"
    if not len(kept) or np.isnan(value):
        return Estimate(value, NAN, NAN, many, 0, note)
    low, high = np.quantile(kept, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(value, float(low), float(high), many, 0, note)


def auc_clustered(
    y: ArrayLike,
    score: ArrayLike,
    groups: Sequence[Any] | NDArray[Any],
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """AUC over all rows, with the interval over patients (`groups` [n])."""
    order = Order.of(y, score)
    return interval(lambda w: weighted_auc(order, w), groups, n_boot, seed, level)


def mean_clustered(
    values: ArrayLike,
    groups: Sequence[Any] | NDArray[Any],
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Mean of `values` [n] over rows, with the interval over patients."""
    v = np.asarray(values, np.float64)
    return interval(lambda w: float((w * v).sum() / w.sum()), groups, n_boot, seed, level)
