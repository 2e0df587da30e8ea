"""Where a pattern of modalities is called high risk, and what that point is known to be worth (numpy).

The threshold is set so that the lower confidence bound of its sensitivity, and not the sensitivity of the few patients
who happened to set it, is what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from osteo_ray.outcomes import InputError
from osteo_ray.patients.labels import OSTEOPOROSIS


@dataclass(frozen=True)
class OperatingPoint:
    """One pattern's threshold on the calibrated risk."""

    threshold: float
    asked: float  # sensitivity for osteoporosis
    confidence: float  # one-sided, of the bound
    reached: bool  # whether the bound reaches what was asked
    useful: bool  # whether specificity there is at least what the config calls useful
    specificity: float  # among the patients who set it
    n: int  # patients who set it
    events: int  # of them with osteoporosis

    @property
    def text(self) -> str:
        """For rows and card; what is not reached is said."""
        out = f"sensitivity {self.asked:.0%} for osteoporosis"
        if not self.reached:
            return f"{out} not shown by {self.events} patients with osteoporosis"
        out += f", lower {self.confidence:.0%} bound"
        return out if self.useful else f"{out}, at a specificity of only {self.specificity:.0%}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the bundle's JSON."""
        return asdict(self)


def operating_point(
    risk: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray,
    sensitivity: float,
    confidence: float = 0.9,
    useful_specificity: float = 0.5,
) -> OperatingPoint:
    """The highest threshold whose sensitivity is at least `sensitivity` by Wilson's lower bound.

    Where no threshold has that, for want of patients with osteoporosis, it is the lowest of their risks.

    Args:
        risk, label, weight: calibrated risk, class index and how much a patient counts, [n].

    Raises:
        InputError: where no patient has osteoporosis.
    """
    case = np.asarray(label) == OSTEOPOROSIS
    if not case.any():
        raise InputError("no patient with osteoporosis: an operating point can't be set")
    order = np.argsort(-risk[case], kind="stable")
    at, w = risk[case][order], weight[case][order]
    found = np.cumsum(w) / w.sum()
    bound = wilson_lower(found, w.sum() ** 2 / (w**2).sum(), confidence)
    enough = np.flatnonzero(bound >= sensitivity)
    threshold = float(at[enough[0]] if len(enough) else at[-1])
    below = (risk < threshold) & ~case
    specificity = float(weight[below].sum() / max(weight[~case].sum(), 1e-12))
    return OperatingPoint(
        threshold, sensitivity, confidence, bool(len(enough)), specificity >= useful_specificity,
        round(specificity, 4), len(risk), int(case.sum()),
    )  # fmt: skip


def wilson_lower(share: np.ndarray, n: float, confidence: float) -> np.ndarray:
    """One-sided lower bound of shares of n patients (Wilson 1927)."""
    z = float(ndtri(confidence))
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (share + z**2 / (2 * n) - half) / (1 + z**2 / n)


def measured_text(heldout: Mapping[str, Any] | None) -> str:
    """What a pattern's point is worth on held-out people, from their line of the bundle's metrics."""
    if heldout is None:
        return "not measured on held-out people"

    def share(key: str, n: int) -> str:
        value, low, high = heldout[key]
        if value is None:
            return f"{key} not known"
        return f"{key} {value:.2f} ({low:.2f}-{high:.2f}, n={n})"

    events = heldout["events"]
    return f"held out: {share('sensitivity', events)}, {share('specificity', heldout['n'] - events)}"
