"""Level names on spines with known levels, seen by an encoder that errs."""

import numpy as np
import pytest
from synthetic_spine import spine

from osteo_ray.model.embedding import REGIONS
from osteo_ray.model.levels import (
    LUMBAR_PRIOR,
    ONE,
    SIZE_PRIOR,
    STAY,
    STEP_MM,
    TWO,
    _chains,
    _evidence,
    _moves,
    _scaled_mid,
    _weights,
    name_levels,
)


def share_right(**kw):
    right = count = named = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        z, region, number, mid, truth = spine(rng, size=rng.uniform(0.9, 1.15), **kw)
        found = name_levels(z, region, number, mid)
        body = np.array([t[0] in "LT" for t in truth]) & (mid > 0.5)
        for t, level in zip(truth[body], np.array(found.level, object)[body], strict=True):
            count += 1
            named += level is not None
            right += level == t
    return right / max(named, 1), named / count


@pytest.mark.parametrize("kw", [{}, {"top": "L1"}, {"bottom": "L4"}, {"flat": 0.2}])
def test_levels_are_right_where_chest_or_sacrum_is_seen(kw):
    right, named = share_right(**kw)
    assert right >= 0.95
    assert named >= 0.8


def test_without_an_anchor_less_is_named_and_confidence_says_so():
    rng = np.random.default_rng(0)
    z, region, number, mid, _ = spine(rng, top="L2", bottom="L4", flat=0.0, n=12)
    region[:] = np.eye(4)[REGIONS.index("lumbar")] * 0.9 + 0.025
    found = name_levels(z, region, number, mid)
    assert max(found.confidence) < 0.9
    assert sum(level is None for level in found.level) >= 3


def test_what_shows_no_bodies_is_not_named_lumbar_however_sure_the_region():
    region = np.tile(np.array([0.01, 0.97, 0.01, 0.01]), (20, 1))
    rng = np.random.default_rng(0)
    found = name_levels(np.arange(20) * 9.0, region, np.linspace(16.5, 14, 20), rng.uniform(0, 0.15, 20))
    assert not any(level and level[0] == "L" for level in found.level)
    assert found.lumbar.max() == 0


def test_nothing_of_the_spine_has_no_name():
    region = np.tile(np.eye(4)[REGIONS.index("none")], (10, 1))
    found = name_levels(np.arange(10) * 20.0, region, np.full(10, 15.0), np.zeros(10))
    assert set(found.level) == {None}
    assert found.lumbar.max() < 0.2
    assert name_levels(np.zeros(0), np.zeros((0, 4)), np.zeros(0), np.zeros(0)).level == ()


def test_steps_keep_probability_stay_in_their_size_and_add_up():
    chains = _chains()
    size = np.cumsum(chains.sums.toarray()[:, chains.names.index("above")])
    for steps in (1, 7, 32):
        m = _moves(steps).tocoo()  # row: to, column: from
        assert np.allclose(m.sum(0), 1, atol=1e-12)
        assert np.array_equal(size[m.coords[0]], size[m.coords[1]])
    apart = _moves(3) - _moves(1) @ _moves(1) @ _moves(1)
    assert abs(apart).max() < 1e-12


def test_spines_of_four_five_and_six_lumbar_vertebrae_are_summed_over():
    """As if each number of lumbar vertebrae and each size had a chain of its own, followed step by step."""
    rng = np.random.default_rng(3)
    z, region, number, mid, _ = spine(rng, flat=0.2, n=14)
    z = np.round(z)
    found = name_levels(z, region, number, mid)
    chains, at = _chains(), np.rint((z.max() - z) / STEP_MM).astype(int)
    log = _evidence(chains, region, number, _scaled_mid(mid, region)) * _weights(z.max() - z)[:, None]
    sums = chains.sums.toarray()
    first = np.flatnonzero(sums[:, chains.names.index("above")]).tolist()
    weights, of_slices = [], []
    for low, high, p in zip(first, [*first[1:], len(sums)], SIZE_PRIOR, strict=True):
        for lumbar, q in LUMBAR_PRIOR.items():
            absent = [chains.names.index(f"L{i}") for i in range(lumbar + 1, 7)]
            own = [s for s in range(low, high) if not sums[s, absent].any()]
            n = len(own)
            move = STAY * np.eye(n) + ONE * np.eye(n, k=-1) + TWO * np.eye(n, k=-2)
            move[:2, 0], move[2, 0] = (0.9, 0.1), 0
            move[-1, -2:] = ONE + TWO, 1
            seen = np.ones((at.max() + 1, n))
            for k, step in enumerate(at):
                seen[step] *= np.exp(log[k, chains.kind[own]] - log[k].max())
            forward, back = [seen[0] / n], [np.ones(n)]
            for e in seen[1:]:
                forward.append(move @ forward[-1] * e)
            for e in seen[:0:-1]:
                back.insert(0, (back[0] * e) @ move)
            weights.append(p * q * forward[-1].sum())
            of_slices.append(np.array(forward)[at] * np.array(back)[at] @ sums[own] / forward[-1].sum())
    want = np.average(of_slices, axis=0, weights=weights)
    n = len(chains.names)
    assert found.confidence == pytest.approx(want[:, :n].max(1), abs=1e-12)
    assert found.lumbar == pytest.approx(want[:, n], abs=1e-12)


def test_a_scan_whose_beliefs_are_all_low_is_named_like_one_whose_beliefs_are_high():
    """Blur lowers the belief in mid-vertebra for a whole scan; hips show no bodies at all and stay without names."""
    region = np.tile([0.02, 0.96, 0.01, 0.01], (8, 1))
    mid = np.array([0.9, 0.05, 0.8, 0.1, 0.85, 0.0, 0.9, 0.1])
    assert _scaled_mid(mid * 0.45, region) == pytest.approx(np.clip(mid, 0, 1), abs=0.1)
    assert _scaled_mid(mid, region) == pytest.approx(mid)
    assert _scaled_mid(mid * 0.15, region) == pytest.approx(mid * 0.15)
    hips = np.tile([0.02, 0.03, 0.05, 0.90], (8, 1))
    assert _scaled_mid(mid * 0.45, hips) == pytest.approx(mid * 0.45)
