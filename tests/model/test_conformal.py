import numpy as np
import pytest

from osteo_ray.model.conformal import class_set, fit_conformal


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of a miscalibrated model and the classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), y] += 1.5
    p = np.exp(3 * logits)
    return p / p.sum(1, keepdims=True), y


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_each_class_is_covered_at_the_stated_level_though_the_model_is_overconfident(level):
    p, y = drawn(3000, 0)
    accepted = fit_conformal(p, y, level)
    p, y = drawn(9000, 1)
    names = ("normal", "osteopenia", "osteoporosis")
    held = np.array([names[c] in class_set(x, accepted) for x, c in zip(p, y, strict=True)])
    for c in range(3):
        assert held[y == c].mean() == pytest.approx(level, abs=0.025)


def test_rank_by_hand_and_too_few_patients_rule_nothing_out():
    p = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0]])
    accepted = fit_conformal(p, np.array([0, 0, 0]), 0.5)  # rank ceil(4 x 0.5) = 2 of 0.1, 0.4, 0.8
    assert accepted == [pytest.approx(0.4), 1.0, 1.0]
    assert class_set(np.array([0.5, 0.4, 0.1]), accepted) == ["osteopenia", "osteoporosis"]
    assert fit_conformal(p, np.array([0, 0, 0]), 0.9)[0] == 1.0
