"""Controls keep and look at what they say, and the study tells good slices from bad ones."""

import numpy as np
import pytest
import torch
from selection_study.study import Found, StudyConfig, StudySet, compare
from selection_study.table import judge
from synthetic_scans import DIM, synthetic_scans

from osteo_ray.drlis import rivals as controls
from osteo_ray.drlis.config import GumbelConfig
from osteo_ray.drlis.rivals import Picks
from osteo_ray.model.acquisition import Acquisition
from osteo_ray.model.config import EncoderConfig, ViewConfig
from osteo_ray.model.embedding import EmbeddingLayout, Scans, height_of
from osteo_ray.model.look import first_positions
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool

K = 3


def spine(n=40, t=24, seed=0) -> Scans:
    """`synthetic_scans` with a vertebra number that rises by a half a position, and scans of several lengths."""
    s = synthetic_scans(n, t, seed)
    s.embedding[..., EmbeddingLayout.height] = height_of(
        4.0 + 0.5 * np.arange(t)[None] + np.random.default_rng(seed).normal(0, 0.02, (n, t))
    )
    for i in range(0, n, 5):
        s.valid[i, 10 + i % 7 :] = False
    return s


def check(scans: Scans, p: Picks, keep: int) -> None:
    for i in range(len(scans)):
        kept = p.kept[i][p.kept[i] >= 0]
        assert len(set(kept.tolist())) == len(kept) == min(keep, scans.valid[i].sum())
        assert scans.valid[i, kept].all()
        assert p.looked[i, kept].all()
    assert not (p.looked & ~scans.valid).any()


def test_every_control_keeps_k_slices_that_are_there():
    s, rng = spine(), np.random.default_rng(0)
    torch.manual_seed(0)
    scorers = [AttentionPool(DIM, 3).eval() for _ in range(2)]
    score = torch.nn.Linear(DIM, 1)
    truth = np.zeros(s.valid.shape, bool)
    picks = {
        "random": controls.at_random(s, K, rng),
        "uniform": controls.uniform(s, K),
        "central": controls.central(s, K),
        "line": controls.interpolated(s, K, 5),
        "confidence": controls.top_confidence(s, scorers, K, s),
        "belief": controls.top_belief(s, K),
        "oracle": controls.oracle(s, truth, np.zeros(s.valid.shape), K),
        "scores": controls.by_scores(s, score, K),
    }
    for p in picks.values():
        check(s, p, K)
    for name in ("random", "uniform", "central"):
        assert (picks[name].looked.sum(1) == (picks[name].kept >= 0).sum(1)).all()  # they look at nothing else
    for name in ("confidence", "belief", "oracle", "scores"):
        assert (picks[name].looked == s.valid).all()
    assert (picks["line"].looked.sum(1) <= 5 + K).all()
    assert (controls.everything(s).looked == s.valid).all()


def test_central_and_uniform_by_hand():
    s = synthetic_scans(1, 9)
    assert sorted(controls.central(s, 3).kept[0].tolist()) == [3, 4, 5]
    assert controls.uniform(s, 3).kept[0].tolist() == [1, 4, 7]
    first = controls.uniform(s, 3).first(2)
    assert first.kept[0].tolist() == [1, 4]
    assert first.looked.sum() == 2


def test_the_line_through_coarse_looks_finds_mid_vertebrae():
    """Vertebra numbers rise by half a position: 13, 14 and 15 lie at positions 18, 20 and 22, 16 beyond the scan."""
    s = spine(4)
    s.valid[:] = True
    kept = controls.interpolated(s, K, 6).kept
    assert all(set(row.tolist()) == {18, 20, 22} for row in kept)


def test_oracle_takes_lumbar_middles_first():
    s = synthetic_scans(1, 6)
    lumbar = np.array([[0, 0, 1, 1, 1, 0]], bool)
    mid = np.array([[1.0, 0.9, 0.1, 1.0, 0.5, np.nan]])
    assert controls.oracle(s, lumbar, mid, 3).kept[0].tolist() == [3, 4, 2]
    assert controls.oracle(s, lumbar, mid, 4).kept[0].tolist()[3] == 0


def test_confidence_of_a_training_patient_comes_from_the_scorer_that_left_him_out():
    s = synthetic_scans(1, 6)
    torch.manual_seed(0)
    a, b = AttentionPool(DIM, 3).eval(), AttentionPool(DIM, 3).eval()
    from osteo_ray.drlis.reward import fold_of

    own = [a, b][fold_of(str(s.patient[0]), 2)]
    alone = controls.top_confidence(s, [own], 6, s).kept
    assert (controls.top_confidence(s, [a, b], 6, s).kept == alone).all()
    stranger = synthetic_scans(3).take(np.array([2]))
    assert (controls.top_confidence(s, [a, b], 6, stranger).kept != alone).any()


