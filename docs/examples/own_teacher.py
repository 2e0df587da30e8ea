"""A tabular teacher of one's own: `kdamm: {model: {tabular_network: own_teacher.PlainTeacher}}`."""

import torch
from torch import nn

from osteo_ray.model.config import ModelConfig
from osteo_ray.model.networks import Batch, TabularNetwork


class PlainTeacher(TabularNetwork):
    """One hidden layer over the values and which of them are known; a value that is not known is 0."""

    def __init__(self, n_features: int, cfg: ModelConfig):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2 * n_features, cfg.tabular_width), nn.Tanh(), nn.Dropout(cfg.dropout))
        self.output = nn.Linear(cfg.tabular_width, 1)

    def hidden(self, b: Batch) -> torch.Tensor:
        """[n, 1, width]: one member."""
        return self.layer(torch.cat([b.values, b.known.float()], dim=1))[:, None]

    def raw(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.output(hidden)[..., 0]
