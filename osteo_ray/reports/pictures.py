"""CT slices as small PNG pictures: bone window, true proportions, embedded in HTML as data URIs.

Thumbnail(hu, spacing=(0.7, 0.7), z_mm=-310.0, weight=0.2, sop_uid="1.2...", index=41)
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

WINDOW_LEVEL, WINDOW_WIDTH = 350, 1600  # HU; wide enough for cortex, narrow enough to see trabecular loss
PRESETS = (("Bone", WINDOW_LEVEL, WINDOW_WIDTH), ("Trabecular", 200, 700), ("Soft tissue", 50, 400))
"""Windows that a page offers: name, level, width in HU; each inside the one that pictures are stored in."""
MAX_PIXELS = 320  # the longer side of an embedded picture
CLOSE_UP_MM = 80.0  # side of the picture of one vertebra: the body, its arch, and the muscle beside it


@dataclass(frozen=True)
class Roi:
    """The circle in which a slice's trabecular HU was measured; row and column of its centre in the slice's pixels."""

    row: float
    col: float
    radius_mm: float


@dataclass(frozen=True)
class Thumbnail:
    """One chosen slice. `png` is PNG bytes, or HU [rows, cols] with rows growing to posterior, cols to patient left.

    `spacing` is (row, col) in mm and keeps proportions true; `weight` is the slice's share of the attention.
    """

    png: bytes | ArrayLike
    spacing: tuple[float, float]
    z_mm: float
    weight: float
    sop_uid: str
    index: int
    roi: Roi | None = None


@dataclass(frozen=True)
class Overview:
    """A coarse sagittal or coronal picture of the whole scan, head at the top.

    `png` is PNG bytes or HU [rows, cols], first row at `z_top_mm`, last row at `z_bottom_mm` (row centres).
    """

    png: bytes | ArrayLike
    spacing: tuple[float, float]
    z_top_mm: float
    z_bottom_mm: float
    plane: str = "sagittal"


def window_filter(level: float, width: float) -> str:
    """The CSS filter that shows a stored picture in a narrower window, so that one picture serves all presets.

    A window is a straight line from grey to grey. `contrast(c)` is (x - 1/2) c + 1/2 and comes after
    `brightness(b)`, b x: their product is the slope, and the contrast alone sets the offset. Both cut at black and
    white, as a window does.
    """
    slope = WINDOW_WIDTH / width
    offset = (WINDOW_LEVEL - WINDOW_WIDTH / 2 - (level - width / 2)) / width
    contrast = 1 - 2 * offset
    return f"brightness({slope / contrast:.4f}) contrast({contrast:.4f})"


@dataclass(frozen=True)
class Picture:
    """A picture ready for a page."""

    uri: str
    width: int
    height: int


def picture(png: bytes | ArrayLike, spacing: tuple[float, float], max_pixels: int = MAX_PIXELS) -> Picture:
    """PNG bytes as they are, or HU windowed and resampled to square pixels, as a data URI.

    Raises:
        ValueError: bytes that are no PNG, an array that is not 2-D, or a spacing that is not positive.
    """
    data = png if isinstance(png, bytes) else encode(np.asarray(png), spacing, max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as im:
            width, height = im.size
    except OSError:
        raise ValueError(f"picture: these {len(data)} bytes are no PNG") from None
    return Picture("data:image/png;base64," + base64.b64encode(data).decode("ascii"), width, height)


@dataclass(frozen=True)
class CloseUp:
    """The surroundings of the measured circle: HU, and the circle in shares of the picture's sides."""

    hu: NDArray
    x: float
    y: float
    radius: float


def close_up(shot: Thumbnail) -> CloseUp | None:
    """The vertebra of a slice at readable size; None where there is no circle, or no pixels but a finished PNG."""
    if shot.roi is None or isinstance(shot.png, bytes):
        return None
    hu = np.asarray(shot.png)
    corner, shape = [], []
    for at, pitch, n in zip((shot.roi.row, shot.roi.col), shot.spacing, hu.shape, strict=True):
        k = min(n, max(1, round(CLOSE_UP_MM / pitch)))
        corner.append(int(np.clip(round(at - (k - 1) / 2), 0, n - k)))
        shape.append(k)
    cut = hu[corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]]
    y, x = ((at + 0.5 - c) / k for at, c, k in zip((shot.roi.row, shot.roi.col), corner, shape, strict=True))
    return CloseUp(cut, x, y, shot.roi.radius_mm / (shape[1] * shot.spacing[1]))


def encode(hu: NDArray, spacing: tuple[float, float], max_pixels: int = MAX_PIXELS) -> bytes:
    """HU [rows, cols] -> 8-bit grey PNG in the bone window, square pixels, longer side at most `max_pixels`."""
    if hu.ndim != 2 or not hu.size:
        raise ValueError(f"picture: HU must be [rows, cols], this is {hu.shape}")
    row_mm, col_mm = spacing
    if not (row_mm > 0 and col_mm > 0):
        raise ValueError(f"picture: spacing must be positive mm, this is {spacing}")
    low = WINDOW_LEVEL - WINDOW_WIDTH / 2
    grey = np.clip((hu.astype(np.float32) - low) * (255.0 / WINDOW_WIDTH), 0, 255).round().astype(np.uint8)
    tall, wide = hu.shape[0] * row_mm, hu.shape[1] * col_mm
    # Never finer than the finer of the two spacings: a picture must not look sharper than the scan.
    mm = max(min(row_mm, col_mm), max(tall, wide) / max_pixels)
    size = (max(1, round(wide / mm)), max(1, round(tall / mm)))
    im = Image.fromarray(grey)
    if size != im.size:
        im = im.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    im.save(out, format="PNG", optimize=True)
    return out.getvalue()
