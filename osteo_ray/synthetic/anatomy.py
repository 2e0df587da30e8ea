"""Step 2: anatomy. One person's body as shapes in patient coordinates; a pure function of the person.

z = 0 at the centre of L3, x = 0 at the midline, y = 0 at the torso's centre. Tables of sizes: `tables.py`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from osteo_ray.model.tissue_scale import HU_PER_VBMD
from osteo_ray.synthetic import chest, neck, pelvis
from osteo_ray.synthetic.config import CohortConfig, SpineConfig
from osteo_ray.synthetic.frame import Frame
from osteo_ray.synthetic.metal import Metal
from osteo_ray.synthetic.population import Person
from osteo_ray.synthetic.shapes import Ellipsoid
from osteo_ray.synthetic.spine import Vertebra
from osteo_ray.synthetic.tables import LEVELS, ORGANS, VERTEBRAE


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
    frame: Frame
    muscle_hu: float
    vertebrae: tuple[Vertebra, ...]  # from the head down
    organs: tuple[Ellipsoid, ...]
    bowel: tuple[Ellipsoid, ...]
    oral: tuple[bool, ...]  # which loops oral contrast has reached
    gas: tuple[Ellipsoid, ...]
    kidneys: tuple[Ellipsoid, ...]
    cysts: tuple[Ellipsoid, ...]  # in the kidneys
    ascites: bool
    aorta: float  # radius
    calcifications: tuple[Calcification, ...]
    psoas: float
    grain: tuple[tuple[float, ...], ...]  # unevenness of soft tissue: wave vector (1/mm), two phases, HU
    chest: chest.Chest
    neck: neck.Neck
    pelvis: pelvis.Pelvis
    metal: tuple[Metal, ...]

    @property
    def half_width(self) -> float:
        return self.frame.half_width

    @property
    def half_depth(self) -> float:
        return self.frame.half_depth

    @property
    def sacrum_top(self) -> float:
        return self.frame.sacrum_top


def _vertebra(rng: np.random.Generator, p: Person, level: str, z: float, f: Frame, s: SpineConfig) -> Vertebra:
    row = VERTEBRAE[level]
    age = max(0.0, (p.age_y - 45) / 20)
    deg = p.degeneration
    weak = np.clip((125 - p.vbmd) / 40, 0, 2)
    lumbar = level in ("T12", "L1", "L2", "L3", "L4")
    wedge = 0.0
    if level in ("T8", "T11", "T12", "L1", "L2", "L4") and rng.random() < s.wedge_share * weak * 0.35:
        wedge = float(rng.uniform(0.18, 0.45))
    a, b, h = row.half_width, row.half_depth, row.height
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
    spot = None
    if rng.random() < s.haemangioma_share * (0.5 + 0.5 * age):
        r = float(rng.uniform(4.5, 0.62 * b))
        spot = (float(rng.uniform(-0.5, 0.5) * a), float(rng.uniform(-0.4, 0.4) * b), float(rng.normal(1, 3)), r)
    size = f.scale * (1.06 if p.male else 1.0)
    slope = float((f.spine_y(z + 5) - f.spine_y(z - 5)) / 10)
    aside = float((f.spine_x(z + 5) - f.spine_x(z - 5)) / 10)
    curved = abs(f.curve) > 5
    hu = p.vbmd * HU_PER_VBMD * row.density * float(rng.normal(1, 0.025))
    return Vertebra(
        level=level,
        x=float(f.spine_x(z)),
        y=float(f.spine_y(z)),
        z=z,
        tilt=float(np.arctan(slope)),
        roll=float(np.arctan(aside)) if curved else 0.0,
        # Bodies turn toward the convexity, most at its apex.
        turn=float(np.clip(0.016 * f.spine_x(z), -0.35, 0.35)) if curved else 0.0,
        height=h * f.scale,
        width=a * size * float(rng.normal(1, 0.02)),
        depth=b * size * float(rng.normal(1, 0.02)),
        hu=hu,
        shell=float(np.clip(0.55 + 0.3 * (p.vbmd - 80) / 60 + rng.normal(0, 0.08), 0.35, 1.1)),
        gradient=float(rng.uniform(0.15, 0.25)),
        osteophyte=float(max(0.0, deg * rng.uniform(0.5, 3.0) - 1.0)) if deg > 0.3 else 0.0,
        subchondral=float(deg * rng.uniform(0, 90)),
        wedge=wedge,
        biconcave=float(np.clip(0.8 + 0.8 * weak * rng.random(), 0, 3)),
        cement=float(rng.uniform(7, 11)) if wedge and rng.random() < s.cement_share else 0.0,
        screws=False,
        sclerosis=tuple(islands),
        # Stronger against the mean as density is lost: what remains is coarser.
        texture=float((28 + 0.17 * hu) * np.clip(rng.normal(1, 0.25), 0.5, 1.9)),
        grain=tuple(int(v) for v in rng.integers(0, 128, 3)),  # type: ignore[arg-type]
        haemangioma=spot,
        disc=row.disc * f.scale,
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


def _levels(rng: np.random.Generator, s: SpineConfig) -> list[str]:
    """Names of the free vertebrae: five lumbar ones, four (sacralised L5) or six (lumbarised S1, called L6)."""
    kind = rng.random()
    if kind < s.sacralised_share:
        return [lv for lv in LEVELS if lv not in ("L5", "L6")]
    return list(LEVELS) if kind > 1 - s.lumbarised_share else [lv for lv in LEVELS if lv != "L6"]


def _gaps(p: Person, levels: list[str], s: SpineConfig) -> tuple[dict[str, float], str | None]:
    """Height of the disc below each body, and the level whose disc is bridged by bone (congenital block, interbody
    fusion, ankylosis), if any."""
    rng = np.random.default_rng([p.seed, 12])
    age = max(0.0, (p.age_y - 45) / 20)
    worn = np.clip(1.08 - 0.10 * age * rng.random(len(levels)) - 0.08 * p.degeneration, 0.5, 1.1)
    gap = {lv: p.height_cm / 160.0 * VERTEBRAE[lv].disc * float(k) for lv, k in zip(levels, worn, strict=True)}
    fused = None
    if rng.random() < s.fused_share:
        fused = levels[int(rng.integers(3, len(levels) - 1))]
        gap[fused] *= 0.4
    return gap, fused


def _heights(levels: list[str], scale: float, gap: dict[str, float]) -> dict[str, float]:
    """z of each body's centre, L3 at 0."""
    at = {"L3": 0.0}
    i3 = levels.index("L3")

    def step(up: str, down: str) -> float:
        return 0.5 * scale * (VERTEBRAE[up].height + VERTEBRAE[down].height) + gap[up]

    for up, down in reversed(list(itertools.pairwise(levels[: i3 + 1]))):
        at[up] = at[down] + step(up, down)
    for up, down in itertools.pairwise(levels[i3:]):
        at[down] = at[up] - step(up, down)
    return at


