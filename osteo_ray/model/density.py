"""The bone density that the picked slices show, in HU (pure numpy).

    trabecular_hu(picks, layout)                             # as scanned
    hu_by_level(picks, levels, layout)                       # {"L1": LevelHu(...), ...}, as scanned
    at_120_kvp(hu, kvp, AcquisitionConfig())                 # as it would read at 120 kVp

Slices count by the encoder's belief that they lie mid-vertebra in L1-L4, so that a disc or an endplate among the picks
moves the figure little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osteo_ray.model.acquisition import bone_factor
from osteo_ray.model.config import AcquisitionConfig
from osteo_ray.model.embedding import EmbeddingLayout, hu_of, on_target, p_lumbar, p_mid

LEAST = 0.05
"""Belief that must come together over the picks; below it they show no lumbar bone to measure."""
INSIDE = 0.25
"""Nearness to the middle of a body (1 there, 0 at its endplates) from which a slice is measured for its level."""


def trabecular_hu(embedding: np.ndarray, layout: EmbeddingLayout) -> float:
    """Mean HU of the trabecular core over the picks [K, D], as scanned; NaN where none is lumbar."""
    hu = hu_of(embedding[:, layout.trabecular].astype(float))
    weight = on_target(embedding.astype(float))
    if weight.sum() < LEAST:
        weight = p_lumbar(embedding).astype(float)
    return float(weight @ hu / weight.sum()) if weight.sum() >= LEAST else float("nan")


@dataclass(frozen=True)
class LevelHu:
    """Trabecular HU of one vertebral body."""

    hu: float
    """Mean over its picks, as scanned."""
    slices: int
    """Picks that lie in the body."""
    spread: float | None
    """Largest less smallest HU of its picks; None for a single one."""


def hu_by_level(embedding: np.ndarray, levels: Sequence[str | None], layout: EmbeddingLayout) -> dict[str, LevelHu]:
    """Trabecular HU of each level whose body picks lie in, from head to foot.

    Args:
        embedding: picks [K, D].
        levels: of the picks, None where not known; what is no vertebra (the sacrum) is left out.
    """
    hu = hu_of(embedding[:, layout.trabecular].astype(float))
    mid = p_mid(embedding).astype(float)
    measured = [name if name and name[0] in "TL" and m >= INSIDE else None for name, m in zip(levels, mid, strict=True)]
    out = {}
    for level in sorted({name for name in measured if name}, key=lambda name: (name[0] == "L", int(name[1:]))):
        at = np.array([name == level for name in measured])
        spread = float(np.ptp(hu[at])) if at.sum() > 1 else None
        out[level] = LevelHu(float(mid[at] @ hu[at] / mid[at].sum()), int(at.sum()), spread)
    return out


def at_120_kvp(hu: np.ndarray, kvp: np.ndarray, cfg: AcquisitionConfig) -> np.ndarray:
    """HU of bone at 120 kVp, NaN where the tube voltage is not known or outside `KVP_RANGE`; both [n]."""
    return np.asarray(hu, float) / bone_factor(np.asarray(kvp, float), cfg)
