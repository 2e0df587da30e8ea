"""Embedded scans on their z-grids: what the policy, the scorer and the image teacher read (pure numpy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.model.encoder import L1_NUMBER, LUMBAR, REGIONS, number_of


@dataclass(frozen=True)
class Scans:
    """n scans, each on a z-grid of at most T positions, padded to T."""

    embedding: np.ndarray  # float32 [n, T, D]
    valid: np.ndarray  # bool [n, T]
    z_mm: np.ndarray  # float32 [n, T], ascending over the valid positions
    label: np.ndarray  # int64 [n], index into records.labels.CLASSES, -1 unknown
    patient: np.ndarray  # str [n], patient key
    series: np.ndarray  # str [n], series UID

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: np.ndarray) -> Scans:
        """The scans at `rows` (indices or mask)."""
        return Scans(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))


def p_lumbar(embedding: np.ndarray) -> np.ndarray:
    """The encoder's belief that a slice shows the lumbar spine; embedding [..., D] -> [...]."""
    return embedding[..., -1 - len(REGIONS) + LUMBAR]


def p_thoracic(embedding: np.ndarray) -> np.ndarray:
    """The encoder's belief that a slice shows the thoracic spine; embedding [..., D] -> [...]."""
    return embedding[..., -1 - len(REGIONS) + REGIONS.index("thoracic")]


def p_mid(embedding: np.ndarray) -> np.ndarray:
    """The encoder's belief that a slice lies mid-vertebra; embedding [..., D] -> [...]."""
    return embedding[..., -1]


def vertebra(embedding: np.ndarray) -> np.ndarray:
    """The encoder's estimate of the vertebra number (13 = L1); embedding [..., D] -> [...]."""
    return number_of(embedding[..., -2 - len(REGIONS)])


def on_target(embedding: np.ndarray) -> np.ndarray:
    """The encoder's belief that a slice shows the middle of one of L1-L4, 0..1; embedding [..., D] -> [...].

    L5 is left out, as densitometry leaves it out: it is often transitional or degenerated.
    """
    number = vertebra(embedding)
    # Half a vertebra of soft edge: the estimate's own error.
    inside = 1 / (1 + np.exp(-4 * (number - (L1_NUMBER - 0.5)))) * 1 / (1 + np.exp(-4 * (L1_NUMBER + 3.5 - number)))
    return p_lumbar(embedding) * inside * p_mid(embedding)


def coarse_positions(n_valid: int, n_coarse: int) -> np.ndarray:
    """Grid positions seen at the start of the active view: `n_coarse`, evenly spaced, none twice."""
    k = min(n_valid, n_coarse)
    return np.unique(np.floor((np.arange(k) + 0.5) * n_valid / k).astype(int)) if k else np.zeros(0, int)
