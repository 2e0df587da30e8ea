"""Teachers and the multimodal student (plain torch).

Every model takes a `Batch` and returns class log-probabilities (see `ordinal`). Missing is explicit: a mask says
which values are known, and a value that is not known never reaches a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from osteo_ray.model.config import ModelConfig
from osteo_ray.model.extension import own_part
from osteo_ray.model.ordinal import Latent, LatentHead, latent_of
from osteo_ray.model.patterns import MODALITIES, modalities_of, shown_by
from osteo_ray.model.pooling import ScanPool
from osteo_ray.patients.labels import CLASSES


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


def members(pattern: str, present: torch.Tensor) -> torch.Tensor:
    """Rows of the patients who have at least the pattern's modalities; `present` bool [n, 3]."""
    columns = [MODALITIES.index(m) for m in modalities_of(pattern)]
    return torch.where(present[:, columns].all(1))[0]


def show_only(batch: Batch, pattern: str, groups: tuple[str, ...]) -> Batch:
    """The batch with all modalities but the pattern's hidden; `groups`: each feature's modality, [F]."""
    return shown_part(batch, torch.from_numpy(shown_by(pattern)), modality_index(groups))


def modality_index(groups: Sequence[str]) -> torch.Tensor:
    """Each feature's place in MODALITIES, int64 [F]."""
    return torch.tensor([MODALITIES.index(g) for g in groups])


def shown_part(batch: Batch, shown: torch.Tensor, modality: torch.Tensor) -> Batch:
    """The batch with all modalities hidden that `shown`, bool [3], leaves out; `modality`: `modality_index`."""
    known, ct = batch.known & shown[modality], shown[MODALITIES.index("ct")]
    return Batch(torch.where(known, batch.values, 0.0), known, batch.bag * ct.float(), batch.bag_mask & ct)


class TabularNetwork(nn.Module):
    """A tabular teacher: whatever it is made of, it has members that each say a T-score, and gives the student a hint.

    A subclass is made by `(n_features, ModelConfig)` and says `hidden` and `raw`; see docs/examples/own_teacher.py.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def hidden(self, b: Batch) -> torch.Tensor:
        """Last hidden layer of each of k members, [n, k, width]."""
        raise NotImplementedError

    def raw(self, hidden: torch.Tensor) -> torch.Tensor:
        """What each member says, on the scale of `ordinal.latent_of`, [n, k]."""
        raise NotImplementedError

    def members(self, b: Batch) -> Latent:
        """What each member says of the T-score, [n, k]; each is trained on its own loss."""
        return latent_of(self.raw(self.hidden(b)), self.log_sigma)

    def features(self, b: Batch) -> torch.Tensor:
        """What a student is given as a hint: the members' mean hidden layer, [n, width]."""
        return self.hidden(b).mean(1)

    def forward(self, b: Batch) -> torch.Tensor:
        """Log of the members' mean probability, [n, classes]."""
        return self.members(b).logits().exp().mean(1).clamp_min(1e-9).log()


class TabularTeacher(TabularNetwork):
    """TabM (Gorishniy et al. 2025, arXiv 2410.24210) over values and masks; its members are an implicit ensemble."""

    def __init__(self, n_features: int, cfg: ModelConfig):
        from rtdl_num_embeddings import LinearReLUEmbeddings  # brings sklearn: most of what imports this builds none
        from tabm import TabM

        super().__init__()
        self.net = TabM.make(
            n_num_features=2 * n_features,
            d_out=1,
            num_embeddings=LinearReLUEmbeddings(2 * n_features, cfg.embedding),
            n_blocks=cfg.tabular_blocks,
            d_block=cfg.tabular_width,
            dropout=cfg.dropout,
            k=cfg.tabular_k,
        )

    def hidden(self, b: Batch) -> torch.Tensor:
        """Last hidden layer of each implicit member, [n, k, width]."""
        x = self.net.num_module(torch.cat([b.values, b.known.float()], dim=1)).flatten(1)
        return self.net.backbone(self.net.ensemble_view(x))

    def raw(self, hidden: torch.Tensor) -> torch.Tensor:
        """What each implicit member says, [n, k]."""
        return self.net.output(hidden)[..., 0]


def build_tabular(n_features: int, cfg: ModelConfig) -> TabularNetwork:
    """The untrained tabular teacher of a config: TabM, or one of one's own.

    Raises:
        ConfigError: one of one's own that can't be imported.
    """
    if cfg.tabular_network is None:
        return TabularTeacher(n_features, cfg)
    return own_part("tabular", cfg.tabular_network)(n_features, cfg)


