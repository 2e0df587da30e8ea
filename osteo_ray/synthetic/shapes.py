"""Soft-edged shapes on a grid of pixel centres: the alphabet of the synthetic anatomy.

Everything is a pointwise function of patient coordinates in mm (x to the left, y to the back, z to the head), so any
rectangle of any slice can be made alone. Edges are as wide as the kernel blurs them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

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

    @cached_property
    def shear(self) -> float:
        """Largest distance of a pixel from the slice's height: that of a tilted gantry, mm."""
        return max(abs(float(self.z[0, 0]) - self.z_mid), abs(float(self.z[-1, 0]) - self.z_mid))

    def window(self, x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice] | None:
        """Rows and columns whose pixel centres lie in [x0, x1] x [y0, y1] mm; None where there are none."""
        x, y = self._axes
        c0, r0 = bisect_left(x, float(x0)), bisect_left(y, float(y0))
        c1, r1 = bisect_left(x, float(x1), c0), bisect_left(y, float(y1), r0)
        if c0 >= c1 or r0 >= r1:
            return None
        return slice(r0, r1), slice(c0, c1)

    @cached_property
    def _axes(self) -> tuple[list[float], list[float]]:
        """x and y as lists: in them one value is found in a tenth of the time that it takes in an array."""
        return self.x[0].tolist(), self.y[:, 0].tolist()

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


@dataclass(frozen=True)
class Rod:
    """A capsule from `p` to `q` (mm): a bone with cortex and marrow, or a tube of one value (`cortex` 0)."""

    p: tuple[float, float, float]
    q: tuple[float, float, float]
    r: float  # radius, mm
    hu: float  # of the cortex, or of all where there is none
    cortex: float = 0.0  # thickness, mm
    marrow: float = 0.0  # HU inside the cortex


@dataclass(frozen=True)
class Plate:
    """A flat ellipsoid that stands upright: centre, half-axes (long, thin, height) in mm, turn about z in rad, HU."""

    x: float
    y: float
    z: float
    long: float
    thin: float
    rz: float
    turn: float
    hu: float
    cortex: float = 0.0
    marrow: float = 0.0


def ramp(d: np.ndarray, edge: float) -> np.ndarray:
    """Coverage 0..1 at signed distance `d` (mm, positive inside) from an edge `edge` mm wide."""
    out = d * F(1.0 / edge)
    out += F(0.5)
    np.maximum(out, F(0), out=out)
    return np.minimum(out, F(1), out=out)


def clamp(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """np.clip, which takes three times as long on arrays as small as these."""
    return np.minimum(np.maximum(x, F(low)), F(high))


def span(mask: np.ndarray) -> slice | None:
    """From the first to the last that is true in `mask` [n]; None where nothing is."""
    at = mask.nonzero()[0]
    return slice(int(at[0]), int(at[-1]) + 1) if at.size else None


def paint(img: np.ndarray, cover: np.ndarray, hu: np.ndarray | np.floating | float) -> None:
    """Blend `hu` into `img` in place where `cover` says."""
    step = hu - img
    step *= cover
    img += step


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


def rod(img: np.ndarray, g: Grid, b: Rod, hu: float | None = None) -> None:
    """Blend a capsule's section into `img`; `hu` replaces its own value."""
    reach = b.r + g.shear + g.edge
    lo, hi = sorted((b.p[2], b.q[2]))
    if g.z_mid < lo - reach or g.z_mid > hi + reach:
        return
    along = np.subtract(b.q, b.p)
    length2 = max(float(along @ along), 1e-6)
    # The part of the axis that this slice can meet bounds the window.
    if abs(along[2]) > 1e-6:
        t = sorted(((g.z_mid - reach - b.p[2]) / along[2], (g.z_mid + reach - b.p[2]) / along[2]))
        t = [min(max(v, 0.0), 1.0) for v in t]
    else:
        t = [0.0, 1.0]
    ends = [np.add(b.p, v * along) for v in t]
    m = b.r + g.edge
    xs, ys = sorted((ends[0][0], ends[1][0])), sorted((ends[0][1], ends[1][1]))
    w = g.window(xs[0] - m, xs[1] + m, ys[0] - m, ys[1] + m)
    if w is None:
        return
    dx, dy, dz = g.x[:, w[1]] - F(b.p[0]), g.y[w[0]] - F(b.p[1]), g.z[w[0]] - F(b.p[2])
    ax, ay, az = (F(v) for v in along)
    at = clamp((dx * ax + (dy * ay + dz * az)) * F(1 / length2), 0, 1)
    d = F(b.r) - np.sqrt((dx - at * ax) ** 2 + (dy - at * ay) ** 2 + (dz - at * az) ** 2)
    value: np.ndarray | float = b.hu if hu is None else hu
    if b.cortex:
        value = F(b.hu) + ramp(d - F(b.cortex), g.edge) * F(b.marrow - b.hu)
    paint(img[w], ramp(d, g.edge), value)


def plate(img: np.ndarray, g: Grid, b: Plate, within: Callable[[tuple[slice, slice]], np.ndarray]) -> None:
    """Blend a plate's section into `img`, only where `within` (coverage of a rectangle of the grid) has it."""
    dz = (g.z_mid - b.z) / b.rz
    if abs(dz) >= 1:
        return
    k = float(np.sqrt(1 - dz * dz))
    c, s = np.cos(b.turn), np.sin(b.turn)
    rx, ry = abs(c) * b.long * k + abs(s) * b.thin, abs(s) * b.long * k + abs(c) * b.thin
    w = g.window(b.x - rx - g.edge, b.x + rx + g.edge, b.y - ry - g.edge, b.y + ry + g.edge)
    if w is None:
        return
    dx, dy = g.x[:, w[1]] - F(b.x), g.y[w[0]] - F(b.y)
    u, v = dx * F(c) + dy * F(s), dy * F(c) - dx * F(s)
    thin = b.thin * (0.4 + 0.6 * k)
    d = (1 - (u * F(1 / (b.long * k))) ** 2 - (v * F(1 / thin)) ** 2) * F(0.5 * thin)
    value: np.ndarray | float = b.hu
    if b.cortex:
        value = F(b.hu) + ramp(d - F(b.cortex), g.edge) * F(b.marrow - b.hu)
    cover = ramp(d, g.edge)
    cover *= within(w)
    paint(img[w], cover, value)
