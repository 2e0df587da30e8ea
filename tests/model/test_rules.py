"""Selectors without a policy: what they look at and keep."""

import numpy as np
import pytest
from pydantic import ValidationError
from synthetic_spine import embedding_of, spine

from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import coarse_positions
from osteo_ray.model.look import Look
from osteo_ray.model.selection import select


def no_policy(look: Look) -> np.ndarray:
    raise AssertionError("no policy is asked")


def selected(seed: int, view: ViewConfig):
    """(selection, true levels, mid) of a scan from the feet up, and every position that was decoded, in order."""
    z, region, number, mid, truth = spine(np.random.default_rng(seed), n=64, flat=0.3)
    z, e, truth, mid = z[::-1], embedding_of(region, number, mid)[::-1], truth[::-1], mid[::-1]
    asked: list[int] = []

    def embed(p):
        asked.extend(p.tolist())
        return e[p]

    return select(z, embed, no_policy, view), truth, mid, asked


def test_the_rule_keeps_middles_of_l1_to_l4_at_the_policys_budget():
    view = ViewConfig(method="rule", by_level=False)
    lumbar, middles = [], []
    for seed in range(12):
        s, truth, mid, asked = selected(seed, view)
        assert len(asked) == len(set(asked)), "a slice is decoded once"
        assert set(asked) == set(np.flatnonzero(s.looked))
        assert len(asked) <= view.coarse + view.keep + view.spare
        assert len(s.kept) == view.keep
        assert s.looked[s.kept].all()
        lumbar += [truth[k] in ("L1", "L2", "L3", "L4") for k in s.kept]
        middles += mid[s.kept].tolist()
    assert np.mean(lumbar) > 0.8
    assert np.mean(middles) > 0.6


def test_evenly_spaced_slices_are_all_that_is_decoded():
    view = ViewConfig(method="uniform", by_level=False)
    s, _, _, asked = selected(0, view)
    assert asked == coarse_positions(64, view.keep).tolist()
    assert sorted(s.kept) == asked


@pytest.mark.parametrize("n", [1, 3, 8])
def test_short_scans_give_what_they_have(n):
    z, e = np.arange(n) * 5.0, np.zeros((n, 60), np.float32)
    for method in ("rule", "uniform"):
        kept = select(z, e.__getitem__, no_policy, ViewConfig(method=method, by_level=False)).kept
        assert len(kept) == min(n, ViewConfig().keep) == len(set(kept.tolist()))


def test_a_method_and_a_selector_of_ones_own_exclude_each_other():
    with pytest.raises(ValidationError, match="selector"):
        ViewConfig(method="rule", selector="my.selector")
