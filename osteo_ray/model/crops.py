"""An axial CT slice -> the fixed-size picture that the networks see (numpy, scipy).

The crop is a square of fixed physical size behind which the whole spine lies, whatever the field of
view: centred on the body from left to right and hung from the skin of the back, so that neither the
table nor the patient's size moves the vertebra out of it.

    crop = spine_crop(stack.axial(i), stack.axial_spacing_mm, CropConfig())   # int16 HU [96, 96]
    square = CropSquare.of(hu, spacing_mm, CropConfig())                      # where in the slice it lies
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse

from osteo_ray.catalogue import masks
from osteo_ray.model.config import CropConfig

AIR_HU = -1024


@dataclass(frozen=True)
class CropSquare:
    """The square of a slice that the crop shows; mm from the edge of the slice's first pixel."""

    top_mm: float
    left_mm: float
    pixel_mm: float  # pitch of the crop
    size: int  # pixels of the crop
    margin_mm: float  # of the square that lies behind the skin

    @classmethod
    def of(cls, hu: np.ndarray, spacing_mm: tuple[float, float], cfg: CropConfig) -> CropSquare:
        """Find the body in a slice [rows, cols] in HU, and the square behind which its spine lies."""
        back_mm, centre_mm = _anchor(hu, spacing_mm, cfg)
        side = cfg.size * cfg.pixel_mm
        top = back_mm + cfg.skin_margin_mm - side
        return cls(top, centre_mm - side / 2, cfg.pixel_mm, cfg.size, cfg.skin_margin_mm)

    @property
    def side_mm(self) -> float:
        """Length of a side."""
        return self.size * self.pixel_mm

    def to_slice(self, row: float, col: float, spacing_mm: tuple[float, float]) -> tuple[float, float]:
        """A place in the crop, in its pixels (0 is the first pixel's centre), as a place in the slice's pixels."""
        place = ((row + 0.5) * self.pixel_mm + self.top_mm, (col + 0.5) * self.pixel_mm + self.left_mm)
        return place[0] / spacing_mm[0] - 0.5, place[1] / spacing_mm[1] - 0.5

    def outside_share(self, hu: np.ndarray, spacing_mm: tuple[float, float]) -> float:
        """Share of the square that was not reconstructed: outside the slice [rows, cols] in HU, or outside the circle
        of its reconstruction, where scanners write padding. The margin behind the skin does not count."""
        at = (np.arange(self.size) + 0.5) * self.pixel_mm
        rows = _nearest(at[at < self.side_mm - self.margin_mm] + self.top_mm, spacing_mm[0], hu.shape[0])
        cols = _nearest(at + self.left_mm, spacing_mm[1], hu.shape[1])
        rows, cols = rows[rows >= 0], cols[cols >= 0]
        shown = rows.size * cols.size
        i, j = np.nonzero(hu[np.ix_(rows, cols)] <= AIR_HU)
        if i.size:
            away = _from_centre(rows[i], cols[j], hu.shape, spacing_mm)
            shown -= int(np.count_nonzero(away > _reach(hu, spacing_mm)))
        return 1.0 - shown / (np.count_nonzero(at < self.side_mm - self.margin_mm) * self.size)


def _nearest(mm: np.ndarray, spacing: float, n: int) -> np.ndarray:
    """Indices of the pixels at distances from the first pixel's edge, -1 outside."""
    i = np.floor(mm / spacing).astype(int)
    return np.where((i >= 0) & (i < n), i, -1)


def _from_centre(
    rows: np.ndarray, cols: np.ndarray, shape: tuple[int, ...], spacing_mm: tuple[float, float]
) -> np.ndarray:
    """Distances of pixels from the centre of a slice of that shape, mm; rows and columns are broadcast."""
    y, x = ((i - (n - 1) / 2) * s for i, n, s in zip((rows, cols), shape, spacing_mm, strict=True))
    return np.hypot(y, x)


@lru_cache(maxsize=4)
def _every_fourth(shape: tuple[int, ...], spacing_mm: tuple[float, float]) -> np.ndarray:
    """Distances of every fourth row's every fourth pixel from the slice's centre, mm; a scan's slices share them."""
    rows, cols = (np.arange(0, n, 4) for n in shape)
    return _from_centre(rows[:, None], cols, shape, spacing_mm)


def _reach(hu: np.ndarray, spacing_mm: tuple[float, float]) -> float:
    """How far from its centre a slice holds values other than padding, mm: the radius of a reconstruction's circle."""
    r = _every_fourth(hu.shape, spacing_mm)[hu[::4, ::4] > AIR_HU]
    return float(np.quantile(r, 0.999)) + 2 * max(spacing_mm) if r.size else 0.0


