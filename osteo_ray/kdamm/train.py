"""Ray Train: fit the teachers and the student. One training loop, run in-process or by TorchTrainer.

    weights = fit(FitJob("tabular", ...), workers=0)      # in this process
    weights = fit(FitJob("tabular", ...), workers=4, storage="s3://bucket/run")   # Ray Train, data-parallel

A trivial TorchTrainer costs about 20 s to start, the demo's models less than that to train; so
workers are asked for in the config, and the loop is the same.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from sklearn.metrics import roc_auc_score
from torch import nn

from osteo_ray.config import Section
from osteo_ray.kdamm.models import (
    Batch,
    ImageTeacher,
    ModelConfig,
    Student,
    TabularTeacher,
    distillation_loss,
)
from osteo_ray.outcomes import InputError

Weights = dict[str, torch.Tensor]


class FitConfig(Section):
    """One model's optimisation."""

    epochs: int = Field(40, ge=1)
    batch: int = Field(64, ge=2)
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    patience: int = Field(10, ge=1, description="epochs without a better validation loss before stopping")


class DistillConfig(Section):
    """The KDD 2020 loss and its named extensions."""

    alpha_tabular: float = Field(1.0, ge=0)
    alpha_image: float = Field(1.0, ge=0)
    temperature: float = Field(2.0, gt=0)
    unimodal: float = Field(0.5, ge=0, description="weight of the unimodal heads' loss (MIND, arXiv 2502.01158)")
    modality_dropout: float = Field(0.3, ge=0, lt=1, description="chance that a modality is hidden in a step")
    ct_repeat: int = Field(5, ge=1, description="times a patient with CT is drawn in an epoch, for they are few")
    on: Literal["complete", "all"] = Field("all", description="complete: CE on complete patients only, as published")


class KdammConfig(Section):
    """KDAMM: architectures, teachers, student."""

    model: ModelConfig = ModelConfig()
    tabular: FitConfig = FitConfig()
    image: FitConfig = FitConfig()
    student: FitConfig = FitConfig(lr=1e-3, weight_decay=0.1)
    distill: DistillConfig = DistillConfig()
    workers: int = Field(0, ge=0, description="Ray Train workers; 0 trains in-process")


@dataclass
class FitJob:
    """Everything one fit needs, picklable: it travels to Ray Train's workers as it is."""

    kind: Literal["tabular", "image", "student"]
    train: Batch
    label: torch.Tensor  # int64 [n], index into CLASSES
    val: Batch
    val_label: torch.Tensor
    groups: list[str]  # modality of each tabular feature
    model: ModelConfig
    fit: FitConfig
    seed: int
    distill: DistillConfig = field(default_factory=DistillConfig)
    teachers: dict[str, torch.Tensor] = field(default_factory=dict)  # teacher logits [n, 3], NaN rows: no such modality


def build(kind: str, groups: list[str], dim: int, cfg: ModelConfig) -> nn.Module:
    """The untrained model of a kind; `dim` is the length of a slice embedding."""
    if kind == "tabular":
        return TabularTeacher(len(groups), cfg)
    if kind == "image":
        return ImageTeacher(dim, cfg)
    if kind == "student":
        return Student(groups, dim, cfg)
    raise InputError(f"model kind {kind!r} is none of tabular, image, student")


