"""Fit the teachers and the student: one training loop, run in-process or by Ray Train (`data_parallel`).

    weights = fit(FitJob("tabular", ...))                                  # in this process
    weights = fit(FitJob("tabular", ...), workers=4, storage="s3://bucket/run")   # Ray Train, fed by Ray Data

A trivial TorchTrainer costs about 20 s to start, the demo's models less than that to train; so
workers are asked for in the config, and the loop is the same. Where a loop is given a place to keep its state it goes
on from there after a kill, to the same weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

from osteo_ray.io.files import replaced
from osteo_ray.kdamm.config import DistillConfig, FitConfig
from osteo_ray.kdamm.objective import Objective, Rows, build
from osteo_ray.model.calibration import normal_log_odds
from osteo_ray.model.config import ModelConfig
from osteo_ray.model.pooling import scan_scale
from osteo_ray.outcomes import InputError
from osteo_ray.patients.labels import OSTEOPENIA, OSTEOPOROSIS

Weights = dict[str, torch.Tensor]


@dataclass
class FitJob:
    """Everything one fit needs, picklable: it travels to Ray Train's workers as it is."""

    kind: Literal["tabular", "image", "student"]
    train: Rows
    val: Rows
    groups: list[str]  # modality of each tabular feature
    model: ModelConfig
    fit: FitConfig
    seed: int
    distill: DistillConfig = field(default_factory=DistillConfig)
    start: Weights = field(default_factory=dict)  # weights that replace the random ones of the same name

    @property
    def dim(self) -> int:
        """Length of a slice's features."""
        return self.val.batch.bag.shape[-1]

    @property
    def widths(self) -> dict[str, int]:
        """Length of each teacher's features."""
        return {k: v.shape[1] for k, v in self.train.features.items()}


def fit(
    job: FitJob,
    workers: int = 0,
    storage: str | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    keep: Path | None = None,
    use_gpu: bool | None = None,
) -> Weights:
    """Train one model and return its weights. A CT branch is given the scale of the training scans first.

    Args:
        workers: Ray Train workers; 0 trains in this process and calls `on_epoch` after each epoch.
        storage: where Ray Train keeps its checkpoints (a path that every worker reaches); needed with workers. The same
            storage carries on a run that was cut short.
        keep: file for the state of an in-process run; one that is there already is carried on.

    Raises:
        InputError: where the training part is empty or has one class only.
    """
    labels = job.train.label[job.train.label >= 0].unique()
    if len(job.train) == 0 or len(labels) < 2:
        raise InputError(
            f"the {job.kind} model has {len(job.train)} training patients with {len(labels)} classes; "
            "at least two classes are needed: give more labelled records with that modality"
        )
    if job.kind != "tabular" and "pool.scale" not in job.start:
        centre, scale = scan_scale(job.train.batch.bag, job.train.batch.bag_mask)
        job = replace(job, start=job.start | {"pool.centre": centre, "pool.scale": scale})
    if workers == 0:
        device = torch.device("cuda" if (torch.cuda.is_available() if use_gpu is None else use_gpu) else "cpu")
        return train_loop(job, shuffled(job.train, job), device, FileKeeper(keep) if keep else None, on_epoch=on_epoch)
    if storage is None:
        raise InputError("training with Ray Train workers needs a storage path that every worker reaches")
    from osteo_ray.kdamm.ray_train import fit_with_ray_train  # it builds on this module

    return fit_with_ray_train(job, workers, storage, use_gpu)


class Keeper(Protocol):
    """Where a loop's state lies between epochs, or steps."""

    def load(self) -> dict[str, Any] | None: ...

    def save(self, state: dict[str, Any]) -> None: ...


@dataclass
class FileKeeper:
    """State in one local file, which appears whole or not at all; `saved` is called when it is there."""

    path: Path
    saved: Callable[[], object] = lambda: None

    def load(self) -> dict[str, Any] | None:
        return torch.load(self.path, weights_only=True) if self.path.exists() else None

    def save(self, state: dict[str, Any]) -> None:
        with replaced(self.path) as tmp:
            torch.save(state, tmp)
        self.saved()


Feed = Callable[[int], Iterator[Rows]]
"""Epoch number -> that epoch's batches. The same epoch gives the same batches in the same order."""


