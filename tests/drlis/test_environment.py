import numpy as np
import pytest
import torch
from synthetic_scans import DIM, synthetic_scans

from osteo_ray.drlis.config import RewardConfig
from osteo_ray.drlis.environment import SliceSelectionEnv
from osteo_ray.drlis.reward import class_target, decision, dr_dsn, fit_scorers, fold_of, information_gain, posteriors
from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import EmbeddingLayout, Scans, coarse_positions, height_of
from osteo_ray.model.look import Look, observe
from osteo_ray.model.policy import class_probs
from osteo_ray.model.pooling import AttentionPool, Pooled


class Table(AttentionPool):
    """A scorer whose probabilities are given by how many slices are kept."""

    def __init__(self, rows):
        super().__init__(DIM, 3)
        self.rows = torch.tensor(rows)

    def forward(self, bag, mask):
        p = self.rows[int(mask.sum())][None]
        return Pooled(p.log(), p, mask.float())


PROBS = [[0.4, 0.3, 0.3], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.05, 0.05, 0.9]]


def env(view="coarse", keep=3, coarse=4, label=2, posterior=0.0, posteriors=None, level=0.0, **reward):
    s = synthetic_scans(1, 12)
    scans = Scans(s.embedding, s.valid, s.z_mm, np.array([label]), s.patient, s.series)
    view = ViewConfig(view=view, positions=12, coarse=coarse, keep=keep, spare=0)
    cfg = {
        "scans": scans,
        "scorers": [Table(PROBS)],
        "view": view,
        "reward": RewardConfig(posterior=posterior, level=level, **reward),
        "posteriors": posteriors,
    }
    e = SliceSelectionEnv(cfg)
    return e, e.reset(seed=0)[0]


def test_an_episode_by_hand():
    e, _ = env(look_cost=0.02, terminal=1.0, gain=1.0)
    seen = coarse_positions(12, 4)
    fresh = next(i for i in range(12) if i not in seen)
    _, r1, done, _, _ = e.step(fresh)  # decoded: costs a look
    assert r1 == pytest.approx(np.log(0.4 / 0.3) - 0.02)
    assert not done
    _, r2, done, _, _ = e.step(int(seen[0]))  # seen already: costs nothing
    assert r2 == pytest.approx(np.log(0.7 / 0.4))
    _, r3, done, _, _ = e.step(12)  # stop, deciding for class 2
    assert done
    assert r3 == pytest.approx(1.0)


def test_a_wrong_decision_costs_and_the_budget_ends_the_episode():
    e, _ = env(label=0, keep=2, look_cost=0.0, terminal=1.0)
    seen = coarse_positions(12, 4)
    e.step(int(seen[0]))
    _, r, done, _, _ = e.step(int(seen[1]))
    assert done, "two slices were all that may be kept"
    assert r == pytest.approx(np.log(0.1 / 0.3) - 1.0)


def test_a_posterior_softens_the_target():
    e, _ = env(posterior=0.5, posteriors=np.array([[0.2, 0.2, 0.6]]), look_cost=0, terminal=0)
    target = [0.1, 0.1, 0.8]
    _, r, *_ = e.step(3)
    assert r == pytest.approx(np.dot(target, np.log(PROBS[1]) - np.log(PROBS[0])), rel=1e-5)
    with pytest.raises(ValueError, match="posteriors"):
        env(posterior=0.5)


def test_posteriors_come_from_the_scorer_that_never_saw_the_patient():
    scans = synthetic_scans(12)

    class Fixed(AttentionPool):
        def __init__(self, p):
            super().__init__(DIM, 3)
            self.p = torch.tensor(p)

        def forward(self, bag, mask):
            return Pooled(self.p.log().expand(len(bag), 3), self.p, mask.float())

    scorers = [Fixed([i / 10 + 1e-9, 0.1, 0.9 - i / 10]) for i in range(3)]
    q = posteriors(scans, scorers, 4)
    assert q[:, 0] == pytest.approx([fold_of(p, 3) / 10 for p in scans.patient], abs=1e-6)


def test_dr_dsn_term_is_added_at_the_end():
    plain, _ = env(keep=1, look_cost=0, gain=0)
    with_term, _ = env(keep=1, look_cost=0, gain=0, dr_dsn=0.5)
    extra = with_term.step(3)[1] - plain.step(3)[1]
    assert extra == pytest.approx(0.5 * dr_dsn(plain.look.embedding, np.array([3])))