def fit(
    job: FitJob,
    workers: int = 0,
    storage: str | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Weights:
    """Train one model and return the weights of its best epoch by validation loss.

    Args:
        workers: Ray Train workers; 0 trains in this process and calls `on_epoch` after each epoch.
        storage: where Ray Train keeps its checkpoints (a path that every worker reaches); needed with workers.

    Raises:
        InputError: where the training part is empty or has one class only.
    """
    if len(job.train) == 0 or len(job.label.unique()) < 2:
        raise InputError(
            f"the {job.kind} model has {len(job.train)} training patients with {len(job.label.unique())} classes; "
            "at least two classes are needed: give more labelled records with that modality"
        )
    if workers == 0:
        return train_loop(job, on_epoch=on_epoch)
    if storage is None:
        raise InputError("training with Ray Train workers needs a storage path that every worker reaches")
    return _fit_with_ray_train(job, workers, storage)


def train_loop(
    job: FitJob,
    wrap: Callable[[nn.Module], nn.Module] = lambda m: m,
    rank: int = 0,
    world: int = 1,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Weights:
    """The loop. With `world` > 1 each rank takes its share of every epoch and `wrap` averages gradients."""
    torch.manual_seed(job.seed)
    model = build(job.kind, job.groups, job.train.bag.shape[-1], job.model)
    wrapped = wrap(_Loss(model, job))
    device = next(model.parameters()).device
    opt = torch.optim.AdamW(model.parameters(), lr=job.fit.lr, weight_decay=job.fit.weight_decay)
    # The order of patients is drawn from the seed alone, so ranks agree without talking.
    order = torch.Generator().manual_seed(job.seed)
    best, best_loss, since = copy.deepcopy(model.state_dict()), float("inf"), 0
    n = len(job.train) // world * world
    for epoch in range(job.fit.epochs):
        model.train()
        rows = torch.randperm(len(job.train), generator=order)[:n][rank::world]
        for chunk in rows.split(job.fit.batch):
            if len(chunk) < 2 and len(rows) > 1:
                continue  # a lone last patient gives a noisy step
            loss = wrapped(chunk, device)
            opt.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            opt.step()
        val = validate(model, job.val.to(device), job.val_label.to(device))
        if on_epoch:
            on_epoch({"epoch": epoch, **val})
        if val["loss"] < best_loss - 1e-4:
            best, best_loss, since = copy.deepcopy(model.state_dict()), val["loss"], 0
        else:
            since += 1
            if since >= job.fit.patience:
                break
    return {k: v.cpu() for k, v in best.items()}


@torch.no_grad()
def validate(model: nn.Module, batch: Batch, label: torch.Tensor) -> dict[str, float]:
    """Validation loss, and AUC of osteoporosis against normal (NaN where a class is absent)."""
    if len(label) == 0:
        return {"loss": float("nan"), "auc": float("nan")}
    model.eval()
    logits = model(batch)
    y = label.cpu().numpy()
    ends = y != 1
    auc = float("nan")
    if len(np.unique(y[ends])) == 2:
        auc = float(roc_auc_score(y[ends] == 2, (logits[:, 2] - logits[:, 0]).cpu().numpy()[ends]))
    return {"loss": float(F.cross_entropy(logits, label)), "auc": auc}


class _Loss(nn.Module):
    """Model plus objective in one forward, so that data-parallel wrappers see every gradient."""

    def __init__(self, model: nn.Module, job: FitJob):
        super().__init__()
        self.model = model
        self.job = job

    def forward(self, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        b = self.job.train.take(rows).to(device)
        y = self.job.label[rows].to(device)
        if isinstance(self.model, TabularTeacher):
            members = self.model.members(b)
            return F.cross_entropy(members.flatten(0, 1), y.repeat_interleave(members.shape[1]))
        if not isinstance(self.model, Student):
            return F.cross_entropy(self.model(b), y)
        teachers = {k: v[rows].to(device) for k, v in self.job.teachers.items()}
        return student_loss(self.model, b, y, teachers, self.job.distill)


def student_loss(
    student: Student, b: Batch, y: torch.Tensor, teachers: dict[str, torch.Tensor], cfg: DistillConfig
) -> torch.Tensor:
    """CE + sum of alpha_i * T^2 * KL(teacher_i || student), and the unimodal heads' loss.

    A teacher's row of NaN means that the patient lacks its modality: that term is 0 there.
    """
    here = student.present(b)
    hidden = here.clone()
    if student.training and cfg.modality_dropout:
        drop = torch.rand(here.shape, device=here.device) < cfg.modality_dropout
        left = here & ~drop
        hidden = torch.where(left.any(1, keepdim=True), left, here)  # never hide everything
    h = student.branches(b, hidden)
    logits = student.head(torch.cat(list(h.values()), dim=1))
    loss = F.cross_entropy(logits, y)
    for name, alpha in (("tabular", cfg.alpha_tabular), ("image", cfg.alpha_image)):
        if name in teachers and alpha:
            t = teachers[name]
            ok = t.isfinite().all(1)
            if ok.any():
                loss = loss + alpha * distillation_loss(logits[ok], t[ok], cfg.temperature).sum() / len(y)
    if cfg.unimodal:
        for j, (m, x) in enumerate(h.items()):
            ok = hidden[:, j]
            if ok.any():
                loss = loss + cfg.unimodal * F.cross_entropy(student.unimodal[m](x[ok]), y[ok]) / len(h)
    return loss


def _ray_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray
    import ray.train
    import ray.train.torch

    ctx = ray.train.get_context()
    job: FitJob = ray.get(config["job"])

    def wrap(m: nn.Module) -> nn.Module:
        return ray.train.torch.prepare_model(m, parallel_strategy_kwargs={"find_unused_parameters": True})

    weights = train_loop(job, wrap, ctx.get_world_rank(), ctx.get_world_size())
    if ctx.get_world_rank() == 0:
        with tempfile.TemporaryDirectory() as d:
            torch.save(weights, Path(d) / "weights.pt")
            ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(d))
    else:
        ray.train.report({})


def _fit_with_ray_train(job: FitJob, workers: int, storage: str) -> Weights:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"job": ray.put(job)},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=torch.cuda.is_available(), resources_per_worker={"CPU": 0.5}
        ),
        run_config=RunConfig(storage_path=storage, name=f"fit-{job.kind}"),
    )
    result = trainer.fit()
    if result.checkpoint is None:
        raise RuntimeError(f"Ray Train gave no checkpoint for the {job.kind} model")
    with result.checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / "weights.pt", weights_only=True)
