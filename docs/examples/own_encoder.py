"""A slice encoder of one's own: `encoder: {network: own_encoder.PlainEncoder}`, with this folder on PYTHONPATH."""

import torch
from torch import nn

from osteo_ray.model.config import EncoderConfig
from osteo_ray.model.embedding import REGIONS
from osteo_ray.model.encoder import SliceFeatures, features_of


class PlainEncoder(nn.Module):
    """Three convolutions; regions of interest are found at half the crop's resolution, all else from their mean."""

    def __init__(self, cfg: EncoderConfig):
        super().__init__()
        self.sizes = [cfg.n_learned, len(REGIONS), 1, 1]
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
        )
        self.roi = nn.Conv2d(32, cfg.n_rois, 3, padding=1)
        self.heads = nn.Linear(32, sum(self.sizes))

    def forward(self, hu: torch.Tensor) -> SliceFeatures:
        y = self.body(hu.float()[:, None].clamp(-200, 600) / 400)
        roi = self.roi(y).flatten(2).softmax(-1)
        learned, region, height, mid = self.heads(y.mean((2, 3))).split(self.sizes, 1)
        return features_of(hu, roi, learned, region, height[:, 0], mid[:, 0])
