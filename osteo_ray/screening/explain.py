"""SHAP for one patient: which demographics, labs and CT moved the log-odds of osteoporosis.

Players are the tabular features and the CT as a whole. An absent player takes its value from the
bundle's background (cluster centres of the training patients).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""values [m, F] standardised, known bool [m, F], ct int [m] (0: the patient's, b + 1: background b) -> log-odds [m]."""


@dataclass(frozen=True)
class Explanation:
    """Additive: base + values.sum() = the patient's log-odds."""

    base: float  # mean log-odds over the background
    values: np.ndarray  # [F + 1] in log-odds; the last is the CT's


def explain(
    predict: Predict,
    values: np.ndarray,
    known: np.ndarray,
    background_values: np.ndarray,
    background_known: np.ndarray,
    has_ct: bool,
    seed: int = 0,
) -> Explanation:
    """Permutation SHAP (Lundberg & Lee 2017) of one patient, exact for two-player interactions.

    Args:
        values, known: [F], standardised.
        background_values, background_known: [B, F].
        has_ct: whether the patient has a CT; without one its share is 0.
    """
    shap = import_shap()
    n_features = len(values)
    # Unknown travels as NaN inside the player vector, so that value and mask move together.
    own = np.where(known, values, np.nan)
    other = np.where(background_known, background_values, np.nan)
    ct_other = np.arange(1, len(other) + 1) if has_ct else np.zeros(len(other))
    background = np.c_[other, ct_other]

    def f(x: np.ndarray) -> np.ndarray:
        tab = x[:, :n_features]
        ok = np.isfinite(tab)
        return predict(np.where(ok, tab, 0.0).astype(np.float32), ok, x[:, n_features].astype(int))

    masker = shap.maskers.Independent(background, max_samples=len(background))
    explainer = shap.PermutationExplainer(f, masker, seed=seed)
    out = explainer(np.r_[own, 0.0][None], max_evals=2 * (2 * (n_features + 1) + 1), silent=True)
    return Explanation(float(out.base_values[0]), np.asarray(out.values[0], float))


@cache
def import_shap() -> Any:
    """shap, its loops not compiled: they are short here, and to compile them takes longer than a hundred studies."""
    import numba

    settings: Any = numba.config
    before, settings.DISABLE_JIT = settings.DISABLE_JIT, True  # read when a function is decorated
    try:
        import shap
    finally:
        settings.DISABLE_JIT = before
    return shap
