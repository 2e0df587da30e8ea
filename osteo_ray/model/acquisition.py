"""How a scan was made, beside what it shows: tube voltage and contrast agent in the CT's features (pure numpy).

The HU of bone fall with tube voltage and rise with contrast agent. Both stand in the header, so the models are
given them, and the trabecular HU as it would read at 120 kVp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from osteo_ray.catalogue.checks import KVP_RANGE
from osteo_ray.model.config import AcquisitionConfig
from osteo_ray.model.embedding import EmbeddingLayout, hu_of, scaled_hu


@dataclass(frozen=True)
class Acquisition:
    """Of n scans; NaN where it is not known."""

    kvp: np.ndarray  # float [n]
    contrast: np.ndarray  # float [n], 1 with contrast agent, 0 without

    def take(self, rows: np.ndarray) -> Acquisition:
        """The scans at `rows`."""
        return Acquisition(self.kvp[rows], self.contrast[rows])

    @classmethod
    def of_rows(cls, rows: list[Mapping[str, Any]]) -> Acquisition:
        """From catalogue rows (`kvp`, `contrast`)."""
        return cls(
            np.array([np.nan if r.get("kvp") is None else float(r["kvp"]) for r in rows], float),
            np.array([contrast_given(r.get("contrast")) for r in rows], float),
        )


def contrast_given(phase: str | None) -> float:
    """1 or 0 of a catalogue's contrast phase, NaN where it is unknown."""
    if phase in (None, "unknown"):
        return np.nan
    return float(phase != "none")


def bone_factor(kvp: np.ndarray, cfg: AcquisitionConfig) -> np.ndarray:
    """HU of bone at a tube voltage against 120 kVp, [n]; NaN where `kvp` is unknown or outside `KVP_RANGE`."""
    kvp = np.asarray(kvp, float)
    volts = sorted(cfg.bone_contrast)
    factors = [cfg.bone_contrast[v] for v in volts]
    out = np.interp(kvp, volts, factors)
    if len(volts) > 1:  # beyond the table its outermost segments go on
        for edge, inner, outside in ((0, 1, kvp < volts[0]), (-1, -2, kvp > volts[-1])):
            slope = (factors[inner] - factors[edge]) / (volts[inner] - volts[edge])
            out = np.where(outside, factors[edge] + slope * (kvp - volts[edge]), out)
    return np.where((kvp >= KVP_RANGE[0]) & (kvp <= KVP_RANGE[1]), out, np.nan)


def extend(bag: np.ndarray, layout: EmbeddingLayout, scan: Acquisition, cfg: AcquisitionConfig) -> np.ndarray:
    """Bags [n, K, D] -> [n, K, D + EXTRA]; a tube voltage outside `KVP_RANGE` counts as unknown."""
    n, k = bag.shape[:2]
    factor = bone_factor(scan.kvp, cfg)
    known = np.isfinite(factor)
    hu = hu_of(bag[..., layout.trabecular])
    at_120 = scaled_hu(hu / np.where(known, factor, 1.0)[:, None])
    given = np.isfinite(scan.contrast)
    per_scan = np.stack(
        [
            np.where(known, (np.nan_to_num(scan.kvp) - 120.0) / 20.0, 0.0),
            known,
            np.where(given, np.nan_to_num(scan.contrast), 0.0),
            given,
        ],
        axis=1,
    )
    repeated = np.broadcast_to(per_scan[:, None], (n, k, per_scan.shape[1]))
    return np.concatenate([bag, at_120[..., None], repeated], axis=2).astype(np.float32)
