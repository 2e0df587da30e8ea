import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from osteo_ray.evaluation import metrics as m


def scores_of(seed: int, n: int = 120, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.35
    return y, rng.normal(size=n) + shift * y


def components(y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's structural components by their definition, O(m n)."""
    pos, neg = s[y == 1], s[y == 0]
    psi = (pos[:, None] > neg[None, :]) + 0.5 * (pos[:, None] == neg[None, :])
    return psi.mean(1), psi.mean(0)


labelled = st.integers(4, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int8, n, elements=st.integers(0, 1)),
        hnp.arrays(np.float64, n, elements=st.integers(-6, 6).map(float)),  # few values: many ties
    )
)


@given(labelled)
def test_auc_and_interval_match_the_definition(data):
    y, s = data
    e = m.auc_delong(y, s)
    assert (e.n_pos, e.n_neg) == (int(y.sum()), int((1 - y).sum()))
    if e.n_pos == 0 or e.n_neg == 0:
        assert math.isnan(e.value)
        assert e.note
        return
    assert e.value == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    v10, v01 = components(y, s)
    assert e.value == pytest.approx(v10.mean(), abs=1e-12)
    if e.n_pos < 2 or e.n_neg < 2:
        assert math.isnan(e.low)
        return
    var = v10.var(ddof=1) / e.n_pos + v01.var(ddof=1) / e.n_neg
    if var < 1e-15:
        assert math.isnan(e.low)
        assert "variance" in e.note
        return
    half = norm.ppf(0.975) * math.sqrt(var)
    plain = m.auc_delong(y, s, scale="plain")
    assert plain.low == pytest.approx(max(0.0, e.value - half), abs=1e-9)
    assert plain.high == pytest.approx(min(1.0, e.value + half), abs=1e-9)
    odds = e.value / (1 - e.value)
    factor = math.exp(min(700.0, half / (e.value * (1 - e.value))))
    assert e.low == pytest.approx(odds / factor / (1 + odds / factor), abs=1e-9)
    assert e.high == pytest.approx(1 - 1 / (1 + odds * factor), abs=1e-9)
    assert 0 <= e.low <= e.value <= e.high <= 1


@given(labelled)
def test_auc_only_asks_for_the_order(data):
    y, s = data
    a, b = m.auc_delong(y, s), m.auc_delong(y, np.exp(s / 3) * 7 - 2)
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), nan_ok=True)
    turned = m.auc_delong(y, -s)
    assert turned.value == pytest.approx(1 - a.value, nan_ok=True)


def test_delong_interval_agrees_with_the_bootstrap():
    y, s = scores_of(3, n=400)
    e = m.auc_delong(y, s)
    b = m.bootstrap(lambda rows: m.auc_delong(y[rows], s[rows]).value, np.arange(len(y)), n_boot=1500, seed=1)
    assert b.value == e.value
    assert (b.low, b.high) == pytest.approx((e.low, e.high), abs=0.012)


@pytest.mark.parametrize(("distance", "n_pos", "n_neg"), [(1.0, 70, 130), (2.4, 30, 30), (2.4, 60, 200)])
def test_the_interval_covers_the_true_auc_as_often_as_it_says(distance, n_pos, n_neg):
    true = norm.cdf(distance / math.sqrt(2))  # binormal, unit variances; 2.4 apart is an AUC of 0.955
    rng = np.random.default_rng(0)
    y = np.repeat([1, 0], [n_pos, n_neg])
    estimates = [m.auc_delong(y, rng.normal(size=len(y)) + distance * y) for _ in range(800)]
    known = [e for e in estimates if not e.note]
    assert len(known) > 790
    covered = np.mean([e.low <= true <= e.high for e in known])
    assert 0.92 <= covered <= 0.975  # 95 %, within some four standard errors of 800 draws


