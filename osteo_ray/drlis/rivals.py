"""Rivals of the policy at the same number of slices: what must be beaten before reinforcement learning is worth it.

Every control gives `Picks` for embedded scans. Most of them see every slice first; `Picks.looked` says what that costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from osteo_ray.drlis.config import GumbelConfig
from osteo_ray.drlis.reward import fold_of
from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import L1_NUMBER, Scans, coarse_positions, on_target, p_lumbar, vertebra
from osteo_ray.model.look import Look, first_positions
from osteo_ray.model.policy import PolicyNet, select_each
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.selection import Selection, select
from osteo_ray.patients.labels import CLASSES
from osteo_ray.progress import progress_bar


@dataclass(frozen=True)
class Picks:
    """Slices of n scans that a selector keeps."""

    kept: np.ndarray  # int [n, K], grid positions in the order of taking; -1: none
    # bool [n, T]: grid positions decoded and not kept, or decoded before the first was taken
    decoded_not_kept: np.ndarray

    @property
    def looked(self) -> np.ndarray:
        """Grid positions decoded in all, bool [n, T]."""
        out = self.decoded_not_kept.copy()
        row, _ = np.nonzero(self.kept >= 0)
        out[row, self.kept[self.kept >= 0]] = True
        return out

    def first(self, k: int) -> Picks:
        """The first k of each scan's picks."""
        return Picks(self.kept[:, :k], self.decoded_not_kept)


def by_policy(scans: Scans, policy: PolicyNet, scorers: Sequence[AttentionPool], view: ViewConfig) -> Picks:
    """What a trained policy keeps, looking as it does in screening."""
    return _picks(scans, select_each(scans, policy, scorers, view), view)


def by_rule(scans: Scans, view: ViewConfig) -> Picks:
    """What the belief rule keeps at the policy's budget, as in screening (`method: rule`)."""
    view = view.model_copy(update={"method": "rule", "selector": None})

    def no_policy(look: Look) -> np.ndarray:
        raise AssertionError("the rule asks no policy")

    each = zip(scans.z_mm, scans.embedding, scans.valid, strict=True)
    return _picks(scans, (select(z[v], e.__getitem__, no_policy, view) for z, e, v in each), view)


def _picks(scans: Scans, selections: Iterable[Selection], view: ViewConfig) -> Picks:
    kept = np.full((len(scans), view.keep), -1)
    decoded_not_kept = np.zeros(scans.valid.shape, bool)
    for i, s in enumerate(selections):
        kept[i, : len(s.kept)] = s.kept
        decoded_not_kept[i] = s.looked
        late = np.setdiff1d(s.kept, first_positions(int(scans.valid[i].sum()), view))
        decoded_not_kept[i, late] = False
    return Picks(kept, decoded_not_kept)


def at_random(scans: Scans, keep: int, rng: np.random.Generator) -> Picks:
    """`keep` slices drawn evenly over the scan, none twice."""
    return Picks(_best(scans.valid, rng.random(scans.valid.shape), keep), np.zeros_like(scans.valid))


def uniform(scans: Scans, keep: int) -> Picks:
    """`keep` slices evenly spaced over the scan."""
    kept = np.full((len(scans), keep), -1)
    for i, n in enumerate(scans.valid.sum(1)):
        at = coarse_positions(int(n), keep)
        kept[i, : len(at)] = at
    return Picks(kept, np.zeros_like(scans.valid))


def central(scans: Scans, keep: int) -> Picks:
    """The `keep` slices around the middle of the scan."""
    middle = (scans.valid.sum(1, keepdims=True) - 1) / 2
    near = -np.abs(np.arange(scans.valid.shape[1]) - middle)
    return Picks(_best(scans.valid, near, keep), np.zeros_like(scans.valid))


@torch.no_grad()
def top_confidence(scans: Scans, scorers: Sequence[AttentionPool], keep: int, fitted_on: Scans) -> Picks:
    """The slices from which alone the reward's scorer is surest of the class; every slice is looked at.

    Args:
        fitted_on: the scorers' training scans: one of their patients is judged by the scorer that left the patient out.
    """
    n, t, d = scans.embedding.shape
    bag = torch.from_numpy(scans.embedding.reshape(n * t, 1, d))
    alone = torch.ones(n * t, 1, dtype=torch.bool)
    p = torch.stack([s(bag, alone).logits.softmax(-1) for s in scorers]).reshape(len(scorers), n, t, -1).numpy()
    known = set(fitted_on.patient.tolist())
    sure = np.stack(
        [
            (p[fold_of(str(k), len(scorers)), i] if k in known else p[:, i].mean(0)).max(-1)
            for i, k in enumerate(scans.patient)
        ]
    )
    return Picks(_best(scans.valid, sure, keep), scans.valid.copy())


def top_belief(scans: Scans, keep: int) -> Picks:
    """The slices that the encoder believes to show the middle of one of L1-L4; every slice is looked at."""
    return Picks(_best(scans.valid, on_target(scans.embedding), keep), scans.valid.copy())


