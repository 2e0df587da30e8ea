"""Gated attention over a bag of slice embeddings -> class logits (Ilse et al. 2018, arXiv 1802.04712).

`AttentionPool` scores slices inside the selection reward; `ScanPool`, which puts the attended mean beside what the
network makes of it, is the image teacher's and the student's CT branch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

MIN_SPREAD = 0.02
"""Smallest spread that slice features are divided by; most of them spread over about 1."""
FARTHEST = 4.0
"""Spreads beyond which a feature says no more: a real slice may lie at 50, and what is linear would follow it there."""


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


class ScanPool(nn.Module):
    """Attention over standardised slice features; `hidden` is [what the network makes of them, their attended mean].

    What is linear in a scan's features needs no hidden layer to be learned (wide & deep, Cheng et al. 2016), and a few
    hundred scans teach little else. The scale is the training scans', for the features differ in spread by orders.
    """

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, dim: int, n_classes: int, hidden: int = 48, dropout: float = 0.1):
        super().__init__()
        self.attend = AttentionPool(dim, n_classes, hidden, dropout)
        self.width = hidden + dim
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def forward(self, bag: torch.Tensor, mask: torch.Tensor) -> Pooled:
        x = ((bag - self.centre) / self.scale).clamp(-FARTHEST, FARTHEST)
        x = torch.where(mask[..., None], x, 0.0)
        p = self.attend(x, mask)
        return Pooled(p.logits, torch.cat([p.hidden, (p.weights[..., None] * x).sum(-2)], dim=-1), p.weights)


def scan_scale(bag: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre and spread [D] of scans' mean features, from bags [n, K, D] with mask [n, K]; empty bags don't count."""
    full = mask.any(1)
    if full.sum() < 2:
        return torch.zeros(bag.shape[-1]), torch.ones(bag.shape[-1])
    x = torch.where(mask[..., None], bag, 0.0)[full].sum(1) / mask[full].sum(1, keepdim=True)
    # A feature that hardly varies (how sure the encoder is of the region, say) is not blown up to noise.
    return x.mean(0), x.std(0).clamp_min(MIN_SPREAD)
