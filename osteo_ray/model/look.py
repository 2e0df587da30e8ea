"""What the slice policy sees of one scan: which grid positions were decoded, taken and kept (pure numpy).

The one definition for training (`drlis.environment`) and for screening (`model.selection`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import coarse_positions, on_target
from osteo_ray.patients.labels import CLASSES

SLOT_EXTRA = 5  # looked, kept, valid, mm above the scan's foot end, mm below its head end
CONTEXT = 2 + len(CLASSES)  # taken share of the budget, looked share of the scan, class probabilities


@dataclass
class Look:
    """State of looking at one scan: which grid positions were decoded, taken, kept."""

    embedding: np.ndarray  # float32 [T, D], 0 where not looked at
    valid: np.ndarray  # bool [T]
    z_mm: np.ndarray  # float32 [T]
    view: ViewConfig
    looked: np.ndarray = field(init=False)
    taken: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.looked = np.zeros(len(self.valid), bool)

    def take(self, position: int) -> int | None:
        """Take a slice that was looked at; returns what falls out for it (it may be the slice itself)."""
        self.taken.append(position)
        self.kept.append(position)
        if len(self.kept) <= self.view.keep:
            return None
        least = int(np.argmin(on_target(self.embedding[self.kept])))
        return self.kept.pop(least)

    @property
    def full(self) -> bool:
        """Whether nothing more may be taken."""
        return len(self.taken) >= min(self.view.keep + self.view.spare, int(self.valid.sum()))


def observe(look: Look, probs: np.ndarray) -> dict[str, np.ndarray]:
    """What the policy sees: the one definition for training and for screening.

    Returns:
        slots float32 [T, D + SLOT_EXTRA], context float32 [CONTEXT], action_mask float32 [T + 1].
    """
    n = int(look.valid.sum())
    kept = np.zeros(len(look.valid), np.float32)
    kept[look.kept] = 1.0
    z = look.z_mm
    low, high = (float(z[0]), float(z[n - 1])) if n else (0.0, 0.0)
    extra = np.stack(
        [
            look.looked.astype(np.float32),
            kept,
            look.valid.astype(np.float32),
            np.where(look.valid, (z - low) / 500.0, 0.0),
            np.where(look.valid, (high - z) / 500.0, 0.0),
        ],
        axis=1,
    )
    emb = np.where(look.looked[:, None], look.embedding, 0.0)
    mask = np.zeros(len(look.valid) + 1, np.float32)
    mask[:-1] = look.valid
    mask[look.taken] = 0.0
    # Nothing kept yet: stopping would decide from nothing.
    mask[-1] = float(bool(look.kept) or not mask[:-1].any())
    budget = look.view.keep + look.view.spare
    context = np.array([len(look.taken) / budget, look.looked.sum() / max(n, 1), *probs])
    return {
        "slots": np.concatenate([emb, extra], axis=1).astype(np.float32),
        "context": context.astype(np.float32),
        "action_mask": mask,
    }


def first_positions(n_valid: int, view: ViewConfig) -> np.ndarray:
    """Grid positions that are seen before the first action."""
    return np.arange(n_valid) if view.view == "all" else coarse_positions(n_valid, view.coarse)
