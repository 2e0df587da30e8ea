"""Masks of an axial slice, [rows, cols] bool: opened, filled, their largest piece, what lies near them (numpy, scipy).

    body = filled(largest_piece(opened(small > -300, (2, 2))))
    near, beside = within(body, pitch, 4.0, 8.0)

The same as scipy's filters and distance transform, in a fraction of their time: screening calls these for every slice
that it looks at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

_CROSS = ndimage.generate_binary_structure(2, 1)
_FAR = np.int16(16000)  # rows: farther than any slice has


def shrunk(mask: np.ndarray, radius: Sequence[int], beyond: bool = True) -> np.ndarray:
    """Centres of the rectangles of 2 * radius + 1 rows and columns that fit into the mask.

    Args:
        beyond: whether a rectangle may reach beyond the picture's edge.
    """
    for axis, r in enumerate(radius):
        mask = _shifted(mask, r, axis, np.logical_and)
        if not beyond:
            edges = mask if axis == 0 else mask.T
            edges[:r] = edges[max(len(edges) - r, 0) :] = False
    return mask


def opened(mask: np.ndarray, radius: Sequence[int], beyond: bool = True) -> np.ndarray:
    """What such rectangles cover (`shrunk`)."""
    mask = shrunk(mask, radius, beyond)
    for axis, r in enumerate(radius):
        mask = _shifted(mask, r, axis, np.logical_or)
    return mask


def _shifted(mask: np.ndarray, r: int, axis: int, join: np.ufunc) -> np.ndarray:
    """The mask joined with itself, shifted by 1 to r in both directions; beyond the edge there is nothing to join."""
    out = mask.copy()
    to, of = (out, mask) if axis == 0 else (out.T, mask.T)
    for d in range(1, min(r, len(of) - 1) + 1):
        join(to[:-d], of[d:], out=to[:-d])
        join(to[d:], of[:-d], out=to[d:])
    return out


def largest_piece(mask: np.ndarray) -> np.ndarray | None:
    """The largest of the mask's connected pieces; None: it has none."""
    pieces, n = ndimage.label(mask, _CROSS)
    return pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax()) if n else None


def filled(mask: np.ndarray) -> np.ndarray:
    """The mask with its holes, which are what can't be reached from the picture's edge."""
    holes, n = ndimage.label(~mask, _CROSS)
    is_hole = np.ones(n + 1, bool)
    is_hole[0] = False  # the mask itself
    for edge in (holes[0], holes[-1], holes[:, 0], holes[:, -1]):
        is_hole[edge] = False
    return mask | is_hole[holes]


def within(mask: np.ndarray, pitch: tuple[float, float], *mm: float) -> list[np.ndarray]:
    """For each distance, the pixels at most so far from one of the mask's.

    Args:
        pitch: (row, col) in mm.
    """
    columns = np.ascontiguousarray(mask.T)  # shifted along the first axis, in a third of the time
    rows = np.arange(len(mask), dtype=np.int16)
    above = rows - np.maximum.accumulate(np.where(columns, rows, -_FAR), axis=1)
    below = np.minimum.accumulate(np.where(columns, rows, _FAR)[:, ::-1], axis=1)[:, ::-1] - rows
    in_column = np.minimum(above, below)  # rows to the nearest one of the mask in the same column
    out = []
    for most in mm:
        found = np.zeros_like(columns)
        for dx in range(min(int(most / pitch[1] + 1e-9), len(columns) - 1) + 1):
            near = in_column <= np.int16(np.sqrt(max(most**2 - (dx * pitch[1]) ** 2, 0.0)) / pitch[0] + 1e-9)
            found[dx:] |= near[: len(near) - dx]
            found[: len(near) - dx] |= near[dx:]
        out.append(np.ascontiguousarray(found.T))
    return out
