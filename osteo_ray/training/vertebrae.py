"""Labelled vertebrae in a CT volume -> level, place within the vertebra and trabecular HU of each slice (pure numpy).

    found = measure(Labelled(hu, labels, levels, None, z_mm, spacing))
    found.level[i], found.mid[i], found.trabecular_hu[i]

A slice shows the level whose body it cuts at half of that body's full area or more; `mid` is 1 half-way between the
two heights at which the area falls below that, 0 there. Trabecular HU is the mean over the body less a rim: the cortex
and what partial volume puts beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy import ndimage

COLUMN = (*(f"C{i}" for i in range(1, 8)), *(f"T{i}" for i in range(1, 14)), *(f"L{i}" for i in range(1, 7)), "S")
"""Levels from head to foot."""
BODY_RADIUS_MM = 7.0
"""Half the thickness that survives the opening which cuts a body from its arch: pedicles and processes are thinner."""
RIM_MM, RIM_SHARE = 4.0, 0.35
"""What is taken off a body's outline for its core: at least so many mm, or this share of its inner radius."""
END_MM = 5.0
"""What is taken off above and below."""
CORE_MM2 = 80.0
"""Smallest core of a slice whose HU counts."""
BONE_HU = 120.0
SHIFT_MM = 8.0
"""The mask must lie on more bone than the same mask shifted by this much to any side."""
STEP_MM = (12.0, 60.0)
"""Distance of neighbouring vertebrae's centres, smallest and largest."""