def _frame(rng: np.random.Generator, p: Person, s: SpineConfig, at: dict[str, float], end: float) -> Frame:
    scale = p.height_cm / 160.0
    bmi = p.bmi
    half_w = max(118.0, (150 + 4.2 * (bmi - 22)) * (p.height_cm / 164) ** 0.7 + rng.normal(0, 5))
    half_d = max(80.0, (100 + 4.4 * (bmi - 22)) * (p.height_cm / 164) ** 0.7 + rng.normal(0, 5))
    fat = float(np.clip((9 if p.male else 14) + (1.3 if p.male else 1.9) * (bmi - 21) + rng.normal(0, 3), 3, 70))
    wall = float(np.clip((13 if p.male else 10.5) - 0.06 * (p.age_y - 55), 7, 16))
    back = min(fat, 35) * 0.8 + 3
    bent = rng.random() < s.scoliosis_share
    return Frame(
        scale=scale,
        half_width=float(half_w),
        half_depth=float(half_d),
        fat=fat,
        wall=wall,
        spine_base=float(half_d - back - 25 - 47 * scale),
        lordosis=float(np.clip(rng.normal(16, 5), 5, 30)),
        curve=float(rng.choice([-1, 1]) * min(6 + rng.exponential(4), 24)) if bent else float(rng.normal(0, 2.5)),
        curve_z=float(rng.uniform(-60, 60)) if bent else 0.0,
        shoulder=float((205 if p.male else 184) * scale + 0.4 * fat + rng.normal(0, 6)),
        neck=float((60 if p.male else 53) * scale**0.5 + 0.7 * (bmi - 23)),
        t1=at["T1"],
        arch=at["T4"],
        dome=at["T11"] + float(rng.normal(5, 10)),
        sacrum_top=end,
    )


