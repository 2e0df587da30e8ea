"""The chest: lungs and their diseases, heart and great vessels, airways, ribs, sternum, shoulder girdle, breasts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.synthetic.contrast import Enhancement
from osteo_ray.synthetic.frame import RAISED, Frame
from osteo_ray.synthetic.shapes import Ellipsoid, F, Grid, Plate, Rod, ellipsoid, paint, plate, ramp, rod, smooth
from osteo_ray.synthetic.tables import AIRWAYS, CHAMBERS, CHEST_TUBES
from osteo_ray.synthetic.texture import SMOOTH, sample

RIB_REACH = 5.2
"""Farthest that a rib lies from the surface of the cage, mm."""


@dataclass(frozen=True)
class Lungs:
    """State of the lungs; 0 is healthy."""

    emphysema: float  # share of destroyed lung, HU below -950
    fibrosis: float  # 0..1, reticulation and ground glass at the bases and the back
    effusion: tuple[float, float]  # right, left: share of the cavity's depth
    consolidation: tuple[float, float, float] | None  # z of its middle, half height, side
    nodules: tuple[Ellipsoid, ...]


@dataclass(frozen=True)
class Chest:
    """What is drawn once for a body; z in mm, tubes with the blood that fills them."""

    heart: Ellipsoid
    chambers: tuple[tuple[Ellipsoid, str], ...]
    tubes: tuple[tuple[Rod, str], ...]
    airways: tuple[Rod, ...]
    sternum: tuple[float, float, float]  # top, bottom, half width
    breasts: tuple[Ellipsoid, ...]
    gland: float  # HU of the breasts' gland over their fat
    lungs: Lungs
    coronaries: tuple[Ellipsoid, ...]  # calcified
    rib_spacing: float
    rib_z: float
    marrow: float  # HU of the ribs' marrow


def build(rng: np.random.Generator, f: Frame, age: float, male: bool, smoker: bool, marrow: float) -> Chest:
    """Draw one chest."""
    sc = f.scale
    middle = f.cavity(f.dome + 45)
    hx, hy, hz = 0.40 * middle.w, 0.48 * middle.d, float(rng.uniform(54, 66)) * sc
    grow = float(np.clip(rng.normal(1, 0.08), 0.85, 1.25))
    heart = Ellipsoid(0.14 * middle.w, middle.y - 0.32 * middle.d, f.dome + 45 * sc, hx * grow, hy * grow, hz, 45)
    chambers = tuple(
        (
            Ellipsoid(
                heart.x + x * heart.rx, heart.y + y * heart.ry, heart.z + z * heart.rz,
                rx * heart.rx, ry * heart.ry, rz * heart.rz, 42,
            ),
            blood,
        )
        for _, (x, y, z), (rx, ry, rz), blood in CHAMBERS
    )  # fmt: skip
    base = float(f.spine_y(f.arch))
    widen = 1 + 0.006 * (age - 60) + float(rng.normal(0, 0.06))

    def place(p: tuple[float, float, float]) -> tuple[float, float, float]:
        # Above the arch what is "in front of the spine" follows the neck's forward lean.
        z = f.arch + p[2] * sc
        y = float(f.spine_y(z)) if p[2] > 0 else base
        return (p[0] * sc, y + p[1] * sc, z)

    tubes = tuple(
        (Rod(place(p), place(q), r * sc * (widen if blood == "aorta" else 1), 42.0), blood)
        for _, p, q, r, blood in CHEST_TUBES
    )
    airways = tuple(Rod(place(p), place(q), r * sc, -985.0) for p, q, r in AIRWAYS)
    breasts: tuple[Ellipsoid, ...] = ()
    if not male:
        size = float(np.clip(20 + 0.45 * f.fat + rng.normal(0, 6), 10, 60))
        front = f.outline(f.dome + 70)
        breasts = tuple(
            Ellipsoid(
                side * 0.52 * front.w, front.y - 0.86 * front.d, f.dome + 55 * sc, 0.36 * front.w, size, 62 * sc, -98
            )
            for side in (-1, 1)
        )
    heavy = rng.random() < (0.22 if smoker else 0.05)
    sick = rng.random(4)
    effusion = tuple(float(rng.uniform(0.15, 0.75)) if sick[0] < 0.08 and rng.random() < 0.7 else 0.0 for _ in (0, 1))
    nodules = tuple(
        Ellipsoid(
            float(rng.choice([-1, 1]) * rng.uniform(0.4, 0.8) * middle.w), float(rng.uniform(-0.5, 0.6) * middle.d),
            f.dome + float(rng.uniform(20, 170)), r, r, r, float(rng.uniform(-50, 120)),
        )
        for r in rng.uniform(2.5, 14, int(rng.integers(1, 5)) if sick[1] < 0.2 else 0)
    )  # fmt: skip
    lungs = Lungs(
        emphysema=float(rng.uniform(0.1, 0.6)) if heavy else 0.0,
        fibrosis=float(rng.uniform(0.3, 1.0)) if sick[2] < 0.06 else 0.0,
        effusion=(effusion[0], effusion[1]),
        consolidation=(
            (f.dome + float(rng.uniform(0, 130)), float(rng.uniform(15, 45)), float(rng.choice([-1, 1])))
            if sick[3] < 0.08
            else None
        ),
        nodules=nodules,
    )
    coronaries = tuple(
        Ellipsoid(
            heart.x + 0.8 * heart.rx * np.cos(t), heart.y + 0.8 * heart.ry * np.sin(t), heart.z + heart.rz * u,
            2.0, 2.0, 5.0, float(rng.uniform(300, 800)),
        )
        for t, u in rng.uniform((0, -0.3), (2 * np.pi, 0.5), (int(rng.poisson(max(0.0, (age - 50) * 0.08))), 2))
    )  # fmt: skip
    return Chest(
        heart, chambers, tubes, airways, (f.arch + 25 * sc, f.dome + 10, 17 * sc), breasts,
        float(rng.uniform(20, 110)), lungs, coronaries, 24.0 * sc, float(rng.uniform(0, 24)), marrow,
    )  # fmt: skip


def paint_breasts(img: np.ndarray, g: Grid, c: Chest) -> None:
    """Under everything else: the chest wall covers their base."""
    for b in c.breasts:
        ellipsoid(img, g, b)
        ellipsoid(img, g, Ellipsoid(b.x, b.y - 0.2 * b.ry, b.z, 0.6 * b.rx, 0.5 * b.ry, 0.6 * b.rz, b.hu + c.gland))


def paint_lungs(img: np.ndarray, g: Grid, f: Frame, c: Chest, cavity: np.ndarray) -> None:
    """Lungs above a two-domed diaphragm, their vessels and diseases, and the mediastinal fat between them.

    `cavity` is the distance inside the cage's wall, mm [R, C].
    """
    cage = f.cavity(g.z_mid)
    gx, gy = (g.x - F(0.5 * float(f.spine_x(g.z_mid)))) * F(1 / cage.w), (g.y - F(cage.y)) * F(1 / cage.d)
    floor = F(f.dome) - F(80) * (np.clip(np.abs(gx) - F(0.45), -0.45, 1) ** 2 * F(2.2) + (gy + F(0.1)) ** 2)
    wide = max(cage.w, 90.0)  # the mediastinum does not narrow with the apex
    sides = ramp(np.abs(gx) * F(cage.w) - F(wide) * (F(0.17) + F(0.15) * smooth(gy + F(0.35), 0.3)), g.edge)
    inside = ramp(cavity - F(3), g.edge)
    lung = ramp(g.z - floor, 2.0 + g.thickness) * inside * sides
    rough = sample(g.x, g.y, g.z, 1.25)
    coarse = sample(g.x, g.y, g.z, 1.4, (40, 9, 70), SMOOTH)
    # Parenchyma, heavier at the back where it lies; the field's crests are vessels.
    hu = F(-862) + F(55) * gy + F(22) * rough
    hu += np.clip((rough - F(1.5)) * F(1.6), 0, 1) * F(840)
    s = c.lungs
    if s.emphysema:
        hu -= np.clip((coarse + F(2.2 * s.emphysema - 0.6)) * 2, 0, 1) * F(90)
    if s.fibrosis:
        where = np.clip((gx * gx + gy * gy) * F(1.2) - F(0.35) + F((f.dome + 40 - g.z_mid) / 120), 0, 1)
        hu += where * F(s.fibrosis) * (F(330) + F(140) * rough)
    if s.consolidation and abs(g.z_mid - s.consolidation[0]) < s.consolidation[1]:
        filled = np.clip((coarse + gy * F(1.5) + F(0.2)) * 3, 0, 1) * (gx * F(s.consolidation[2]) > 0)
        hu += filled * (F(35) - hu) * np.where(rough > 1.9, F(0.2), F(1))
    for side, depth in zip((-1, 1), s.effusion, strict=True):
        if depth:
            level = F(1 - 2 * depth * np.clip((f.arch - g.z_mid) / (f.arch - f.dome + 60), 0, 1))
            water = ramp((gy - level) * F(cage.d), 3.0) * (gx * side > 0)
            hu += water * (F(9) - hu)
    paint(img, lung, hu)
    middle = ramp(g.z - F(f.dome - 20), 20.0) * inside * (1 - sides)
    paint(img, middle, F(-75) + F(25) * coarse)


def paint_nodules(img: np.ndarray, g: Grid, c: Chest) -> None:
    """The lungs' nodules; one at their edge reaches into the wall."""
    for n in c.lungs.nodules:
        ellipsoid(img, g, n)


