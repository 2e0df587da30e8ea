"""The calibration gate: every published figure beside what the cohort gives."""

from __future__ import annotations

import numpy as np

from osteo_ray.cohort.anatomy import spine_y_at
from osteo_ray.cohort.fast import MadeStack
from osteo_ray.cohort.shapes import F


def core_roi(stack: MadeStack, i: int) -> float:
    """Mean HU of an ellipse in the body's core on the spine's axis, as a reader who knows the axis would draw it.

    The same ellipse is drawn whatever the slice shows, so that a disc slice gives the disc's HU.
    """
    a, s = stack.anatomy, stack.scan
    z = s.z[i]
    near = min(a.vertebrae, key=lambda v: abs(v.z - z))
    cx, cy = near.x, float(spine_y_at(z, a.spine_y, a.lordosis)) - 0.1 * near.depth
    rx, ry = 0.5 * near.width, 0.45 * near.depth
    cols = slice(*(int(np.clip((cx + d * rx - s.x0) / s.pixel + k, 0, s.size)) for d, k in ((-1, 0), (1, 2))))
    rows = slice(*(int(np.clip((cy + d * ry - s.y0) / s.pixel + k, 0, s.size)) for d, k in ((-1, 0), (1, 2))))
    hu = stack.patch(i, rows, cols)
    x = s.x0 + s.pixel * np.arange(cols.start, cols.stop, dtype=F)
    y = s.y0 + s.pixel * np.arange(rows.start, rows.stop, dtype=F)
    inside = ((x[None] - cx) / rx) ** 2 + ((y[:, None] - cy) / ry) ** 2 <= 1
    return float(hu[inside].mean())
