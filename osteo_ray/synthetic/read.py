"""Reading HU off synthetic scans as a careful reader would who knows where the spine lies: for checks and controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from osteo_ray.synthetic import spine
from osteo_ray.synthetic.anatomy import Anatomy
from osteo_ray.synthetic.scanner import ROD_MG_CM3, rods
from osteo_ray.synthetic.shapes import F, Grid
from osteo_ray.synthetic.truth import levels_at

if TYPE_CHECKING:
    from osteo_ray.synthetic.fast import SyntheticStack


@dataclass(frozen=True)
class Reading:
    """ROI means of one scan, HU; NaN where there is nothing to read."""

    l1: float  # mid-vertebral L1; L2 where L1 is not to be read
    lumbar: float  # mean of mid-vertebral L1-L4
    random: float  # one slice, drawn from the scan's seed
    central: float  # the middle slice of the stack
    everything: float  # mean over all slices; NaN unless asked for


def core_roi(stack: SyntheticStack, i: int) -> float:
    """Mean HU of an ellipse in the body's core on the spine's axis.

    The same ellipse is drawn whatever the slice shows, so that a disc slice gives the disc's HU.
    """
    return float(_core(stack, i).mean())


def _core(stack: SyntheticStack, i: int) -> np.ndarray:
    """HU inside the ellipse of `core_roi`."""
    a, s = stack.anatomy, stack.scan
    z = s.z[i]
    near = min(a.vertebrae, key=lambda v: abs(v.z - z))
    cx, cy = near.x, float(a.frame.spine_y(z)) - 0.1 * near.depth
    rx, ry = 0.5 * near.width, 0.45 * near.depth
    cols = slice(*(int(np.clip((cx + d * rx - s.x0) / s.pixel + k, 0, s.size)) for d, k in ((-1, 0), (1, 2))))
    rows = slice(*(int(np.clip((cy + d * ry - s.y0) / s.pixel + k, 0, s.size)) for d, k in ((-1, 0), (1, 2))))
    hu = stack.patch(i, rows, cols)
    x = s.x0 + s.pixel * np.arange(cols.start, cols.stop, dtype=F)
    y = s.y0 + s.pixel * np.arange(rows.start, rows.stop, dtype=F)
    inside = ((x[None] - cx) / rx) ** 2 + ((y[:, None] - cy) / ry) ** 2 <= 1
    return hu[inside]


def mid_readings(stack: SyntheticStack) -> dict[str, tuple[float, float]]:
    """Mean and SD of HU in the core's ellipse of every readable vertebra that a slice cuts near its middle."""
    level, mid = levels_at(stack.anatomy, stack.scan)
    out = {}
    for v in stack.anatomy.vertebrae:
        rows = np.flatnonzero(level == v.level)
        if readable(v) and len(rows) and mid[rows].max() > 0.5:
            hu = _core(stack, int(rows[mid[rows].argmax()]))
            out[v.level] = (float(hu.mean()), float(hu.std()))
    return out


def readable(v: spine.Vertebra) -> bool:
    """Whether a reader would measure it: not fractured, cemented or screwed, and without a haemangioma."""
    return not (v.wedge > 0 or v.cement > 0 or v.screws or v.haemangioma)


def read_scan(stack: SyntheticStack, every: bool = False) -> Reading:
    """Read one scan. `every` also reads all slices."""
    level, mid = levels_at(stack.anatomy, stack.scan)
    by_level = {}
    for v in stack.anatomy.vertebrae:
        if v.level in ("L1", "L2", "L3", "L4") and readable(v):
            rows = np.flatnonzero(level == v.level)
            if len(rows) and mid[rows].max() > 0.5:
                by_level[v.level] = core_roi(stack, int(rows[mid[rows].argmax()]))
    pick = int(np.random.default_rng([stack.scan.seed, 99]).integers(stack.n))
    return Reading(
        l1=by_level.get("L1", by_level.get("L2", np.nan)),
        lumbar=float(np.mean(list(by_level.values()))) if by_level else np.nan,
        random=core_roi(stack, pick),
        central=core_roi(stack, stack.n // 2),
        everything=float(np.mean([core_roi(stack, i) for i in range(stack.n)])) if every else np.nan,
    )


def halves(a: Anatomy) -> tuple[float, float, float]:
    """Trabecular ratios of L2: (lower below upper, posterior above anterior, endplate periphery above centre)."""
    v = next(v for v in a.vertebrae if v.level == "L2")
    k = np.linspace(-0.9, 0.9, 31, dtype=F)
    fields, ws = [], np.linspace(-0.42, 0.42, 25) * v.height
    for w in ws:
        # Coordinates of the body itself: the tilt is undone.
        y = k[:, None] * F(v.depth) * F(np.cos(v.tilt)) + F(v.y + w * np.sin(v.tilt))
        z = F(v.z) + F(w * np.cos(v.tilt)) - k[:, None] * F(v.depth) * F(np.sin(v.tilt))
        g = Grid(k[None] * F(v.width) + F(v.x), y, z, v.z, 1, 1)
        u, vv, ww = v.axes(g)
        fields.append(spine.core_field(v, u, vv, ww, (u / F(v.width)) ** 2 + (vv / F(v.depth)) ** 2))
    f = np.array(fields)
    r2 = k[None] ** 2 + k[:, None] ** 2
    core = r2 < 0.6
    lower, upper = f[ws < 0][:, core].mean(), f[ws > 0][:, core].mean()
    inner = np.abs(ws) < 0.3 * v.height
    front, back = (k[:, None] < -0.2) & core, (k[:, None] > 0.2) & core
    ends = np.abs(ws) > 0.36 * v.height
    rim = f[ends][:, (r2 > 0.55) & (r2 < 0.8)].mean() / f[ends][:, r2 < 0.2].mean() - 1
    return 1 - lower / upper, f[inner][:, back].mean() / f[inner][:, front].mean() - 1, rim


def rod_slope(stack: SyntheticStack) -> float:
    """HU per mg/cm3 of K2HPO4, by the calibration phantom's rods in the middle slice."""
    i, s = stack.n // 2, stack.scan
    means = []
    for rod in rods(stack.anatomy, s, s.z[i]):
        r = 0.6 * rod.rx
        rows = slice(int((rod.y - r - s.y0) / s.pixel), int((rod.y + r - s.y0) / s.pixel) + 1)
        cols = slice(int((rod.x - r - s.x0) / s.pixel), int((rod.x + r - s.x0) / s.pixel) + 1)
        means.append(float(stack.patch(i, rows, cols).mean()))
    return float(np.polyfit(ROD_MG_CM3, means, 1)[0])
