"""Step 2a: the spine. Vertebrae as pointwise functions of patient coordinates.

Within a vertebra (u to the left, v to the back, w toward the head, mm from its centre): cortical shell, endplates, a
trabecular field with the published gradients (lower half 15-25 % less dense than the upper, posterior core about 20 %
denser: Banse 2001; endplate periphery about a third above the centre: PMID 34705863), the basivertebral vein, and where
they are drawn: osteophytes, sclerosis, wedge fracture, cement, screws.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np

from osteo_ray.synthetic.shapes import F, Grid, clamp, ramp, smooth, span
from osteo_ray.synthetic.texture import sample

Section = tuple[tuple[slice, slice], np.ndarray, np.ndarray]
"""What a slice shows of a part: the rectangle [R, C] outside of which it covers nothing, coverage and HU in it."""

# What an ROI in the core of a mid-body slice reads of the field's scale (vein, gradients; measured, in the log).
_READ = 0.953


@dataclass(frozen=True)
class Vertebra:
    """One vertebra; lengths in mm, densities in HU at the scan's own kVp are set by the scanner's factor."""

    level: str
    x: float
    y: float
    z: float
    tilt: float  # rad; positive leans the top to the back, as the spine's axis does there
    roll: float  # rad; positive leans the top to the left (scoliosis)
    turn: float  # rad about the spine's axis (scoliosis)
    height: float
    width: float  # half
    depth: float  # half
    hu: float  # what an ROI in the core reads at mid-body, 120 kVp
    shell: float  # cortical thickness, mm
    gradient: float  # lower half is this share less dense than the upper
    osteophyte: float  # mm of lip at the endplates
    subchondral: float  # HU that degeneration adds at the endplates
    wedge: float  # share of anterior height lost
    biconcave: float  # mm of endplate hollow at the centre
    cement: float  # radius in mm, 0 is none
    screws: bool
    sclerosis: tuple[tuple[float, float, float, float, float], ...]  # u, v, w, radius, extra HU
    texture: float  # SD of the trabecular field, HU at 120 kVp
    grain: tuple[int, int, int]  # where in the random field this body lies
    haemangioma: tuple[float, float, float, float] | None  # u, v, w, radius
    disc: float  # height of the disc below, mm
    disc_hu: float
    vacuum: bool  # gas in the disc below

    @cached_property
    def reach(self) -> float:
        """Largest |z - centre| at which anything of it or of the disc below can be met, mm."""
        return 0.5 * self.height + self.disc + 20 + self.lean

    @cached_property
    def lean(self) -> float:
        """How far beyond half its height a tilted body reaches along z, mm."""
        return float(abs(np.sin(self.tilt)) * (self.depth + 4) + abs(np.sin(self.roll)) * (self.width + 4) + 2)

    def near(
        self, g: Grid, u_max: float, v_range: tuple[float, float], w_range: tuple[float, float]
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray] | None:
        """A rectangle of a grid that holds all of a part of this size, and u, v and w in it; None where it is not."""
        u, v, w = self.axes(g)
        rows = span(((v > v_range[0]) & (v < v_range[1]) & (w > w_range[0]) & (w < w_range[1])).max(1))
        cols = span((np.abs(u) < u_max).max(0))
        if rows is None or cols is None:
            return None

        def cut(c: np.ndarray) -> np.ndarray:
            return c[rows if c.shape[0] > 1 else slice(None), cols if c.shape[1] > 1 else slice(None)].copy()

        return (rows, cols), cut(u), cut(v), cut(w)

    def axes(self, g: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u, v and w of a grid, float32: [1, C], [R, 1] and [R, 1] in a straight spine, else [R, C] each."""
        dx, dy, dz = g.x - F(self.x), g.y - F(self.y), g.z - F(self.z)
        c, s = F(np.cos(self.tilt)), F(np.sin(self.tilt))
        if self.roll or self.turn:
            cr, sr, ct, st = (
                F(k) for k in (np.cos(self.roll), np.sin(self.roll), np.cos(self.turn), np.sin(self.turn))
            )
            dx, dz = dx * cr - dz * sr, dz * cr + dx * sr
            dx, dy = dx * ct + dy * st, dy * ct - dx * st
        return dx, dy * c - dz * s, dz * c + dy * s


