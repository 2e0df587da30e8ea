"""Step 2b: soft tissue, vessels, ribs and pelvis of one slice, painted back to front.

The layers (skin fat, muscle wall, inner fat) are full-frame and cost a few array operations each; everything else
is painted in its own small rectangle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.synthetic.anatomy import Anatomy, spine_y_at
from osteo_ray.synthetic.shapes import Ellipsoid, F, Grid, ellipsoid, paint, ramp, smooth

FAT_HU = -102.0
AIR_HU = -1000.0


@dataclass(frozen=True)
class Enhancement:
    """HU that contrast medium adds, by tissue; all zero without contrast."""

    aorta: float = 0.0
    vein: float = 0.0
    organ: float = 0.0
    kidney: float = 0.0
    bone: float = 0.0  # at L1, at 120 kVp


def girth(a: Anatomy, z: float) -> tuple[float, float]:
    """Half width and half depth of the torso at z, mm: waist above the hips, chest above the waist."""
    hip = np.exp(-(((z + 150) / 80.0) ** 2))
    chest = 1 / (1 + np.exp(-(z - 120) / 40.0))
    return a.half_width * (0.985 + 0.06 * hip + 0.02 * chest), a.half_depth * (0.99 + 0.02 * hip - 0.03 * chest)


def _shell(g: Grid, half_w: float, half_d: float) -> np.ndarray:
    """1 - (superellipse radius)^p scaled to about mm of distance near the edge, float32 [R, C]."""
    xs, ys = np.abs(g.x * F(1 / half_w)), np.abs(g.y * F(1 / half_d))
    p = F(2.3)
    r = xs**p + ys**p
    np.subtract(F(1), r, out=r)
    r *= F(0.5 * (half_w + half_d) / 2.3)
    return r


def torso(g: Grid, a: Anatomy, e: Enhancement) -> np.ndarray:
    """HU float32 [R, C] of everything but the spine."""
    z = g.z_mid
    w, d = girth(a, z)
    img = np.full((g.y.shape[0], g.x.shape[1]), F(AIR_HU))
    skin = _shell(g, w, d)
    if not (skin > -2 * g.edge).any():
        return img
    paint(img, ramp(skin, g.edge), F(20))
    paint(img, ramp(skin - F(1.8), g.edge), F(FAT_HU))
    wi, di = w - a.fat, d - 0.8 * a.fat
    paint(img, ramp(_shell(g, wi, di), g.edge), F(a.muscle_hu))
    wc, dc = wi - a.wall, di - a.wall
    cavity = _shell(g, wc, dc)
    inside = ramp(cavity, g.edge)
    paint(img, inside, F(FAT_HU))
    shell = img.copy()
    _organs(img, g, a, e)
    img -= shell  # organs end where the cavity does
    img *= inside
    img += shell
    if z > a.dome - 75:
        _chest(img, g, a, e, wc, dc, cavity)
    _behind(img, g, a, e)
    if z > a.sacrum_top + 120:
        _ribs(img, g, a, wc, dc, cavity)
    if z < a.sacrum_top + 60:
        _pelvis(img, g, a, wi)
    grain = np.zeros_like(img)
    for kx, ky, kz, px, pyz, amp in a.grain:
        grain += np.cos(F(kx) * g.x + F(px)) * (F(amp) * np.cos(F(ky) * g.y + F(kz) * g.z + F(pyz)))
    grain *= img > -300  # not in gas or lung
    img += grain
    return img


def _organs(img: np.ndarray, g: Grid, a: Anatomy, e: Enhancement) -> None:
    for b in a.bowel:
        ellipsoid(img, g, b)
    for i, o in enumerate(a.organs):
        add = e.organ if i in (0, 1, 2, 4) else 0.0
        ellipsoid(img, g, Ellipsoid(o.x, o.y, o.z, o.rx, o.ry, o.rz, o.hu + add))
    for k in a.kidneys:
        ellipsoid(img, g, Ellipsoid(k.x, k.y, k.z, k.rx, k.ry, k.rz, k.hu + e.kidney))
        ellipsoid(img, g, Ellipsoid(k.x * 0.88, k.y, k.z, k.rx * 0.4, k.ry * 0.4, k.rz * 0.5, -40 + 0.5 * e.kidney))
    s = a.organs[3]
    ellipsoid(img, g, Ellipsoid(s.x, s.y - 0.35 * s.ry, s.z + 0.1 * s.rz, 0.7 * s.rx, 0.35 * s.ry, 0.6 * s.rz, -900))
    for b in a.gas:
        ellipsoid(img, g, b)


def _chest(img: np.ndarray, g: Grid, a: Anatomy, e: Enhancement, wc: float, dc: float, cavity: np.ndarray) -> None:
    """Lungs above a two-domed diaphragm, the mediastinum and the heart between them."""
    gx, gy = g.x * F(1 / wc), g.y * F(1 / dc)
    floor = F(a.dome) - F(80) * (np.clip(np.abs(gx) - F(0.45), -0.45, 1) ** 2 * F(2.2) + (gy + F(0.1)) ** 2)
    sides = ramp((np.abs(gx) - F(0.17) - F(0.15) * smooth(gy + F(0.35), 0.3)) * F(wc), g.edge)
    lung = ramp((g.z - floor), 2.0 + g.thickness) * ramp(cavity - F(3), g.edge) * sides
    paint(img, lung, F(-860) + F(55) * gy)  # heavier at the back, where it lies
    mid = ramp(g.z - F(a.dome - 20), 20.0) * ramp(cavity - F(3), g.edge) * (1 - sides)
    paint(img, mid, F(15))
    for i in range(14):  # lung vessels: positions fixed by index, drifting with z
        t = 2.4 * i + 0.013 * g.z_mid
        side = 1 if i % 2 else -1
        ellipsoid(
            img,
            g,
            Ellipsoid(
                side * wc * (0.5 + 0.2 * np.cos(t)),
                dc * 0.5 * np.sin(1.7 * t),
                g.z_mid,
                3.0,
                2.6,
                10,
                30 + 0.8 * e.vein,
            ),
        )
    heart = Ellipsoid(0.14 * wc, -0.32 * dc, a.dome + 45, 0.40 * wc, 0.48 * dc, 62, 40 + 0.7 * e.aorta)
    ellipsoid(img, g, heart)


def _behind(img: np.ndarray, g: Grid, a: Anatomy, e: Enhancement) -> None:
    """What follows the spine: psoas, erector spinae, aorta with its branches, vena cava."""
    z = g.z_mid
    y = float(spine_y_at(z, a.spine_y, a.lordosis))
    lean = a.muscle_hu
    for side in (-1, 1):
        ellipsoid(img, g, Ellipsoid(side * 36, y + 52, z, 27, 20, 9, lean - 8))
        ellipsoid(img, g, Ellipsoid(side * 15, y + 48, z, 11, 13, 9, lean - 14))
        grow = np.clip((70 - z) / 90.0, 0, 1.15)
        if grow > 0.05:
            r = a.psoas * (0.45 + 0.55 * grow) * (grow**0.3)
            ellipsoid(
                img,
                g,
                Ellipsoid(
                    side * (27 + 0.65 * r + 6 * grow), y + 4 - 14 * max(0.0, grow - 0.7), z, r, 1.15 * r, 9, lean + 3
                ),
            )
        if z < a.sacrum_top + 70:
            ellipsoid(img, g, Ellipsoid(side * 62, y + 45, z, 24, 16, 9, lean - 2))
    split = a.sacrum_top + 45  # about L4
    front = y - 18 - a.aorta - 3
    if z > split:
        x = 9.0 + (8.0 * np.clip((z - 120) / 60, 0, 1))
        back = 12.0 * np.clip((z - 120) / 80, 0, 1)
        ellipsoid(img, g, Ellipsoid(x, front + back, z, a.aorta, a.aorta, 9, 42 + e.aorta))
        if z < a.dome + 30:
            ellipsoid(img, g, Ellipsoid(-18, front + 2, z, 11, 9, 9, 40 + e.vein))
    else:
        spread = min((split - z) * 0.55, 55)
        for side in (-1, 1):
            ellipsoid(img, g, Ellipsoid(side * (7 + spread), front - 0.15 * spread, z, 5.5, 5.5, 9, 42 + e.aorta))
            ellipsoid(img, g, Ellipsoid(side * (9 + spread) - 5, front + 7, z, 6.5, 6, 9, 40 + e.vein))
    if z > split:
        for c in a.calcifications:
            if abs(z - c.z) < c.rz + 0.5 * g.thickness:
                share = min(1.0, 2 * c.rz / max(g.thickness, 0.5))
                ellipsoid(img, g, Ellipsoid(c.x, c.y, c.z, c.r, c.r, c.rz + 0.5 * g.thickness, c.hu * share))


def _ribs(img: np.ndarray, g: Grid, a: Anatomy, wc: float, dc: float, cavity: np.ndarray) -> None:
    """Ribs slant down from the back to the front on the cage's surface; cartilage in front."""
    fall = F(70) * (F(0.5) - F(0.5) * np.clip(g.y * F(1 / dc), -1, 1))
    phase = (g.z + fall - F(a.rib_z)) % F(a.rib_spacing) - F(0.5 * a.rib_spacing)
    dz = F(5.5 + 0.25 * g.thickness) - np.abs(phase)
    start = F(a.sacrum_top + 150) - g.z  # no ribs below the last one's tip
    ring = F(4.2) - np.abs(cavity + F(1))
    cover = ramp(np.minimum(ring, np.minimum(dz, -start)), g.edge)
    cover *= np.abs(g.x) > 24
    bone = ramp(g.y + F(0.45 * dc), 12.0)
    shell = ramp(F(1.5) - np.abs(np.abs(cavity + F(1)) - F(3.2)), g.edge)
    paint(img, cover, bone * (230 + 420 * shell) + (1 - bone) * F(110))


