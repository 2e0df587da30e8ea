"""Gated attention over a bag of slice embeddings -> class logits (Ilse et al. 2018, arXiv 1802.04712).

The same module scores slices inside the selection reward, as image teacher, and as the student's CT
branch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Pooled:
    """Outcome of pooling n bags."""

    logits: torch.Tensor  # [n, n_classes]
    hidden: torch.Tensor  # [n, H], the pooled representation
    weights: torch.Tensor  # [n, K], sum to 1 over the bag, 0 on padding


class AttentionPool(nn.Module):
    """Bag [n, K, D] with mask [n, K] (True: a slice is there) -> `Pooled`; an empty bag pools to 0."""

    def __init__(self, dim: int, n_classes: int, hidden: int = 48, dropout: float = 0.1):
        super().__init__()
        self.value = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.gate_v = nn.Linear(dim, hidden)
        self.gate_u = nn.Linear(dim, hidden)
        self.score = nn.Linear(hidden, 1)
        self.head = nn.Linear(hidden, n_classes)
        self.hidden = hidden

    def forward(self, bag: torch.Tensor, mask: torch.Tensor) -> Pooled:
        a = self.score(torch.tanh(self.gate_v(bag)) * torch.sigmoid(self.gate_u(bag)))[..., 0]
        w = a.masked_fill(~mask, float("-inf")).softmax(-1).nan_to_num(0.0)  # an empty bag gives NaN
        h = (w[..., None] * self.value(bag)).sum(-2)
        return Pooled(self.head(h), h, w)