def interpolated(scans: Scans, keep: int, coarse: int) -> Picks:
    """A rule in the policy's place: look at `coarse` slices, fit a line through their vertebra numbers, and take what
    should then lie nearest to the middles of L1-L4.

    Where no coarse slice shows a vertebra the coarse slices themselves are kept.
    """
    kept = np.full((len(scans), keep), -1)
    decoded_not_kept = np.zeros_like(scans.valid)
    for i, n in enumerate(scans.valid.sum(1)):
        at = coarse_positions(int(n), coarse)
        decoded_not_kept[i, at] = True
        e, z = scans.embedding[i], scans.z_mm[i, :n]
        spine = p_lumbar(e[at]) + 0.25  # thoracic vertebrae are numbered too, less surely so near the belly
        if np.ptp(vertebra(e[at])) < 1:
            best = at[:keep]
        else:
            slope, offset = np.polyfit(z[at], vertebra(e[at]), 1, w=spine)
            number = slope * z + offset
            nearest = np.clip(np.rint(number), L1_NUMBER, L1_NUMBER + 3)
            best = np.argsort(np.abs(number - nearest), kind="stable")[:keep]
        kept[i, : len(best)] = best
    return Picks(kept, decoded_not_kept)


def oracle(scans: Scans, lumbar: np.ndarray, mid: np.ndarray, keep: int) -> Picks:
    """By the truth, the slices nearest to the middles of L1-L4; then whatever else is nearest to a middle.

    Args:
        lumbar: bool [n, T], the slice shows one of L1-L4.
        mid: [n, T], 1 at mid-vertebra, 0 at its endplates and outside.
    """
    return Picks(_best(scans.valid, lumbar + np.nan_to_num(mid), keep), scans.valid.copy())


def fit_gumbel(scans: Scans, keep: int, cfg: GumbelConfig, seed: int, quiet: bool = False) -> nn.Module:
    """Per-slice scores [.., D] -> [.., 1] by differentiable subset sampling (Xie and Ermon 2019, arXiv 1901.10517).

    A relaxed draw without replacement weighs the slices that a classifier then averages.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(scans.label >= 0)
    d = scans.embedding.shape[-1]
    score = nn.Sequential(nn.Linear(d, cfg.hidden), nn.ReLU(), nn.Linear(cfg.hidden, 1))
    classify = nn.Sequential(nn.Linear(d, cfg.hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(cfg.hidden, len(CLASSES)))
    opt = torch.optim.AdamW([*score.parameters(), *classify.parameters()], lr=cfg.lr, weight_decay=cfg.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, cfg.lr, total_steps=cfg.steps)
    with progress_bar("fit Gumbel top-k", cfg.steps, "step", quiet) as advance:
        for _ in range(cfg.steps):
            take = rng.choice(rows, min(cfg.batch, len(rows)), replace=False)
            e, valid = torch.from_numpy(scans.embedding[take]), torch.from_numpy(scans.valid[take])
            logits = score(e)[..., 0]
            gumbel = -torch.empty_like(logits).exponential_().log()
            keys = (logits + gumbel).masked_fill(~valid, -1e9)
            share = torch.zeros_like(keys)
            for _ in range(keep):
                soft = (keys / cfg.temperature).softmax(-1)
                share = share + soft
                keys = keys + torch.log1p(-soft.clamp_max(1 - 1e-6))
            pooled = (share[..., None] * e).sum(1) / keep
            loss = F.cross_entropy(classify(pooled), torch.from_numpy(scans.label[take]))
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
            advance(1)
    return score.eval()


@torch.no_grad()
def by_scores(scans: Scans, score: nn.Module, keep: int) -> Picks:
    """The highest scores of a per-slice network; every slice is looked at."""
    s = score(torch.from_numpy(scans.embedding))[..., 0].numpy()
    return Picks(_best(scans.valid, s, keep), scans.valid.copy())


def everything(scans: Scans) -> Picks:
    """Every slice."""
    at = np.broadcast_to(np.arange(scans.valid.shape[1]), scans.valid.shape)
    return Picks(np.where(scans.valid, at, -1), scans.valid.copy())


def bags(scans: Scans, picks: Picks) -> tuple[np.ndarray, np.ndarray]:
    """The kept slices' embeddings float32 [n, K, D], 0 where there is none, and bool [n, K]."""
    mask = picks.kept >= 0
    e = np.take_along_axis(scans.embedding, np.maximum(picks.kept, 0)[..., None], 1)
    return np.where(mask[..., None], e, 0.0).astype(np.float32), mask


def _best(valid: np.ndarray, worth: np.ndarray, keep: int) -> np.ndarray:
    """Positions int [n, keep] of the highest worth, best first; -1 where a scan has fewer slices."""
    order = np.argsort(-np.where(valid, worth, -np.inf), axis=1, kind="stable")[:, :keep]
    return np.where(np.take_along_axis(valid, order, 1), order, -1)
