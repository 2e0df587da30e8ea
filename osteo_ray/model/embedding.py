"""A slice's embedding: which column means what, and scans as arrays of embeddings on their z-grids (pure numpy).

    layout = EmbeddingLayout(n_learned=20, n_rois=4)
    trabecular = hu_of(embedding[..., layout.trabecular])      # mean HU of the encoder's first region of interest
    p_lumbar(embedding)                                        # the encoder's belief, 0..1

The encoder writes this layout; whoever reads an embedding asks here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

REGIONS = ("thoracic", "lumbar", "pelvic", "none")
"""Where along the spine a slice lies; `none` is neck, head or legs."""
LUMBAR = REGIONS.index("lumbar")
THORACIC = REGIONS.index("thoracic")
L1_NUMBER = 13
"""Vertebrae are counted from the first thoracic one: T1 = 1, L1 = 13, L5 = 17, sacrum = 18."""


@dataclass(frozen=True)
class EmbeddingLayout:
    """Columns of an embedding: learned values, HU of the regions of interest, and beliefs.

    The beliefs stand last and have a fixed length, so their columns are counted from the end and hold for every
    encoder.
    """

    n_learned: int
    n_rois: int

    height = -len(REGIONS) - 2
    """Height along the spine, `height_of` the vertebra number."""
    region = slice(-len(REGIONS) - 1, -1)
    """Probability of each of REGIONS."""
    lumbar = -len(REGIONS) - 1 + LUMBAR
    """Probability of the region `lumbar`."""
    mid = -1
    """Belief that the slice lies at the middle of a vertebral body, 0..1."""

    @property
    def learned(self) -> slice:
        """What the network learned freely."""
        return slice(0, self.n_learned)

    @property
    def roi_mean(self) -> slice:
        """Mean HU inside each region of interest, as `scaled_hu`."""
        return slice(self.n_learned, self.n_learned + self.n_rois)

    @property
    def roi_spread(self) -> slice:
        """Standard deviation of HU inside each region of interest, SD / 25 - 2."""
        return slice(self.n_learned + self.n_rois, self.n_learned + 2 * self.n_rois)

    @property
    def trabecular(self) -> int:
        """Mean HU of the trabecular core, the first region of interest, as `scaled_hu`."""
        return self.n_learned

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.n_learned + 2 * self.n_rois + 1 + len(REGIONS) + 1


HU_CENTRE, HU_SCALE = 150.0, 50.0


def scaled_hu(hu: Any) -> Any:
    """Bone HU (numbers, arrays or tensors) -> about unit spread over patients, so that density is not lost beside the
    learned dimensions.
    """
    return (hu - HU_CENTRE) / HU_SCALE


def hu_of(scaled: Any) -> Any:
    """Inverse of `scaled_hu`."""
    return scaled * HU_SCALE + HU_CENTRE


def height_of(number: Any) -> Any:
    """Vertebra number -> height along the spine, of about unit spread; the inverse of `number_of`."""
    return (number - 15.0) / 3.0


def number_of(height: Any) -> Any:
    """Height along the spine -> vertebra number."""
    return height * 3.0 + 15.0


def p_lumbar(embedding: np.ndarray) -> np.ndarray:
    """The encoder's belief that a slice shows the lumbar spine; embedding [..., D] -> [...]."""
    return embedding[..., EmbeddingLayout.lumbar]


def p_thoracic(embedding: np.ndarray) -> np.ndarray:
    """The encoder's belief that a slice shows the thoracic spine; embedding [..., D] -> [...]."""
    return embedding[..., EmbeddingLayout.region][..., THORACIC]


def p_mid(embedding: np.ndarray) -> np.ndarray:
    """The encoder's belief that a slice lies mid-vertebra; embedding [..., D] -> [...]."""
    return embedding[..., EmbeddingLayout.mid]


def vertebra(embedding: np.ndarray) -> np.ndarray:
    """The encoder's estimate of the vertebra number (13 = L1); embedding [..., D] -> [...]."""
    return number_of(embedding[..., EmbeddingLayout.height])


def on_target(embedding: np.ndarray) -> np.ndarray:
    """The encoder's belief that a slice shows the middle of one of L1-L4, 0..1; embedding [..., D] -> [...].

    L5 is left out, as densitometry leaves it out: it is often transitional or degenerated.
    """
    number = vertebra(embedding)
    # Half a vertebra of soft edge: the estimate's own error.
    inside = 1 / (1 + np.exp(-4 * (number - (L1_NUMBER - 0.5)))) * 1 / (1 + np.exp(-4 * (L1_NUMBER + 3.5 - number)))
    return p_lumbar(embedding) * inside * p_mid(embedding)


@dataclass(frozen=True)
class Scans:
    """n scans, each on a z-grid of at most T positions, padded to T."""

    embedding: np.ndarray  # float32 [n, T, D]
    valid: np.ndarray  # bool [n, T]
    z_mm: np.ndarray  # float32 [n, T], ascending over the valid positions
    label: np.ndarray  # int64 [n], index into patients.labels.CLASSES, -1 unknown
    patient: np.ndarray  # str [n], patient key
    series: np.ndarray  # str [n], series UID

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: np.ndarray) -> Scans:
        """The scans at `rows` (indices or mask)."""
        return Scans(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))


def coarse_positions(n_valid: int, n_coarse: int) -> np.ndarray:
    """Grid positions seen at the start of the active view: `n_coarse`, evenly spaced, none twice."""
    k = min(n_valid, n_coarse)
    return np.unique(np.floor((np.arange(k) + 0.5) * n_valid / k).astype(int)) if k else np.zeros(0, int)
