"""Anatomy and scanner: what is drawn can be met in the images, and the check's table works."""

from dataclasses import replace

import numpy as np
import pytest

from osteo_ray.synthetic import fast
from osteo_ray.synthetic.check import Target, lines, plain_scans
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.read import core_roi, halves, read_scan, rod_slope
from osteo_ray.synthetic.scanner import SHARP, draw_scan, noise_field
from osteo_ray.synthetic.truth import levels_at

CFG = plain_scans(CohortConfig(seed=4))


@pytest.fixture(scope="module")
def specs():
    return fast.people(CFG, 40)


def test_the_column_is_whole_and_in_order(specs):
    for p in specs:
        a = fast.body_of(p, CFG)
        z = [v.z for v in a.vertebrae]
        assert z == sorted(z, reverse=True)
        for up, down in zip(a.vertebrae, a.vertebrae[1:], strict=False):
            gap = (up.z - 0.5 * up.height) - (down.z + 0.5 * down.height)
            assert 1 < gap < 16  # a disc
        assert a.vertebrae[-1].z - 0.5 * a.vertebrae[-1].height > a.sacrum_top


def test_gradients_within_a_body_are_the_published_ones(specs):
    lower, back, rim = np.mean([halves(fast.body_of(p, CFG)) for p in specs], axis=0)
    assert 0.13 < lower < 0.25
    assert 0.15 < back < 0.25
    assert 0.25 < rim < 0.40


def test_slices_matter(specs):
    """The mid-vertebral reading tells people's bone density; a random slice hardly does."""
    r = [read_scan(fast.stack_of(p, CFG)) for p in specs]
    v = np.array([p.vbmd for p in specs])
    ok = np.array([np.isfinite(x.lumbar) for x in r])
    good = np.corrcoef(v[ok], np.array([x.lumbar for x in r])[ok])[0, 1]
    chance = np.corrcoef(v, np.array([x.random for x in r]))[0, 1]
    assert good > 0.9
    assert chance < good - 0.15


def test_a_disc_is_no_bone(specs):
    for p in specs[:6]:
        s = fast.stack_of(p, CFG)
        s.scan = replace(
            s.scan, thickness=1.0, z=tuple(v.z - 0.5 * (v.height + v.disc) for v in s.anatomy.vertebrae[::-1])
        )
        level, _ = levels_at(s.anatomy, s.scan)
        for i in np.flatnonzero(level == "disc")[1:4]:
            assert core_roi(s, int(i)) < 145


def test_noise_is_correlated_and_kernels_differ(specs):
    scan = replace(draw_scan(specs[0], fast.body_of(specs[0], CFG), CFG), size=512, pixel=0.7)
    soft = noise_field(scan, 0)
    sharp = noise_field(replace(scan, kernel=SHARP[scan.kernel.vendor]), 0)
    assert soft.std() == pytest.approx(1, abs=0.15)

    def neighbours(n):
        return float(np.mean(n[:, 1:] * n[:, :-1]) / np.mean(n**2))

    assert neighbours(soft) > 0.2
    assert neighbours(sharp) < neighbours(soft)
    assert abs(float(np.mean(soft * noise_field(scan, 1)))) < 0.1


def test_contrast_medium_brightens_the_aorta_and_hardly_the_bone(specs):
    p = specs[3]
    data = CFG.model_dump()
    with_medium = CohortConfig.model_validate({**data, "scan": {**data["scan"], "contrast_share": 1}})
    plain, bright = fast.stack_of(p, CFG), fast.stack_of(p, with_medium)
    bright.scan = replace(plain.scan, enhancement=bright.scan.enhancement)
    i = int(np.argmin(np.abs(plain.z_mm)))
    difference = bright.axial(i).astype(int) - plain.axial(i)
    assert np.percentile(difference, 99.8) > 80
    rise = core_roi(bright, i) - core_roi(plain, i)
    assert 3 < rise < 15


def test_phantom_rods_measure_the_beam(specs):
    data = CFG.model_dump()
    slopes = {}
    for kvp in (80, 120, 140):
        scan = {**data["scan"], "kvp": {kvp: 1.0}, "phantom_share": 1.0}
        cfg = CohortConfig.model_validate({**data, "scan": scan})
        slopes[kvp] = rod_slope(fast.stack_of(specs[1], cfg))
    assert slopes[80] > slopes[120] > slopes[140] > 0.7


def test_the_check_states_pass_and_miss():
    rows = [Target("a", "1", 0.9, 1.1, 1.0, 5, "x"), Target("b", "2", 1.9, 2.1, 3.0, 5, "y")]
    text = lines(rows)
    assert text[0].startswith("pass  a")
    assert text[1].startswith("MISS  b")
    assert text[2] == "1 of 2 figures hold, 1 missed"