def paint_heart(img: np.ndarray, g: Grid, c: Chest, e: Enhancement) -> None:
    """Heart in its fat, chambers with their blood, great vessels, airways."""
    h = c.heart
    blood = {"aorta": e.aorta, "right": e.right, "cava": e.cava}
    ellipsoid(img, g, Ellipsoid(h.x, h.y, h.z, h.rx + 7, h.ry + 6, h.rz + 6, -90))
    ellipsoid(img, g, Ellipsoid(h.x, h.y, h.z, h.rx, h.ry, h.rz, h.hu + 0.35 * e.aorta))
    for part, kind in c.chambers:
        ellipsoid(img, g, Ellipsoid(part.x, part.y, part.z, part.rx, part.ry, part.rz, part.hu + blood[kind]))
    for t, kind in c.tubes:
        rod(img, g, t, t.hu + blood[kind])
    for t in c.airways:
        rod(img, g, Rod(t.p, t.q, t.r + 2.2, 30.0))
        rod(img, g, t)
    for k in c.coronaries:
        ellipsoid(img, g, k)


def paint_ribs(img: np.ndarray, g: Grid, f: Frame, c: Chest, cavity: np.ndarray) -> None:
    """Ribs slant down from the back to the front on the cage's surface; cartilage in front, the breastbone between."""
    cage = f.cavity(g.z_mid)
    gy = (g.y - F(cage.y)) * F(1 / cage.d)
    fall = F(70) * (F(0.5) - F(0.5) * np.clip(gy, -1, 1))
    phase = (g.z + fall - F(c.rib_z)) % F(c.rib_spacing) - F(0.5 * c.rib_spacing)
    dz = F(5.5 + 0.25 * g.thickness) - np.abs(phase)
    start = F(f.sacrum_top + 150) - g.z  # no ribs below the last one's tip
    ring = F(4.2) - np.abs(cavity + F(1))
    cover = ramp(np.minimum(ring, np.minimum(dz, -start)), g.edge)
    cover *= np.abs(g.x - F(float(f.spine_x(g.z_mid)))) > 24
    bone = ramp(gy * F(cage.d) + F(0.45 * cage.d), 12.0)
    shell = ramp(F(1.5) - np.abs(np.abs(cavity + F(1)) - F(3.2)), g.edge)
    paint(img, cover, bone * (F(c.marrow + 60) + 420 * shell) + (1 - bone) * F(110))
    top, bottom, half = c.sternum
    if bottom < g.z_mid < top:
        wide = half * (1.6 if g.z_mid > top - 45 * f.scale else 1.0)
        y = cage.y - cage.d - 3
        w = g.window(-wide - 3, wide + 3, y - 9, y + 9)
        if w is not None:
            d = np.minimum(F(wide) - np.abs(g.x[:, w[1]]), F(5.8) - np.abs(g.y[w[0]] - F(y)))
            paint(img[w], ramp(d, g.edge), F(380) + ramp(d - F(1.2), g.edge) * F(0.8 * c.marrow - 380))


