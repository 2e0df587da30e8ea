"""What is known about a synthetic person and scan: labels, posterior, and what each slice shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.model.tissue_scale import HU_PER_VBMD
from osteo_ray.synthetic import spine
from osteo_ray.synthetic.anatomy import Anatomy
from osteo_ray.synthetic.scanner import KVP_FACTOR, Scan


@dataclass(frozen=True)
class SliceTruth:
    """Per slice of a scan, in z order ([n] each)."""

    z_mm: np.ndarray
    level: np.ndarray  # 'T5'..'L5', 'S', 'disc', 'none'
    mid: np.ndarray  # 1 at mid-vertebra, 0 at its endplates and outside
    trabecular_hu: np.ndarray  # mean of the trabecular core; NaN outside bodies


def _crossing(a: Anatomy, scan: Scan) -> np.ndarray:
    """z [n] at which each slice meets the spine's axis: a tilted slice does so off its centre line."""
    z = np.array(scan.z)
    return z + np.tan(np.deg2rad(scan.tilt)) * a.frame.spine_y(z)


def levels_at(a: Anatomy, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Which body each slice shows on the spine's axis (object [n]) and how close to its middle (float32 [n])."""
    at = _crossing(a, scan)
    level = np.full(len(at), "none", dtype=object)
    mid = np.zeros(len(at), np.float32)
    column = a.vertebrae
    level[(at < column[0].z) & (at > a.sacrum_top)] = "disc"
    level[(at <= a.sacrum_top) & (at > a.sacrum_top - 110)] = "S"
    for v in column:
        half = 0.5 * v.height * np.cos(v.tilt)
        inside = np.abs(at - v.z) <= half
        level[inside] = v.level
        mid[inside] = 1 - np.abs(at[inside] - v.z) / half
    return level, mid


def slice_truth(a: Anatomy, scan: Scan) -> SliceTruth:
    """What each slice of a scan shows; trabecular HU at the scan's own kVp, without noise, contrast or error."""
    level, mid = levels_at(a, scan)
    at = _crossing(a, scan)
    hu = np.full(len(at), np.nan)
    for v in a.vertebrae:
        inside = level == v.level
        if inside.any():
            hu[inside] = spine.core_mean(v, at[inside], scan.thickness) * KVP_FACTOR[scan.kvp]
    return SliceTruth(np.array(scan.z), level, mid, hu)


def seen_hu(a: Anatomy, scan: Scan) -> float:
    """What a perfect reader of this scan sees: L1-equivalent trabecular HU at 120 kVp, with the scan's own error."""
    return a.vbmd * HU_PER_VBMD * scan.bone_gain