def test_a_slice_of_a_middle_lumbar_vertebra_is_worth_more():
    e, _ = env(level=0.5, look_cost=0, gain=0, terminal=0)
    look = e.look.embedding
    look[3] = look[4] = look[5] = 0.0
    columns = [EmbeddingLayout.lumbar, EmbeddingLayout.mid, EmbeddingLayout.height]
    look[3, columns] = 1.0, 1.0, height_of(14.5)  # L2-L3, certain
    look[4, columns] = 1.0, 0.2, height_of(14.5)  # the same, at an endplate
    look[5, columns] = 1.0, 1.0, height_of(18.0)  # the sacrum
    middle, edge, sacrum = (e.step(i)[1] for i in (3, 4, 5))
    assert middle == pytest.approx(0.5, abs=0.02)
    assert edge == pytest.approx(0.1, abs=0.01)
    assert sacrum < 0.005


def test_masks_forbid_what_can_not_be_done():
    e, obs = env()
    assert obs["action_mask"][-1] == 0, "nothing kept: stopping would decide from nothing"
    assert obs["action_mask"][:-1].all()
    obs, *_ = e.step(5)
    assert obs["action_mask"][5] == 0
    assert obs["action_mask"][-1] == 1
    with pytest.raises(ValueError, match="masked"):
        e.step(5)


def test_padding_is_never_an_action():
    s = synthetic_scans(1, 12)
    s.valid[0, 7:] = False
    e = SliceSelectionEnv(
        {"scans": s, "scorers": [Table(PROBS)], "view": ViewConfig(positions=12), "reward": RewardConfig(posterior=0)}
    )
    obs, _ = e.reset(seed=0)
    assert not obs["action_mask"][7:12].any()
    with pytest.raises(ValueError, match="masked"):
        e.step(9)


def test_coarse_view_hides_and_all_view_shows():
    _, coarse = env("coarse")
    _, everything = env("all")
    seen = coarse_positions(12, 4)
    hidden = np.setdiff1d(np.arange(12), seen)
    assert (coarse["slots"][hidden, :DIM] == 0).all()
    assert (coarse["slots"][seen, :DIM] != 0).any(1).all()
    assert (everything["slots"][:, :DIM] != 0).any(1).all()


def test_looking_reveals_the_slice():
    e, obs = env()
    at = next(i for i in range(12) if i not in coarse_positions(12, 4))
    after, *_ = e.step(at)
    assert (obs["slots"][at, :DIM] == 0).all()
    assert np.array_equal(after["slots"][at, :DIM], e.scans.embedding[0, at])
    assert after["slots"][at, DIM : DIM + 2].tolist() == [1, 1]


def test_observation_fits_its_space_and_heights_are_millimetres():
    e, obs = env()
    assert e.observation_space.contains(obs)
    assert obs["slots"][-1, DIM + 3] == pytest.approx(11 * 8 / 500)
    assert obs["slots"][0, DIM + 4] == pytest.approx(11 * 8 / 500)


def test_reward_terms():
    a, b, one = np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.3, 0.3]), np.eye(3)
    assert information_gain(a, b, one[0]) == pytest.approx(np.log(2))
    assert information_gain(np.array([0, 0, 1.0]), one[0], one[0]) == 2.0
    assert information_gain(a, b, np.array([0.5, 0.5, 0])) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(0.6))
    assert decision(a, one[1]) == 1
    assert decision(a, one[2]) == -1
    assert decision(a, np.array([0.1, 0.6, 0.3])) == pytest.approx(0.2)
    assert class_target(2, a, 0.5) == pytest.approx([0.1, 0.25, 0.65])
    two = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert dr_dsn(two, np.array([0, 1])) == pytest.approx((1.0 + 1.0) / 2)
    assert dr_dsn(two, np.array([0])) == pytest.approx(np.exp(-np.sqrt(2) / 2) / 2)
    assert dr_dsn(two, np.array([], int)) == 0


def test_a_patient_is_judged_by_the_scorer_that_never_saw_it():
    scans = synthetic_scans(30)
    scorers = [AttentionPool(DIM, 3).eval() for _ in range(3)]
    e = SliceSelectionEnv(
        {"scans": scans, "scorers": scorers, "view": ViewConfig(positions=24), "reward": RewardConfig(posterior=0)}
    )
    for i in range(10):
        e.reset(options={"scan": i})
        assert e.judge == [scorers[fold_of(f"p{i}", 3)]]