def _pelvis(img: np.ndarray, g: Grid, a: Anatomy, wi: float) -> None:
    """Sacrum and iliac wings."""
    z = g.z_mid
    depth = a.sacrum_top - z
    y = float(spine_y_at(a.sacrum_top, a.spine_y, a.lordosis)) + 0.45 * max(depth, 0)
    if depth > -8:
        hu = 0.75 * a.vertebrae[-1].hu
        wide = np.clip(54 - 0.28 * max(depth, 0), 18, 54) * np.clip((depth + 8) / 14, 0.3, 1)
        for rx, ry, v in ((wide, 23, 420.0), (wide - 3.2, 20, hu)):
            ellipsoid(img, g, Ellipsoid(0, y + 8, z, rx, ry * np.clip((depth + 8) / 14, 0.3, 1), 9, v))
        ellipsoid(img, g, Ellipsoid(0, y + 16, z, 11, 6, 9, 15))
    if z < a.sacrum_top + 35:
        top = np.clip((a.sacrum_top + 35 - z) / 60.0, 0, 1)
        for side in (-1, 1):
            xc, yc = side * (66 + 20 * top), y - 5
            box = g.window(min(side * 45, side * (wi + 5)), max(side * 45, side * (wi + 5)), yc - 75, yc + 50)
            if box is None:
                continue
            gx, gy = (g.x[:, box[1]] - F(xc)) * F(side), g.y[box[0]] - F(yc)
            # A wing is a band along a line that runs forward and outward.
            off = gx - F(0.45) * (-gy)
            band = F(5.5) - np.abs(off) * F(0.91)
            along = np.minimum(F(30 + 45 * top) + gy, F(38) - gy)
            d = np.minimum(band, np.broadcast_to(along, band.shape))
            paint(img[box], ramp(d, g.edge), F(520))
            paint(img[box], ramp(d - F(1.8), g.edge), F(160))
