import numpy as np
import pytest

from osteo_ray.model.config import CropConfig
from osteo_ray.model.crops import CropSquare, grid_positions, spine_crop

CFG = CropConfig()


def body(rows, cols, pitch, centre_mm, back_mm, value=40):
    """A slab of body in air, 300 mm wide and 200 mm deep, with a 'vertebra' of 20 mm 60 mm in front of the back."""
    hu = np.full((rows, cols), -1000, np.int16)
    y, x = (np.arange(rows) + 0.5) * pitch, (np.arange(cols) + 0.5) * pitch
    inside = (abs(x - centre_mm) < 150)[None] & ((y < back_mm) & (y > back_mm - 200))[:, None]
    hu[inside] = value
    bone = (abs(x - centre_mm) < 10)[None] & (abs(y - (back_mm - 60)) < 10)[:, None]
    hu[bone] = 240
    return hu


def bone_centre(crop):
    r, c = np.nonzero(crop > 140)
    return r.mean(), c.mean()


@pytest.mark.parametrize(
    ("pitch", "centre", "back"), [(1.0, 200, 330), (1.0, 260, 300), (0.8, 200, 330), (1.9, 200, 330)]
)
def test_the_vertebra_lands_in_the_same_place_whatever_the_field_of_view(pitch, centre, back):
    n = round(440 / pitch)
    crop = spine_crop(body(n, n, pitch, centre, back), (pitch, pitch), CFG)
    assert crop.shape == (96, 96)
    assert crop.dtype == np.int16
    row, col = bone_centre(crop)
    assert col == pytest.approx(47.5, abs=1.5)
    assert row == pytest.approx(96 - (8 + 60) / 2 - 0.5, abs=2.5)


def test_area_average_keeps_hu():
    hu = body(400, 400, 1.0, 200, 330)
    rng = np.random.default_rng(0)
    noisy = (hu + rng.normal(0, 30, hu.shape)).astype(np.int16)
    crop, ref = spine_crop(noisy, (1.0, 1.0), CFG), spine_crop(hu, (1.0, 1.0), CFG)
    core = ref == 240
    assert core.sum() > 50
    assert crop[core].mean() == pytest.approx(240, abs=5)


def test_the_table_does_not_move_the_crop():
    hu = body(440, 440, 1.0, 220, 300)
    with_table = hu.copy()
    with_table[320:324, 40:400] = 300  # a thin shell 20 mm behind the back
    assert np.array_equal(bone_centre(spine_crop(hu, (1, 1), CFG)), bone_centre(spine_crop(with_table, (1, 1), CFG)))


def test_air_outside_and_padding_values_are_air():
    hu = body(180, 440, 1.0, 220, 170)  # fewer rows than the crop is deep: its top lies outside the slice
    hu[:5] = -3024
    crop = spine_crop(hu, (1.0, 1.0), CFG)
    assert crop.min() == -1024
    empty = spine_crop(np.full((64, 64), -1000, np.int16), (2.0, 2.0), CFG)
    assert empty.max() <= -999


@pytest.mark.parametrize("n", [1, 3, 63, 64, 65, 300, 824])
def test_grid_positions_are_distinct_ascending_and_reach_both_ends(n):
    z = np.cumsum(np.random.default_rng(n).uniform(0.5, 3, n))
    p = grid_positions(z, 64)
    assert len(p) == len(set(p.tolist())) <= 64
    assert (np.diff(p) > 0).all()
    assert p[0] == 0
    assert p[-1] == n - 1
    if n <= 64:
        assert len(p) == n


def test_grid_is_even_in_millimetres_not_in_indices():
    z = np.r_[np.arange(0, 100, 1.0), np.arange(100, 400, 5.0)]  # thin slices, then thick ones
    p = grid_positions(z, 33)
    step = np.diff(z[p])
    assert step.max() <= 400 / 32 + 5
    assert np.median(step) == pytest.approx(395 / 32, abs=3)


def test_a_place_in_the_crop_is_found_again_in_the_slice():
    """A bright square in the slice, seen in the crop, leads back to where it stands, at any pitch."""
    for pitch in (0.7, 1.3):
        n = round(400 / pitch)
        hu = body(n, n, pitch, 200.0, 330.0)
        row, col = round(270 / pitch), round(215 / pitch)
        half = round(4 / pitch)
        hu[row - half : row + half + 1, col - half : col + half + 1] = 3000
        square = CropSquare.of(hu, (pitch, pitch), CFG)
        crop = spine_crop(hu, (pitch, pitch), CFG, square)
        assert np.array_equal(crop, spine_crop(hu, (pitch, pitch), CFG))
        y, x = np.argwhere(crop > 2500).mean(0)
        assert square.to_slice(y, x, (pitch, pitch)) == pytest.approx((row, col), abs=0.8 / pitch)


def test_what_a_reconstruction_leaves_out_of_the_square_counts():
    hu = body(440, 440, 1.0, 220, 300)
    y, x = np.mgrid[:440, :440] - 219.5
    square = CropSquare.of(hu, (1.0, 1.0), CFG)
    assert square.outside_share(hu, (1.0, 1.0)) == 0
    for diameter, least, most in ((440, 0.0, 0.0), (200, 0.05, 0.6)):
        for padding in (-3024, -1024):
            seen = np.where(np.hypot(y, x) <= diameter / 2, hu, padding)
            assert least <= CropSquare.of(seen, (1.0, 1.0), CFG).outside_share(seen, (1.0, 1.0)) <= most
    assert square.outside_share(hu[:250], (1.0, 1.0)) > 0.2
    masked = np.where(hu > -300, hu, -1024)  # the body alone: its surroundings were taken out, not left out
    assert square.outside_share(masked, (1.0, 1.0)) < 0.05
