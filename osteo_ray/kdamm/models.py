"""Teachers and the multimodal student (plain torch).

Every model takes a `Batch` and returns class logits. Missing is explicit: a mask says which values
are known, and a value that is not known never reaches a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from rtdl_num_embeddings import LinearReLUEmbeddings
from tabm import TabM
from torch import nn

from osteo_ray.config import Section
from osteo_ray.kdamm.pooling import AttentionPool
from osteo_ray.records.labels import CLASSES

MODALITIES = ("demographics", "labs", "ct")


class ModelConfig(Section):
    """Architecture of teachers and student; ships in the bundle."""

    tabular_width: int = Field(64, ge=8)
    tabular_blocks: int = Field(2, ge=1)
    tabular_k: int = Field(16, ge=1, description="TabM's implicit ensemble")
    embedding: int = Field(8, ge=1, description="numerical embedding per feature")
    hidden: int = Field(48, ge=8, description="width of each branch")
    dropout: float = Field(0.15, ge=0, lt=1)


@dataclass
class Batch:
    """n patients. Values are standardised; where a mask is False the value is 0 and means nothing."""

    values: torch.Tensor  # float32 [n, F]
    known: torch.Tensor  # bool [n, F]
    bag: torch.Tensor  # float32 [n, K, D], slice embeddings
    bag_mask: torch.Tensor  # bool [n, K]; all False: no CT

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return Batch(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))

    def take(self, rows: torch.Tensor) -> Batch:
        """The patients at `rows`."""
        return Batch(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.values)


class TabularTeacher(nn.Module):
    """TabM (Gorishniy et al. 2025, arXiv 2410.24210) over values and masks."""

    def __init__(self, n_features: int, cfg: ModelConfig):
        super().__init__()
        self.net = TabM.make(
            n_num_features=2 * n_features,
            d_out=len(CLASSES),
            num_embeddings=LinearReLUEmbeddings(2 * n_features, cfg.embedding),
            n_blocks=cfg.tabular_blocks,
            d_block=cfg.tabular_width,
            dropout=cfg.dropout,
            k=cfg.tabular_k,
        )

    def members(self, b: Batch) -> torch.Tensor:
        """Logits of each implicit member, [n, k, classes]; each is trained on its own loss."""
        return self.net(torch.cat([b.values, b.known.float()], dim=1))

    def forward(self, b: Batch) -> torch.Tensor:
        """Log of the members' mean probability, [n, classes]."""
        return self.members(b).softmax(-1).mean(1).clamp_min(1e-9).log()


class ImageTeacher(nn.Module):
    """Attention over the selected slices' embeddings."""

    def __init__(self, dim: int, cfg: ModelConfig):
        super().__init__()
        self.pool = AttentionPool(dim, len(CLASSES), cfg.hidden, cfg.dropout)

    def forward(self, b: Batch) -> torch.Tensor:
        return self.pool(b.bag, b.bag_mask).logits


class Student(nn.Module):
    """One branch a modality, concatenated, one linear head (Wang et al., KDD 2020), plus unimodal heads.

    An absent modality enters as a learned vector, so that any subset can be scored.
    """

    demographics_index: torch.Tensor
    labs_index: torch.Tensor

    def __init__(self, groups: list[str], dim: int, cfg: ModelConfig):
        super().__init__()
        # Which features belong to which branch is part of the model's config, not of its weights.
        for m in ("demographics", "labs"):
            index = torch.tensor([i for i, g in enumerate(groups) if g == m], dtype=torch.long)
            self.register_buffer(f"{m}_index", index, persistent=False)
        self.tabular = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.Linear(2 * groups.count(m), cfg.hidden),
                    nn.ReLU(),
                    nn.Dropout(cfg.dropout),
                    nn.Linear(cfg.hidden, cfg.hidden),
                    nn.ReLU(),
                )
                for m in ("demographics", "labs")
            }
        )
        self.pool = AttentionPool(dim, len(CLASSES), cfg.hidden, cfg.dropout)
        self.absent = nn.ParameterDict({m: nn.Parameter(torch.zeros(cfg.hidden)) for m in MODALITIES})
        self.head = nn.Linear(len(MODALITIES) * cfg.hidden, len(CLASSES))
        self.unimodal = nn.ModuleDict({m: nn.Linear(cfg.hidden, len(CLASSES)) for m in MODALITIES})

    def branches(self, b: Batch, present: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Hidden vector [n, hidden] per modality; `present` bool [n, 3] hides modalities further."""
        here = self.present(b) if present is None else self.present(b) & present
        h = {m: self._tabular_branch(m, b.values, b.known) for m in ("demographics", "labs")}
        h["ct"] = self.pool(b.bag, b.bag_mask).hidden
        return {m: torch.where(here[:, j : j + 1], h[m], self.absent[m]) for j, m in enumerate(MODALITIES)}

    def _tabular_branch(self, m: str, values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        index = getattr(self, f"{m}_index")
        return self.tabular[m](torch.cat([values[:, index], known[:, index].float()], dim=1))

    def present(self, b: Batch) -> torch.Tensor:
        """Which modalities each patient has, bool [n, 3] in the order of MODALITIES."""
        return torch.stack(
            [
                b.known[:, self.demographics_index].any(1),
                b.known[:, self.labs_index].any(1),
                b.bag_mask.any(1),
            ],
            dim=1,
        )

    def forward(self, b: Batch, present: torch.Tensor | None = None) -> torch.Tensor:
        h = self.branches(b, present)
        return self.head(torch.cat([h[m] for m in MODALITIES], dim=1))

    def from_hidden(self, values: torch.Tensor, known: torch.Tensor, ct: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] with the CT given as its branch's hidden vector [n, hidden]."""
        h = []
        for m in ("demographics", "labs"):
            index = getattr(self, f"{m}_index")
            x = self._tabular_branch(m, values, known)
            h.append(torch.where(known[:, index].any(1, keepdim=True), x, self.absent[m]))
        return self.head(torch.cat([*h, ct], dim=1))

    def attention(self, b: Batch) -> torch.Tensor:
        """Weight of each slice in the bag, [n, K]."""
        return self.pool(b.bag, b.bag_mask).weights


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), per patient [n]."""
    t = F.log_softmax(teacher / temperature, -1)
    s = F.log_softmax(student / temperature, -1)
    return temperature**2 * F.kl_div(s, t, log_target=True, reduction="none").sum(-1)