def core_field(v: Vertebra, u: np.ndarray, vv: np.ndarray, w: np.ndarray, r2: np.ndarray) -> np.ndarray:
    """Trabecular HU [R, C] at body coordinates; r2 is 1 on the body's side wall."""
    half = 0.5 * v.height
    t = clamp(w / F(half), -1, 1)
    upper = 1 + F(0.68 * v.gradient) * np.tanh(t * F(2.2))
    grade = upper * (1 + F(0.21) * clamp(vv / F(v.depth), -1, 1))  # the back is denser
    field = 1 + (F(1.2) * np.abs(t) ** 3) * r2 + F(0.04) * t**4
    field *= grade
    # Basivertebral vein: from the middle of the body to the back, at mid-height.
    vein = smooth(w, 2.2) * clamp(vv / F(0.7 * v.depth) + F(0.15), 0, 1)
    field -= (F(0.42) * vein) * smooth(u, 2.6)
    field *= F(v.hu / _READ)
    field += F(v.texture) * sample(u, vv, w, 1.2, v.grain)
    if v.haemangioma:
        hu_, hv, hw, r = v.haemangioma
        away = np.sqrt((u - F(hu_)) ** 2 + (vv - F(hv)) ** 2 + ((w - F(hw)) * F(0.7)) ** 2)
        # Fatty, with a few coarse columns that run along the spine.
        column = clamp(sample(u, vv, w * F(0.1), 0.9, v.grain) - F(0.8), 0, 1)
        field += ramp(F(r) - away, 2.5) * (F(0.25 * v.hu - 10) + F(190) * column - field)
    if v.subchondral > 0:
        field += F(v.subchondral) * t**6
    for bu, bv, bw, r, hu in v.sclerosis:
        field += smooth(u - F(bu), r) * (F(hu) * smooth(vv - F(bv), r) * smooth(w - F(bw), r))
    return field


def body(v: Vertebra, g: Grid, factor: float) -> Section | None:
    """The body (shell, endplates, core); `factor` is bone contrast against 120 kVp. None where it is not met."""
    wider = 1.05 + 2.1 * (v.osteophyte + g.edge) / (v.width + v.depth)  # at the endplates, with lips
    deep, high = wider * v.depth, 0.5 * v.height + g.edge
    near = v.near(g, wider * v.width, (-deep, deep), (-high, high))
    if near is None:
        return None
    box, u, vv, w = near
    half = F(0.5 * v.height)
    lip = clamp(1 - (half - np.abs(w)) / F(5.0), 0, 1)  # only near the endplates
    waist = 1 + F(0.10) * (clamp(np.abs(w) / half, 0, 1) ** 2 - F(0.5))
    a, b = v.width * waist, v.depth * waist
    us, vs = u * u, (vv / b) ** 2
    # Kidney shape: the middle of the back wall is pressed in.
    dent = clamp(vv / F(v.depth), 0, 1) ** 2 * F(0.28)
    r2 = us / (a * a) + vs + dent * smooth(u, 0.42 * v.width)
    r = np.sqrt(r2)
    side = (1 - r) * F(0.5 * (v.width + v.depth))
    outer = side + F(v.osteophyte) * lip if v.osteophyte > 0 else side
    loss = F(v.wedge) * clamp(F(0.5) - vv / F(2 * v.depth), 0, 1)  # in front
    top = half * (1 - 2 * loss) - w
    ends = np.minimum(top, half + w) - F(v.biconcave) * clamp(1 - r2, 0, 1)
    cover = ramp(np.minimum(outer, ends), g.edge)
    if not cover.any():
        return None
    core = ramp(np.minimum(side - F(v.shell), ends - F(0.9)), g.edge + 0.3)
    trab = core_field(v, u, vv, w, r2)
    if v.wedge > 0.15:
        trab *= F(1 + 1.2 * v.wedge)  # crushed trabeculae take less space
    shell_hu = F(360 + 1.1 * v.hu)
    hu = shell_hu + core * (trab - shell_hu)
    if v.cement > 0:
        ball = ramp(F(v.cement) - np.sqrt(us + (vv + 3) ** 2 + (w * F(1.3)) ** 2), g.edge)
        hu += ball * (F(1600) - hu)
    return box, cover, hu * F(factor)


