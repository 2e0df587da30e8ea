"""The neck above T1 and the muscles of the shoulders: airway, thyroid, vessels, muscles, jaw and teeth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.synthetic.contrast import Enhancement
from osteo_ray.synthetic.frame import Frame
from osteo_ray.synthetic.shapes import Ellipsoid, F, Grid, Rod, ellipsoid, paint, ramp, rod
from osteo_ray.synthetic.texture import SMOOTH, sample


@dataclass(frozen=True)
class Neck:
    """What is drawn once for a body."""

    thyroid: tuple[Ellipsoid, ...]
    cartilage: tuple[Rod, ...]  # larynx and jaw
    teeth: tuple[Ellipsoid, ...]
    fatty: float  # HU that fat between and within muscles takes off its crests


def build(rng: np.random.Generator, f: Frame, age: float) -> Neck:
    """Draw one neck."""
    sc = f.scale

    def at(dz: float, dy: float) -> tuple[float, float]:
        z = f.t1 + dz * sc
        return float(f.spine_y(z)) + dy * sc, z

    y, z = at(16, -34)
    native = float(rng.normal(100, 14))
    size = float(np.clip(rng.normal(1, 0.2), 0.5, 2.0))
    thyroid = tuple(Ellipsoid(side * 17 * sc, y, z, 9 * size, 10 * size, 24 * sc, native) for side in (-1, 1))
    y, z = at(52, -40)
    calcified = float(np.clip(120 + 5 * (age - 50) + rng.normal(0, 40), 90, 420))
    front, top = at(88, -82)
    behind, high = at(118, -24)
    cartilage = (
        *(Rod((side * 14, y + 12, z), (0.0, y - 10, z + 6), 2.6, calcified) for side in (-1, 1)),
        *(
            Rod((side * 46 * sc, behind, high), (side * 4, front, top), 7.5 * sc, 1200.0, 2.6, 250.0)
            for side in (-1, 1)
        ),
    )
    teeth = tuple(
        Ellipsoid(side * x * sc, front + y * sc, top + 14 * sc, 5, 5, 9, 2000.0)
        for side in (-1, 1) for x, y in ((8, 3), (20, 14), (30, 28)) if rng.random() < 0.85
    )  # fmt: skip
    return Neck(thyroid, cartilage, teeth, float(np.clip(rng.normal(70, 30) + age - 60, 15, 150)))


def paint_neck(img: np.ndarray, g: Grid, f: Frame, n: Neck, muscle: float, skin: np.ndarray, e: Enhancement) -> None:
    """Fat with muscles, vessels and airway in it, from the thoracic inlet upward."""
    dz = (g.z_mid - f.t1) / f.scale
    if dz < -6:
        return
    y, x, sc = float(f.spine_y(g.z_mid)), 0.0, f.scale
    z = g.z_mid
    slender = f.neck / 60
    w = g.window(-0.86 * f.neck, 0.86 * f.neck, y - 70 * sc, y + 46)
    if w is None:
        return
    space = ramp(F(1) - ((g.x[:, w[1]]) * F(1 / (0.84 * f.neck))) ** 2 - ((g.y[w[0]] - F(y - 8)) * F(1 / 54)) ** 2, 0.2)
    paint(img[w], space * ramp(skin[w] - F(6), 4.0) * F(np.clip((dz + 6) / 12, 0, 1)), F(-92))

    def soft(px: float, dy: float, rx: float, ry: float, hu: float) -> None:
        ellipsoid(img, g, Ellipsoid(x + px, y + dy, z, rx, ry, 1e6, hu))

    for side in (-1, 1):
        soft(side * 20 * slender, 36, 22 * slender, 17, muscle)  # neck extensors
        soft(side * 26, 0, 10, 13, muscle)  # scalenes, longus
        soft(side * (44 - 0.16 * dz) * slender, -22 - 0.1 * dz, 8, 15, muscle + 3)  # sternocleidomastoid
        soft(side * 24, -26, 3.8, 3.8, 42 + e.aorta)  # carotid
        soft(side * 33, -23, 6.5, 5.5, 42 + 0.9 * e.vein)  # jugular vein
        soft(side * 15, -3, 2.0, 2.0, 42 + e.aorta)  # vertebral artery
    soft(0, -12, 15, 4, muscle)  # longus colli
    soft(2, -21, 7, 5, 38)  # oesophagus
    for t in n.thyroid:
        ellipsoid(img, g, Ellipsoid(t.x, t.y, t.z, t.rx, t.ry, t.rz, t.hu + 1.2 * e.organ))
    if dz > 78:  # tongue and floor of the mouth
        soft(0, -62, 34, 30, 58)
    wide, deep = (8.0, 9.0) if dz < 66 else (13.0, 6.5)
    soft(0, -34, wide + 3, deep + 3, 60)
    soft(0, -34, wide, deep, -985)
    for c in n.cartilage:
        rod(img, g, c)
    for t in n.teeth:
        ellipsoid(img, g, t)


def paint_fat_planes(img: np.ndarray, g: Grid, outside: np.ndarray, depth: float) -> None:
    """Fat between and within the muscles outside the cavity (coverage [R, C]); within them it takes off `depth` HU."""
    between = np.abs(sample(g.x, g.y, g.z * F(0.6), 1.6, (3, 60, 17), SMOOTH))
    within = np.clip(sample(g.x, g.y, g.z, 1.1, (31, 6, 71), SMOOTH) - F(0.5), 0, 1)
    plane = np.clip(F(1.5) - between * F(9), 0, 1)
    img -= outside * np.maximum(plane * F(135), within * F(depth))
