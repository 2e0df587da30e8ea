"""Split-conformal class sets, class by class (Mondrian; Vovk 2012), from validation patients (numpy).

Whatever the model, a new patient's true class is in the set with at least the stated chance, in each class by itself,
as long as new patients are exchangeable with the validation patients of that class.
"""

from __future__ import annotations

import numpy as np

from osteo_ray.patients.labels import CLASSES


def fit_conformal(probs: np.ndarray, label: np.ndarray, level: float) -> list[float]:
    """Largest 1 - p accepted for each class: the ceil((n + 1) level)-th smallest of its n patients, 1 for too few.

    Args:
        probs: [n, 3], as they are reported.
        label: class indices [n].
    """
    out = []
    for k in range(len(CLASSES)):
        scores = np.sort(1 - probs[label == k, k])
        rank = int(np.ceil((len(scores) + 1) * level))
        out.append(float(scores[rank - 1]) if 0 < rank <= len(scores) else 1.0)
    return out


def class_set(probs: np.ndarray, accepted: list[float]) -> list[str]:
    """The classes that can't be ruled out for one patient, probs [3]."""
    return [c for c, p, q in zip(CLASSES, probs, accepted, strict=True) if 1 - p <= q]
