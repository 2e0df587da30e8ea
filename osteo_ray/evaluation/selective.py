"""What a score is worth where it may say "I don't know": risk-coverage curves and conformal sets (pure).

    abstention(y, p, threshold)              # sensitivity, specificity, error among the patients it is surest about
    conformal(labels, sets)                  # does a set hold the true class as often as promised, class by class?

Sources: risk-coverage as in El-Yaniv and Wiener, JMLR 11:1605 (2010); class-conditional coverage of conformal sets
as in Vovk, Asian Conf. Machine Learning, 475 (2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logit

from osteo_ray.evaluation.metrics import NAN, Confusion, Estimate, confusion_at, proportion
from osteo_ray.patients.labels import CLASSES

SHARES = tuple(round(1 - 0.05 * i, 2) for i in range(19))


@dataclass(frozen=True)
class Abstention:
    """Figures among the patients that stay when the least sure are left to a person; one entry a share.

    `area` is the mean error over the shares, and `area_random` what leaving out patients at random gives: its error
    at full coverage.
    """

    share: tuple[float, ...]
    n: tuple[int, ...]
    at: tuple[Confusion, ...]
    area: float
    area_random: float


@dataclass(frozen=True)
class ClassCoverage:
    """One true class (or "all"): how often the set holds it, and how large the sets are."""

    name: str
    n: int
    covered: Estimate
    mean_size: float
    sizes: tuple[int, ...]  # patients whose set holds 0, 1, 2, 3 classes


@dataclass(frozen=True)
class Conformal:
    """Coverage of the sets: everyone first, then each class."""

    groups: tuple[ClassCoverage, ...]


def abstention(y: ArrayLike, p: ArrayLike, threshold: ArrayLike, level: float = 0.95) -> Abstention | None:
    """Keep the surest 100 %, 95 %, ... 10 % and look at the locked threshold's errors among them.

    Sureness is the distance of the risk from its own threshold in log-odds: what lies on the threshold could as well
    have been called the other way. Patients of equal sureness stay or go together, so `n` may be more than asked for.

    Args:
        p, threshold: probabilities [n]; y: 0/1 [n].

    Returns:
        None for nobody.
    """
    truth, prob, cut = np.asarray(y).astype(bool), np.asarray(p, float), np.asarray(threshold, float)
    if not len(prob):
        return None
    tiny = 1e-6
    distance = np.abs(logit(np.clip(prob, tiny, 1 - tiny)) - logit(np.clip(cut, tiny, 1 - tiny)))
    sure = np.round(distance, 9)  # 0.9 and 0.1 are equally far from 0.5, whatever rounding makes of them
    ordered = np.sort(sure)[::-1]
    shares: list[float] = []
    counts: list[int] = []
    at: list[Confusion] = []
    for share in SHARES:
        kept = sure >= ordered[max(1, int(np.ceil(share * len(prob)))) - 1]
        if counts and kept.sum() == counts[-1]:
            continue
        shares.append(float(kept.mean()))
        counts.append(int(kept.sum()))
        at.append(confusion_at(truth[kept], prob[kept], cut[kept], level))
    errors = [1 - c.accuracy.value for c in at]
    return Abstention(tuple(shares), tuple(counts), tuple(at), float(np.mean(errors)), errors[0])


def conformal(labels: Sequence[str], sets: Sequence[Sequence[str]], level: float = 0.95) -> Conformal:
    """Coverage of sets of class names, with Wilson intervals.

    Raises:
        ValueError: a set holds a name that is no class.
    """
    known = set(CLASSES)
    for s in sets:
        if not set(s) <= known:
            raise ValueError(f"conformal_set: {sorted(set(s) - known)[0]!r} is no class ({', '.join(CLASSES)})")
    inside = np.array([label in s for label, s in zip(labels, sets, strict=True)], dtype=bool)
    size = np.array([len(set(s)) for s in sets], dtype=int)
    truth = np.array(labels, dtype=object)
    groups = []
    for name in ("all", *CLASSES):
        rows = np.full(len(truth), True) if name == "all" else truth == name
        n, hits = int(rows.sum()), int(inside[rows].sum())
        groups.append(
            ClassCoverage(
                name,
                n,
                proportion(hits, n, level),
                float(size[rows].mean()) if n else NAN,
                tuple(int((size[rows] == k).sum()) for k in range(len(CLASSES) + 1)),
            )
        )
    return Conformal(tuple(groups))