def _column(p: Person, f: Frame, s: SpineConfig, at: dict[str, float], levels: list[str]) -> tuple[Vertebra, ...]:
    gap, fused = _gaps(p, levels, s)
    column = []
    for level in levels:
        v = _vertebra(np.random.default_rng([p.seed, 13, LEVELS.index(level)]), p, level, at[level], f, s)
        v = replace(v, disc=gap[level])
        if level == fused:
            v = replace(v, disc_hu=1.15 * v.hu + 40, vacuum=False)
        column.append(v)
    rng = np.random.default_rng([p.seed, 18])
    if rng.random() < s.screws_share * (1 + p.degeneration):
        i = int(rng.integers(len(column) - 3, len(column) - 1))
        column[i], column[i + 1] = replace(column[i], screws=True), replace(column[i + 1], screws=True)
    return tuple(column)


def _organs(rng: np.random.Generator, f: Frame, w: float, d: float) -> tuple[Ellipsoid, ...]:
    steatosis = max(0.0, float(rng.gamma(1.0, 7.0)) - 5) if f.fat > 20 else 0.0
    out = []
    for o in ORGANS:
        hu = float(rng.normal(o.hu, o.sd)) - (steatosis if "liver" in o.name else 0.0)
        sc = f.scale
        out.append(Ellipsoid(o.x * w, o.y * d, f.dome - o.z * sc, o.rx * w, o.ry * d, o.rz * sc, hu))
    out.append(Ellipsoid(-0.30 * w, -0.55 * d, f.dome - 110 * f.scale, 20, 18, 30, rng.normal(10, 4)))  # gallbladder
    return tuple(out)


def _bowel(
    rng: np.random.Generator, f: Frame, w: float, d: float, l1: float
) -> tuple[list[Ellipsoid], list[Ellipsoid], list[bool]]:
    """(loops, gas in them, which ones oral contrast reaches)."""
    bowel, gas = [], []
    for _ in range(46):
        by_front = -0.85 * d
        bx, by = rng.uniform(-0.85, 0.85) * w, rng.uniform(by_front, max(min(f.spine_base - 45, 0.2 * d), -0.6 * d))
        bz = rng.uniform(f.sacrum_top - 120, f.dome - 95)
        if bz < f.sacrum_top:
            bx *= 0.6
        r = rng.uniform(11, 21)
        bowel.append(Ellipsoid(bx, by, bz, r * rng.uniform(0.9, 1.6), r, r * rng.uniform(1, 2.5), rng.normal(30, 12)))
        if rng.random() < 0.35:
            gas.append(Ellipsoid(bx, by - 0.25 * r, bz, 0.75 * r, 0.55 * r, r, -850))
    for side in (-1, 1):  # ascending and descending colon
        for _ in range(5):
            cz = rng.uniform(f.sacrum_top - 60, l1 + 10)
            bowel.append(Ellipsoid(side * 0.78 * w, 0.25 * d, cz, 20, 20, 34, rng.normal(20, 20)))
            if rng.random() < 0.5:
                gas.append(Ellipsoid(side * 0.78 * w, 0.18 * d, cz, 13, 11, 25, -900))
    reached = float(rng.uniform(0.3, 1.0))
    return bowel, gas, [bool(v) for v in rng.random(len(bowel)) < reached]


def _metal(
    rng: np.random.Generator,
    p: Person,
    f: Frame,
    column: tuple[Vertebra, ...],
    hips: tuple[bool, bool],
    hip: pelvis.Pelvis,
) -> tuple[Metal, ...]:
    out = []
    for side, there in zip((-1, 1), hips, strict=True):
        if there:
            out.append(Metal(side * hip.hip_x, hip.hip_y, hip.hip_z - 20, 60 * f.scale, float(rng.uniform(90, 220))))
    for v in column:
        if v.screws:
            out += [
                Metal(v.x + s * 0.62 * v.width, v.y + v.depth, v.z + 4, 7.0, float(rng.uniform(40, 90)))
                for s in (-1, 1)
            ]
    if p.age_y > 50 and rng.random() < 0.03:  # pacemaker
        z = f.t1 - 60 * f.scale
        o = f.outline(z)
        out.append(Metal(95.0 * f.scale, o.y - 0.86 * o.d, z, 18.0, float(rng.uniform(60, 160))))
    if rng.random() < 0.45:  # dental fillings
        z = f.t1 + 102 * f.scale
        y = float(f.spine_y(z)) - 62
        out += [Metal(s * 24.0, y, z, 12.0, float(rng.uniform(60, 200))) for s in (-1, 1) if rng.random() < 0.8]
    return tuple(out)


