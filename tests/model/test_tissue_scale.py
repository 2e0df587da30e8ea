"""Internal calibration: a scanner's offset, gain and a wrong tube voltage are seen in air, fat and muscle."""

from itertools import pairwise

import numpy as np
import pytest

from osteo_ray.model.config import TissueScaleConfig
from osteo_ray.model.tissue_scale import HU_PER_VBMD, TissueScale, tissue_scale, vbmd

CFG = TissueScaleConfig()
TRUE = np.array([CFG.fat_hu, CFG.muscle_hu, -1000.0])
PER_BEAM = np.array([CFG.fat_per_beam, CFG.muscle_per_beam, 0.0])


def scale_of(offset: float = 0.0, gain: float = 0.0, beam: float = 0.0, factor: float = 1.0) -> TissueScale:
    """Of typical tissues on a scanner with errors."""
    fat, muscle, air = (TRUE + PER_BEAM * (np.log(factor) + beam)) * (1 + gain) + offset
    return tissue_scale(fat, muscle, air, 0.0, factor, CFG)


@pytest.mark.parametrize("factor", [0.89, 1.0, 1.44])
def test_a_scanner_without_error_is_left_as_it_is(factor):
    hu, _ = scale_of(factor=factor).at_120_kvp(120.0 * factor)
    assert hu == pytest.approx(120.0, abs=0.5)


@pytest.mark.parametrize("offset", [-15.0, -6.0, 6.0, 15.0])
def test_an_offset_of_all_tissues_is_halved(offset):
    hu, _ = scale_of(offset=offset).at_120_kvp(120.0 + offset)
    assert abs(hu - 120.0) < 0.65 * abs(offset)


def test_a_wrong_tube_voltage_hardly_shows_in_soft_tissue_and_nothing_is_claimed():
    """Fat moves by 5 HU, less than between people: the estimate stays where it was, and its SD covers the error."""
    read = 120.0 * np.exp(0.08)
    hu, sd = scale_of(beam=0.08).at_120_kvp(read)
    assert abs(hu - read) < 2.0
    assert abs(hu - 120.0) < 2 * sd


def test_fat_in_the_muscle_gives_nobody_more_bone():
    """A two-point map onto fixed values would raise 120 HU to about 150."""
    scale = tissue_scale(CFG.fat_hu, CFG.muscle_hu - 28, -1000.0, 0.0, 1.0, CFG)
    assert scale.at_120_kvp(120.0)[0] == pytest.approx(120.0, abs=6.0)


def test_each_tissue_that_is_seen_makes_it_surer_and_none_leaves_the_prior():
    none = tissue_scale(None, None, None, 0.0, 1.0, CFG)
    assert none.at_120_kvp(120.0)[0] == 120.0
    errors = [none.at_120_kvp(120.0)[1]]
    fat, muscle, air = TRUE
    for m, a in ((None, None), (muscle, None), (muscle, air)):
        errors.append(tissue_scale(fat, m, a, 0.0, 1.0, CFG).at_120_kvp(120.0)[1])
    assert all(a > b for a, b in pairwise(errors))


def test_without_a_tube_voltage_nothing_is_said():
    fat, muscle, air = TRUE
    scale = tissue_scale(fat, muscle, air, 0.0, float("nan"), CFG)
    assert np.isnan(scale.at_120_kvp(120.0)[0])


def test_density_is_hu_by_the_published_slope_with_an_error_no_smaller_than_marrow_leaves():
    density, sd = vbmd(131.0, 0.0, CFG)
    assert density == pytest.approx(131.0 / HU_PER_VBMD)
    assert sd == pytest.approx(np.hypot(CFG.reading_sd / HU_PER_VBMD, CFG.marrow_sd))
