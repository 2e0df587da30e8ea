"""Pelvis and hips: sacrum, coccyx, iliac wings, hip joints and femurs, pelvic organs, gluteal muscles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.synthetic.contrast import Enhancement
from osteo_ray.synthetic.frame import Frame
from osteo_ray.synthetic.shapes import Ellipsoid, F, Grid, Rod, ellipsoid, paint, ramp, rod
from osteo_ray.synthetic.texture import sample

SACRUM_MM = 110.0  # from its upper end to the coccyx
COCCYX_MM = 34.0
# The iliac wing from its crest (0) to the roof of the hip joint (1): ends of its section at the back and at the front,
# x from the midline and y from the first sacral body's centre, half thickness.
WING = np.array([
    [0.00, 78, 10, 104, -22, 4.0],
    [0.25, 56, 34, 118, -52, 5.0],
    [0.55, 54, 38, 115, -60, 5.5],
    [0.80, 68, 16, 108, -48, 8.0],
    [1.00, 78, 4, 100, -38, 11.0],
])  # fmt: skip


@dataclass(frozen=True)
class Pelvis:
    """What is drawn once for a body."""

    hip_z: float
    hip_y: float
    hip_x: float
    bones: tuple[Rod, ...]
    heads: tuple[Rod, ...]
    implants: tuple[Rod, ...]  # hip prostheses
    bladder: Ellipsoid
    organs: tuple[Ellipsoid, ...]
    rectum_gas: float  # radius, mm
    marrow: float


def build(rng: np.random.Generator, f: Frame, male: bool, marrow: float, implants: tuple[bool, bool]) -> Pelvis:
    """Draw one pelvis; `marrow` is the HU of the sacrum's trabeculae."""
    s = f.scale
    z, y = f.sacrum_top - 118 * s, float(f.spine_y(f.sacrum_top)) - 26 * s
    x = (90 if male else 92) * s
    r = (24.0 if male else 21.5) * s
    bones: list[Rod] = []
    heads: list[Rod] = []
    metal: list[Rod] = []
    for side, implant in zip((-1, 1), implants, strict=True):

        def at(px: float, py: float, pz: float, side: int = side) -> tuple[float, float, float]:
            return (side * px * s, y + py * s, z + pz * s)

        heads.append(Rod((side * x, y, z), (side * x, y, z), r, 480.0, 1.4, marrow + 170))
        bones += [
            Rod((side * x, y, z), at(121, 6, -22), 15 * s, 650.0, 2.0, marrow + 10),
            Rod(at(128, 14, -12), at(133, 12, -30), 15 * s, 450.0, 1.4, marrow - 60),
            Rod(at(127, 8, -42), at(117, 0, -165), 14.5 * s, 1250.0, 5.5, -30.0),
            Rod(at(72, 30, -22), at(58, 38, -72), 14 * s, 520.0, 2.0, marrow + 20),
            Rod(at(66, -12, -16), at(15, -50, -38), 8 * s, 560.0, 1.8, marrow + 20),
            Rod(at(14, -50, -38), at(11, -44, -58), 9 * s, 520.0, 1.6, marrow + 20),
            Rod(at(14, -42, -60), at(52, 25, -80), 6 * s, 620.0, 2.0, marrow),
        ]
        if implant:
            metal += [
                Rod((side * x, y, z), (side * x, y, z), r + 2, 3071.0),
                Rod((side * x, y, z), at(124, 8, -30), 6.5, 3071.0),
                Rod(at(124, 8, -28), at(118, 1, -150), 7.0, 3071.0),
            ]
    fill = float(np.clip(rng.gamma(3.0, 0.3), 0.35, 2.0)) ** (1 / 3)
    bladder = Ellipsoid(0, y - 30 * s, z + 8 * s, 42 * fill, 32 * fill, 36 * fill, float(rng.normal(8, 4)))
    organs = (
        (Ellipsoid(0, y - 22 * s, z - 40 * s, 24, 19, 20, 45),)
        if male
        else (Ellipsoid(float(rng.normal(0, 12)), y + 8 * s, z + 24 * s, 28, 24, 32, 50),)
    )
    return Pelvis(
        z, y, x, tuple(bones), tuple(heads), tuple(metal), bladder, organs, float(max(0.0, rng.normal(8, 8))), marrow
    )


def sacrum_y(f: Frame, depth: float) -> float:
    """y of the sacrum's and coccyx's centre `depth` mm below its upper end: backward, then forward."""
    return float(f.spine_y(f.sacrum_top)) + 8 + 0.45 * min(max(depth, 0.0), 72) - 0.5 * max(depth - 84, 0.0)


