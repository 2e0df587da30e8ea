"""Run a trained policy over one scan, decoding only what it asks for (plain torch; no RLlib)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import Scans, p_mid
from osteo_ray.model.levels import levels_of
from osteo_ray.model.look import Look, class_probs, first_positions, observe
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool

ON_LEVEL = 0.5
"""Least probability, by the column of slices, that a pick shows the body of one of L1-L4."""
Embed = Callable[[np.ndarray], np.ndarray]
"""Grid positions [k] -> embeddings float32 [k, D]; called once for the first look, then per slice."""


@dataclass(frozen=True)
class Selection:
    """What the policy looked at and kept."""

    kept: np.ndarray  # int [K], grid positions in the order they were taken, without what fell out
    looked: np.ndarray  # bool [T]
    embedding: np.ndarray  # float32 [T, D], 0 where not looked at


@torch.no_grad()
def select(
    z_mm: np.ndarray, embed: Embed, policy: PolicyNet, scorers: Sequence[AttentionPool], view: ViewConfig
) -> Selection:
    """Choose slices of one scan greedily by the policy.

    Args:
        z_mm: [n] heights of the scan's grid positions, ascending, n <= view.positions.
        embed: decodes and embeds grid positions.
        scorers: class scorers whose mean confidence the policy sees.
    """
    n, t = len(z_mm), view.positions
    if not 0 < n <= t:
        raise ValueError(f"a scan has 1..{t} grid positions, this one has {n}")
    z = np.zeros(t, np.float32)
    z[:n] = z_mm
    first = first_positions(n, view)
    seen = embed(first)
    look = Look(np.zeros((t, seen.shape[1]), np.float32), np.arange(t) < n, z, view)
    look.embedding[first] = seen
    look.looked[first] = True
    while not look.full:
        obs = observe(look, class_probs(scorers, look))
        logits, _ = policy({k: torch.from_numpy(v)[None] for k, v in obs.items()})
        action = int(logits[0].argmax())
        if action == t:
            break
        if not look.looked[action]:
            look.embedding[action] = embed(np.array([action]))[0]
            look.looked[action] = True
        look.take(action)
    kept = np.array(look.kept, int)
    if view.by_level:
        kept = on_levels(kept, look.looked[:n], look.embedding[:n], z[:n])
    return Selection(kept, look.looked.copy(), look.embedding)


def on_levels(kept: np.ndarray, looked: np.ndarray, embedding: np.ndarray, z_mm: np.ndarray) -> np.ndarray:
    """The policy's picks, less those that the column of slices places outside the bodies of L1-L4.

    What falls out is replaced by the looked-at slices that most surely show the middle of one of these bodies. Where
    none is known to, the picks stay: whether such a scan is scored is for abstention to say.

    Args:
        kept: int [K], grid positions; looked: bool [n]; embedding: [n, D]; z_mm: [n].
    """
    at = np.flatnonzero(looked)
    lumbar = np.zeros(len(looked))
    lumbar[at] = levels_of(z_mm[at], embedding[at]).lumbar
    good = [int(k) for k in kept if lumbar[k] >= ON_LEVEL]
    worth = lumbar * (p_mid(embedding) + 0.1)
    spare = [int(k) for k in np.argsort(-worth, kind="stable") if lumbar[k] >= ON_LEVEL and k not in good]
    chosen = (good + spare)[: len(kept)]
    return np.array(chosen, int) if chosen else kept


def select_each(
    scans: Scans, policy: PolicyNet, scorers: Sequence[AttentionPool], view: ViewConfig
) -> Iterator[Selection]:
    """`select` on embedded scans, one after another."""
    for z_mm, embedding, valid in zip(scans.z_mm, scans.embedding, scans.valid, strict=True):
        yield select(z_mm[valid], embedding.__getitem__, policy, scorers, view)
