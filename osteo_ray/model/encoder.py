"""Slice encoder: one spine crop -> an embedding that a person can read part of (plain torch).

A small convolutional network looks for regions of interest in the crop; part of the embedding is
the mean and spread of the *untouched* HU inside each region. The first region is trained to be the
trabecular core, so the bone density in the embedding is a measurement made where the network
points, not a number it recalls.

    enc = SliceEncoder(EncoderConfig())
    f = enc(torch.from_numpy(crops))        # int16 or float HU [n, 96, 96]
    f.embedding                             # [n, D]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from osteo_ray.model.config import EncoderConfig
from osteo_ray.model.embedding import REGIONS, number_of, scaled_hu
from osteo_ray.model.extension import own_part


@dataclass
class SliceFeatures:
    """What the encoder says about n slices."""

    embedding: torch.Tensor  # [n, D]
    region_logits: torch.Tensor  # [n, len(REGIONS)]
    vertebra: torch.Tensor  # [n], vertebra number (L1_NUMBER), halves between two
    mid_logit: torch.Tensor  # [n], how near to the middle of a vertebral body
    trabecular_hu: torch.Tensor  # [n], mean HU inside the first region of interest
    roi: torch.Tensor  # [n, n_rois, S/2, S/2], weights that sum to 1

    def core_circles(self) -> torch.Tensor:
        """The first region of interest as a circle [n, 3]: row and column of its centre and its radius, crop pixels.

        The circle has the centre and the area of the cells that weigh at least half of the heaviest one; the long tail
        of small weights would widen it beyond what is measured.
        """
        core = self.roi[:, 0]
        heavy = torch.where(core >= 0.5 * core.amax((1, 2), keepdim=True), core, 0.0)
        weight = heavy / heavy.sum((1, 2), keepdim=True)
        at = 2.0 * torch.arange(core.shape[-1], device=core.device, dtype=core.dtype) + 0.5  # a cell is 2 x 2 pixels
        row, col = (weight.sum(2) * at).sum(1), (weight.sum(1) * at).sum(1)
        area = 4.0 * (heavy > 0).sum((1, 2))
        return torch.stack([row, col, (area / math.pi).sqrt()], dim=1)


class _Block(nn.Module):
    """Strided residual block; group norm, so that a slice's embedding never depends on its batch."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(4, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(4, c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.skip(x))


class SliceEncoder(nn.Module):
    """Crop [n, S, S] in HU -> `SliceFeatures`. S must be a multiple of 16."""

    def __init__(self, cfg: EncoderConfig):
        super().__init__()
        w = cfg.width
        self.cfg = cfg
        self.stem = nn.Conv2d(2, w, 5, 2, 2, bias=False)  # 48
        self.stem_norm = nn.GroupNorm(4, w)
        self.down = nn.ModuleList([_Block(w, 2 * w, 2), _Block(2 * w, 4 * w, 2), _Block(4 * w, 4 * w, 2)])
        self.up = nn.ModuleList([nn.Conv2d(4 * w, 4 * w, 1), nn.Conv2d(4 * w, 2 * w, 1), nn.Conv2d(2 * w, w, 1)])
        self.roi = nn.Sequential(nn.Conv2d(w, w, 3, 1, 1), nn.ReLU(), nn.Conv2d(w, cfg.n_rois, 1))
        # What the whole picture shows, and what is seen inside each region of interest: whether a slice crosses a
        # body or a disc is a matter of a few pixels.
        self.trunk = nn.Linear((4 + cfg.n_rois) * w, 4 * w)
        self.learned = nn.Linear(4 * w, cfg.n_learned)
        self.region = nn.Linear(4 * w, len(REGIONS))
        self.vertebra = nn.Linear(4 * w, 1)
        self.mid = nn.Linear(4 * w, 1)

    def forward(self, hu: torch.Tensor) -> SliceFeatures:
        hu = hu.float()[:, None]
        x = torch.cat([_window(hu, -200.0, 600.0), _window(hu, -160.0, 240.0)], dim=1)
        levels = [F.relu(self.stem_norm(self.stem(x)))]
        for block in self.down:
            levels.append(block(levels[-1]))
        y = levels[-1]
        for conv, skip in zip(self.up, reversed(levels[:-1]), strict=True):
            y = F.relu(F.interpolate(conv(y), scale_factor=2.0, mode="nearest") + skip)
        roi = self.roi(y).flatten(2).softmax(dim=-1)  # [n, K, P]
        local = (roi @ y.flatten(2).transpose(1, 2)).flatten(1)  # [n, K * w]; not einsum, which ONNX Runtime is slow in
        pooled = F.relu(self.trunk(torch.cat([levels[-1].mean(dim=(2, 3)), local], dim=1)))
        height, mid = self.vertebra(pooled)[:, 0], self.mid(pooled)[:, 0]
        return features_of(hu[:, 0], roi, self.learned(pooled), self.region(pooled), height, mid)


def features_of(
    hu: torch.Tensor,
    roi: torch.Tensor,
    learned: torch.Tensor,
    region_logits: torch.Tensor,
    height: torch.Tensor,
    mid_logit: torch.Tensor,
) -> SliceFeatures:
    """What an encoder says, laid out as `EmbeddingLayout` has it; an encoder of one's own ends with it too.

    Args:
        hu: the crops [n, S, S].
        roi: weights [n, n_rois, (S/2)^2] that sum to 1; the density is measured inside them, from untouched HU.
        learned: free dimensions [n, n_learned], before tanh.
        region_logits: [n, len(REGIONS)]; height: [n], on the scale of `embedding.height_of`; mid_logit: [n].
    """
    flat = F.avg_pool2d(hu.float()[:, None].clamp(-200.0, 1200.0), 2).flatten(2)  # [n, 1, P]
    mean = (roi * flat).sum(-1)
    spread = ((roi * (flat - mean[..., None]) ** 2).sum(-1) + 1.0).sqrt()
    embedding = torch.cat(
        [
            torch.tanh(learned),
            scaled_hu(mean),
            spread / 25.0 - 2.0,
            height[:, None],
            region_logits.softmax(-1),
            mid_logit[:, None].sigmoid(),
        ],
        dim=1,
    )
    side = hu.shape[-1] // 2
    return SliceFeatures(
        embedding=embedding,
        region_logits=region_logits,
        vertebra=number_of(height),
        mid_logit=mid_logit,
        trabecular_hu=mean[:, 0],
        roi=roi.unflatten(-1, (side, side)),
    )


def build_encoder(cfg: EncoderConfig) -> nn.Module:
    """The untrained encoder of a config: the project's, or one of one's own.

    Raises:
        ConfigError: one of one's own that can't be imported.
    """
    return SliceEncoder(cfg) if cfg.network is None else own_part("encoder", cfg.network)(cfg)


def _window(hu: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return (hu.clamp(low, high) - low) / (high - low) * 2.0 - 1.0
