"""What teachers and student are trained on: labels, T-scores, and the KDD 2020 distillation (plain torch)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import nn

from osteo_ray.kdamm.config import DistillConfig
from osteo_ray.model.config import ModelConfig
from osteo_ray.model.networks import Batch, ImageTeacher, Student, TabularNetwork, build_tabular
from osteo_ray.model.patterns import MODALITIES
from osteo_ray.outcomes import InputError

TEACHES = {"tabular": ("demographics", "labs"), "image": ("ct",)}
"""The modalities that a teacher reads."""


@dataclass
class Rows:
    """Patients to train on. Teacher outputs are NaN where the patient lacks the teacher's modality."""

    batch: Batch
    label: torch.Tensor  # int64 [n], index into CLASSES
    t_score: torch.Tensor  # float32 [n], NaN unknown
    logits: dict[str, torch.Tensor] = field(default_factory=dict)  # by teacher: [n, classes]
    features: dict[str, torch.Tensor] = field(default_factory=dict)  # by teacher: [n, width]

    def take(self, rows: torch.Tensor) -> Rows:
        """The patients at `rows`."""
        return self._each(lambda t: t[rows], self.batch.take(rows))

    def to(self, device: torch.device | str) -> Rows:
        """The rows on another device."""
        return self._each(lambda t: t.to(device), self.batch.to(device))

    def _each(self, f, batch: Batch) -> Rows:
        out = {x.name: getattr(self, x.name) for x in fields(self)} | {"batch": batch}
        for k, v in out.items():
            if isinstance(v, torch.Tensor):
                out[k] = f(v)
            elif isinstance(v, dict):
                out[k] = {name: f(t) for name, t in v.items()}
        return Rows(**out)

    def __len__(self) -> int:
        return len(self.label)


def build(kind: str, groups: list[str], dim: int, cfg: ModelConfig) -> nn.Module:
    """The untrained model of a kind; `dim` is the length of a slice's features."""
    if kind == "tabular":
        return build_tabular(len(groups), cfg)
    if kind == "image":
        return ImageTeacher(dim, cfg)
    if kind == "student":
        return Student(groups, dim, cfg)
    raise InputError(f"model kind {kind!r} is none of tabular, image, student")


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), per patient [n]."""
    t = F.log_softmax(teacher / temperature, -1)
    s = F.log_softmax(student / temperature, -1)
    return temperature**2 * F.kl_div(s, t, log_target=True, reduction="none").sum(-1)


class Objective(nn.Module):
    """Model plus loss in one forward, so that data-parallel wrappers see every gradient."""

    def __init__(self, model: nn.Module, t_weight: float, distill: DistillConfig, feature_widths: dict[str, int]):
        super().__init__()
        self.model = model
        self.t_weight = t_weight
        self.distill = distill
        # Branch -> teacher's feature space; trained with the student, and left behind when it is done.
        self.project = nn.ModuleDict()
        if isinstance(model, Student) and distill.hint:
            for name, width in sorted(feature_widths.items()):
                self.project[name] = nn.Linear(sum(model.widths[m] for m in TEACHES[name]), width)

    def forward(self, rows: Rows) -> torch.Tensor:
        """Mean loss of the patients."""
        m = self.model
        if isinstance(m, TabularNetwork):
            predicted = m.members(rows.batch)
            label = rows.label[:, None].expand(predicted.mean.shape)
            return predicted.loss(label, rows.t_score[:, None].expand(predicted.mean.shape), self.t_weight).mean()
        if isinstance(m, ImageTeacher):
            return m.latent(rows.batch).loss(rows.label, rows.t_score, self.t_weight).mean()
        assert isinstance(m, Student)
        return student_loss(m, rows, self.t_weight, self.distill, self.project)


def student_loss(
    student: Student, rows: Rows, t_weight: float, cfg: DistillConfig, project: nn.ModuleDict | None = None
) -> torch.Tensor:
    """Label loss + sum of alpha_i * T^2 * KL(teacher_i || student), and what the config adds.

    A label of -1 is unknown (or, with `on: complete`, not used): that patient teaches by distillation alone.
    """
    b, n = rows.batch, len(rows)
    available = student.present(b)
    seen = _drop(available, cfg.modality_dropout) if student.training and cfg.modality_dropout else available
    h = student.branches(b)
    fused = student.fuse(h, seen)
    labelled = rows.label >= 0
    label = rows.label.clamp_min(0)

    def on_labels(latent, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, latent.loss(label, rows.t_score, t_weight), 0.0).sum() / n

    loss = cfg.fused * on_labels(fused, labelled)
    if cfg.more:
        full = student.fuse(h, available).loss(label, rows.t_score, t_weight)
        # Held fast, so that the fewer can't be made worse instead.
        fewer = student.fuse(h, _drop(available, 0.5)).loss(label, rows.t_score, t_weight).detach()
        loss = loss + cfg.more * torch.where(labelled, F.relu(full - fewer), 0.0).sum() / n
    logits = fused.logits()
    for name, alpha in (("tabular", cfg.alpha_tabular), ("image", cfg.alpha_image)):
        if name not in rows.logits:
            continue
        teacher = rows.logits[name]
        has = teacher.isfinite().all(1)
        teacher = torch.where(has[:, None], teacher, 0.0)
        if alpha:
            loss = loss + alpha * torch.where(has, distillation_loss(logits, teacher, cfg.temperature), 0.0).sum() / n
        if cfg.view:
            visible = torch.tensor([m in TEACHES[name] for m in MODALITIES], device=available.device)
            view = student.fuse(h, available & visible).logits()
            loss = loss + cfg.view * torch.where(has, distillation_loss(view, teacher, cfg.temperature), 0.0).sum() / n
    if cfg.unimodal:
        for j, m in enumerate(MODALITIES):
            own = on_labels(student.unimodal[m](h[m]), labelled & seen[:, j])
            loss = loss + cfg.unimodal * own / len(MODALITIES)
    for name, layer in (project or {}).items():
        wanted = rows.features[name]
        has = wanted.isfinite().all(1)
        got = layer(torch.cat([h[m] for m in TEACHES[name]], dim=1))
        error = (got - torch.where(has[:, None], wanted, 0.0)).square().mean(1)
        loss = loss + cfg.hint * torch.where(has, error, 0.0).sum() / n
    return loss


def _drop(available: torch.Tensor, chance: float) -> torch.Tensor:
    """Mask modalities at random, never all of a patient's."""
    left = available & ~(torch.rand(available.shape, device=available.device) < chance)
    return torch.where(left.any(1, keepdim=True), left, available)
