"""What is known about a made person and scan: labels, posterior, and what each slice shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.cohort import spine
from osteo_ray.cohort.anatomy import Anatomy
from osteo_ray.cohort.scanner import Scan


@dataclass(frozen=True)
class SliceTruth:
    """Per slice of a scan, in z order ([n] each)."""

    z_mm: np.ndarray
    level: np.ndarray  # 'T5'..'L5', 'S', 'disc', 'none'
    mid: np.ndarray  # 1 at mid-vertebra, 0 at its endplates and outside
    trabecular_hu: np.ndarray  # mean of the trabecular core at 120 kVp without the scan's error; NaN outside bodies


def slice_truth(a: Anatomy, scan: Scan) -> SliceTruth:
    """Which body each slice shows on the spine's axis, how close to its middle, and the core's true HU.

    trabecular_hu is at the scan's own kVp, without noise, contrast medium or calibration error.
    """
    from osteo_ray.cohort.anatomy import spine_y_at
    from osteo_ray.cohort.scanner import KVP_FACTOR

    z = np.array(scan.z)
    # A tilted slice meets the spine where its plane crosses the spine's axis.
    at = z + np.tan(np.deg2rad(scan.tilt)) * np.asarray(spine_y_at(z, a.spine_y, a.lordosis))
    level = np.full(len(z), "none", dtype=object)
    mid = np.zeros(len(z), np.float32)
    hu = np.full(len(z), np.nan)
    column = a.vertebrae
    level[(at < column[0].z) & (at > column[-1].z)] = "disc"
    level[(at <= column[-1].z) & (at > a.sacrum_top)] = "disc"
    level[(at <= a.sacrum_top) & (at > a.sacrum_top - 110)] = "S"
    for v in column:
        half = 0.5 * v.height
        here = np.abs(at - v.z) <= half
        level[here] = v.level
        mid[here] = 1 - np.abs(at[here] - v.z) / half
        if here.any():
            hu[here] = spine.core_mean(v, at[here], scan.thickness) * KVP_FACTOR[scan.kvp]
    return SliceTruth(z, level, mid, hu)


def seen_hu(a: Anatomy, scan: Scan) -> float:
    """What a perfect reader of this scan sees: L1-equivalent trabecular HU at 120 kVp, with the scan's own error."""
    from osteo_ray.cohort.population import HU_PER_VBMD

    return a.vbmd * HU_PER_VBMD * scan.bone_gain