def paint_soft(img: np.ndarray, g: Grid, f: Frame, p: Pelvis, muscle: float, e: Enhancement, skin: np.ndarray) -> None:
    """Gluteal and hip muscles' fat planes, bladder, uterus or prostate, rectum, natal cleft."""
    depth = f.sacrum_top - g.z_mid
    y0 = float(f.spine_y(f.sacrum_top))
    if -30 < depth < 230:
        k = float(np.clip((depth + 30) / 60, 0, 1))
        for side in (-1, 1):
            for px, py, rx, ry in ((88, 38, 52, 34), (128, -8, 30, 46), (104, -62, 26, 24)):
                x, y, m = side * px * f.scale, y0 + py, 2 * g.edge
                w = g.window(x - rx * k - m, x + rx * k + m, y - ry * k - m, y + ry * k + m)
                if w is None:
                    continue
                gx, gy = (g.x[:, w[1]] - F(x)) * F(1 / (rx * k)), (g.y[w[0]] - F(y)) * F(1 / (ry * k))
                cover = ramp((1 - gx * gx - gy * gy) * F(0.5 * min(rx, ry) * k), g.edge)
                paint(img[w], cover * ramp(skin[w] - F(3), g.edge), F(muscle))
    for o in p.organs:
        ellipsoid(img, g, Ellipsoid(o.x, o.y, o.z, o.rx, o.ry, o.rz, o.hu + e.organ))
    b = p.bladder
    ellipsoid(img, g, Ellipsoid(b.x, b.y, b.z, b.rx + 3, b.ry + 3, b.rz + 3, 35))
    ellipsoid(img, g, b)
    if e.urine:  # heavier than urine: it lies at the back
        ellipsoid(img, g, Ellipsoid(b.x, b.y + 0.3 * b.ry, b.z, 0.9 * b.rx, 0.65 * b.ry, 0.95 * b.rz, b.hu + e.urine))
    if 30 < depth < 165:
        y = sacrum_y(f, depth) - (26 if depth < 130 else 26 + 0.2 * (depth - 130))
        ellipsoid(img, g, Ellipsoid(0, y, g.z_mid, 19, 15, 1e6, 36))
        if p.rectum_gas > 3:
            r = p.rectum_gas * (0.6 + 0.4 * float(np.sin(0.05 * g.z_mid)))
            ellipsoid(img, g, Ellipsoid(0, y - 3, g.z_mid, 1.2 * r, r, 1e6, -900))
    if depth > 75:  # the cleft between the buttocks, and below it between the legs
        outline = f.outline(g.z_mid)
        deep = min(0.4 * (depth - 75), 48)
        ellipsoid(img, g, Ellipsoid(0, outline.y + outline.d + 2, g.z_mid, 2 + 0.12 * deep, deep, 1e6, -1000))


def paint_bones(img: np.ndarray, g: Grid, f: Frame, p: Pelvis) -> None:
    """Sacrum and coccyx, iliac wings, hips and femurs, prostheses."""
    z = g.z_mid
    depth = f.sacrum_top - z
    if -8 < depth < SACRUM_MM + COCCYX_MM:
        y = sacrum_y(f, depth)
        grow = float(np.clip((depth + 8) / 14, 0.3, 1))
        tail = float(np.clip((SACRUM_MM + COCCYX_MM - depth) / 60, 0.25, 1))
        wide = float(np.interp(depth, [-8, 10, 50, 80, SACRUM_MM, 144], [34, 56, 52, 34, 18, 8])) * f.scale
        deep = float(np.interp(depth, [0, 40, 80, 144], [22, 19, 13, 7])) * grow
        w = g.window(-wide - 4, wide + 4, y - deep - 4, y + deep + 4)
        if w is not None:
            x, dy = g.x[:, w[1]], g.y[w[0]] - F(y)
            curved = dy + (x * F(1 / max(wide, 1))) ** 2 * F(-9 * tail)  # the wings lean back
            d = (1 - (x * F(1 / wide)) ** 2 - (curved * F(1 / deep)) ** 2) * F(0.5 * deep)
            tissue = sample(x, g.y[w[0]], g.z[w[0]], 1.0, (7, 31, 5))
            # The wings' marrow is fatty: it loses most of its bone toward the sides.
            marrow = F(p.marrow) * (1 - F(0.75) * np.clip((np.abs(x) - F(18)) * F(1 / 22), 0, 1)) + F(30) * tissue
            paint(img[w], ramp(d, g.edge), F(430) + ramp(d - F(1.6), g.edge) * (marrow - F(430)))
        ellipsoid(img, g, Ellipsoid(0, y + 0.45 * deep, z, 10 * tail, 5 * tail, 1e6, 15))
    share = (f.sacrum_top + 35 * f.scale - z) / ((f.sacrum_top + 35 * f.scale) - (p.hip_z + 18 * f.scale))
    if 0 <= share <= 1:
        bx, by, fx, fy, half = (float(np.interp(share, WING[:, 0], WING[:, k])) * f.scale for k in range(1, 6))
        fade = float(np.clip(share / 0.08, 0.35, 1))
        y = float(f.spine_y(f.sacrum_top))
        for side in (-1, 1):
            wing = Rod((side * bx, y + by, z), (side * fx, y + fy * fade, z), half, 520.0, 1.9, p.marrow + 10)
            rod(img, g, wing)
    _cups(img, g, f, p)
    for b in p.bones:
        rod(img, g, b)
    for b in p.heads:
        rod(img, g, b)
    for b in p.implants:
        rod(img, g, b)


def _cups(img: np.ndarray, g: Grid, f: Frame, p: Pelvis) -> None:
    """The sockets: the inner, front and back parts of a spherical shell about each femoral head."""
    inner, outer = p.heads[0].r + 2.5, p.heads[0].r + 13 * f.scale
    if abs(g.z_mid - p.hip_z) > outer:
        return
    for side in (-1, 1):
        x = side * p.hip_x
        w = g.window(x - outer - 2, x + outer + 2, p.hip_y - outer - 2, p.hip_y + outer + 2)
        if w is None:
            continue
        dx, dy, dz = (g.x[:, w[1]] - F(x)) * F(side), g.y[w[0]] - F(p.hip_y), g.z[w[0]] - F(p.hip_z)
        r = np.sqrt(dx * dx + dy * dy + dz * dz)
        d = np.minimum(r - F(inner), F(outer) - r - F(4) * np.abs(dy) * F(1 / outer))
        d = np.minimum(d, F(4) - dx - F(0.4) * np.minimum(dz, 0))
        paint(img[w], ramp(d, g.edge), F(560) + ramp(d - F(2.0), g.edge) * F(p.marrow + 40 - 560))
