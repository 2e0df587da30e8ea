"""The selection policy as plain torch: what RLlib trains, and what is exported for screening."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import Scans
from osteo_ray.model.look import CONTEXT, SLOT_EXTRA, Look, observe
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.selection import Selection, Step, select

MASKED = -1e9  # finite, so that a softmax over a masked row has gradients without NaN


class PolicyNet(nn.Module):
    """Dilated convolutions along z over the grid's slots -> a logit per position, a stop logit, a value."""

    def __init__(self, dim: int, hidden: int = 48, dilations: tuple[int, ...] = (1, 2, 4, 8, 16)):
        super().__init__()
        self.inp = nn.Linear(dim + SLOT_EXTRA, hidden)
        self.ctx = nn.Linear(CONTEXT, hidden)
        self.dilations = dilations
        self.convs = nn.ModuleList([nn.Conv1d(hidden, hidden, 3, padding=d, dilation=d) for d in dilations])
        self.slot = nn.Linear(hidden, 1)
        self.stop = nn.Linear(2 * hidden, 1)
        self.value = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """obs (see `env.observe`) with a leading batch axis -> masked logits [n, T + 1], values [n]."""
        logits, summary = self.logits_and_summary(obs)
        return logits, self.value(summary)[:, 0]

    def logits_and_summary(self, obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked logits [n, T + 1] and what the value head reads, [n, 2 * hidden]."""
        ctx = self.ctx(obs["context"])
        h = F.relu(self.inp(obs["slots"]) + ctx[:, None]).transpose(1, 2)
        # Two-dimensional with the channels last, as `inp` leaves them: on CPU in half the time of a Conv1d.
        h = h[:, :, None].contiguous(memory_format=torch.channels_last)
        for conv, d in zip(self.convs, self.dilations, strict=True):
            assert isinstance(conv, nn.Conv1d)
            h = h + F.relu(F.conv2d(h, conv.weight[:, :, None], conv.bias, padding=(0, d), dilation=(1, d)))
        h = h[:, :, 0]
        summary = torch.cat([h.mean(-1), h.amax(-1)], dim=1)
        logits = torch.cat([self.slot(h.transpose(1, 2))[..., 0], self.stop(summary)], dim=1)
        return logits.masked_fill(obs["action_mask"] < 0.5, MASKED), summary


@torch.no_grad()
def class_probs(scorers: Sequence[AttentionPool], look: Look) -> np.ndarray:
    """Mean class probabilities [3] of `scorers` from the kept slices; with none kept, from an empty bag."""
    k = max(len(look.kept), 1)
    bag = torch.zeros(1, k, look.embedding.shape[1])
    mask = torch.zeros(1, k, dtype=torch.bool)
    if look.kept:
        bag[0] = torch.from_numpy(look.embedding[look.kept])
        mask[:] = True
    return torch.stack([s(bag, mask).logits.softmax(-1)[0] for s in scorers]).mean(0).numpy()


def torch_step(policy: PolicyNet, scorers: Sequence[AttentionPool]) -> Step:
    """The policy's step in torch; `scorers`: class scorers whose mean confidence the policy sees."""

    @torch.no_grad()
    def step(look: Look) -> np.ndarray:
        obs = observe(look, class_probs(scorers, look))
        return policy({k: torch.from_numpy(v)[None] for k, v in obs.items()})[0][0].numpy()

    return step


def select_each(
    scans: Scans, policy: PolicyNet, scorers: Sequence[AttentionPool], view: ViewConfig
) -> Iterator[Selection]:
    """`selection.select` on embedded scans, one after another, in torch."""
    step = torch_step(policy, scorers)
    for z_mm, embedding, valid in zip(scans.z_mm, scans.embedding, scans.valid, strict=True):
        yield select(z_mm[valid], embedding.__getitem__, step, view)
