"""Run a trained policy over one scan, decoding only what it asks for (pure numpy)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from osteo_ray.config import ConfigError
from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import p_lumbar, p_mid
from osteo_ray.model.extension import own_part
from osteo_ray.model.levels import levels_of
from osteo_ray.model.look import Look, first_positions
from osteo_ray.model.rules import METHODS, Selector

ON_LEVEL = 0.5
"""Least probability, by the column of slices, that a pick shows the body of one of L1-L4."""
LEAST_PLACED = 2
"""Picks in bodies of L1-L4 that a score rests on at least."""
LOOKS = 4
"""Slices looked at before the levels are asked again."""
Embed = Callable[[np.ndarray], np.ndarray]
"""Grid positions [k] -> embeddings float32 [k, D]; called once for the first look, then per slice."""
Step = Callable[[Look], np.ndarray]
"""What was looked at and kept -> masked logits float32 [T + 1] of the next action."""


@dataclass(frozen=True)
class Selection:
    """What the policy looked at and kept."""

    kept: np.ndarray  # int [K], grid positions in the order they were taken, without what fell out
    looked: np.ndarray  # bool [T]
    embedding: np.ndarray  # float32 [T, D], 0 where not looked at


def select(z_mm: np.ndarray, embed: Embed, step: Step, view: ViewConfig) -> Selection:
    """Choose slices of one scan greedily by the policy.

    Args:
        z_mm: [n] heights of the scan's grid positions, ascending, n <= view.positions.
        embed: decodes and embeds grid positions.
        step: the policy's, of `inference.Networks`; not asked where `view` names another selector.
    """
    n, t = len(z_mm), view.positions
    if not 0 < n <= t:
        raise ValueError(f"a scan has 1..{t} grid positions, this one has {n}")
    if (chooser := selector_of(view)) is not None:
        return _levelled(_selected(chooser, z_mm, embed, view), z_mm, embed, view)
    z = np.zeros(t, np.float32)
    z[:n] = z_mm
    first = first_positions(n, view)
    seen = embed(first)
    look = Look(np.zeros((t, seen.shape[1]), np.float32), np.arange(t) < n, z, view)
    look.embedding[first] = seen
    look.looked[first] = True
    while not look.full:
        action = int(step(look).argmax())
        if action == t:
            break
        if not look.looked[action]:
            look.embedding[action] = embed(np.array([action]))[0]
            look.looked[action] = True
        look.take(action)
    return _levelled(Selection(np.array(look.kept, int), look.looked.copy(), look.embedding), z_mm, embed, view)


def read_positions(s: Selection, view: ViewConfig) -> np.ndarray:
    """Grid positions int [K] of the slices that teachers and student read: the kept ones first."""
    if view.read == "kept":
        return s.kept
    return np.concatenate([s.kept, np.setdiff1d(np.flatnonzero(s.looked), s.kept)]).astype(int)


def selector_of(view: ViewConfig) -> Selector | None:
    """What selects in the place of the learned policy; None: the policy does."""
    return own_part("selector", view.selector) if view.selector is not None else METHODS.get(view.method)


def _selected(chooser: Selector, z_mm: np.ndarray, embed: Embed, view: ViewConfig) -> Selection:
    """What a selector keeps: at most `view.keep`, of the grid positions that it looked at or names only in the end.

    Raises:
        ConfigError: it names positions that there are not.
    """
    n, t = len(z_mm), view.positions
    looked = np.zeros(t, bool)
    seen: dict[int, np.ndarray] = {}

    def remembered(at: np.ndarray) -> np.ndarray:
        wanted = [int(k) for k in np.asarray(at, int)]
        new = [k for k in dict.fromkeys(wanted) if k not in seen]
        if new:
            seen.update(zip(new, embed(np.array(new)), strict=True))
        return np.stack([seen[k] for k in wanted])

    kept = np.array(list(dict.fromkeys(int(k) for k in chooser(z_mm, remembered, view))))
    if not len(kept) or len(kept) > view.keep or kept.min() < 0 or kept.max() >= n:
        raise ConfigError(
            f"selector {view.selector or view.method}: gave positions {kept.tolist()}; 1 to {view.keep} of 0..{n - 1} "
            "are asked for"
        )
    dim = remembered(kept).shape[1]
    embedding = np.zeros((t, dim), np.float32)
    for k, e in seen.items():
        embedding[k], looked[k] = e, True
    return Selection(kept, looked, embedding)


def _levelled(s: Selection, z_mm: np.ndarray, embed: Embed, view: ViewConfig) -> Selection:
    if not view.by_level:
        return s
    n, z = len(z_mm), np.asarray(z_mm, np.float32)
    s = looked_further(s, z, embed, view.more_looks)
    return replace(s, kept=on_levels(s.kept, s.looked[:n], s.embedding[:n], z))


def looked_further(s: Selection, z_mm: np.ndarray, embed: Embed, most: int) -> Selection:
    """The selection after further looks, `LOOKS` at a time, while a pick in L1-L4 has no level name; at most `most`.

    A real scan's slices say less each than a synthetic one's: twenty leave the count of its vertebrae open, thirty
    settle it. The looks halve the widest gaps of the lumbar column, with its neighbours. With fewer than
    `LEAST_PLACED` picks in L1-L4 nothing more is looked at: further looks name the picks of a scan that is scored
    anyway, and make none of one that is not.

    Args:
        z_mm: [n], ascending.
    """
    n = len(z_mm)
    looked, embedding = s.looked.copy(), s.embedding.copy()
    for _ in range(0, most, LOOKS):
        at = np.flatnonzero(looked[:n])
        levels = levels_of(z_mm[at], embedding[at])
        picks = [i for i, k in enumerate(at) if k in s.kept and levels.lumbar[i] >= ON_LEVEL]
        lumbar = at[p_lumbar(embedding[at]) >= ON_LEVEL]
        if len(picks) < LEAST_PLACED or not len(lumbar) or all(levels.level[i] for i in picks):
            break
        new = _in_widest_gaps(z_mm, looked[:n], lumbar.min(), lumbar.max(), LOOKS)
        if not len(new):
            break
        embedding[new], looked[new] = embed(new), True
    return replace(s, looked=looked, embedding=embedding)


def _in_widest_gaps(z_mm: np.ndarray, looked: np.ndarray, first: int, last: int, n: int) -> np.ndarray:
    """Up to `n` positions not looked at, each nearest to the middle of the widest gap left between slices looked at,
    from the one below position `first` to the one above `last`."""
    at = np.flatnonzero(looked).tolist()
    low, high = max(at.index(first) - 1, 0), min(at.index(last) + 1, len(at) - 1)
    at, new = at[low : high + 1], []
    for _ in range(n):
        open_gaps = [(z_mm[b] - z_mm[a], a, b) for a, b in pairwise(at) if b - a > 1]
        if not open_gaps:
            break
        _, a, b = max(open_gaps)
        inside = np.arange(a + 1, b)
        new.append(int(inside[np.abs(z_mm[inside] - (z_mm[a] + z_mm[b]) / 2).argmin()]))
        at = sorted([*at, new[-1]])
    return np.array(new, int)


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
