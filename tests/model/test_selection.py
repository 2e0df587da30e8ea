"""Further looks, where the levels of the picks are not known."""

import numpy as np
import pytest
from synthetic_spine import embedding_of, spine

from osteo_ray.model.levels import levels_of
from osteo_ray.model.selection import LOOKS, ON_LEVEL, Selection, looked_further


def scan(seed: int, looks: int = 9):
    """(z, embedding of every position, true levels, a selection that looked at a few) from the feet up."""
    z, region, number, mid, truth = spine(np.random.default_rng(seed), n=64, flat=0.3)
    z, e, truth = z[::-1], embedding_of(region, number, mid)[::-1], truth[::-1]
    looked = np.zeros(64, bool)
    looked[np.linspace(0, 63, looks).astype(int)] = True
    at = np.flatnonzero(looked)
    kept = at[np.argsort(-levels_of(z[at], e[at]).lumbar, kind="stable")[:4]]
    return z, e, truth, Selection(kept, looked, np.where(looked[:, None], e, 0))


def named(z, s):
    """Level names of the kept picks that lie in L1-L4."""
    at = np.flatnonzero(s.looked)
    levels = levels_of(z[at], s.embedding[at])
    return {k: levels.level[i] for i, k in enumerate(at) if k in s.kept and levels.lumbar[i] >= ON_LEVEL}


def test_further_looks_name_what_a_few_leave_open():
    before = after = right = 0
    for seed in range(12):
        z, e, truth, s = scan(seed)
        asked: list[int] = []

        def embed(p, e=e, asked=asked):
            asked.extend(p.tolist())
            return e[p]

        more = looked_further(s, z, embed, 16)
        assert not s.looked[asked].any(), "only slices not looked at yet"
        assert set(np.flatnonzero(more.looked)) == set(np.flatnonzero(s.looked)) | set(asked)
        assert len(asked) <= 16
        assert np.array_equal(more.embedding[more.looked], e[more.looked])
        if all(named(z, s).values()):
            assert not asked, "where every pick has a name nothing more is looked at"
        before += sum(v is not None for v in named(z, s).values())
        found = named(z, more)
        after += sum(v is not None for v in found.values())
        right += sum(v == truth[k] for k, v in found.items() if v is not None)
    assert after > before
    assert right >= 0.95 * after


@pytest.mark.parametrize("most", [0, LOOKS])
def test_a_scan_that_would_not_be_scored_is_not_looked_at_further(most):
    z, e, _, s = scan(3)
    e[:, -5:-1] = np.eye(4)[2]  # all of it pelvis
    s = Selection(s.kept, s.looked, np.where(s.looked[:, None], e, 0))
    assert np.array_equal(looked_further(s, z, lambda p: e[p], most).looked, s.looked)