def posterior(v: Vertebra, g: Grid, factor: float) -> Section | None:
    """Pedicles, laminae, spinous and transverse processes and facets; None where none is met."""
    half, b, a = 0.5 * v.height, v.depth, v.width
    front = min(b - 5, 0.35 * b - 18) if v.screws else b - 5
    low = -max(half + 13, 0.35 * v.height + 14)  # of facets and of the spinous process
    near = v.near(
        g, max(2.03 * a, 23) + g.edge, (front - g.edge, b + 47 + g.edge), (low - g.edge, 0.28 * v.height + 7 + g.edge)
    )
    if near is None:
        return None
    box, u, vv, w = near
    au = np.abs(u)
    up = F(0.22 * v.height)
    lam_v = F(b + 21)
    parts = []

    def met(by_height: np.ndarray) -> bool:
        """Whether a voxel can lie in a part, or in its soft edge, that is nowhere deeper than this."""
        return float(by_height.max()) > -0.5 * g.edge - 0.5

    if met(high := F(6.5) - np.abs(w - up)):  # pedicles
        parts.append(np.minimum(F(4.2) - np.abs(au - F(0.62 * a)), np.minimum(high, F(9) - np.abs(vv - F(b + 4)))))
    if met(high := F(0.42 * v.height) - np.abs(w + F(0.15 * v.height))):  # laminae
        parts.append(np.minimum(np.minimum(F(3.2) - np.abs(vv - lam_v + F(0.62) * au), F(17) - au), high))
    if met(high := F(8.5) - np.abs(w + F(0.35 * v.height) + (vv - lam_v) * F(0.2))):  # spinous process
        parts.append(np.minimum(F(3.0) - au, np.minimum(F(13) - np.abs(vv - lam_v - 13), high)))
    if met(high := F(5) - np.abs(w - up * F(0.6))):  # transverse processes
        along = F(0.78 * a) - np.abs(au - F(1.25 * a))
        parts.append(np.minimum(F(3.4) - np.abs(vv - F(b + 8) - F(0.12) * au), np.minimum(along, high)))
    off = (w + F(half)) ** 2 * F(0.35)
    if met(F(7.5) - np.sqrt(off)):  # facets
        parts.append(F(7.5) - np.sqrt((au - F(15.5)) ** 2 + ((vv - F(b + 15)) ** 2 + off)))
    if not (parts or v.screws):
        return None
    d = reduce(np.maximum, parts) if parts else np.full((vv.shape[0], u.shape[1]), -g.edge - 1, F)
    cover = ramp(d, g.edge)
    if not (v.screws or cover.any()):
        return None
    inner = ramp(d - F(1.6), g.edge + 0.5)
    hard = F(560 + 0.8 * v.hu)
    hu = (hard + inner * (F(90 + v.hu) - hard)) * F(factor)
    if v.screws:
        rod = np.minimum(
            F(3.2) - np.abs(au - F(0.62 * a)), np.minimum(F(3.2) - np.abs(w - up), F(24) - np.abs(vv - F(0.35 * b + 6)))
        )
        metal = ramp(rod, g.edge)
        hu += metal * (F(2900) - hu)
        cover = np.maximum(cover, metal)
    return box, cover, hu


def disc(v: Vertebra, g: Grid) -> Section | None:
    """The disc below a vertebra; None where it is not met."""
    wider = 1.04 + 2.1 * g.edge / (v.width + v.depth)
    mid = F(-0.5 * (v.height + v.disc))
    deep, high = wider * v.depth, 0.5 * v.disc + 2 + g.edge
    near = v.near(g, wider * v.width, (-deep, deep), (float(mid) - high, float(mid) + high))
    if near is None:
        return None
    box, u, vv, w = near
    r2 = (u / F(1.04 * v.width)) ** 2 + (vv / F(1.04 * v.depth)) ** 2
    side = (1 - np.sqrt(r2)) * F(0.5 * (v.width + v.depth))
    dw = w - mid
    # Two mm more than the gap on both sides: the neighbouring bodies are painted over it.
    cover = ramp(np.minimum(side, F(0.5 * v.disc + 2.0) - np.abs(dw)), g.edge)
    if not cover.any():
        return None
    hu = F(v.disc_hu) + F(18) * r2
    if v.vacuum:
        gas = ramp(F(1.1) - np.abs(dw), 1.0) * ramp((F(0.45) - r2) * 12, 2.0)
        hu = hu + gas * (F(-450) - hu)
    return box, cover, hu


def core_mean(v: Vertebra, z: np.ndarray, thickness: float) -> np.ndarray:
    """Mean trabecular HU (120 kVp) over the inner core of a body in slices at `z` [n]; NaN outside the body.

    The core is the inner 60 % of the radius, between the endplates; the slice profile is a box of `thickness` mm.
    """
    k = np.linspace(-0.58, 0.58, 15, dtype=F)
    dz = np.linspace(-0.4, 0.4, 3 if thickness < 3.5 else 5) * thickness
    at = (z[:, None] + dz).astype(F)[:, :, None, None]
    # Every level of every slice at once, [n, levels, 15, 15].
    u, vv, w = v.axes(Grid(k[None] * F(v.width) + F(v.x), k[:, None] * F(v.depth) + F(v.y), at, 0, 1, 1))
    r2 = (u / F(v.width)) ** 2 + (vv / F(v.depth)) ** 2
    half = F(0.5 * v.height)
    loss = F(v.wedge) * clamp(F(0.5) - vv / F(2 * v.depth), 0, 1)
    inside = (r2 < 0.36) & (w > -half + 1.5) & (w < half * (1 - 2 * loss) - 1.5)
    f = core_field(v, u, vv, w, r2) * (1 + 1.2 * v.wedge if v.wedge > 0.15 else 1.0)
    total = (f * inside).reshape(*at.shape[:2], -1).sum(-1).astype(float).sum(1)
    n = inside.sum((1, 2, 3))
    return np.where(n > 110, total / np.maximum(n, 1), np.nan)