class MaskRefused(Exception):
    """A mask that doesn't fit its CT, or contradicts itself; `code` and a sentence."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True)
class Labelled:
    """The part of a CT around a mask. Rows grow to the back, columns to the left, slices toward the head."""

    hu: np.ndarray  # [n, R, C]
    labels: np.ndarray  # uint8 [n, R, C]; 0: none
    levels: dict[int, str]
    bodies: np.ndarray | None  # bool [n, R, C], vertebral bodies, where they were segmented
    z_mm: np.ndarray  # [n] ascending
    spacing_mm: tuple[float, float]  # row, column


@dataclass(frozen=True)
class SliceTargets:
    """Per slice [n]; level '' is unknown, 'disc' between two known bodies."""

    level: np.ndarray  # object
    mid: np.ndarray  # float, NaN unknown
    trabecular_hu: np.ndarray  # float, NaN unknown
    used: tuple[str, ...]  # levels with whole bodies, from head to foot
    left_out: dict[str, str] = field(default_factory=dict)  # level -> why: cut, partial, scattered, no body


@dataclass(frozen=True)
class _Body:
    level: str
    voxels: np.ndarray  # bool [n, R, C] inside `box`
    box: tuple[slice, slice, slice]
    area: np.ndarray  # mm2 [n]
    low: float  # z of the lower and the upper end; infinite where the scan's edge cuts the body
    high: float

    @property
    def whole(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def centre(self) -> float:
        return 0.5 * (self.low + self.high)


def measure(v: Labelled) -> SliceTargets:
    """Targets of every slice.

    Raises:
        MaskRefused: MASK_OFF_BONE, MASK_SHIFTED, MASK_ORDER, MASK_NUMBERING or MASK_EMPTY.
    """
    _check_bone(v)
    left_out: dict[str, str] = {}
    bodies: list[_Body] = []
    centres: dict[str, float] = {}
    sacrum = np.zeros(len(v.z_mm))
    for value, level in v.levels.items():
        piece = _largest(v.labels == value)
        if piece is None:
            continue
        box, voxels, share = piece
        if level == "S":
            sacrum = np.maximum(sacrum, _area(voxels, box, v))
            centres["S"] = max(centres.get("S", -np.inf), _centre(voxels, box, v.z_mm))
            continue
        centres[level] = _centre(voxels, box, v.z_mm)
        if share < 0.8:
            left_out[level] = "scattered"
            continue
        body = _body(level, voxels, box, v)
        if isinstance(body, str):
            left_out[level] = body
        else:
            bodies.append(body)
    _check_order(centres, {b.level: b.centre for b in bodies if b.whole})
    bodies.sort(key=lambda b: COLUMN.index(b.level), reverse=True)
    usable = []
    for b in bodies:
        # A crushed body keeps a third of a level's height; less is a piece of one.
        others = [o.high - o.low for o in bodies if o is not b and o.whole]
        if others and b.high - b.low < 0.35 * float(np.median(others)):
            left_out[b.level] = "partial"
            continue
        usable.append(b)
        if not b.whole:
            left_out[b.level] = "cut"
    if not any(b.whole for b in usable):
        reasons = ", ".join(f"{k} {r}" for k, r in left_out.items())
        raise MaskRefused("MASK_EMPTY", f"no whole vertebral body: {reasons}")
    return _targets(usable, sacrum, v, left_out)


def _targets(bodies: list[_Body], sacrum: np.ndarray, v: Labelled, left_out: dict[str, str]) -> SliceTargets:
    n = len(v.z_mm)
    level = np.full(n, "", object)
    mid, hu = np.full(n, np.nan), np.full(n, np.nan)
    for lower, upper in pairwise(bodies):
        if _steps(upper.level, lower.level) == 1:
            between = (v.z_mm > lower.high) & (v.z_mm < upper.low)
            level[between], mid[between] = "disc", 0.0
    if sacrum.any():
        shown = sacrum >= 0.3 * np.percentile(sacrum[sacrum > 0], 90)
        # In height the sacrum's rim reaches beside the last disc and body: what lies below the last body counts.
        below = shown & (v.z_mm < min((b.low for b in bodies), default=np.inf))
        level[below], mid[below] = "S", 0.0
        last = bodies[0]
        if last.level in ("L4", "L5", "L6") and below.any():
            gap = (v.z_mm < last.low) & (v.z_mm > v.z_mm[below].max())
            level[gap], mid[gap] = "disc", 0.0
    best = np.zeros(n)
    for b in bodies:
        inside = (v.z_mm >= b.low) & (v.z_mm <= b.high) & (b.area > best)
        best[inside] = b.area[inside]
        level[inside] = b.level
        half = max(0.5 * (b.high - b.low), 1e-6)
        # How far a cut body goes on is not known, and so neither is its middle.
        mid[inside] = np.clip(1 - np.abs(v.z_mm[inside] - b.centre) / half, 0, 1) if b.whole else np.nan
        hu[inside] = np.nan
        for i in np.flatnonzero(inside):
            if min(v.z_mm[i] - b.low, b.high - v.z_mm[i]) >= min(END_MM, 0.5 * half):
                hu[i] = _core_hu(b, int(i), v)
    return SliceTargets(level, mid, hu, tuple(b.level for b in reversed(bodies) if b.whole), left_out)


def _core_hu(b: _Body, i: int, v: Labelled) -> float:
    z, rows, cols = b.box
    if not z.start <= i < z.stop:
        return np.nan
    depth = ndimage.distance_transform_edt(np.pad(b.voxels[i - z.start], 1), sampling=v.spacing_mm)[1:-1, 1:-1]
    core = depth >= max(RIM_MM, RIM_SHARE * float(depth.max()))
    if core.sum() * v.spacing_mm[0] * v.spacing_mm[1] < CORE_MM2:
        return np.nan
    return float(v.hu[i, rows, cols][core].mean())


def _body(level: str, voxels: np.ndarray, box: tuple[slice, slice, slice], v: Labelled) -> _Body | str:
    """The body of a vertebra, or why it can't be used."""
    if v.bodies is not None:
        body = voxels & v.bodies[box]
    else:
        body = np.zeros_like(voxels)
        for i in np.flatnonzero(voxels.any((1, 2))):
            body[i] = _without_arch(voxels[i], v.spacing_mm)
    area = _area(body, box, v)
    if not area.any():
        return "no body"
    n = len(v.z_mm)
    full = float(np.percentile(area[area > 0], 80))
    inside = np.flatnonzero(area >= 0.5 * full)
    first, last = int(inside[0]), int(inside[-1])
    low = _crossing(v.z_mm, area, first, first - 1, 0.5 * full) if first > 0 else -np.inf
    high = _crossing(v.z_mm, area, last, last + 1, 0.5 * full) if last < n - 1 else np.inf
    return _Body(level, body, box, area, low, high)


def _crossing(z: np.ndarray, area: np.ndarray, inside: int, outside: int, level: float) -> float:
    """Height at which the area falls to `level` between two neighbouring slices."""
    a, b = area[inside], area[outside]
    w = (a - level) / max(a - b, 1e-9)
    return float(z[inside] + np.clip(w, 0, 1) * (z[outside] - z[inside]))


