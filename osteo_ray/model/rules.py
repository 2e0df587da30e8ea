"""Selectors without a learned policy (`selection.view.method`), in the form of a selector of one's own (numpy).

    kept = METHODS["rule"](z_mm, embed, view)          # grid positions, at most view.keep

`embed` decodes and embeds the grid positions that it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import L1_NUMBER, coarse_positions, on_target, p_lumbar, vertebra

Selector = Callable[[np.ndarray, Callable[[np.ndarray], np.ndarray], ViewConfig], np.ndarray]
NOT_SEEN = 0.7
"""What a slice that was not looked at is worth where a line through the vertebra numbers puts a middle of L1-L4,
against one that the encoder is certain of."""


def belief_rule(z_mm: np.ndarray, embed: Callable[[np.ndarray], np.ndarray], view: ViewConfig) -> np.ndarray:
    """Look where the middles of L1-L4 should lie, and keep what the encoder most believes to show one.

    At the policy's budget: `view.coarse` slices first, then as many are taken as the policy may take. A line through
    the vertebra numbers of what was seen says where the middles lie; each look corrects it.
    """
    n = len(z_mm)
    first = coarse_positions(n, view.coarse)
    seen = dict(zip(first.tolist(), embed(first), strict=True))
    taken: list[int] = []
    while len(taken) < min(view.keep + view.spare, n):
        at = np.array(sorted(seen))
        e = np.stack([seen[k] for k in at.tolist()])
        worth = _expected(z_mm, at, e)
        worth[at] = on_target(e)
        worth[taken] = -np.inf
        best = int(worth.argmax())
        if best not in seen:
            seen[best] = embed(np.array([best]))[0]
        taken.append(best)
    belief = on_target(np.stack([seen[k] for k in taken]))
    return np.array(taken, int)[np.argsort(-belief, kind="stable")[: view.keep]]


def _expected(z_mm: np.ndarray, at: np.ndarray, e: np.ndarray) -> np.ndarray:
    """What each grid position [n] should be worth, from those looked at; nearer to lumbar slices where no line fits."""
    lumbar = p_lumbar(e).astype(float)
    near = np.interp(np.arange(len(z_mm)), at, lumbar)
    number = vertebra(e).astype(float)
    # Thoracic vertebrae are numbered too, less surely so near the belly.
    slope, offset = np.polyfit(z_mm[at], number, 1, w=lumbar + 0.25) if np.ptp(number) >= 1 else (0.0, np.nan)
    if not slope < 0:  # numbers fall toward the head
        return NOT_SEEN * near
    expected = slope * z_mm + offset
    middle = np.clip(np.rint(expected), L1_NUMBER, L1_NUMBER + 3)
    return NOT_SEEN * near * np.maximum(1 - 2 * np.abs(expected - middle), 0.05)


def evenly_spaced(z_mm: np.ndarray, embed: Callable[[np.ndarray], np.ndarray], view: ViewConfig) -> np.ndarray:
    """`view.keep` slices evenly spaced over the scan."""
    return coarse_positions(len(z_mm), view.keep)


METHODS: dict[str, Selector] = {"rule": belief_rule, "uniform": evenly_spaced}
