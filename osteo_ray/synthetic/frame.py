"""The body's frame: where the spine runs, and how wide the skin, the muscle and the cavity are at each height.

z = 0 at the centre of L3, x = 0 at the midline, y = 0 at the torso's centre. All lengths in mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RAISED, DOWN = "raised", "down"


@dataclass(frozen=True)
class Outline:
    """Skin at one height: half width, half depth, and the y of its centre."""

    w: float
    d: float
    y: float


@dataclass(frozen=True)
class Frame:
    """Sizes that every region of one body shares."""

    scale: float  # against a person of 160 cm
    half_width: float  # of the abdomen at L3
    half_depth: float
    fat: float  # subcutaneous, at the side
    wall: float  # of muscle
    spine_base: float
    lordosis: float
    curve: float  # lateral deviation of the spine, amplitude
    curve_z: float  # where it crosses the midline
    shoulder: float  # half width over the deltoids
    neck: float  # half width
    t1: float  # z of T1's centre
    arch: float  # z of the aortic arch (T4)
    dome: float  # z of the diaphragm's top
    sacrum_top: float

    def spine_y(self, z: np.ndarray | float) -> np.ndarray:
        """Anterior-posterior centre of the bodies: lordosis deepest at L3/L4, kyphosis above, forward in the neck."""
        z = np.asarray(z, float)
        kyphosis = 10.0 * np.clip((z - 100) / 120.0, 0, 1.5) ** 1.5
        t = np.clip((z - 255) / 150, 0, 1)
        return self.spine_base - self.lordosis * np.exp(-(((z + 15) / 75.0) ** 2)) + kyphosis - 42 * t * t * (3 - 2 * t)

    def spine_x(self, z: np.ndarray | float) -> np.ndarray:
        """Left-right centre of the bodies: a curve that fades toward sacrum and neck."""
        z = np.asarray(z, float)
        return self.curve * np.sin((z - self.curve_z) / 60.0) * np.exp(-(((z - 40) / 190.0) ** 4))

    @property
    def back(self) -> float:
        """y of the skin of the back where it rests on the table."""
        return 1.01 * self.half_depth

    def outline(self, z: float) -> Outline:
        """The skin of torso, shoulders, neck or hips at z (arms apart)."""
        return _outline(self, z)

    def cavity(self, z: float) -> Outline:
        """The inside of the muscle wall: abdomen, rib cage (to its apex above T1), lesser pelvis."""
        return _cavity(self, z)

    def fat_at(self, z: float) -> float:
        """Subcutaneous fat: thinner at the neck and shoulders, thicker over the hips."""
        return self.fat * float(np.interp(z - self.t1, [-110, 0, 60], [1, 0.6, 0.4])) + (
            0.25 * self.fat * float(np.interp(z - self.sacrum_top, [-120, -20], [1, 0]))
        )


_DZ = np.array([-120, -75, -45, -20, 0, 22, 45, 65, 85, 105, 140])  # mm above T1


@lru_cache(maxsize=512)
def _outline(f: Frame, z: float) -> Outline:
    hip = float(np.exp(-(((z + 150) / 80.0) ** 2)))
    chest = float(1 / (1 + np.exp(-(z - 120) / 40.0)))
    w = f.half_width * (0.985 + 0.06 * hip + 0.02 * chest)
    d = f.half_depth * (0.99 + 0.02 * hip - 0.03 * chest)
    # However thin the waist, iliac wings and trochanters have their width.
    bony = float(np.interp(z - f.sacrum_top, [-210, -130, -40, 35, 80], [0.96, 1.0, 0.88, 0.80, 0.0]))
    w = max(w, bony * (154 * f.scale + f.fat))
    d = max(d, bony * 88 * f.scale + 0.4 * f.fat) if bony else d
    dz = (z - f.t1) / f.scale
    if dz <= _DZ[0]:
        return Outline(w, d, 0.0)
    s, n, nd = f.shoulder, f.neck, 1.02 * f.neck
    wide = [w, w, 0.5 * (w + s), s, 0.97 * s, 0.72 * s, 0.43 * s, 1.2 * n, n, n, 1.08 * n]
    deep = [d, 0.93 * d, 0.84 * d, 0.76 * d, 0.68 * d, 0.62 * d, 1.1 * nd, nd, nd, 1.2 * nd, 1.35 * nd]
    at = float(f.spine_y(z)) + 60
    behind = [d, d, d - 2, d - 6, d - 14, 0.5 * (d - 14 + at), at + 6, at, at, at, at]
    back = float(np.interp(dz, _DZ, behind))
    depth = float(np.interp(dz, _DZ, deep))
    return Outline(float(np.interp(dz, _DZ, wide)), depth, back - depth)


@lru_cache(maxsize=512)
def _cavity(f: Frame, z: float) -> Outline:
    low, high = f.sacrum_top, f.t1 - 120 * f.scale
    o = f.outline(min(z, high))
    w, d = o.w - f.fat - f.wall, o.d - 0.8 * f.fat - f.wall
    if z > high:
        dz = (z - f.t1) / f.scale
        knots = [-120, -75, -45, -20, 0, 14]
        k = float(np.interp(dz, knots, [1, 0.86, 0.70, 0.52, 0.34, 0.12]))
        deep = float(np.interp(dz, knots, [1, 0.90, 0.74, 0.56, 0.38, 0.12])) * d
        back = float(np.interp(dz, [-120, 0], [d, float(f.spine_y(z)) + 24]))
        return Outline(k * w, deep, back - deep)
    if z < low + 20:
        dz = z - low
        knots = [-185, -150, -110, -60, 20]
        k = float(np.interp(dz, knots, [0.10, 0.30, 0.47, 0.72, 1]))
        front = -d * float(np.interp(dz, [-185, -120], [0.2, 1]))
        back = float(np.interp(dz, [-150, -60, 20], [0.45 * d, float(f.spine_y(low)) + 28, d]))
        return Outline(k * w, 0.5 * (back - front), 0.5 * (back + front))
    return Outline(w, d, 0.0)
