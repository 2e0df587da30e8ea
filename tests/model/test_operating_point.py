"""A threshold by the lower bound of its sensitivity, and what rows say of it."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from osteo_ray.model.operating_point import measured_text, operating_point, wilson_lower


def drawn(n, events, seed=0, apart=2.0):
    rng = np.random.default_rng(seed)
    label = np.where(np.arange(n) < events, 2, 0)
    return 1 / (1 + np.exp(-(rng.normal(size=n) + apart * (label == 2) - 1))), label, np.ones(n)


def test_the_bound_is_statsmodels_own():
    for k, n in ((46, 50), (20, 20), (3, 9)):
        low, _ = proportion_confint(k, n, alpha=0.2, method="wilson")
        assert wilson_lower(np.array([k / n]), n, 0.9)[0] == pytest.approx(low)


def at_85(risk, label, weight):
    return operating_point(risk, label, weight, 0.85)


def test_the_true_sensitivity_falls_short_as_rarely_as_the_bound_says():
    many, label, _ = drawn(40_000, 20_000, 99)
    short = 0
    for seed in range(200):
        point = at_85(*drawn(200, 60, seed))
        assert point.reached
        short += bool((many[label == 2] >= point.threshold).mean() < 0.85)
    assert short / 200 <= 0.15


def test_too_few_patients_with_osteoporosis_say_so():
    risk, label, weight = drawn(40, 5)
    point = operating_point(risk, label, weight, 0.85)
    assert not point.reached
    assert point.threshold == risk[label == 2].min()
    assert "not shown by 5 patients" in point.text
    with pytest.raises(ValueError, match="no patient with osteoporosis"):
        operating_point(risk, np.zeros(40), weight, 0.85)


def test_a_sensitivity_that_costs_the_specificity_says_so():
    point = at_85(*drawn(2000, 800, apart=0.2))
    assert point.reached
    assert not point.useful
    assert "specificity of only" in point.text
    good = at_85(*drawn(2000, 800, apart=4))
    assert good.useful
    assert good.text == "sensitivity 85% for osteoporosis, lower 90% bound"


def test_weights_count():
    """Cases that stand for many pull the threshold to where they are."""
    risk, label = np.r_[np.full(50, 0.9), np.full(50, 0.2), np.zeros(10)], np.r_[np.full(100, 2), np.zeros(10)]
    plain = operating_point(risk, label, np.ones(110), 0.3)
    heavy = operating_point(risk, label, np.r_[np.ones(50), np.full(50, 5.0), np.ones(10)], 0.3)
    assert (plain.threshold, heavy.threshold) == (0.9, 0.2)


def test_rows_state_held_out_figures_with_their_n():
    row = {"n": 772, "events": 157, "sensitivity": [0.733, 0.658, 0.796], "specificity": [0.787, 0.753, 0.818]}
    assert measured_text(row) == "held out: sensitivity 0.73 (0.66-0.80, n=157), specificity 0.79 (0.75-0.82, n=615)"
    assert measured_text(None) == "not measured on held-out people"
