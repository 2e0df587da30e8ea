"""Unevenness of tissue: periodic random fields in three dimensions, looked up at patient coordinates.

A lookup is a pure function of the coordinates, so any rectangle of any slice gets the same texture, and it costs one
gather however rich the texture is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from osteo_ray.synthetic.shapes import F

SIDE = 128  # voxels; the field repeats after SIDE * step mm
FINE, SMOOTH = 2.6, 9.0  # shortest waves of the two fields, voxels; shorter ones would alias on coarse pixels


@lru_cache(maxsize=2)
def field(shortest: float) -> np.ndarray:
    """float32 [SIDE, SIDE, SIDE] (z, y, x), mean 0, SD 1; power falls as 1/f^2.2 from 5 x `shortest`."""
    import scipy.fft

    rng = np.random.default_rng(19)
    white = rng.standard_normal((SIDE, SIDE, SIDE), dtype=F)
    f = np.fft.fftfreq(SIDE).astype(F)
    k = np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + np.fft.rfftfreq(SIDE).astype(F)[None, None] ** 2)
    gain = (k**2 + F(0.2 / shortest) ** 2) ** F(-0.55) * np.exp(-((k * F(shortest)) ** 4))
    out = scipy.fft.irfftn(scipy.fft.rfftn(white) * gain, s=white.shape).astype(F)
    out -= out.mean()
    return out / out.std()


def sample(
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    step: float,
    offset: tuple[int, int, int] = (0, 0, 0),
    shortest: float = FINE,
) -> np.ndarray:
    """The field of `shortest` at coordinates (mm; they broadcast): one voxel every `step` mm, moved by `offset`."""
    scale = F(1 / step)
    ix, iy, iz = (
        np.floor(np.multiply(c, scale)).astype(np.int32) + np.int32(o) & np.int32(SIDE - 1)
        for c, o in zip((x, y, z), offset, strict=True)
    )
    return field(shortest).reshape(-1)[(iz * np.int32(SIDE) + iy) * np.int32(SIDE) + ix]
