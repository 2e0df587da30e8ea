"""Patterns of missing modalities: which there are, who has one, and what a model sees under one (plain torch).

PATTERNS                                         # "demographics", ..., "demographics+labs+ct"
members("ct", present)                           # rows of patients who have at least a CT
show_only(batch, "ct", groups)                   # the batch with everything else hidden
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from osteo_ray.model.networks import MODALITIES, Batch

PATTERNS = tuple("+".join(c) for k in range(1, len(MODALITIES) + 1) for c in combinations(MODALITIES, k))
"""Every non-empty set of modalities, by name; a patient's pattern says which of them are known."""


def modalities_of(pattern: str) -> tuple[str, ...]:
    """The modalities of a pattern's name."""
    return tuple(pattern.split("+"))


def pattern_of(present: np.ndarray) -> str:
    """The pattern of one patient; `present` bool [3] in the order of MODALITIES. Nothing known gives ''."""
    return "+".join(m for m, known in zip(MODALITIES, present, strict=True) if known)


def members(pattern: str, present: torch.Tensor) -> torch.Tensor:
    """Rows of the patients who have at least the pattern's modalities; `present` bool [n, 3]."""
    columns = [MODALITIES.index(m) for m in modalities_of(pattern)]
    return torch.where(present[:, columns].all(1))[0]


def show_only(batch: Batch, pattern: str, groups: tuple[str, ...]) -> Batch:
    """The batch with all modalities but the pattern's hidden; `groups`: each feature's modality, [F]."""
    shown = modalities_of(pattern)
    known = batch.known & torch.tensor([g in shown for g in groups])
    ct = "ct" in shown
    return Batch(torch.where(known, batch.values, 0.0), known, batch.bag * float(ct), batch.bag_mask & ct)
