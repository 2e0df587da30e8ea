"""Step 2: anatomy. One person's body as shapes in patient coordinates; a pure function of the person.

z = 0 at the centre of L3, x = 0 at the midline, y = 0 at the torso's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.synthetic.config import CohortConfig, SpineConfig
from osteo_ray.synthetic.population import HU_PER_VBMD, Person
from osteo_ray.synthetic.shapes import Ellipsoid
from osteo_ray.synthetic.spine import _DENSITY, _SIZE, LEVELS, Vertebra


@dataclass(frozen=True)
class Calcification:
    """A patch on a vessel wall: centre (mm), half-sizes, HU."""

    x: float
    y: float
    z: float
    r: float
    rz: float
    hu: float


@dataclass(frozen=True)
class Anatomy:
    """A body. Lengths in mm."""

    vbmd: float  # L1 trabecular, mg/cm3
    half_width: float  # of the abdomen at L3
    half_depth: float
    fat: float  # subcutaneous, at the side
    wall: float  # muscle wall
    muscle_hu: float
    vertebrae: tuple[Vertebra, ...]
    sacrum_top: float
    spine_y: float
    lordosis: float
    organs: tuple[Ellipsoid, ...]
    bowel: tuple[Ellipsoid, ...]
    gas: tuple[Ellipsoid, ...]
    kidneys: tuple[Ellipsoid, ...]
    dome: float  # z of the diaphragm's top, mm
    aorta: float  # radius
    calcifications: tuple[Calcification, ...]
    rib_spacing: float
    rib_z: float
    psoas: float
    grain: tuple[tuple[float, ...], ...]  # unevenness of soft tissue: wave vector (1/mm), two phases, HU


def spine_y_at(z: np.ndarray | float, base: float, lordosis: float) -> np.ndarray | float:
    """Anterior-posterior centre of the bodies: lordosis deepest at L3/L4, kyphosis above."""
    return base - lordosis * np.exp(-(((z + 15) / 75.0) ** 2)) + 10.0 * np.clip((z - 100) / 120.0, 0, 1.5) ** 1.5


def _vertebra(
    rng: np.random.Generator,
    p: Person,
    level: str,
    z: float,
    y: float,
    x: float,
    slope: float,
    scale: float,
    s: SpineConfig,
) -> Vertebra:
    h, d, a, b = _SIZE[level]
    age = max(0.0, (p.age_y - 45) / 20)
    deg = p.degeneration
    weak = np.clip((125 - p.vbmd) / 40, 0, 2)
    lumbar = level in ("T12", "L1", "L2", "L3", "L4")
    wedge = 0.0
    if level in ("T8", "T11", "T12", "L1", "L2", "L4") and rng.random() < s.wedge_share * weak * 0.35:
        wedge = float(rng.uniform(0.18, 0.45))
    islands = []
    if rng.random() < s.sclerosis_share * min(deg, 2) * 0.45:
        for _ in range(int(rng.integers(1, 3))):
            side = rng.choice([-1, 1])
            islands.append(
                (
                    float(rng.uniform(-0.6, 0.6) * a),
                    float(rng.uniform(-0.7, 0.3) * b),
                    float(side * 0.5 * h * rng.uniform(0.72, 1)),
                    float(rng.uniform(2, 4.5)),
                    float(rng.uniform(120, 320)),
                )
            )
    # Texture grows coarser, and stronger against the mean, as density is lost.
    amp = 0.09 + 0.03 * np.clip((130 - p.vbmd) / 50, 0, 1.5)
    waves = tuple(
        (
            *(float(q) for q in rng.normal(0, 1, 3) * (0.55, 0.55, 0.25)),
            *(float(q) for q in rng.uniform(0, 6.28, 2)),
            float(amp),
        )
        for _ in range(4)
    )
    size = scale * (1.06 if p.male else 1.0)
    return Vertebra(
        level=level,
        x=x,
        y=y,
        z=z,
        tilt=float(np.arctan(slope)),
        height=h * scale,
        width=a * size * float(rng.normal(1, 0.02)),
        depth=b * size * float(rng.normal(1, 0.02)),
        hu=p.vbmd * HU_PER_VBMD * _DENSITY[level] * float(rng.normal(1, 0.035)),
        shell=float(np.clip(0.55 + 0.3 * (p.vbmd - 80) / 60 + rng.normal(0, 0.08), 0.35, 1.1)),
        gradient=float(rng.uniform(0.15, 0.25)),
        osteophyte=float(max(0.0, deg * rng.uniform(0.5, 3.0) - 1.0)) if deg > 0.3 else 0.0,
        subchondral=float(deg * rng.uniform(0, 90)),
        wedge=wedge,
        biconcave=float(np.clip(0.8 + 0.8 * weak * rng.random(), 0, 3)),
        cement=float(rng.uniform(7, 11)) if wedge and rng.random() < s.cement_share else 0.0,
        screws=False,
        sclerosis=tuple(islands),
        waves=waves,
        disc=d * scale * float(np.clip(1.08 - 0.10 * age * rng.random() - 0.08 * deg, 0.5, 1.1)),
        disc_hu=float(rng.normal(82, 8)),
        vacuum=bool(lumbar and rng.random() < 0.08 * deg),
    )


def _grain(seed: int) -> tuple[tuple[float, ...], ...]:
    """Waves of 9-45 mm that make soft tissue uneven by about 6 HU (SD)."""
    rng = np.random.default_rng([seed, 11])
    out = []
    for length in (9.0, 14.0, 21.0, 30.0, 45.0):
        k = rng.standard_normal(3)
        k *= 2 * np.pi / (length * np.linalg.norm(k))
        out.append((*(float(v) for v in k), *(float(v) for v in rng.uniform(0, 2 * np.pi, 2)), 5.5))
    return tuple(out)


def build(p: Person, cfg: CohortConfig) -> Anatomy:
    """The body of a person; the same person gives the same body."""
    from dataclasses import replace

    rng = np.random.default_rng([p.seed, 10])
    s = cfg.spine
    scale = p.height_cm / 160.0
    bmi = p.bmi
    half_w = max(125.0, (150 + 4.2 * (bmi - 22)) * (p.height_cm / 164) ** 0.7 + rng.normal(0, 5))
    half_d = max(86.0, (100 + 4.4 * (bmi - 22)) * (p.height_cm / 164) ** 0.7 + rng.normal(0, 5))
    fat = float(np.clip((9 if p.male else 14) + (1.3 if p.male else 1.9) * (bmi - 21) + rng.normal(0, 3), 4, 70))
    wall = float(np.clip((13 if p.male else 10.5) - 0.06 * (p.age_y - 55), 7, 16))
    back = min(fat, 35) * 0.8 + 3
    spine_y = half_d - back - 25 - 47 * scale
    lordosis = float(np.clip(rng.normal(16, 5), 5, 30))
    scoliosis = float(rng.normal(0, 2.5))
    # Heights run up and down from L3 at z = 0.
    drop = rng.random() < s.transitional_share
    levels = [lv for lv in LEVELS if not (drop and lv == "L5")]  # sacralised L5: four free lumbar vertebrae
    above = levels[: levels.index("L3")]
    below = levels[levels.index("L3") + 1 :]

    def make(level: str, z: float) -> Vertebra:
        y = float(spine_y_at(z, spine_y, lordosis))
        slope = float((spine_y_at(z + 5, spine_y, lordosis) - spine_y_at(z - 5, spine_y, lordosis)) / 10)
        return _vertebra(rng, p, level, z, y, scoliosis * np.sin(z / 60.0), slope, scale, s)

    made = [make("L3", 0.0)]
    z = 0.0
    for level in reversed(above):
        gap = _SIZE[level][1] * scale
        z += 0.5 * made[-1].height + gap + 0.5 * _SIZE[level][0] * scale
        v = make(level, z)
        made.append(replace(v, disc=gap))
    column = list(reversed(made))
    z = 0.0
    for level in below:
        up = column[-1]
        z -= 0.5 * up.height + up.disc + 0.5 * _SIZE[level][0] * scale
        column.append(make(level, z))
    if rng.random() < s.screws_share * (1 + p.degeneration):
        at = rng.integers(len(column) - 3, len(column) - 1)
        column[at] = replace(column[at], screws=True)
        column[at + 1] = replace(column[at + 1], screws=True)
    last = column[-1]
    sacrum_top = last.z - 0.5 * last.height - last.disc
    wi, di = half_w - fat - wall, half_d - 0.8 * fat - wall
    front = -di
    sc = scale
    dome = column[[v.level for v in column].index("T11")].z + rng.normal(5, 10)
    organs = (
        Ellipsoid(-0.45 * wi, 0.05 * di, dome - 72 * sc, 0.52 * wi, 0.80 * di, 78 * sc, rng.normal(56, 7)),  # liver
        Ellipsoid(
            -0.02 * wi, -0.45 * di, dome - 55 * sc, 0.45 * wi, 0.42 * di, 45 * sc, rng.normal(56, 4)
        ),  # its left lobe
        Ellipsoid(0.68 * wi, 0.42 * di, dome - 60 * sc, 0.24 * wi, 0.34 * di, 48 * sc, rng.normal(48, 4)),  # spleen
        Ellipsoid(0.42 * wi, -0.25 * di, dome - 75 * sc, 0.30 * wi, 0.40 * di, 45 * sc, rng.normal(32, 6)),  # stomach
        Ellipsoid(0.12 * wi, -0.15 * di, dome - 115 * sc, 0.42 * wi, 0.16 * di, 18 * sc, rng.normal(40, 5)),  # pancreas
        Ellipsoid(-0.30 * wi, -0.55 * di, dome - 110 * sc, 20, 18, 30, rng.normal(10, 4)),  # gallbladder
    )
    l1 = next(v for v in column if v.level == "L1").z
    kidneys = tuple(
        Ellipsoid(
            side * (66 * sc + rng.normal(0, 4)),
            spine_y + 10,
            l1 - (18 if side < 0 else 6) + rng.normal(0, 6),
            27 * sc,
            25 * sc,
            56 * sc,
            33,
        )
        for side in (-1, 1)
    )
    bowel, gas = [], []
    for _ in range(46):
        bx, by = rng.uniform(-0.85, 0.85) * wi, rng.uniform(front * 0.85, max(min(spine_y - 45, 0.2 * di), 0.6 * front))
        bz = rng.uniform(sacrum_top - 120, dome - 95)
        r = rng.uniform(11, 21)
        bowel.append(Ellipsoid(bx, by, bz, r * rng.uniform(0.9, 1.6), r, r * rng.uniform(1, 2.5), rng.normal(30, 12)))
        if rng.random() < 0.35:
            gas.append(Ellipsoid(bx, by - 0.25 * r, bz, 0.75 * r, 0.55 * r, r, -850))
    for side in (-1, 1):  # ascending and descending colon
        for _ in range(5):
            cz = rng.uniform(sacrum_top - 60, l1 + 10)
            bowel.append(Ellipsoid(side * 0.78 * wi, 0.25 * di, cz, 20, 20, 34, rng.normal(20, 20)))
            if rng.random() < 0.5:
                gas.append(Ellipsoid(side * 0.78 * wi, 0.18 * di, cz, 13, 11, 25, -900))
    radius = float(np.clip((10.2 if p.male else 8.8) + 0.05 * (p.age_y - 60) + rng.normal(0, 0.9), 6.5, 18))
    patches = []
    for _ in range(rng.poisson(max(0.0, (p.age_y - 48) * 0.28) * (1.4 if p.smoker else 1.0))):
        z = rng.uniform(sacrum_top, dome)
        ang = rng.uniform(0, 2 * np.pi)
        y0 = spine_y_at(z, spine_y, lordosis) - 17 * sc - radius - 3
        patches.append(
            Calcification(
                9 + (radius - 0.5) * np.cos(ang),
                float(y0 + (radius - 0.5) * np.sin(ang)),
                z,
                float(rng.uniform(1.0, 2.6)),
                float(rng.uniform(2, 8)),
                float(rng.uniform(350, 950)),
            )
        )
    return Anatomy(
        vbmd=p.vbmd,
        half_width=float(half_w),
        half_depth=float(half_d),
        fat=fat,
        wall=wall,
        muscle_hu=float(np.clip(rng.normal(55, 5) - 0.35 * (p.age_y - 55) - 0.6 * (bmi - 24), 15, 65)),
        vertebrae=tuple(column),
        sacrum_top=float(sacrum_top),
        spine_y=float(spine_y),
        lordosis=lordosis,
        organs=organs,
        bowel=tuple(bowel),
        gas=tuple(gas),
        kidneys=kidneys,
        dome=float(dome),
        aorta=radius,
        calcifications=tuple(patches),
        rib_spacing=24.0 * sc,
        rib_z=float(rng.uniform(0, 24)),
        grain=_grain(p.seed),
        psoas=float(np.clip((19 if p.male else 15) - 0.08 * (p.age_y - 55) + rng.normal(0, 1.5), 9, 26)),
    )