def spine_crop(
    hu: np.ndarray, spacing_mm: tuple[float, float], cfg: CropConfig, square: CropSquare | None = None
) -> np.ndarray:
    """Cut the spine's surroundings out of one axial slice.

    Args:
        hu: [rows, cols], HU; rows grow to posterior, cols to the patient's left.
        spacing_mm: (row, col) pixel pitch.
        square: where to cut, if it was found before.

    Returns:
        int16 HU [size, size] at `pixel_mm`, area-averaged where the slice is finer; -1024 outside it.
    """
    square = square or CropSquare.of(hu, spacing_mm, cfg)
    # Weights are summed only inside the slice; what lies outside is air.
    rows, r0, r1 = _area_weights(hu.shape[0], spacing_mm[0], square.top_mm, cfg.size, cfg.pixel_mm)
    cols, c0, c1 = _area_weights(hu.shape[1], spacing_mm[1], square.left_mm, cfg.size, cfg.pixel_mm)
    inner = np.clip(hu[r0:r1, c0:c1], AIR_HU, 3071).astype(np.float32) - AIR_HU
    out = (cols @ (rows @ inner).T).T
    return np.rint(out + AIR_HU).astype(np.int16, order="C")


def _anchor(hu: np.ndarray, spacing_mm: tuple[float, float], cfg: CropConfig) -> tuple[float, float]:
    """Where the skin of the back and the body's midline lie, in mm from the slice's first pixel edge."""
    step = [max(1, round(4.0 / s)) for s in spacing_mm]  # 4 mm is fine enough to find a body
    small = hu[:: step[0], :: step[1]] > cfg.body_hu
    pitch = [s * k for s, k in zip(spacing_mm, step, strict=True)]
    # Opening cuts the table's thin shell and cloth off the body before the largest piece is taken.
    radius = [max(1, round(8.0 / p)) for p in pitch]
    body = masks.largest_piece(masks.opened(small, radius, beyond=False))
    if body is None:
        return hu.shape[0] * spacing_mm[0], hu.shape[1] * spacing_mm[1] / 2
    columns = np.flatnonzero(body.any(axis=0))
    centre = (columns[0] + columns[-1] + 1) / 2 * pitch[1]
    near = np.abs((np.arange(body.shape[1]) + 0.5) * pitch[1] - centre) <= 25.0
    rows = np.flatnonzero(body[:, near].any(axis=1))
    if rows.size == 0:
        rows = np.flatnonzero(body.any(axis=1))
    return float((rows[-1] + 1) * pitch[0]), float(centre)


@lru_cache(maxsize=256)
def _area_weights(
    n: int, spacing: float, start_mm: float, size: int, pixel_mm: float
) -> tuple[sparse.csr_array, int, int]:
    """Weights [size, last - first] whose row i averages the source pixels under crop pixel i by overlap, first, last.

    Only source pixels first to last (not included) of the `n` lie under the crop; at least one is given. Few weights
    are not 0, and the slices of a scan share them: a dense product takes three times as long, and BLAS's threads.
    """
    low = start_mm + np.arange(size)[:, None] * pixel_mm
    high = low + pixel_mm
    first = min(max(int(start_mm / spacing) - 1, 0), n - 1)
    last = min(max(int(float(high[-1, 0]) / spacing) + 2, first + 1), n)
    # Under each crop pixel, those that may overlap with it.
    at = np.floor(low / spacing).astype(np.int32) - 1 + np.arange(int(pixel_mm / spacing) + 4, dtype=np.int32)
    src = at * spacing
    overlap = np.clip(np.minimum(high, src + spacing) - np.maximum(low, src), 0.0, None)
    weight = (overlap / pixel_mm).astype(np.float32)
    some = (weight > 0) & (at >= first) & (at < last)
    row_ends = np.concatenate([[0], some.sum(1).cumsum()]).astype(np.int32)
    return sparse.csr_array((weight[some], at[some] - first, row_ends), shape=(size, last - first)), first, last


def grid_positions(z_mm: np.ndarray, n_positions: int) -> np.ndarray:
    """Slice indices of the z-grid: `n_positions` evenly spaced heights over the scan's extent.

    Args:
        z_mm: [n] ascending.

    Returns:
        int32 [<= n_positions], ascending, no index twice (a scan with fewer slices gives each once).
    """
    if len(z_mm) <= n_positions:
        return np.arange(len(z_mm), dtype=np.int32)
    wanted = np.linspace(z_mm[0], z_mm[-1], n_positions)
    right = np.clip(np.searchsorted(z_mm, wanted), 1, len(z_mm) - 1)
    nearest = np.where(wanted - z_mm[right - 1] <= z_mm[right] - wanted, right - 1, right)
    return np.unique(nearest).astype(np.int32)
