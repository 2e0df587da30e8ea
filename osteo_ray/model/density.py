"""The bone density that the picked slices show, in HU (pure numpy).

    trabecular_hu(picks, layout)                             # as scanned
    at_120_kvp(hu, kvp, AcquisitionConfig())               # as it would read at 120 kVp

Slices count by the encoder's belief that they lie mid-vertebra in L1-L4, so that a disc or an endplate among the picks
moves the figure little.
"""

from __future__ import annotations

import numpy as np

from osteo_ray.model.acquisition import bone_factor
from osteo_ray.model.config import AcquisitionConfig
from osteo_ray.model.embedding import EmbeddingLayout, hu_of, on_target, p_lumbar

LEAST = 0.05
"""Belief that must come together over the picks; below it they show no lumbar bone to measure."""


def trabecular_hu(embedding: np.ndarray, layout: EmbeddingLayout) -> float:
    """Mean HU of the trabecular core over the picks [K, D], as scanned; NaN where none is lumbar."""
    hu = hu_of(embedding[:, layout.trabecular].astype(float))
    weight = on_target(embedding.astype(float))
    if weight.sum() < LEAST:
        weight = p_lumbar(embedding).astype(float)
    return float(weight @ hu / weight.sum()) if weight.sum() >= LEAST else float("nan")


def at_120_kvp(hu: np.ndarray, kvp: np.ndarray, cfg: AcquisitionConfig) -> np.ndarray:
    """HU of bone at 120 kVp, NaN where the tube voltage is not known or outside `KVP_RANGE`; both [n]."""
    return np.asarray(hu, float) / bone_factor(np.asarray(kvp, float), cfg)
