"""Step 2b: everything but the spine in one slice, painted back to front: skin, fat, muscle, cavity, then the regions.

Each is painted in the rectangle outside of which it covers nothing, so that leaving the rest out changes no value.
"""

from __future__ import annotations

import numpy as np

from osteo_ray.synthetic import chest, limbs, neck, pelvis
from osteo_ray.synthetic.anatomy import Anatomy
from osteo_ray.synthetic.contrast import Enhancement
from osteo_ray.synthetic.frame import Outline
from osteo_ray.synthetic.shapes import Ellipsoid, F, Grid, ellipsoid, paint, ramp, span
from osteo_ray.synthetic.tables import ORGANS, STOMACH

FAT_HU = -102.0
AIR_HU = -1000.0


def _shell(g: Grid, o: Outline, shrink_w: float = 0.0, shrink_d: float = 0.0) -> np.ndarray:
    """1 - (superellipse radius)^p scaled to about mm of distance near the edge, float32 [R, C]."""
    w, d = max(o.w - shrink_w, 8.0), max(o.d - shrink_d, 8.0)
    xs, ys = np.abs(g.x * F(1 / w)), np.abs((g.y - F(o.y)) * F(1 / d))
    p = F(2.3)
    r = xs**p + ys**p
    np.subtract(F(1), r, out=r)
    r *= F(0.5 * (w + d) / 2.3)
    return r


def _around(g: Grid, o: Outline, mm: float) -> tuple[slice, slice] | None:
    """Rows and columns outside of which `_shell` of an outline is below -mm."""
    w, d, m = max(o.w, 8.0), max(o.d, 8.0), 2 * mm
    return g.window(-w - m, w + m, o.y - d - m, o.y + d + m)


