"""Standardisation of records: values [n, F] with NaN -> standardised values and a mask (pure numpy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Standardiser:
    """Median and robust spread per feature, from training patients; ships in the bundle."""

    features: tuple[str, ...]
    groups: tuple[str, ...]  # demographics | labs, per feature
    centre: tuple[float, ...]
    scale: tuple[float, ...]

    def __call__(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n, F] with NaN -> float32 [n, F] (0 where unknown), bool mask [n, F]. Clipped at 6 spreads."""
        z = self.spreads(values)
        known = np.isfinite(z)
        return np.where(known, np.clip(z, -6.0, 6.0), 0.0).astype(np.float32), known

    def spreads(self, values: np.ndarray) -> np.ndarray:
        """[n, F] with NaN -> distances from the centre in spreads, float64 [n, F], NaN where unknown."""
        values = np.asarray(values, np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.features):
            raise ValueError(f"{len(self.features)} features are expected, the matrix has shape {values.shape}")
        return (values - np.array(self.centre)) / np.array(self.scale)


def fit_standardiser(values: np.ndarray, features: list[str], groups: list[str]) -> Standardiser:
    """From training patients only. A feature that nobody has, or that never varies, gets scale 1."""
    centre, scale = [], []
    for column in np.asarray(values, np.float64).T:
        v = column[np.isfinite(column)]
        mid = float(np.median(v)) if v.size else 0.0
        low, high = np.percentile(v, [16, 84]) if v.size else (0.0, 0.0)
        spread = float(high - low) / 2 or (float(v.std()) if v.size else 0.0)
        centre.append(mid)
        scale.append(spread if spread > 1e-9 else 1.0)
    return Standardiser(tuple(features), tuple(groups), tuple(centre), tuple(scale))
