"""The Gaussian over the T-score behind a risk: what it recovers, what it draws together, what it keeps."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from osteo_ray.model.calibration import fit_calibrator, rest_log_odds
from osteo_ray.model.gaussian_calibration import Judged, _density, fit_gaussians, t_score_mean
from osteo_ray.model.ordinal import Latent
from osteo_ray.model.scoring_bundle import calibrator_of

OFFSET, SLOPE, SIGMA = 0.3, 1.2, 0.8


def drawn(n, seed=0, offset=OFFSET, known=True):
    """A model that expects m where T ~ N(offset + SLOPE m, SIGMA^2), and believes in a spread of its own."""
    rng = np.random.default_rng(seed)
    m = rng.normal(-1.5, 0.9, n)
    t = offset + SLOPE * m + SIGMA * rng.normal(size=n)
    label = np.select([t <= -2.5, t < -1], [2, 1], 0)
    logits = Latent(torch.from_numpy(m), torch.tensor(-0.1)).logits().numpy()
    return Judged(logits, label, t if known else np.full(n, np.nan), np.ones(n)), m


def test_the_mean_comes_back_from_the_class_probabilities():
    m = np.linspace(-6, 3, 50)
    logits = Latent(torch.from_numpy(m).float(), torch.tensor(-0.3)).logits().numpy()
    assert t_score_mean(logits) == pytest.approx(m, abs=2e-3)


@pytest.mark.parametrize("known", [True, False], ids=["T-scores", "classes alone"])
def test_shift_stretch_and_spread_are_recovered(known):
    judged, m = drawn(6000, known=known)
    c = fit_gaussians({"ct": judged}, 0, resamples=20)["ct"]
    assert (c.offset, c.slope, c.sigma) == pytest.approx((OFFSET, SLOPE, SIGMA), abs=0.08)
    truth = norm.cdf((-2.5 - OFFSET - SLOPE * m) / SIGMA)
    p, low, high = c.risk(judged.logits)
    assert np.abs(p - truth).max() < 0.04
    assert ((low <= p) & (p <= high)).all()


def test_fifty_patients_say_more_by_their_t_scores_than_by_their_classes():
    errors = []
    for seed in range(25):
        judged, m = drawn(50, seed)
        truth = norm.cdf((-2.5 - OFFSET - SLOPE * m) / SIGMA)
        by_class = fit_calibrator("ct", rest_log_odds(judged.logits), judged.label, seed, resamples=1)
        if by_class is None:
            continue
        gaussian = fit_gaussians({"ct": judged}, seed, resamples=1)["ct"]
        errors.append([((c.risk(judged.logits)[0] - truth) ** 2).mean() for c in (gaussian, by_class)])
    assert np.mean(errors, 0)[0] < 0.7 * np.mean(errors, 0)[1]


def test_weights_undo_a_choice_by_the_t_score():
    judged, m = drawn(20_000)
    chance = 1 / (1 + np.exp(1 + 1.5 * (judged.t_score + 1.5)))
    has = np.random.default_rng(1).random(len(m)) < chance
    picked = {f: getattr(judged, f)[has] for f in ("logits", "label", "t_score")}
    weighted = fit_gaussians({"ct": Judged(**picked, weight=1 / chance[has])}, 0, resamples=2)["ct"]
    plain = fit_gaussians({"ct": Judged(**picked, weight=np.ones(has.sum()))}, 0, resamples=2)["ct"]
    truth = norm.cdf((-2.5 - OFFSET - SLOPE * m) / SIGMA).mean()
    assert weighted.risk(judged.logits)[0].mean() == pytest.approx(truth, abs=0.01)
    assert plain.risk(judged.logits)[0].mean() > truth + 0.02


def test_the_density_is_scipys_to_the_last_bit():
    x = np.r_[np.random.default_rng(0).normal(0, 4, 10_000), np.inf, -np.inf]
    assert (_density(x) == norm.pdf(x)).all()


def test_small_patterns_are_drawn_to_the_others_and_large_ones_stay():
    judged = {"ct": drawn(2000, 1)[0], "demographics+ct": drawn(2000, 2)[0], "labs+ct": drawn(45, 3, offset=0.9)[0]}
    alone, together = (fit_gaussians(judged, 0, resamples=60, pool=p) for p in (False, True))

    def middle(c):
        return c.offset + c.slope * -2.5

    goal = middle(alone["ct"])
    assert abs(middle(together["labs+ct"]) - goal) < abs(middle(alone["labs+ct"]) - goal)
    assert middle(together["ct"]) == pytest.approx(goal, abs=0.05)
    for c in together.values():
        low, high = np.quantile([o + s * -2.5 for o, s, _ in c.resampled], [0.02, 0.98])
        assert low < middle(c) < high


def test_too_few_of_a_class_give_none_and_plain_data_round_trips():
    judged, _ = drawn(400)
    few = Judged(judged.logits, np.where(np.arange(400) < 4, 2, 0), judged.t_score, judged.weight)
    found = fit_gaussians({"ct": judged, "labs": few}, 0, resamples=3)
    assert set(found) == {"ct"}
    c = found["ct"].at_site(0.9, 0.1, ((0.8, 0.0), (1.0, 0.2)), 70, 20)
    assert calibrator_of(c.to_dict()) == c
    p, q = found["ct"].risk(judged.logits)[0], c.risk(judged.logits)[0]
    assert np.log(q / (1 - q)) == pytest.approx(0.9 * np.log(p / (1 - p)) + 0.1, abs=1e-6)
