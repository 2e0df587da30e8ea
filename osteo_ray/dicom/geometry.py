"""Slice geometry: normals, order, spacing, tilt. numpy in, numbers out.

Axes are DICOM's patient axes: x to the left, y to posterior, z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


def normal(iop: np.ndarray) -> np.ndarray:
    """Unit normal of a slice, [3], turned so that its largest part is positive: for axial slices toward the head.

    `iop`: [6], direction of growing column index, then of growing row index.
    """
    n = np.cross(iop[:3], iop[3:])
    n = n / np.linalg.norm(n)
    return n if n[np.argmax(np.abs(n))] > 0 else -n


def valid_iop(iop: np.ndarray, tolerance: float) -> bool:
    """Both directions of unit length and at right angles, within `tolerance`."""
    r, c = iop[:3], iop[3:]
    return bool(
        np.all(np.isfinite(iop))
        and abs(np.linalg.norm(r) - 1) <= tolerance
        and abs(np.linalg.norm(c) - 1) <= tolerance
        and abs(r @ c) <= tolerance
    )


@dataclass(frozen=True)
class Axial:
    """How a stored slice is turned to the standard view: rows grow to posterior, columns to the patient's left."""

    transpose: bool
    flip_rows: bool
    flip_cols: bool

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self.transpose:
            image = image.T
        return image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_cols else 1]


def to_axial(iop: np.ndarray) -> Axial:
    """The turn for an axial slice, from its orientation alone (prone, feet-first and decubitus included)."""
    r, c = iop[:3], iop[3:]
    transpose = abs(c[0]) > abs(r[0])
    left, back = (c, r) if transpose else (r, c)
    return Axial(bool(transpose), bool(back[1] < 0), bool(left[0] < 0))


@dataclass(frozen=True)
class Stack:
    """Geometry of one sorted stack. `gaps`: (z before the gap, slices missing there)."""

    spacing_mm: float
    max_dev_mm: float
    gaps: tuple[tuple[float, int], ...]
    irregular: bool
    tilt_deg: float
    drift_mm: float


def describe(ipp: np.ndarray, z: np.ndarray, n: np.ndarray, spacing_rel: float, spacing_abs: float) -> Stack:
    """Measure a stack of distinct positions sorted by z.

    Args:
        ipp: [k, 3] positions, mm; k >= 2.
        z: [k] ascending, mm along the normal `n` [3].

    The spacing is the median difference. A difference that is a whole multiple of it (>= 2) is a gap of missing slices;
    any other that is off by more than max(rel * median, abs) makes the stack irregular.
    Tilt is the angle between the step from slice to slice and the normal; drift is how far positions leave
    the straight line through them, in mm (an in-plane move that is not linear in z).
    """
    d = np.diff(z)
    spacing = float(np.median(d))
    tolerance = max(spacing_rel * spacing, spacing_abs)
    k = np.rint(d / spacing)
    off = np.abs(d - np.maximum(k, 1) * spacing)
    # over a gap of k slices the rounding of k spacings adds up
    whole = (k >= 2) & (off <= tolerance * k)
    uniform = np.abs(d - spacing) <= tolerance
    gaps = tuple((float(z[i]), int(k[i]) - 1) for i in np.flatnonzero(whole))
    dev = np.where(whole, off, np.abs(d - spacing))
    zc = z - z.mean()
    slope = (zc @ (ipp - ipp.mean(axis=0))) / (zc @ zc)  # [3]: mm of position per mm along the normal
    tilt = float(np.degrees(np.arccos(np.clip(slope @ n / np.linalg.norm(slope), -1, 1))))
    line = ipp.mean(axis=0) + zc[:, None] * slope
    drift = float(np.linalg.norm(ipp - line, axis=1).max())
    return Stack(spacing, float(dev.max()), gaps, bool(np.any(~uniform & ~whole)), tilt, drift)


_PAIRS, _UNEVEN = 10, 0.2  # neighbouring steps that alternate, and by how much of their mean


def alternating(z: np.ndarray, tolerance_mm: float) -> tuple[float, float] | None:
    """The two steps between which spacing alternates, as where the slices of two scans interleave; else None.

    Args:
        z: [k] ascending, mm.
        tolerance_mm: by which the sum of two neighbouring steps may differ.
    """
    d = np.diff(z)
    if d.size < 2:
        return None
    both = d[:-1] + d[1:]
    uneven = np.abs(np.diff(d)) > _UNEVEN * both / 2
    if np.count_nonzero(uneven) < _PAIRS:
        return None
    like = uneven & (np.abs(both - np.median(both[uneven])) <= tolerance_mm)
    if np.count_nonzero(like) < _PAIRS:
        return None
    first = int(np.flatnonzero(like)[0])
    return float(d[first]), float(d[first + 1])


def longest_run(z: np.ndarray, gaps: tuple[tuple[float, int], ...]) -> tuple[int, int]:
    """[start, stop) of the longest run of slices (by slices, first wins) between gaps."""
    cuts = [0] + [int(np.searchsorted(z, at, side="right")) for at, _ in gaps] + [len(z)]
    runs = list(pairwise(cuts))
    return max(runs, key=lambda r: (r[1] - r[0], -r[0]))
