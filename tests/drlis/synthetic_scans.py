"""Small scans with a known answer: the class shows in a few neighbouring slices of each scan."""

import numpy as np

from osteo_ray.model.config import EncoderConfig
from osteo_ray.model.embedding import Scans

DIM = EncoderConfig().dim


def synthetic_scans(n=60, t=24, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    centre = rng.integers(t // 4, t - t // 4, n)
    at = np.arange(t)
    lumbar = np.exp(-(((at[None] - centre[:, None]) / 2.0) ** 2))
    e = rng.normal(size=(n, t, DIM)).astype(np.float32) * 0.3
    e[..., 0] += (y[:, None] - 1) * lumbar * 3
    e[..., 1] = (at[None] - centre[:, None]) / 10
    e[..., -4] = lumbar
    e[..., -1] = lumbar
    z = np.tile(at * 8.0, (n, 1)).astype(np.float32)
    keys = np.array([f"p{i}" for i in range(n)])
    return Scans(e, np.ones((n, t), bool), z, y, keys, np.array([f"s{i}" for i in range(n)]))
