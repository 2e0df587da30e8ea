"""Ray Train and Ray Data: the training loop of `train` on several workers, each fed its share of every epoch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from osteo_ray.kdamm.objective import Rows
from osteo_ray.kdamm.train import FitJob, Weights, train_loop
from osteo_ray.model.networks import Batch


def to_table(rows: Rows) -> Any:
    """Rows as an Arrow table, one row a patient in the given order; what varies in shape is flattened."""
    import pyarrow as pa

    columns: dict[str, torch.Tensor] = {"position": torch.arange(len(rows)), "label": rows.label}
    columns |= {"t_score": rows.t_score, "values": rows.batch.values, "known": rows.batch.known}
    columns |= {"bag": rows.batch.bag.flatten(1), "bag_mask": rows.batch.bag_mask}
    columns |= {f"logits:{k}": v for k, v in rows.logits.items()}
    columns |= {f"features:{k}": v for k, v in rows.features.items()}
    out = {}
    for name, t in columns.items():
        flat = pa.array(t.flatten().to(torch.uint8 if t.dtype == torch.bool else t.dtype).numpy())
        out[name] = pa.FixedSizeListArray.from_arrays(flat, t.shape[1]) if t.ndim == 2 else flat
    return pa.table(out)


def from_columns(columns: dict[str, np.ndarray], bag_slices: int) -> Rows:
    """Inverse of `to_table`, from a batch of its columns, in the order of their positions."""
    order = np.argsort(columns["position"])

    def tensor(name: str) -> torch.Tensor:
        a = columns[name]
        return torch.from_numpy(np.stack(list(a[order])) if a.dtype == object else np.array(a[order]))

    batch = Batch(
        tensor("values"),
        tensor("known") > 0,
        tensor("bag").unflatten(1, (bag_slices, -1)),
        tensor("bag_mask") > 0,
    )
    parts: dict[str, dict[str, torch.Tensor]] = {"logits": {}, "features": {}}
    for name in columns:
        what, _, teacher = name.partition(":")
        if teacher:
            parts[what][teacher] = tensor(name)
    return Rows(batch, tensor("label"), tensor("t_score"), **parts)


class RayKeeper:
    """State in Ray Train's checkpoints, reported by rank 0."""

    def __init__(self, rank: int):
        self.rank = rank

    def load(self) -> dict[str, Any] | None:
        import ray.train

        last = ray.train.get_checkpoint()
        if last is None:
            return None
        with last.as_directory() as d:
            return torch.load(Path(d) / "state.pt", weights_only=True)

    def save(self, state: dict[str, Any]) -> None:
        import ray.train

        metrics = {"epoch": state["epoch"]}
        if self.rank:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as d:
            torch.save(state, Path(d) / "state.pt")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(d))


def _ray_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray
    import ray.train
    import ray.train.torch

    ctx = ray.train.get_context()
    job: FitJob = ray.get(config["job"])
    shard = ray.train.get_dataset_shard("train")
    slices = job.val.batch.bag.shape[1]
    rank, world = ctx.get_world_rank(), ctx.get_world_size()

    def feed(epoch: int) -> Iterator[Rows]:
        batches = shard.iter_batches(
            batch_size=max(1, job.fit.batch // world),
            batch_format="numpy",
            drop_last=False,
            local_shuffle_buffer_size=config["shuffle"],
            local_shuffle_seed=job.seed * 100_003 + epoch,
        )
        for columns in batches:
            yield from_columns(columns, slices)

    def wrap(m: nn.Module) -> nn.Module:
        return ray.train.torch.prepare_model(m, parallel_strategy_kwargs={"find_unused_parameters": True})

    weights = train_loop(job, feed, ray.train.torch.get_device(), RayKeeper(rank), wrap, world)
    last = {"epoch": job.fit.epochs}
    if rank:
        ray.train.report(last)
        return
    with tempfile.TemporaryDirectory() as d:
        torch.save(weights, Path(d) / "weights.pt")
        ray.train.report(last, checkpoint=ray.train.Checkpoint.from_directory(d))


def fit_with_ray_train(job: FitJob, workers: int, storage: str, use_gpu: bool | None) -> Weights:
    """`train.fit` on several workers; the same storage carries on a run that was cut short.

    Args:
        use_gpu: None where the cluster has a GPU for each worker.
    """
    import ray
    import ray.data
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    if use_gpu is None:  # the driver may sit on a node without one
        use_gpu = ray.cluster_resources().get("GPU", 0) >= workers
    n = len(job.train) // workers * workers  # every worker the same number of steps
    options = DataConfig.default_ingest_options()
    options.preserve_order = True
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"job": ray.put(replace(job, train=job.train.take(torch.arange(0)))), "shuffle": 4096},
        datasets={"train": ray.data.from_arrow(to_table(job.train.take(torch.arange(n))))},
        dataset_config=DataConfig(execution_options=options),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(
            storage_path=storage,
            name=f"fit-{job.kind}",
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=1),
        ),
    )
    result = trainer.fit()
    if result.checkpoint is None:
        raise RuntimeError(f"Ray Train gave no checkpoint for the {job.kind} model")
    with result.checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / "weights.pt", weights_only=True)
