import numpy as np

from osteo_ray.model.config import NoveltyConfig
from osteo_ray.model.novelty import fit_novelty, picks_summary


def drawn(n, seed):
    """Two features that go together, and one of its own."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    x[:, 1] = x[:, 0] + 0.2 * x[:, 1]
    return np.where(rng.random(x.shape) < 0.1, np.nan, x)


def test_few_ordinary_patients_and_every_odd_one_lie_beyond_the_threshold():
    n = fit_novelty(drawn(800, 0), drawn(200, 1), NoveltyConfig(quantile=0.99, slack=1.0))
    ordinary = n(drawn(5000, 2)) > n.threshold
    assert 0.002 < ordinary.mean() < 0.03
    odd = np.array([[9.0, 9.0, 0.0], [2.5, -2.5, 0.0], [np.nan, np.nan, 8.0]])
    assert (n(odd) > n.threshold).all(), "far away, an implausible combination, far away in the one known value"
    assert n(np.full((1, 3), np.nan))[0] == 0, "nothing known is nothing odd"


def test_slack_widens_and_no_validation_patient_accepts_all():
    tight, wide = (fit_novelty(drawn(300, 0), drawn(100, 1), NoveltyConfig(slack=s)).threshold for s in (1.0, 1.5))
    assert np.isclose(wide, 1.5 * tight)
    assert fit_novelty(drawn(300, 0), drawn(0, 1), NoveltyConfig()).threshold == np.inf


def test_summary_of_picks_ignores_padding():
    bag = np.array([[[1.0], [3.0], [99.0]], [[5.0], [0.0], [0.0]]])
    mask = np.array([[True, True, False], [False] * 3])
    s = picks_summary(bag, mask)
    assert s[0, 0] == 2
    assert np.isnan(s[1, 0])
