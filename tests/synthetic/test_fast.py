"""The fast path: rendering is pure, cheap rectangles equal the whole, truth fits what is rendered."""

import numpy as np
import pytest

from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig

CFG = CohortConfig(seed=5)


@pytest.fixture(scope="module")
def specs():
    return fast.people(CFG, 60)


def test_people_follow_from_the_seed(specs):
    assert fast.people(CFG, 60) == specs
    assert fast.people(CFG, 60, seed=6) != specs


def test_a_rectangle_equals_that_part_of_the_slice(specs):
    s = fast.stack_of(specs[0], CFG)
    i = s.n // 2
    whole = s.axial(i)
    assert whole.dtype == np.int16
    assert whole.shape == (s.scan.size, s.scan.size)
    part = s.patch(i, slice(70, 150), slice(90, 170))
    np.testing.assert_array_equal(part, whole[70:150, 90:170])


def test_slices_are_counted_once_and_rendered_alike(specs):
    s = fast.stack_of(specs[1], CFG)
    first = s.axial(3)
    np.testing.assert_array_equal(first, s.axial(3))
    assert s.decoded == 1
    assert s.bytes_read == first.nbytes
    assert (np.diff(s.z_mm) > 0).all()
    with pytest.raises(IndexError):
        s.axial(s.n)


def test_rendered_core_agrees_with_the_truth(specs):
    """Mid-vertebral ROI means are what the truth says, up to noise, contrast medium and the scan's calibration."""
    from osteo_ray.synthetic.check import core_roi

    errors = []
    for p in specs[:25]:
        s = fast.stack_of(p, CFG)
        t = fast.truth_of(p, CFG).slices
        good = [i for i in range(s.n) if t.mid[i] > 0.6 and str(t.level[i]) in ("L1", "L2", "L3", "L4")]
        plain = [v for v in s.anatomy.vertebrae if v.cement or v.screws or v.wedge or v.sclerosis]
        for i in good[:2]:
            if plain or s.scan.contrast:
                continue
            errors.append(core_roi(s, i) / (t.trabecular_hu[i] * s.scan.bone_gain) - 1)
    assert len(errors) > 5
    assert abs(float(np.mean(errors))) < 0.06
    assert float(np.std(errors)) < 0.15


def test_tissues_have_their_hounsfield_numbers(specs):
    s = fast.stack_of(specs[2], CFG)
    hu = s.axial(s.n // 2)
    assert np.median(hu[:6]) == pytest.approx(-1000, abs=15)  # air above the patient
    fat = hu[(hu > -160) & (hu < -60)]
    assert np.median(fat) == pytest.approx(-102, abs=12)


def test_records_lose_what_the_mechanism_takes(specs):
    t = fast.records_of(specs, CFG)
    _, mask = t.matrix(["age_y", "alp_u_l"])
    assert mask[:, 0].tolist() == [p.has_demographics for p in specs]
    assert not mask[[not p.has_labs for p in specs], 1].any()
    assert t.frame["t_score"].notna().all()


def test_the_posterior_is_sharper_with_the_images(specs):
    with_ct = [p for p in fast.people(CFG, 400)]
    t = np.array([p.t_score for p in with_ct])
    seen = fast.posterior_of([p.complete() for p in with_ct], CFG).vs_rest
    blind = fast.posterior_of(with_ct, CFG, use_ct=False).vs_rest
    y = t <= -2.5

    def log_loss(q):
        return -np.mean(np.where(y, np.log(q + 1e-12), np.log(1 - q + 1e-12)))

    assert log_loss(seen) < log_loss(blind) < log_loss(np.full(len(y), y.mean()))
