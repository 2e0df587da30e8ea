"""One latent T-score behind the three classes (plain torch).

DXA classes are cuts of a T-score, so every model here says one Gaussian over it: a mean from the
network, a spread that is learned. The classes' probabilities follow from the cuts; and where training
records hold the T-score itself, it teaches more than the class that was cut from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from osteo_ray.patients.labels import NORMAL_T, OSTEOPOROSIS_T

MIDDLE, UNIT = -1.6, 1.2
"""Where a network's raw output 0 lies on the T-score's scale, and what 1 means there."""


@dataclass
class Latent:
    """A Gaussian over the T-score; any shape."""

    mean: torch.Tensor
    log_sigma: torch.Tensor  # broadcasts to mean

    def logits(self) -> torch.Tensor:
        """Log-probabilities [..., 3] of normal, osteopenia, osteoporosis."""
        s = self.log_sigma.clamp(-2.0, 2.0).exp()
        low, high = (OSTEOPOROSIS_T - self.mean) / s, (NORMAL_T - self.mean) / s
        between = (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp_min(1e-6).log()
        return torch.stack([torch.special.log_ndtr(-high), between, torch.special.log_ndtr(low)], -1)

    def loss(self, label: torch.Tensor, t_score: torch.Tensor, weight: float) -> torch.Tensor:
        """Per patient: (1 - weight) x cross-entropy of the class + weight x Gaussian loss of the T-score.

        Args:
            label: int64, index into CLASSES.
            t_score: NaN where it is not known; there the class alone counts.
        """
        ce = F.cross_entropy(self.logits().flatten(0, -2), label.flatten(), reduction="none").view(label.shape)
        if not weight:
            return ce
        known = t_score.isfinite()
        s = self.log_sigma.clamp(-2.0, 2.0)
        z = (torch.where(known, t_score, 0.0) - self.mean) / s.exp()
        return torch.where(known, (1 - weight) * ce + weight * (0.5 * z.square() + s), ce)


class LatentHead(nn.Module):
    """Hidden vector [..., width] -> `Latent` with one learned spread."""

    def __init__(self, width: int):
        super().__init__()
        self.mean = nn.Linear(width, 1)
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def forward(self, h: torch.Tensor) -> Latent:
        return latent_of(self.mean(h)[..., 0], self.log_sigma)


def latent_of(raw: torch.Tensor, log_sigma: torch.Tensor) -> Latent:
    """A network's raw output on the T-score's scale."""
    return Latent(MIDDLE + UNIT * raw.float(), log_sigma)  # likelihoods need full precision
