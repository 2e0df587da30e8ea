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


def shrunk(mask: np.ndarray, radius: Sequence[int], beyond: bool = True) -> np.ndarray:
    """Centres of the rectangles of 2 * radius + 1 rows and columns that fit into the mask.

    Args:
        beyond: whether a rectangle may reach beyond the picture's edge.
    """
    out = ~_grown(~mask, [radius[0]] * (radius[1] + 1))
    if not beyond:
        for edges, r in zip((out, out.T), radius, strict=True):
            edges[:r] = edges[max(len(edges) - r, 0) :] = False
    return out


def opened(mask: np.ndarray, radius: Sequence[int], beyond: bool = True) -> np.ndarray:
    """What such rectangles cover (`shrunk`)."""
    return _grown(shrunk(mask, radius, beyond), [radius[0]] * (radius[1] + 1))


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
    out = []
    for most in mm:
        across = np.arange(int(most / pitch[1] + 1e-9) + 1) * pitch[1]
        down = np.sqrt(np.maximum(most**2 - across**2, 0.0)) / pitch[0] + 1e-9
        out.append(_grown(mask, down.astype(int).tolist()))
    return out


def _grown(mask: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Pixels that lie `i` columns beside one of the mask's and at most `rows[i]` rows above or below it, for some i.

    The mask is one long integer, a bit a pixel, so that a shift moves all of it at once.

    Args:
        rows: not growing.
    """
    if not mask.size:  # of a picture smaller than one averaged pixel
        return mask.copy()
    n, own = mask.shape
    rows = [min(r, n - 1) for r in rows[:own]]
    width = own + len(rows) - 1  # what is shifted past an edge falls between two rows
    padded = np.zeros((n, width), bool)
    padded[:, :own] = mask
    bits = int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")
    out, tall, height = 0, bits, 0
    for i in reversed(range(len(rows))):
        while height < rows[i]:
            height += 1
            tall |= bits << height * width | bits >> height * width
        out |= tall << i | tall >> i
    found = np.frombuffer((out & (1 << n * width) - 1).to_bytes(-(-n * width // 8), "little"), np.uint8)
    return np.unpackbits(found, count=n * width, bitorder="little").reshape(n, width)[:, :own].astype(bool)
