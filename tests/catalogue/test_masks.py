"""Masks against scipy's filters and distance transform."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from osteo_ray.catalogue import masks


@pytest.fixture(scope="module")
def blobs() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = [(1, 1), (1, 40), (3, 3), *rng.integers(2, 90, (60, 2)).tolist()]
    return [ndimage.gaussian_filter(rng.normal(size=s), rng.uniform(0.5, 5)) > rng.normal(0, 0.05) for s in shapes]


@pytest.mark.parametrize("radius", [(1, 1), (2, 2), (3, 1), (0, 4)])
def test_opened_is_scipys_minimum_then_maximum(blobs, radius):
    size = [2 * r + 1 for r in radius]
    for mask in blobs:
        m = mask.view(np.uint8)
        inside = ndimage.minimum_filter(m, size, mode="constant", cval=0)
        np.testing.assert_array_equal(masks.shrunk(mask, radius), ndimage.minimum_filter(m, size) > 0)
        np.testing.assert_array_equal(masks.shrunk(mask, radius, beyond=False), inside > 0)
        np.testing.assert_array_equal(
            masks.opened(mask, radius, beyond=False), ndimage.maximum_filter(inside, size, mode="constant", cval=0) > 0
        )


def test_filled_is_scipys(blobs):
    for mask in blobs:
        np.testing.assert_array_equal(masks.filled(mask), ndimage.binary_fill_holes(mask))


def test_the_largest_piece():
    mask = np.zeros((9, 9), bool)
    mask[0:2, 0:2] = mask[4:8, 4:8] = mask[8, 8] = True  # what touches by a corner alone is a piece of its own
    piece = masks.largest_piece(mask)
    assert piece is not None
    assert piece.sum() == 16
    assert masks.largest_piece(np.zeros((4, 4), bool)) is None


@pytest.mark.parametrize("pitch", [(2.0, 2.0), (2.5, 2.5), (2.4, 1.0), (0.7, 2.596)])
def test_within_is_scipys_distance_transform(blobs, pitch):
    for mask in blobs:
        if not mask.any():
            assert not masks.within(mask, pitch, 40.0)[0].any()
            continue
        away = ndimage.distance_transform_edt(~mask, sampling=pitch)
        for mm, near in zip((4.0, 8.0, 40.0), masks.within(mask, pitch, 4.0, 8.0, 40.0), strict=True):
            np.testing.assert_array_equal(near, away <= mm + 1e-9)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_a_mask_without_pixels_stays_one(shape):
    mask = np.zeros(shape, bool)
    found = [
        masks.shrunk(mask, (2, 2)),
        masks.opened(mask, (2, 2), beyond=False),
        *masks.within(mask, (2.0, 2.0), 40.0),
    ]
    assert [f.shape for f in found] == [shape] * 3