@given(labelled, st.integers(0, 10**6))
def test_delong_test_matches_the_definition(data, seed):
    y, a = data
    b = a + np.random.default_rng(seed).integers(-2, 3, len(a))
    c = m.delong_test(y, a, b)
    if y.sum() < 2 or (1 - y).sum() < 2:
        assert math.isnan(c.p)
        return
    a10, a01 = components(y, a)
    b10, b01 = components(y, b)
    assert c.diff == pytest.approx(a10.mean() - b10.mean(), abs=1e-12)
    s10, s01 = np.cov(a10, b10), np.cov(a01, b01)
    cov = s10 / len(a10) + s01 / len(a01)
    var = cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]
    if var > 1e-12:
        assert c.high - c.diff == pytest.approx(norm.ppf(0.975) * math.sqrt(var), rel=1e-6)
        assert c.p == pytest.approx(2 * norm.sf(abs(c.diff) / math.sqrt(var)), rel=1e-6, abs=1e-12)
    mirrored = m.delong_test(y, b, a)
    assert mirrored.diff == -c.diff
    assert mirrored.p == pytest.approx(c.p, nan_ok=True)


def test_delong_test_of_a_score_with_itself_finds_nothing():
    y, s = scores_of(5)
    assert m.delong_test(y, s, 3 * s + 1) == (0.0, 0.0, 0.0, 1.0)


def test_delong_test_keeps_its_level_when_both_scores_are_equally_good():
    rejected = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        y = rng.random(150) < 0.4
        shared = rng.normal(size=150) + y
        rejected += m.delong_test(y, shared + rng.normal(size=150), shared + rng.normal(size=150)).p < 0.05
    assert 0.02 <= rejected / 400 <= 0.085


def test_confusion_by_hand():
    y = [1, 1, 1, 0, 0, 0, 0, 1]
    s = [0.9, 0.5, 0.2, 0.5, 0.1, 0.2, 0.3, 0.8]
    c = m.confusion_at(y, s, 0.5)
    assert (c.tp, c.fp, c.fn, c.tn) == (3, 1, 1, 3)
    assert c.sensitivity.value == c.specificity.value == c.ppv.value == c.npv.value == 0.75
    assert c.accuracy.value == 0.75
    assert (c.accuracy.n, c.sensitivity.n, c.ppv.n) == (8, 4, 4)


@given(st.integers(0, 30), st.integers(0, 30))
def test_sensitivity_has_wilson_bounds(hits, misses):
    n = hits + misses
    c = m.confusion_at([1] * n, [1.0] * hits + [0.0] * misses, 0.5)
    if n == 0:
        assert math.isnan(c.sensitivity.value)
        return
    z = norm.ppf(0.975)
    p = hits / n
    mid = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (c.sensitivity.low, c.sensitivity.high) == pytest.approx((mid - half, mid + half), abs=1e-9)
    assert math.isnan(c.specificity.value)
    assert c.specificity.note == "no negatives"


def test_each_patient_may_have_a_threshold_of_its_own():
    y, s = [1, 1, 0, 0], [0.4, 0.6, 0.4, 0.6]
    c = m.confusion_at(y, s, [0.3, 0.7, 0.5, 0.5])
    assert (c.tp, c.fn, c.tn, c.fp) == (1, 1, 1, 1)


def risks(seed: int, slope: float, shift: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(-0.8, 1.3, n)  # log-odds that the model says
    y = rng.random(n) < 1 / (1 + np.exp(-(slope * x + shift)))
    return y, 1 / (1 + np.exp(-x))


def test_calibration_finds_the_planted_slope_and_shift():
    k = m.calibration(*risks(0, slope=0.6, shift=0.0))
    assert k.slope.low < 0.6 < k.slope.high < 1
    good = m.calibration(*risks(1, slope=1.0, shift=0.0))
    assert good.slope.low < 1 < good.slope.high
    assert good.intercept.low < 0 < good.intercept.high
    assert good.ece < 0.02
    low = m.calibration(*risks(2, slope=1.0, shift=0.7))
    assert low.intercept.low < 0.7 < low.intercept.high
    assert low.ece > 0.1


def test_calibration_agrees_with_sklearn():
    y, p = risks(4, slope=0.8, shift=0.3, n=800)
    k = m.calibration(y, p)
    x = np.log(p / (1 - p))[:, None]
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, y)
    assert k.slope.value == pytest.approx(other.coef_[0, 0], rel=1e-4)
    assert k.brier == pytest.approx(brier_score_loss(y, p), rel=1e-12)
    # Calibration-in-the-large solves sum(y) = sum(sigmoid(x + a)).
    assert (1 / (1 + np.exp(-(x[:, 0] + k.intercept.value)))).sum() == pytest.approx(y.sum(), rel=1e-6)