class ImageTeacher(nn.Module):
    """Attention over the selected slices' embeddings."""

    def __init__(self, dim: int, cfg: ModelConfig):
        super().__init__()
        self.pool = ScanPool(dim, len(CLASSES), cfg.hidden, cfg.dropout)
        self.head = LatentHead(self.pool.width)

    def latent(self, b: Batch) -> Latent:
        """What it says of the T-score, [n]."""
        return self.head(self.pool(b.bag, b.bag_mask).hidden)

    def features(self, b: Batch) -> torch.Tensor:
        """What a student is given as a hint: the pooled representation, [n, width]."""
        return self.pool(b.bag, b.bag_mask).hidden

    def forward(self, b: Batch) -> torch.Tensor:
        """Class log-probabilities [n, classes]."""
        return self.latent(b).logits()


class Student(nn.Module):
    """One branch a modality, concatenated, one linear head (Wang et al., KDD 2020), plus unimodal heads.

    A branch is a small network with its own input beside it, so that few patients teach what is linear. An absent
    modality enters as a learned vector, so that any subset can be scored. With `pattern_heads` the head has a learned
    difference per pattern of modalities: what a lab says beside a CT is not what it says alone.
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
        self.pool = ScanPool(dim, len(CLASSES), cfg.hidden, cfg.dropout)
        self.widths = {m: cfg.hidden + 2 * groups.count(m) for m in ("demographics", "labs")} | {"ct": self.pool.width}
        self.absent = nn.ParameterDict({m: nn.Parameter(torch.zeros(w)) for m, w in self.widths.items()})
        width, patterns = sum(self.widths.values()), 2 ** len(MODALITIES)
        self.head = nn.Linear(width, 1)
        self.pattern_heads = cfg.pattern_heads
        self.head_shift = nn.Parameter(torch.zeros(patterns, width + 1))  # weights and bias
        self.log_sigma = nn.Parameter(torch.zeros(patterns))
        self.unimodal = nn.ModuleDict({m: LatentHead(w) for m, w in self.widths.items()})

    def branches(self, b: Batch) -> dict[str, torch.Tensor]:
        """What each modality's branch says, [n, width of the branch], whether or not the modality is there."""
        h = {m: self._tabular_branch(m, b.values, b.known) for m in ("demographics", "labs")}
        h["ct"] = self.pool(b.bag, b.bag_mask).hidden
        return h

    def _tabular_branch(self, m: str, values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        index = getattr(self, f"{m}_index")
        x = torch.cat([values[:, index], known[:, index].float()], dim=1)
        return torch.cat([self.tabular[m](x), x], dim=1)

    def present(self, b: Batch) -> torch.Tensor:
        """Which modalities each patient has, bool [n, 3] in the order of MODALITIES."""
        return torch.cat([self._tabular_present(b.known), b.bag_mask.any(1, keepdim=True)], dim=1)

    def _tabular_present(self, known: torch.Tensor) -> torch.Tensor:
        return torch.stack([known[:, self.demographics_index].any(1), known[:, self.labs_index].any(1)], dim=1)

    def fuse(self, h: dict[str, torch.Tensor], available: torch.Tensor) -> Latent:
        """Branches [n, width] and the modalities that count, bool [n, 3] -> what the head says, [n]."""
        x = torch.cat(
            [torch.where(available[:, j : j + 1], h[m], self.absent[m]) for j, m in enumerate(MODALITIES)], dim=1
        )
        code = (available.long() * torch.tensor([1, 2, 4], device=available.device)).sum(1)
        raw = self.head(x)[:, 0]
        if self.pattern_heads:
            shift = self.head_shift[code]
            raw = raw + (x * shift[:, :-1]).sum(1) + shift[:, -1]
        return latent_of(raw, self.log_sigma[code])

    def latent(self, b: Batch) -> Latent:
        """What it says of the T-score, [n]."""
        return self.fuse(self.branches(b), self.present(b))

    def forward(self, b: Batch) -> torch.Tensor:
        """Class log-probabilities [n, classes]."""
        return self.latent(b).logits()

    def latent_given_ct(self, values: torch.Tensor, known: torch.Tensor, ct: torch.Tensor) -> Latent:
        """What it says of the T-score, [n], with the CT given as its branch's output [n, width]."""
        h = {m: self._tabular_branch(m, values, known) for m in ("demographics", "labs")}
        tabular = self._tabular_present(known)
        available = torch.cat([tabular, torch.ones_like(tabular[:, :1])], dim=1)
        return self.fuse({**h, "ct": ct}, available)

    def attention(self, b: Batch) -> torch.Tensor:
        """Weight of each slice in the bag, [n, K]."""
        return self.pool(b.bag, b.bag_mask).weights
