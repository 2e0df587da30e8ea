"""The bone density that the picked slices show, in HU (pure numpy).

    trabecular_hu(picks, 20)                               # as scanned
    at_120_kvp(hu, kvp, AcquisitionConfig())               # as it would read at 120 kVp

Slices count by the encoder's belief that they lie mid-vertebra in L1-L4, so that a disc or an endplate among the picks
moves the figure little.
"""

from __future__ import annotations

import numpy as np

from osteo_ray.model.config import AcquisitionConfig
from osteo_ray.model.embedding import on_target, p_lumbar

LEAST = 0.05
"""Belief that must come together over the picks; below it they show no lumbar bone to measure."""


def trabecular_hu(embedding: np.ndarray, density: int) -> float:
    """Mean HU inside the encoder's first region over the picks [K, D], as scanned; NaN where none is lumbar.

    Args:
        density: the embedding dimension of that mean, as (HU - 150) / 50: `EncoderConfig.n_learned`.
    """
    hu = embedding[:, density].astype(float) * 50.0 + 150.0
    weight = on_target(embedding.astype(float))
    if weight.sum() < LEAST:
        weight = p_lumbar(embedding).astype(float)
    return float(weight @ hu / weight.sum()) if weight.sum() >= LEAST else float("nan")


def at_120_kvp(hu: np.ndarray, kvp: np.ndarray, cfg: AcquisitionConfig) -> np.ndarray:
    """HU of bone at 120 kVp, NaN where the tube voltage is not known; both [n]."""
    volts = sorted(cfg.bone_contrast)
    return np.asarray(hu, float) / np.interp(
        np.asarray(kvp, float), volts, [cfg.bone_contrast[v] for v in volts], left=np.nan, right=np.nan
    )
