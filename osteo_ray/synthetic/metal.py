"""Metal in and on the body, and the streaks that it throws over the slice."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from osteo_ray.synthetic.shapes import F, Grid


@dataclass(frozen=True)
class Metal:
    """A piece that throws streaks: centre and half height (mm), HU of its streaks near by."""

    x: float
    y: float
    z: float
    rz: float
    strength: float


ORDERS = (4, 7, 11, 17)  # rays about a piece


def streaks(img: np.ndarray, g: Grid, pieces: tuple[Metal, ...], seed: int) -> None:
    """Add the streaks of all pieces at this height: rays that fade with distance, dark between two pieces."""
    near = [m for m in pieces if abs(g.z_mid - m.z) < m.rz]
    for i, m in enumerate(near):
        rng = np.random.default_rng([seed, int(m.z * 10) & 0xFFFFF, int(g.z_mid * 4) & 0xFFFFF, i])
        dx, dy = g.x - F(m.x), g.y - F(m.y)
        r2 = dx * dx + dy * dy
        r2 += F(1)
        r = np.sqrt(r2)
        unit = (dx + 1j * dy) / r
        total = np.zeros_like(r)
        power = unit
        at = 1
        for order in ORDERS:
            while at < order:
                power = power * unit
                at += 1
            a, b = rng.normal(0, 1, 2)
            total += F(a) * power.real + F(b) * power.imag
        total *= F(0.5 * m.strength) * F(28) / (r + F(28))
        img += total
    for a, b in itertools.pairwise(near):
        if abs(a.x - b.x) > 20:
            lo, hi = sorted((a.x, b.x))
            y = F(a.y) + (g.x - F(a.x)) * F((b.y - a.y) / (b.x - a.x))
            between = ((g.x > lo) & (g.x < hi)).astype(F)
            img -= F(0.35 * (a.strength + b.strength)) * between * np.exp(-(((g.y - y) * F(1 / 11)) ** 2))
