"""Patterns of missing modalities: which there are, and which one a patient has (pure numpy).

PATTERNS                                         # "demographics", ..., "demographics+labs+ct"
pattern_of(present)                              # "labs+ct"

What a network sees under a pattern is `networks.show_only`.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

MODALITIES = ("demographics", "labs", "ct")
PATTERNS = tuple("+".join(c) for k in range(1, len(MODALITIES) + 1) for c in combinations(MODALITIES, k))
"""Every non-empty set of modalities, by name; a patient's pattern says which of them are known."""


def modalities_of(pattern: str) -> tuple[str, ...]:
    """The modalities of a pattern's name."""
    return tuple(pattern.split("+"))


def shown_by(pattern: str) -> np.ndarray:
    """Which modalities a pattern has, bool [3] in the order of MODALITIES."""
    return np.isin(MODALITIES, modalities_of(pattern))


def pattern_of(present: np.ndarray) -> str:
    """The pattern of one patient; `present` bool [3] in the order of MODALITIES. Nothing known gives ''."""
    return "+".join(m for m, known in zip(MODALITIES, present, strict=True) if known)