def paint_girdle(img: np.ndarray, g: Grid, f: Frame, c: Chest, pose: tuple[str, str], skin: np.ndarray) -> None:
    """Scapulae under their muscles, acromia and clavicles; raised arms turn the scapulae outward."""
    sc = f.scale
    t2 = f.t1 - 18 * sc
    low = f.t1 - 92 * sc
    if g.z_mid < low - 95 * sc or g.z_mid > f.t1 + 40 * sc:
        return

    def within(w: tuple[slice, slice]) -> np.ndarray:
        return ramp(skin[w] - F(3), g.edge)

    for side, how in zip((-1, 1), pose, strict=True):
        out = 0.16 * f.half_width if how == RAISED else 0.0
        cage = f.cavity(low)
        x, y = side * (0.80 * cage.w + out), cage.y + 0.72 * cage.d + (0 if how == RAISED else 6)
        turn = -side * (0.9 if how == RAISED else 0.62)
        plate(img, g, Plate(x, y, low, 62 * sc, 24 * sc, 92 * sc, turn, 50.0), within)
        plate(img, g, Plate(x, y - 2, low, 46 * sc, 4.2, 74 * sc, turn, 520.0, 1.2, c.marrow + 80), within)
        y1 = float(f.spine_y(f.t1))
        joint = (side * (f.shoulder - 36), y1 + 4, f.t1 - (20 if how != RAISED else -6) * sc)
        rod(img, g, Rod((side * (0.6 * cage.w), y1 + 42, t2), joint, 7.0 * sc, 560.0, 1.8, c.marrow + 60))
        front = f.cavity(t2)
        rod(img, g, Rod((side * 20 * sc, front.y - front.d - 2, t2 - 4), (joint[0], joint[1] - 6, joint[2] + 14 * sc),
                        6.4 * sc, 700.0, 2.0, c.marrow + 60))  # fmt: skip
