import numpy as np
import pytest

from osteo_ray.model.calibration import Calibrator, fit_calibrator, rest_log_odds
from osteo_ray.model.patterns import pattern_of


def drawn(n=4000, seed=0, slope=2.0, intercept=-1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1.5, n)
    p = 1 / (1 + np.exp(-(slope * x + intercept)))
    return x, np.where(rng.random(n) < p, 2, rng.integers(0, 2, n)), p


def test_the_curve_is_recovered_and_the_interval_holds_the_truth():
    x, y, p = drawn()
    c = fit_calibrator("ct", x, y, seed=0)
    assert c is not None
    assert c.slope == pytest.approx(2.0, abs=0.2)
    assert c.intercept == pytest.approx(-1.0, abs=0.2)
    got, low, high = c(x)
    assert abs(got - p).max() < 0.06
    assert ((low <= got) & (got <= high)).all()
    assert ((low <= p) & (p <= high)).mean() > 0.5


def test_few_patients_do_not_bend_the_curve():
    """Over many samples of fifty patients the slope is right in the middle, for scores that part the classes well."""
    slopes = []
    for seed in range(60):
        x, y, _ = drawn(50, seed, slope=1.5, intercept=-1.0)
        c = fit_calibrator("ct", 2 * x, y, seed, resamples=1)
        if c is not None:
            slopes.append(2 * c.slope)
    assert np.median(slopes) == pytest.approx(1.5, rel=0.08)


def test_interval_narrows_with_more_patients():
    width = []
    for n in (60, 3000):
        x, y, _ = drawn(n)
        c = fit_calibrator("ct", x, y, seed=0)
        assert c is not None
        _, low, high = c(np.array([0.0]))
        width.append(float(high[0] - low[0]))
    assert width[1] < width[0] / 2


def test_too_few_patients_give_no_calibrator():
    assert fit_calibrator("ct", np.arange(10.0), np.array([2] * 4 + [0] * 6), seed=0) is None


def test_separable_scores_keep_a_finite_slope_and_plain_data_round_trips():
    c = fit_calibrator("ct", np.r_[np.zeros(10), np.ones(10)], np.r_[np.zeros(10), np.full(10, 2)], seed=0)
    assert c is not None
    assert np.isfinite(c.slope)
    assert Calibrator.from_dict(c.to_dict()) == c


def test_rest_log_odds_by_hand():
    z = np.log([[0.5, 0.3, 0.2]])
    assert rest_log_odds(z)[0] == pytest.approx(np.log(0.2 / 0.8))


def test_pattern_names():
    assert pattern_of(np.array([True, False, True])) == "demographics+ct"