def test_policy_arm_looks_as_screening_does():
    s = spine(6)
    torch.manual_seed(1)
    view = ViewConfig(positions=24, coarse=4, keep=K, spare=0, more_looks=0)
    p = controls.by_policy(s, PolicyNet(DIM, 16).eval(), [AttentionPool(DIM, 3).eval()], view)
    for i in range(6):
        n = int(s.valid[i].sum())
        assert set(np.flatnonzero(p.decoded_not_kept[i])) == set(first_positions(n, view).tolist())
    assert (p.looked.sum(1) <= 4 + K).all()
    assert (p.kept >= 0).any(1).all()


def test_gumbel_learns_where_the_class_shows():
    s = synthetic_scans(200, seed=3)
    score = controls.fit_gumbel(s, K, GumbelConfig(steps=250, lr=1e-2), seed=0, quiet=True)
    fresh = synthetic_scans(50, seed=4)
    tells = fresh.embedding[..., -1] > 0.5
    hit = np.take_along_axis(tells, controls.by_scores(fresh, score, K).kept, 1).mean()
    by_chance = tells.mean()
    assert hit > 0.7 > 3 * by_chance


def study_set(n: int, seed: int) -> StudySet:
    s = synthetic_scans(n, seed=seed)
    tells = s.embedding[..., -1]
    nan = np.full(n, np.nan)
    level = np.where(tells > 0.3, 1 + np.arange(24) % 4, 0)
    return StudySet(s, Acquisition(nan, nan), nan.astype(np.float32), np.full(n, 1000.0), level, tells.astype(float))


def test_a_study_puts_good_slices_above_bad_ones(ray_session, tmp_path):
    cfg = StudyConfig.model_validate(
        {
            "arms": {"DRLIS": {}, "seen": {"view": {"view": "all"}}},
            "selection": {
                "view": {"positions": 24, "coarse": 4, "keep": K, "spare": 0, "more_looks": 0},
                "scorer": {"folds": 2, "steps": 60},
                "policy": {
                    "env_steps": 300,
                    "env_runners": 0,
                    "envs_per_runner": 4,
                    "batch": 128,
                    "minibatch": 64,
                    "hidden": 8,
                },
            },
            "gumbel": {"steps": 30},
            "image": {"epochs": 12, "batch": 32},
            "repeats": 2,
            "curve": [1],
            "boots": 200,
        }
    )
    test = study_set(120, 1)
    layout = EncoderConfig().layout
    runs: dict[int, dict[str, Found]] = {}
    for j, seed in enumerate((5, 6)):
        runs[seed] = compare(study_set(120, seed), test, cfg, layout, tmp_path / str(seed), seed, j == 0, quiet=True)
    table, curve = judge(runs, test, cfg)
    t = table.set_index("arm")
    assert t.loc["oracle mid-vertebra", "auc"] > t.loc["central", "auc"] + 0.05
    assert t.loc["oracle mid-vertebra", "mid"] > t.loc["random", "mid"]
    assert ((t["auc_low"] <= t["auc"]) & (t["auc"] <= t["auc_high"])).all()
    assert (t["ahead_low"] <= t["ahead"] + 1e-9).all()
    assert t.loc["DRLIS", "decoded"] <= 7 < 24 == t.loc["top belief", "decoded"] == t.loc["seen", "decoded"]
    assert t.loc["uniform", "mb"] == pytest.approx(K * 1000 / 1e6)
    assert set(curve["kept"]) == {1, K}
    # A policy that is there already is used, not trained again.
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("policy.safetensors")}
    assert len(before) == 4
    again = compare(study_set(120, 5), test, cfg, layout, tmp_path / "5", 5, True, quiet=True)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("policy.safetensors")} == before
    np.testing.assert_array_equal(again["DRLIS"].log_odds[K], runs[5]["DRLIS"].log_odds[K])
    # What was said of other people is not.
    other = compare(study_set(120, 5), study_set(120, 2), cfg, layout, tmp_path / "5", 5, True, quiet=True)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("policy.safetensors")} == before
    assert not np.array_equal(other["DRLIS"].log_odds[K], runs[5]["DRLIS"].log_odds[K])
