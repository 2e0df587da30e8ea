"""The plain rule beside a score: mean trabecular HU of L1 and L2, of embedded scans whose picks are known."""

from __future__ import annotations

import numpy as np

from osteo_ray.evaluation.hu_rule import LEVELS
from osteo_ray.model.acquisition import Acquisition
from osteo_ray.model.config import AcquisitionConfig
from osteo_ray.model.density import at_120_kvp, hu_by_level, trabecular_hu
from osteo_ray.model.embedding import EmbeddingLayout, Scans
from osteo_ray.model.levels import levels_of


def l1_l2_hu(
    scans: Scans,
    scanned: Acquisition,
    kept: np.ndarray,
    looked: np.ndarray,
    layout: EmbeddingLayout,
    cfg: AcquisitionConfig,
) -> np.ndarray:
    """Mean HU at 120 kVp of L1 and L2 [n], of one of them where the other was not picked; else of all picks.

    Args:
        kept: int [n, K], grid positions, -1 none; looked: bool [n, T].
    """
    out = np.full(len(scans), np.nan)
    for i in range(len(out)):
        at = np.flatnonzero(looked[i])
        levels = dict(zip(at, levels_of(scans.z_mm[i][at], scans.embedding[i][at]).level, strict=True))
        picks = kept[i][kept[i] >= 0]
        e = scans.embedding[i][picks]
        by_level = hu_by_level(e, [levels[k] for k in picks], layout)
        asked = [by_level[name].hu for name in LEVELS if name in by_level]
        out[i] = np.mean(asked) if asked else trabecular_hu(e, layout)
    return at_120_kvp(out, scanned.kvp, cfg)