def test_ece_by_hand():
    y = [0, 0, 0, 1, 1, 1, 1, 0]
    p = [0.1, 0.1, 0.1, 0.1, 0.7, 0.7, 0.7, 0.7]
    k = m.calibration(y, p, bins=2)
    assert k.bins == ((pytest.approx(0.1), 0.25, 4), (pytest.approx(0.7), 0.75, 4))
    assert k.ece == pytest.approx((0.15 + 0.05) / 2)


@given(labelled, st.integers(0, 1000))
@settings(max_examples=50)
def test_calibration_does_not_depend_on_the_order_of_patients(data, seed):
    y, s = data
    p = (s + 7) / 14
    order = np.random.default_rng(seed).permutation(len(y))
    a, b = m.calibration(y, p), m.calibration(y[order], p[order])
    assert a.ece == pytest.approx(b.ece, abs=1e-12)
    assert sum(n for *_, n in a.bins) == len(y)
    assert [n for *_, n in a.bins] == [n for *_, n in b.bins]


def test_calibration_of_a_perfect_separation_says_so():
    k = m.calibration([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9])
    assert math.isnan(k.slope.value)
    assert "separated" in k.note
    assert k.brier == pytest.approx((0.01 + 0.04 + 0.09 + 0.01) / 4)


def test_decision_curve_by_hand():
    y, p = [1, 1, 0, 0, 0], [0.9, 0.3, 0.6, 0.2, 0.1]
    d = m.decision_curve(y, p, [0.0, 0.25, 0.5])
    assert d.model == pytest.approx((0.4, 2 / 5 - 1 / 5 / 3, 1 / 5 - 1 / 5))
    assert d.treat_all == pytest.approx((0.4, 0.4 - 0.6 / 3, 0.4 - 0.6))


def test_bootstrap_draws_whole_patients():
    rng = np.random.default_rng(0)
    patient = rng.normal(size=60)
    values = np.repeat(patient, 20)  # twenty identical rows a patient
    clustered = m.bootstrap(lambda rows: float(values[rows].mean()), np.repeat(np.arange(60), 20), seed=1)
    naive = m.bootstrap(lambda rows: float(values[rows].mean()), np.arange(1200), seed=1)
    standard_error = patient.std(ddof=1) / math.sqrt(60)
    assert clustered.high - clustered.low == pytest.approx(2 * 1.96 * standard_error, rel=0.12)
    assert naive.high - naive.low < 0.3 * (clustered.high - clustered.low)
    assert clustered.n_pos == 60


def test_bootstrap_counts_what_it_could_not_draw():
    y, s = np.array([1, 0, 0, 0]), np.array([0.9, 0.1, 0.95, 0.2])
    b = m.bootstrap(lambda rows: m.auc_delong(y[rows], s[rows]).value, np.arange(4), n_boot=200, seed=0)
    assert b.note.endswith("of 200 draws undefined")
    assert b.low <= b.value <= b.high


@pytest.mark.parametrize(("y", "note"), [([], "nobody"), ([1, 1], "no negatives"), ([0, 0, 0], "no positives")])
def test_one_class_is_undefined_and_says_why(y, note):
    s = np.linspace(0.2, 0.8, len(y))
    e = m.auc_delong(y, s)
    assert math.isnan(e.value)
    assert e.note == note
    assert str(e) == f"n/a ({note})"
    assert math.isnan(m.delong_test(y, s, s).p)
    assert m.calibration(y, s).note == note
    assert len(m.decision_curve(y, s, [0.1, 0.2]).model) == 2
    assert len(m.roc_points(y, s)[0]) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: m.auc_delong([1, 0], [0.1]), "one length"),
        (lambda: m.auc_delong([1, 2], [0.1, 0.2]), "only 0 and 1"),
        (lambda: m.auc_delong([1, 0], [0.1, np.nan]), "1 of 2 are NaN"),
        (lambda: m.calibration([1, 0], [0.1, 1.2]), r"lie in \[0, 1\]"),
        (lambda: m.confusion_at([1, 0], [0.1, 0.2], [0.1, 0.2, 0.3]), "one number or one per score"),
        (lambda: m.decision_curve([1, 0], [0.1, 0.2], [1.0]), r"lie in \[0, 1\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