def build(p: Person, cfg: CohortConfig) -> Anatomy:
    """The body of a person; the same person gives the same body."""
    rng = np.random.default_rng([p.seed, 10])
    s = cfg.spine
    levels = _levels(rng, s)
    gap, _ = _gaps(p, levels, s)
    at = _heights(levels, p.height_cm / 160.0, gap)
    last = levels[-1]
    end = at[last] - 0.5 * p.height_cm / 160.0 * VERTEBRAE[last].height - gap[last]
    f = _frame(rng, p, s, at, end)
    column = _column(p, f, s, at, levels)
    w, d = f.half_width - f.fat - f.wall, f.half_depth - 0.8 * f.fat - f.wall
    sc = f.scale
    organs = _organs(rng, f, w, d)
    l1 = at["L1"]
    kidneys = tuple(
        Ellipsoid(
            side * (66 * sc + rng.normal(0, 4)), f.spine_base + 10, l1 - (18 if side < 0 else 6) + rng.normal(0, 6),
            27 * sc, 25 * sc, 56 * sc, 33,
        )
        for side in (-1, 1)
    )  # fmt: skip
    cysts = tuple(
        Ellipsoid(
            k.x * rng.uniform(0.9, 1.35), k.y + rng.normal(0, 15), k.z + rng.normal(0, 30), r, r, r, rng.normal(8, 5)
        )
        for k in kidneys
        for r in rng.uniform(4, 28, int(rng.poisson(max(0.0, (p.age_y - 45) * 0.02))))
    )
    bowel, gas, oral = _bowel(rng, f, w, d, l1)
    radius = float(np.clip((10.2 if p.male else 8.8) + 0.05 * (p.age_y - 60) + rng.normal(0, 0.9), 6.5, 18))
    patches = []
    for _ in range(rng.poisson(max(0.0, (p.age_y - 48) * 0.28) * (1.4 if p.smoker else 1.0))):
        z = rng.uniform(f.sacrum_top, f.dome)
        ang = rng.uniform(0, 2 * np.pi)
        y0 = f.spine_y(z) - 17 * sc - radius - 3
        patches.append(
            Calcification(
                float(9 + f.spine_x(z) + (radius - 0.5) * np.cos(ang)),
                float(y0 + (radius - 0.5) * np.sin(ang)),
                z,
                float(rng.uniform(1.0, 2.6)),
                float(rng.uniform(2, 8)),
                float(rng.uniform(350, 950)),
            )
        )
    old = float(np.clip((p.age_y - 55) / 30, 0, 1))
    hips = tuple(bool(v) for v in rng.random(2) < cfg.body.hip_prosthesis_share * (0.3 + 2 * old))
    marrow = 0.55 * p.vbmd * HU_PER_VBMD
    hip = pelvis.build(np.random.default_rng([p.seed, 14]), f, p.male, marrow, (hips[0], hips[1]))
    return Anatomy(
        vbmd=p.vbmd,
        frame=f,
        muscle_hu=float(np.clip(rng.normal(55, 5) - 0.35 * (p.age_y - 55) - 0.6 * (p.bmi - 24), 15, 65)),
        vertebrae=column,
        organs=organs,
        bowel=tuple(bowel),
        oral=tuple(oral),
        gas=tuple(gas),
        kidneys=kidneys,
        cysts=cysts,
        ascites=bool(rng.random() < 0.03),
        aorta=radius,
        calcifications=tuple(patches),
        psoas=float(np.clip((19 if p.male else 15) - 0.08 * (p.age_y - 55) + rng.normal(0, 1.5), 9, 26)),
        grain=_grain(p.seed),
        chest=chest.build(np.random.default_rng([p.seed, 15]), f, p.age_y, p.male, p.smoker, marrow),
        neck=neck.build(np.random.default_rng([p.seed, 16]), f, p.age_y),
        pelvis=hip,
        metal=_metal(np.random.default_rng([p.seed, 17]), p, f, column, (hips[0], hips[1]), hip),
    )