def _without_arch(part: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """One slice of a vertebra less pedicles and processes; empty where no body is cut."""
    padded = np.pad(part, 1)
    depth = ndimage.distance_transform_edt(padded, sampling=spacing)
    seeds, n = ndimage.label(depth >= BODY_RADIUS_MM)
    if n == 0:
        return np.zeros_like(part)
    largest = seeds == 1 + int(np.argmax(np.bincount(seeds.ravel())[1:]))
    near = ndimage.distance_transform_edt(~largest, sampling=spacing) <= BODY_RADIUS_MM
    return (padded & near)[1:-1, 1:-1]


def _largest(mask: np.ndarray) -> tuple[tuple[slice, slice, slice], np.ndarray, float] | None:
    """(bounding box, voxels in it, share of all voxels) of the largest connected piece."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found or found[0] is None:
        return None
    box = found[0]
    pieces, n = ndimage.label(mask[box])
    sizes = np.bincount(pieces.ravel())[1:]
    keep = 1 + int(sizes.argmax())
    return box, pieces == keep, float(sizes.max() / sizes.sum()) if n else 0.0


def _area(voxels: np.ndarray, box: tuple[slice, slice, slice], v: Labelled) -> np.ndarray:
    out = np.zeros(len(v.z_mm))
    out[box[0]] = voxels.sum((1, 2)) * v.spacing_mm[0] * v.spacing_mm[1]
    return out


def _centre(voxels: np.ndarray, box: tuple[slice, slice, slice], z_mm: np.ndarray) -> float:
    weight = voxels.sum((1, 2)).astype(float)
    return float((weight * z_mm[box[0]]).sum() / weight.sum())


def _check_bone(v: Labelled) -> None:
    """The mask lies on bone, and on more of it than when shifted to any side."""
    known = np.isin(v.labels, list(v.levels))
    rows = np.flatnonzero(known.any((1, 2)))
    if rows.size == 0:
        raise MaskRefused("MASK_EMPTY", "no labelled voxel lies inside the CT")
    rows = rows[:: max(1, len(rows) // 40)]
    bone = v.hu[rows] > BONE_HU
    mask = known[rows]
    share = float(bone[mask].mean())
    if share < 0.15:
        raise MaskRefused("MASK_OFF_BONE", f"only {share:.0%} of the labelled voxels are above {BONE_HU:.0f} HU")
    for axis, name in ((1, ("back", "front")), (2, ("left", "right"))):
        step = max(1, round(SHIFT_MM / v.spacing_mm[axis - 1]))
        for sign, side in ((1, name[0]), (-1, name[1])):
            there = np.roll(mask, sign * step, axis)
            if there.any() and float(bone[there].mean()) > share + 0.02:
                raise MaskRefused(
                    "MASK_SHIFTED", f"shifted {SHIFT_MM:.0f} mm to the {side} the mask would lie on more bone"
                )


def _check_order(centres: dict[str, float], bodies: dict[str, float]) -> None:
    """Levels follow each other from head to foot, and whole bodies lie at a spine's distances.

    Args:
        centres: height of each labelled vertebra, whole or not.
        bodies: height of the bodies that are not cut.
    """
    found = sorted(centres, key=COLUMN.index)
    for upper, lower in pairwise(found):
        if centres[upper] <= centres[lower]:
            raise MaskRefused("MASK_ORDER", f"{upper} lies below {lower}")
    pairs = list(pairwise(sorted(bodies, key=COLUMN.index)))
    if not pairs:
        return
    each = np.array([(bodies[a] - bodies[b]) / _steps(a, b) for a, b in pairs])
    for k, (a, b) in enumerate(pairs):
        others = np.delete(each, k)
        typical = float(np.median(others)) if others.size else each[k]
        if not (STEP_MM[0] <= each[k] <= STEP_MM[1] and 0.6 * typical <= each[k] <= 1.65 * typical):
            raise MaskRefused(
                "MASK_NUMBERING", f"{each[k]:.0f} mm a level between {a} and {b}; {typical:.0f} mm between the others"
            )


def _steps(upper: str, lower: str) -> int:
    """Levels from one to another; T13 and L6 are rare and stand between T12 and L1, L5 and S where they are."""
    order = [level for level in COLUMN if level not in ("T13", "L6") or level in (upper, lower)]
    return order.index(lower) - order.index(upper)