def torso(g: Grid, a: Anatomy, e: Enhancement, pose: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """(HU of everything but the spine, distance inside the skin in mm), float32 [R, C] each.

    `pose` says how the right and the left arm lie.
    """
    z, f = g.z_mid, a.frame
    img = np.full((g.y.shape[0], g.x.shape[1]), F(AIR_HU))
    limbs.paint_soft(img, g, f, pose)
    chest.paint_breasts(img, g, a.chest)
    o = f.outline(z)
    skin = _shell(g, o)
    if not (skin > -2 * g.edge).any():
        return img, skin
    thorax = f.t1 + 12 * f.scale > z
    _wall_and_cavity(img, g, a, e, skin)
    if thorax and z > f.dome - 75:
        chest.paint_nodules(img, g, a.chest)
        chest.paint_heart(img, g, a.chest, e)
    _behind(img, g, a, e)
    if z < f.sacrum_top + 40 * f.scale:
        pelvis.paint_soft(img, g, f, a.pelvis, a.muscle_hu, e, skin)
        pelvis.paint_bones(img, g, f, a.pelvis)
    if thorax and z > f.sacrum_top + 120:
        cage = f.cavity(z)
        near = _around(g, cage, chest.RIB_REACH + g.edge)
        if near is not None:
            part = g.sub(*near)
            chest.paint_ribs(img[near], part, f, a.chest, _shell(part, cage))
    neck.paint_neck(img, g, f, a.neck, a.muscle_hu, skin, e)
    chest.paint_girdle(img, g, f, a.chest, pose, skin)
    limbs.paint_bones(img, g, f, pose)
    _grain(img, g, a)
    return img, skin


def _wall_and_cavity(img: np.ndarray, g: Grid, a: Anatomy, e: Enhancement, skin: np.ndarray) -> None:
    """Skin, fat and muscle, and in them the abdomen's organs or the lungs."""
    z, f = g.z_mid, a.frame
    o = f.outline(z)
    body = _around(g, o, 2 * g.edge)
    if body is None:
        return
    img, g, skin = img[body], g.sub(*body), skin[body]
    paint(img, ramp(skin, g.edge), F(20))
    paint(img, ramp(skin - F(1.8), g.edge), F(FAT_HU))
    fat = f.fat_at(z)
    muscle = ramp(_shell(g, o, fat, 0.8 * fat), g.edge)
    paint(img, muscle, F(a.muscle_hu))
    shoulders, hips = z > f.t1 - 125 * f.scale, z < f.sacrum_top + 20
    if z >= f.t1 + 12 * f.scale:
        if shoulders:
            neck.paint_fat_planes(img, g, muscle, a.neck.fatty)
        return
    cage = f.cavity(z)
    hollow = _around(g, cage, g.edge)
    if hollow is None:
        if shoulders or hips:
            neck.paint_fat_planes(img, g, muscle, a.neck.fatty)
        return
    part, inner = img[hollow], g.sub(*hollow)
    cavity = _shell(inner, cage)
    inside = ramp(cavity, g.edge)
    if shoulders or hips:
        muscle[hollow] *= 1 - inside
        neck.paint_fat_planes(img, g, muscle, a.neck.fatty)
    paint(part, inside, F(8 if a.ascites and z < a.frame.dome else FAT_HU))
    shell = part.copy()
    _organs(part, inner, a, e)
    part -= shell  # organs end where the cavity does
    part *= inside
    part += shell
    if z > f.dome - 75:
        chest.paint_lungs(part, inner, f, a.chest, cavity)


def _grain(img: np.ndarray, g: Grid, a: Anatomy) -> None:
    """Unevenness of soft tissue."""
    solid = img > -300  # not in gas or lung
    rows, cols = span(solid.max(1)), span(solid.max(0))
    if rows is None or cols is None:
        return
    w = rows, cols
    part = g.sub(*w)
    grain = np.zeros((part.y.shape[0], part.x.shape[1]), F)
    wave = np.empty_like(grain)
    for kx, ky, kz, px, pyz, amp in a.grain:
        along = F(amp) * np.cos(F(ky) * part.y + F(kz) * part.z + F(pyz))
        grain += np.multiply(np.cos(F(kx) * part.x + F(px)), along, out=wave)
    grain *= solid[w]
    img[w] += grain


def _organs(img: np.ndarray, g: Grid, a: Anatomy, e: Enhancement) -> None:
    for b, reached in zip(a.bowel, a.oral, strict=True):
        ellipsoid(img, g, b)
        if reached and e.oral:
            ellipsoid(img, g, Ellipsoid(b.x, b.y + 2, b.z, b.rx - 3, b.ry - 3, b.rz - 2, b.hu + e.oral))
    for o, row in zip(a.organs, (*ORGANS, None), strict=True):
        add = e.organ * row.enhances if row else 0.0
        ellipsoid(img, g, Ellipsoid(o.x, o.y, o.z, o.rx, o.ry, o.rz, o.hu + add))
    for k in a.kidneys:
        ellipsoid(img, g, Ellipsoid(k.x, k.y, k.z, k.rx, k.ry, k.rz, k.hu + e.kidney))
        sinus = -40 + 0.5 * e.kidney + 0.6 * e.urine
        ellipsoid(img, g, Ellipsoid(k.x * 0.88, k.y, k.z, k.rx * 0.4, k.ry * 0.4, k.rz * 0.5, sinus))
    for c in a.cysts:
        ellipsoid(img, g, c)
    s = a.organs[STOMACH]
    if e.oral:
        ellipsoid(img, g, Ellipsoid(s.x, s.y + 0.15 * s.ry, s.z, 0.85 * s.rx, 0.7 * s.ry, 0.85 * s.rz, s.hu + e.oral))
    ellipsoid(img, g, Ellipsoid(s.x, s.y - 0.35 * s.ry, s.z + 0.1 * s.rz, 0.7 * s.rx, 0.35 * s.ry, 0.6 * s.rz, -900))
    for b in a.gas:
        ellipsoid(img, g, b)


def _behind(img: np.ndarray, g: Grid, a: Anatomy, e: Enhancement) -> None:
    """What follows the spine: psoas, erector spinae, aorta with its branches, vena cava."""
    z, f = g.z_mid, a.frame
    if z > f.t1 + 30 * f.scale or z < f.sacrum_top - 150:
        return
    y, mid = float(f.spine_y(z)), float(f.spine_x(z))
    lean = a.muscle_hu
    deep = f.sacrum_top - z
    shrink = float(np.clip(1 - deep / 110, 0.1, 1)) if deep > 0 else 1.0  # the back muscles end on the sacrum
    # The upper back is flatter: its muscles lie closer behind the spine.
    flat = float(np.interp(z - f.t1, [-110, 0], [0, 14]))
    for side in (-1, 1):
        ellipsoid(img, g, Ellipsoid(mid + side * 36, y + 52 - flat, z, 27 * shrink, 20 * shrink, 9, lean - 8))
        ellipsoid(img, g, Ellipsoid(mid + side * 15, y + 48 - flat, z, 11, 13 * shrink, 9, lean - 14))
        grow = np.clip((70 - z) / 90.0, 0, 1.15)
        spread = 0.42 * max(deep, 0.0)  # with the iliacus, toward the hip
        if grow > 0.05:
            r = a.psoas * (0.45 + 0.55 * grow) * (grow**0.3)
            ellipsoid(
                img,
                g,
                Ellipsoid(
                    mid + side * (27 + 0.65 * r + 6 * grow + spread),
                    y + 4 - 0.35 * spread - 14 * max(0.0, grow - 0.7),
                    z,
                    r,
                    1.15 * r,
                    9,
                    lean + 3,
                ),
            )
        if -70 < deep < 20:
            ellipsoid(img, g, Ellipsoid(side * 62, y + 45, z, 24, 16, 9, lean - 2))
    split = a.sacrum_top + 45  # about L4
    front = y - 18 - a.aorta - 3
    if z > split:
        x = mid + 9.0 + (8.0 * np.clip((z - 120) / 60, 0, 1))
        back = 12.0 * np.clip((z - 120) / 80, 0, 1)
        if z < f.arch + 4:
            grow = 1.0 + 0.2 * np.clip((z - 130) / 80, 0, 1)
            ellipsoid(img, g, Ellipsoid(x, front + back, z, grow * a.aorta, grow * a.aorta, 9, 42 + e.aorta))
        if z < f.dome + 30:
            ellipsoid(img, g, Ellipsoid(mid - 18, front + 2, z, 11, 9, 9, 40 + e.vein))
    else:
        spread = min((split - z) * 0.55, 62)
        front -= 0.28 * max(deep - 20, 0.0)  # toward the groin
        for side in (-1, 1):
            if e.urine:
                ellipsoid(img, g, Ellipsoid(side * (30 + 0.3 * spread), front + 14, z, 2.6, 2.6, 9, 30 + e.urine))
            ellipsoid(img, g, Ellipsoid(side * (7 + spread), front - 0.15 * spread, z, 5.5, 5.5, 9, 42 + e.aorta))
            ellipsoid(img, g, Ellipsoid(side * (9 + spread) - 5, front + 7, z, 6.5, 6, 9, 40 + e.vein))
    if z > split:
        for c in a.calcifications:
            if abs(z - c.z) < c.rz + 0.5 * g.thickness:
                share = min(1.0, 2 * c.rz / max(g.thickness, 0.5))
                ellipsoid(img, g, Ellipsoid(c.x, c.y, c.z, c.r, c.r, c.rz + 0.5 * g.thickness, c.hu * share))