def test_scorers_do_not_depend_on_their_own_fold():
    from osteo_ray.drlis.config import ScorerConfig

    cfg = ScorerConfig(steps=5)
    scans = synthetic_scans(40)
    first = fit_scorers(scans, cfg, 4, seed=0, quiet=True)
    own = np.array([fold_of(p, 3) for p in scans.patient]) == 1
    flipped = Scans(scans.embedding, scans.valid, scans.z_mm, np.where(own, 2 - scans.label, scans.label), *[
        scans.patient, scans.series
    ])  # fmt: skip
    second = fit_scorers(flipped, cfg, 4, seed=0, quiet=True)
    same = [
        all(torch.equal(a, b) for a, b in zip(x.state_dict().values(), y.state_dict().values(), strict=True))
        for x, y in zip(first, second, strict=True)
    ]
    assert same[1], "labels of fold 1 changed; its scorer must not notice"
    assert not same[0]
    assert not same[2]


def test_an_unlabelled_set_is_refused():
    s = synthetic_scans(3)
    s.label[:] = -1
    with pytest.raises(ValueError, match="no labelled scan"):
        SliceSelectionEnv(
            {"scans": s, "scorers": [Table(PROBS)], "view": ViewConfig(), "reward": RewardConfig(posterior=0)}
        )


@pytest.mark.parametrize(("n", "k"), [(64, 8), (5, 8), (1, 8), (0, 8), (9, 1)])
def test_coarse_positions_are_spread_and_inside(n, k):
    p = coarse_positions(n, k)
    assert len(p) == min(n, k)
    assert len(set(p.tolist())) == len(p)
    assert all(0 <= i < n for i in p)
    if len(p) > 1:
        assert np.diff(p).max() - np.diff(p).min() <= 1


def test_class_probs_average_the_scorers_and_observe_is_pure():
    look = Look(np.zeros((4, DIM), np.float32), np.ones(4, bool), np.arange(4.0), ViewConfig())
    mean = class_probs([Table(PROBS), Table(PROBS[::-1])], look)
    assert mean == pytest.approx((np.array(PROBS[0]) + PROBS[-1]) / 2, rel=1e-5)
    a, b = (observe(look, mean) for _ in range(2))
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_spare_slices_by_hand():
    """Two kept of three taken: what shows least of L1-L4 falls out and its level reward is taken back."""
    s = synthetic_scans(1, 8)
    s.embedding[0, :, EmbeddingLayout.height] = height_of(np.full(8, 14.0))  # all L2 ...
    s.embedding[0, :, EmbeddingLayout.lumbar] = 1.0  # ... all lumbar, by belief
    s.embedding[0, :, EmbeddingLayout.mid] = [0.0, 0.2, 0.5, 0.9, 0.1, 0.3, 0.0, 0.0]
    inside = float((1 / (1 + np.exp(-6.0))) * (1 / (1 + np.exp(-10.0))))  # how surely number 14 is one of L1-L4
    scans = Scans(s.embedding, s.valid, s.z_mm, np.array([2]), s.patient, s.series)
    cfg = {
        "scans": scans,
        "scorers": [Table([[1 / 3, 1 / 3, 1 / 3]] * 4)],  # a scorer that never learns anything: levels alone reward
        "view": ViewConfig(view="coarse", positions=8, coarse=1, keep=2, spare=1),
        "reward": RewardConfig(posterior=0, level=1.0, look_cost=0.0, terminal=0.0),
    }
    e = SliceSelectionEnv(cfg)
    e.reset(seed=0)
    _, r, done, _, _ = e.step(1)
    assert r == pytest.approx(0.2 * inside, abs=1e-3)
    e.step(2)
    assert e.look.kept == [1, 2]
    assert not e.look.full
    obs, r, done, _, _ = e.step(3)
    assert r == pytest.approx((0.9 - 0.2) * inside, abs=1e-3)
    assert (done, e.look.kept, e.look.taken) == (True, [2, 3], [1, 2, 3])
    assert obs["action_mask"].tolist() == [1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert obs["slots"][:, DIM + 1].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert e.look.looked[[1, 2, 3]].all()
    # What shows least may be the slice just taken: then nothing changes but that it was looked at.
    e.reset(seed=0)
    e.step(2)
    e.step(3)
    _, r, _, _, _ = e.step(4)
    assert r == pytest.approx(0.0, abs=1e-6)
    assert e.look.kept == [2, 3]
