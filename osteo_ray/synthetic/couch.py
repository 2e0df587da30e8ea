"""What lies under and over the patient: couch, headrest, blanket."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.synthetic.frame import Frame
from osteo_ray.synthetic.shapes import F, Grid, ramp

CRADLE, FLAT, WEDGE = "cradle", "flat", "wedge"


@dataclass(frozen=True)
class Couch:
    """Couch and covers of one scan; mm."""

    kind: str = CRADLE
    gap: float = 4.0  # between the back and the pad
    blanket: float = 0.0  # thickness, 0: none
    headrest: bool = False


def draw(rng: np.random.Generator, blanket_share: float) -> Couch:
    """One scan's couch."""
    kind = (CRADLE, FLAT, WEDGE)[int(rng.choice(3, p=(0.6, 0.15, 0.25)))]
    blanket = float(rng.uniform(2, 9)) if rng.random() < blanket_share else 0.0
    return Couch(kind, float(rng.uniform(2, 14)), blanket, bool(rng.random() < 0.6))


def paint(img: np.ndarray, g: Grid, f: Frame, c: Couch, skin: np.ndarray) -> None:
    """Draw it where there is air; `skin` is the distance inside the skin, mm [R, C]."""
    if c.blanket:
        fold = F(5) + F(3) * np.sin(g.x * F(0.05) + F(0.011 * g.z_mid)) + F(2) * np.sin(g.x * F(0.13))
        off = -skin - fold
        cloth = ramp(np.minimum(off, F(c.blanket) - off), 1.5) * (g.y < F(0.35 * f.half_depth))
        np.maximum(img, F(-1000) + F(150) * cloth, out=img)
    back = f.back + c.gap
    box = g.window(-1e9, 1e9, back - 30, 1e9)
    if box is not None:
        part, y = img[box], g.y[box[0]]
        if c.kind == CRADLE:
            d = y - (F(back) - (g.x * F(1 / 240)) ** 2 * F(22) + F(6))
            pad = F(60) * ramp(np.minimum(d - 4, 40 - d), 2.0)
            lines = ramp(F(1.2) - np.abs(d - 4), 1.5) + ramp(F(1.2) - np.abs(d - 42), 1.5)
        elif c.kind == FLAT:
            d = y - F(back + 2)
            wide = F(262) - np.abs(g.x)
            pad = F(45) * ramp(np.minimum(np.minimum(d, 50 - d), wide), 2.0)
            lines = ramp(np.minimum(F(1.6) - np.abs(d), wide), 1.5) + ramp(
                np.minimum(F(1.6) - np.abs(d - 50), wide), 1.5
            )
        else:  # a trough with slanted sides over an empty shell
            side = np.maximum(np.abs(g.x) - F(120), 0)
            d = y - (F(back + 4) - side * F(0.55))
            under = y - (F(back + 58) - side * F(0.9))
            wide = F(225) - np.abs(g.x)
            pad = np.zeros_like(d)
            lines = ramp(np.minimum(F(1.3) - np.abs(d), wide), 1.5) + ramp(
                np.minimum(F(1.3) - np.abs(under), wide), 1.5
            )
        np.maximum(part, F(-1000) + np.maximum(pad, F(860) * np.minimum(lines, 1)), out=part)
    if c.headrest and g.z_mid > f.t1 + 20 * f.scale:
        o = f.outline(g.z_mid)
        w = g.window(-95, 95, o.y + o.d - 25, f.back)
        if w is not None:
            deep = np.minimum(F(90) - np.abs(g.x[:, w[1]]), g.y[w[0]] - F(o.y + o.d - 22))
            np.maximum(img[w], F(-1000) + F(55) * ramp(deep, 3.0), out=img[w])