def shuffled(rows: Rows, job: FitJob) -> Feed:
    """Batches from memory, in an order that is the seed's and the epoch's alone."""

    def epoch_of(epoch: int) -> Iterator[Rows]:
        order = torch.Generator().manual_seed(job.seed * 100_003 + epoch)
        for chunk in torch.randperm(len(rows), generator=order).split(job.fit.batch):
            if len(chunk) > 1 or len(rows) == 1:  # a lone last patient gives a noisy step
                yield rows.take(chunk)

    return epoch_of


def train_loop(
    job: FitJob,
    feed: Feed,
    device: torch.device | str = "cpu",
    keeper: Keeper | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda m: m,
    world: int = 1,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Weights:
    """The loop. With `world` > 1 each rank is fed its share of every epoch and `wrap` averages gradients."""
    f = job.fit
    torch.manual_seed(job.seed)
    model = build(job.kind, job.groups, job.dim, job.model)
    if job.start:
        model.load_state_dict(model.state_dict() | job.start)
    objective = Objective(model, f.t_score, job.distill, job.widths)
    wrapped = wrap(objective.to(device))
    opt = torch.optim.AdamW(objective.parameters(), lr=f.lr, weight_decay=f.weight_decay)
    cast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[f.precision]
    kind = torch.device(device).type
    scaler = torch.amp.GradScaler(kind, enabled=f.precision == "fp16")
    val = job.val.to(device)
    first, best, best_loss, since = 0, None, float("inf"), 0
    state = keeper.load() if keeper else None
    if state:
        objective.load_state_dict(state["objective"])
        opt.load_state_dict(state["optimiser"])
        scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        first, best, best_loss, since = state["epoch"], state["best"], state["best_loss"], state["since"]
    for epoch in range(first, f.epochs):
        if f.patience and since >= f.patience:
            break
        model.train()
        batches = list(feed(epoch))
        losses: list[float] = []
        for i, rows in enumerate(batches):
            rate = f.lr * _schedule((epoch + i / len(batches)) / f.epochs)
            for group in opt.param_groups:
                group["lr"] = rate
            with torch.autocast(kind, cast) if cast else nullcontext():
                loss = wrapped(rows.to(device))
            if on_epoch:
                losses.append(float(loss.detach()))
            opt.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(opt)
            torch.nn.utils.clip_grad_norm_(objective.parameters(), 5.0)
            scaler.step(opt)
            scaler.update()
        if f.patience or on_epoch:
            measured = validate(model, val)
            if on_epoch:
                on_epoch({"epoch": epoch, "train_loss": float(np.mean(losses)), **measured})
            if measured["loss"] < best_loss - 1e-4:
                best, best_loss, since = copy.deepcopy(model.state_dict()), measured["loss"], 0
            else:
                since += 1
        if keeper and ((epoch + 1) % f.checkpoint_every == 0 or epoch + 1 == f.epochs):
            keeper.save(
                {
                    "objective": objective.state_dict(),
                    "optimiser": opt.state_dict(),
                    "scaler": scaler.state_dict(),
                    "rng": torch.get_rng_state(),
                    "epoch": epoch + 1,
                    "best": best,
                    "best_loss": best_loss,
                    "since": since,
                }
            )
    final = best if f.patience and best is not None else model.state_dict()
    return {k: v.cpu() for k, v in final.items()}


def _schedule(done: float) -> float:
    """Share of the highest learning rate after a share of the training."""
    return min(1.0, 0.1 + done / 0.1) * 0.5 * (1 + float(np.cos(np.pi * done)))


@torch.no_grad()
def validate(model: nn.Module, rows: Rows) -> dict[str, float]:
    """Validation loss, and AUC of osteoporosis against normal (NaN where a class is absent)."""
    if len(rows) == 0:
        return {"loss": float("nan"), "auc": float("nan")}
    model.eval()
    logits = model(rows.batch)
    y = rows.label.cpu().numpy()
    ends = y != OSTEOPENIA
    auc = float("nan")
    if len(np.unique(y[ends])) == 2:
        auc = float(roc_auc_score(y[ends] == OSTEOPOROSIS, normal_log_odds(logits.cpu().numpy())[ends]))
    return {"loss": float(F.cross_entropy(logits, rows.label)), "auc": auc}
