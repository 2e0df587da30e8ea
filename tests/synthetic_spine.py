"""Slices of a spine with known levels, as an encoder that errs believes them to be."""

import numpy as np

from osteo_ray.model.embedding import EmbeddingLayout, height_of
from osteo_ray.model.levels import BODY_AND_DISC_MM, BODY_SHARE

ORDER = [*(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6))]


def spine(rng, top="T10", bottom="S", size=1.0, flat=0.5, n=40):
    """z, beliefs and true levels of slices from `top` to `bottom`; numbers shrink towards 15 by `flat`."""
    z, spans = 0.0, []
    for name in ORDER[ORDER.index(top) :]:
        h = BODY_AND_DISC_MM[name] * size * rng.normal(1, 0.04)
        spans.append((name, z, z + BODY_SHARE * h, z + h))
        z += h
    spans.append(("S", z, z + 100, z + 100))
    end = next(s[2] for s in spans if s[0] == bottom) - (50 if bottom == "S" else 0)
    down = np.linspace(4, end, n)
    region, number, mid, truth = np.zeros((n, 4)), np.zeros(n), np.zeros(n), []
    for i, d in enumerate(down):
        name, low, high, _ = next(s for s in spans if s[1] <= d < s[3])
        truth.append(name if d < high or name == "S" else "disc")
        true = 18 if name == "S" else ORDER.index(name) + 1
        number[i] = 15 + (true - 15) * flat + rng.normal(0, 0.6)
        mid[i] = 0 if name == "S" else np.clip(1 - abs(2 * (d - low) / (high - low) - 1), 0, 1) * (d < high)
        mid[i] = np.clip(mid[i] + rng.normal(0, 0.15), 0, 1)
        r = {"T": 0, "L": 1, "S": 2}[name[0]]
        p = np.full(4, 0.05)
        p[r] = 0.85
        if rng.random() < 0.06:  # now and then it is quite wrong
            p = np.roll(p, 1)
        region[i] = p
    return -down, region, number, mid, np.array(truth)


def embedding_of(region, number, mid, dim=32):
    """Embeddings float32 [n, dim] that hold these beliefs."""
    e = np.zeros((len(mid), dim), np.float32)
    e[:, EmbeddingLayout.region] = region
    e[:, EmbeddingLayout.height] = height_of(number)
    e[:, EmbeddingLayout.mid] = mid
    return e
