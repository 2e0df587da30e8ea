"""Soft-edged shapes on a grid of pixel centres: the alphabet of the synthetic anatomy.

Everything is a pointwise function of patient coordinates in mm (x to the left, y to the back, z to the head), so any
rectangle of any slice can be made alone. Edges are as wide as the kernel blurs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

F = np.float32


@dataclass(frozen=True)
class Grid:
    """Pixel centres of one slice or a rectangle of it; `z` is [R, 1] because a tilted gantry shears it."""

    x: np.ndarray  # float32 [1, C]
    y: np.ndarray  # float32 [R, 1]
    z: np.ndarray  # float32 [R, 1]
    z_mid: float
    edge: float  # mm over which an edge rises from 0 to 1
    thickness: float  # slice thickness, mm

    def window(self, x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice] | None:
        """Rows and columns whose pixel centres lie in [x0, x1] x [y0, y1] mm; None where there are none."""
        c0, c1 = np.searchsorted(self.x[0], (x0, x1))
        r0, r1 = np.searchsorted(self.y[:, 0], (y0, y1))
        if c0 >= c1 or r0 >= r1:
            return None
        return slice(int(r0), int(r1)), slice(int(c0), int(c1))

    def sub(self, rows: slice, cols: slice) -> Grid:
        """The grid of a rectangle."""
        return Grid(self.x[:, cols], self.y[rows], self.z[rows], self.z_mid, self.edge, self.thickness)


@dataclass(frozen=True)
class Ellipsoid:
    """Centre and half-axes in mm, value in HU. An infinite rz makes an upright tube."""

    x: float
    y: float
    z: float
    rx: float
    ry: float
    rz: float
    hu: float


def ramp(d: np.ndarray, edge: float) -> np.ndarray:
    """Coverage 0..1 at signed distance `d` (mm, positive inside) from an edge `edge` mm wide."""
    out = d * F(1.0 / edge)
    out += F(0.5)
    return np.clip(out, 0, 1, out=out)


def paint(img: np.ndarray, cover: np.ndarray, hu: np.ndarray | np.floating | float) -> None:
    """Blend `hu` into `img` in place where `cover` says."""
    img += cover * (hu - img)


def ellipsoid(img: np.ndarray, g: Grid, e: Ellipsoid, flat: float = 1.0) -> None:
    """Blend an ellipsoid's section into `img`; its poles fade over the slice thickness."""
    dz = (g.z_mid - e.z) / e.rz
    if abs(dz) >= 1:
        return
    k = float(np.sqrt(1 - dz * dz)) * flat
    rx, ry = e.rx * k, e.ry * k
    m = g.edge
    w = g.window(e.x - rx - m, e.x + rx + m, e.y - ry - m, e.y + ry + m)
    if w is None:
        return
    xs = (g.x[:, w[1]] - F(e.x)) * F(1 / rx)
    ys = (g.y[w[0]] - F(e.y)) * F(1 / ry)
    r2 = xs * xs + ys * ys
    np.subtract(F(1), r2, out=r2)
    paint(img[w], ramp(r2 * F(0.5 * min(rx, ry)), g.edge), F(e.hu))


def smooth(x: np.ndarray, sd: float) -> np.ndarray:
    """exp(-(x/sd)^2 / 2), float32."""
    return np.exp(F(-0.5) * (x * F(1 / sd)) ** 2)
