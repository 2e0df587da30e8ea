"""A slice selector of one's own: `selection: {view: {selector: own_selector.densest}}`; this folder on PYTHONPATH."""

import numpy as np

from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import p_lumbar
from osteo_ray.model.selection import Embed


def densest(z_mm: np.ndarray, embed: Embed, view: ViewConfig) -> list[int]:
    """Looks at `coarse` evenly spaced slices, then at the neighbours of the most lumbar one, and keeps the surest.

    Args:
        z_mm: heights [n] of the scan's grid positions, from the feet up. Only what `embed` is asked for is decoded.
    """
    n = len(z_mm)
    first = np.unique(np.linspace(0, n - 1, view.coarse).round().astype(int))
    best = int(first[p_lumbar(embed(first)).argmax()])
    near = np.arange(max(0, best - view.spare), min(n, best + view.spare + 1))
    looked = np.union1d(first, near)
    order = np.argsort(-p_lumbar(embed(looked)), kind="stable")
    return looked[order[: view.keep]].tolist()
