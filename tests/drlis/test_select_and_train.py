import json

import numpy as np
import pytest
import torch
from synthetic_scans import DIM, synthetic_scans

from osteo_ray.drlis.config import PolicyConfig, RewardConfig, ScorerConfig, SelectionConfig
from osteo_ray.drlis.environment import SliceSelectionEnv
from osteo_ray.drlis.figures import learning_curves
from osteo_ray.drlis.reward import fit_scorers
from osteo_ray.drlis.rllib import train_policy
from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import p_lumbar
from osteo_ray.model.policy import PolicyNet, torch_step
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.selection import select

VIEW = ViewConfig(by_level=False, positions=24, coarse=4, keep=3, spare=0)


def net(seed=0):
    torch.manual_seed(seed)
    return PolicyNet(DIM, 16).eval(), [AttentionPool(DIM, 3).eval()]


def test_only_what_is_asked_for_is_decoded():
    policy, scorers = net()
    s = synthetic_scans(1)
    asked = []

    def embed(p):
        asked.extend(p.tolist())
        return s.embedding[0, p]

    out = select(s.z_mm[0], embed, torch_step(policy, scorers), VIEW)
    assert len(asked) == len(set(asked)) <= VIEW.coarse + VIEW.keep
    assert sorted(asked) == np.flatnonzero(out.looked).tolist()
    assert 1 <= len(out.kept) <= VIEW.keep
    assert set(out.kept.tolist()) <= set(asked)


def test_select_walks_as_the_environment_does():
    """The greedy rollout of `select` and of the environment with the same policy take the same slices."""
    policy, scorers = net(1)
    s = synthetic_scans(6)
    env = SliceSelectionEnv({"scans": s, "scorers": scorers, "view": VIEW, "reward": RewardConfig(posterior=0)})
    for i in range(len(s)):
        obs, _ = env.reset(options={"scan": i})
        done = False
        while not done:
            with torch.no_grad():
                logits, _ = policy({k: torch.from_numpy(v)[None] for k, v in obs.items()})
            obs, _, done, _, _ = env.step(int(logits.argmax()))
        n = s.embedding[i]
        assert select(s.z_mm[i], n.__getitem__, torch_step(policy, scorers), VIEW).kept.tolist() == env.look.kept


def test_a_short_scan_and_an_impossible_one():
    policy, scorers = net()
    s = synthetic_scans(1)
    out = select(s.z_mm[0, :2], s.embedding[0].__getitem__, torch_step(policy, scorers), VIEW)
    assert len(out.kept) <= 2
    with pytest.raises(ValueError, match="grid positions"):
        select(np.zeros(0), s.embedding[0].__getitem__, torch_step(policy, scorers), VIEW)
    with pytest.raises(ValueError, match="grid positions"):
        select(np.arange(25.0), s.embedding[0].__getitem__, torch_step(policy, scorers), VIEW)


def test_masked_actions_have_no_probability():
    policy, _ = net()
    s = synthetic_scans(2)
    env = SliceSelectionEnv(
        {"scans": s, "scorers": [AttentionPool(DIM, 3).eval()], "view": VIEW, "reward": RewardConfig(posterior=0)}
    )
    obs, _ = env.reset(seed=0)
    obs, *_ = env.step(4)
    p = policy({k: torch.from_numpy(v)[None] for k, v in obs.items()})[0].softmax(-1)
    assert p[0, 4] == 0
    assert p.sum().item() == pytest.approx(1)


@pytest.mark.ray
def test_rllib_learns_where_the_class_shows_and_resumes(ray_session, tmp_path):
    """PPO on scans whose answer sits in a few slices: cut short at half, it goes on and comes to keep those."""
    scans = synthetic_scans(120)
    small = PolicyConfig(
        hidden=32,
        env_steps=8000,
        env_runners=None,
        envs_per_runner=8,
        batch=1000,
        minibatch=250,
        lr=2e-3,
        checkpoint_every=4000,
    )
    cfg = SelectionConfig(view=VIEW, scorer=ScorerConfig(steps=150), policy=small)
    scorers = fit_scorers(scans, cfg.scorer, VIEW.keep, seed=0, quiet=True)

    class Cut(Exception):
        pass

    def cut() -> None:
        raise Cut

    with pytest.raises(Cut):
        train_policy(scans, scorers, cfg, tmp_path, seed=0, quiet=True, saved=cut)
    half = json.loads((tmp_path / "checkpoint.json").read_text())["curve"]
    assert 4000 <= half[-1]["env_steps"] < 6000
    policy, curve = train_policy(scans, scorers, cfg, tmp_path, seed=0, quiet=True)
    assert curve[: len(half)] == half, "the checkpoint was carried on, not started anew"
    assert np.all(np.diff([r["env_steps"] for r in curve]) > 0)
    assert curve[-1]["env_steps"] >= 8000
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{curve[-1]['env_steps']}"]
    assert np.mean([r["episode_return"] for r in curve[-2:]]) > curve[0]["episode_return"]

    def lumbar_share(p):
        fresh = synthetic_scans(60, seed=9)
        picks = [
            select(fresh.z_mm[i], fresh.embedding[i].__getitem__, torch_step(p, scorers), VIEW).kept for i in range(60)
        ]
        return np.mean([p_lumbar(fresh.embedding[i, k]).mean() for i, k in enumerate(picks)])

    assert lumbar_share(policy) > 1.5 * lumbar_share(net(3)[0])


@pytest.mark.ray
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_both_algorithms_write_their_curve_and_ppo_repeats_itself(ray_session, tmp_path, algorithm):
    scans, val = synthetic_scans(60), synthetic_scans(30, seed=5)
    few = PolicyConfig(
        algorithm=algorithm,
        hidden=16,
        env_steps=900,
        env_runners=0,
        envs_per_runner=4,
        batch=300,
        minibatch=100,
        assess_every=300,
        explore_steps=500,
    )
    cfg = SelectionConfig(view=VIEW, scorer=ScorerConfig(steps=40), policy=few)
    scorers = fit_scorers(scans, cfg.scorer, VIEW.keep, seed=0, quiet=True)
    policy, curve = train_policy(scans, scorers, cfg, tmp_path / "0", seed=0, quiet=True, val=val)
    if algorithm == "ppo":  # the replay buffer of DQN draws from a generator of its own
        again, _ = train_policy(scans, scorers, cfg, tmp_path / "1", seed=0, quiet=True)
        other, _ = train_policy(scans, scorers, cfg, tmp_path / "2", seed=1, quiet=True)
        first, second, third = (p.state_dict() for p in (policy, again, other))
        assert all(torch.equal(first[k], second[k]) for k in first)
        assert not all(torch.equal(first[k], third[k]) for k in first)
    last = curve[-1]
    assert VIEW.coarse <= last["val_decoded"] <= VIEW.coarse + VIEW.keep
    assert 1 <= last["val_kept"] <= VIEW.keep
    assert 0 <= last["val_auc"] <= 1
    assert list((tmp_path / "0" / "tensorboard").glob("events.*"))
    learning_curves({"policy": curve}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
