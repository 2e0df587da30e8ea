"""The last stage of training: bags by the policy, teachers, student, calibration, bundle."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score
from torch import nn

from osteo_ray.bundle import Bundle, BundleConfig
from osteo_ray.kdamm.calibrate import MIN_EVENTS, fit_calibrator, operating_threshold, rest_log_odds
from osteo_ray.kdamm.encoder import SliceEncoder
from osteo_ray.kdamm.models import MODALITIES, Batch, Student
from osteo_ray.kdamm.pooling import AttentionPool
from osteo_ray.kdamm.tabular import fit_standardiser
from osteo_ray.kdamm.train import FitJob, build, fit
from osteo_ray.outcomes import InputError
from osteo_ray.progress import stage
from osteo_ray.records.schema import FEATURES
from osteo_ray.selection.data import Scans
from osteo_ray.selection.env import ViewConfig
from osteo_ray.selection.policy import PolicyNet
from osteo_ray.selection.select import select
from osteo_ray.training.card import model_card
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.patients import Patients, batch_of, hide

MIN_CLUSTER = 5
"""Fewest patients behind a background centre, so that none of them can be read from the bundle."""


def finish(
    out: Path,
    scans: Scans,
    people: Patients,
    encoder: SliceEncoder,
    policy: PolicyNet,
    scorers: list[AttentionPool],
    cfg: TrainConfig,
    storage: str,
    quiet: bool,
) -> None:
    """Fit what stands on the selection and write the bundle to `out`."""
    names, groups = [f.name for f in FEATURES], [str(f.group) for f in FEATURES]
    bags, masks = pick_bags(scans, policy, scorers, cfg.selection.view, quiet)
    train, val = people.rows("train"), people.rows("val")
    std = fit_standardiser(people.values[train], names, groups)
    b_train, b_val = (batch_of(people, r, std, bags, masks) for r in (train, val))
    y_train, y_val = (torch.from_numpy(people.label[r]) for r in (train, val))
    k = cfg.kdamm
    dim = cfg.encoder.dim
    nets: dict[str, nn.Module] = {}
    teacher_logits = {}
    with stage("fit teachers and student", 3, "model", quiet) as advance:
        for kind in ("tabular", "image"):
            has_train, has_val = _has(kind, b_train), _has(kind, b_val)
            rows, rows_val = torch.from_numpy(np.flatnonzero(has_train)), torch.from_numpy(np.flatnonzero(has_val))
            job = FitJob(
                kind,  # type: ignore[arg-type]
                b_train.take(rows),
                y_train[rows],
                b_val.take(rows_val),
                y_val[rows_val],
                groups,
                k.model,
                k.tabular if kind == "tabular" else k.image,
                cfg.seed,
            )
            nets[kind] = _fitted(job, dim, k.workers, storage)
            teacher_logits[kind] = _logits_or_nan(nets[kind], b_train, has_train)
            advance(1)
        student = build("student", groups, dim, k.model)
        assert isinstance(student, Student)
        some = student.present(b_train)
        rows = torch.where(some.all(1) if k.distill.on == "complete" else some.any(1))[0]
        rows = torch.cat([rows, rows[some[rows][:, MODALITIES.index("ct")]].repeat(k.distill.ct_repeat - 1)])
        rows_val = torch.where(student.present(b_val).all(1))[0]
        if len(rows_val) < 2 * MIN_EVENTS:  # too few complete ones to stop by
            rows_val = torch.where(student.present(b_val).any(1))[0]
        job = FitJob(
            "student",
            b_train.take(rows),
            y_train[rows],
            b_val.take(rows_val),
            y_val[rows_val],
            groups,
            k.model,
            k.student,
            cfg.seed,
            k.distill,
            {n: t[rows] for n, t in teacher_logits.items()},
        )
        nets["student"] = _fitted(job, dim, k.workers, storage)
        advance(1)

    calibrators, scored_by, metrics = _calibrate(nets, b_val, y_val.numpy(), groups, cfg)
    n_complete = int(student.present(b_train).all(1).sum())
    metrics |= {"n_train": len(train), "n_train_complete": n_complete, "n_val": len(val)}
    image_rows = torch.from_numpy(np.flatnonzero(_has("image", b_train)))
    metrics["image_mean_log_odds"] = float(_rest(nets["image"], b_train.take(image_rows)).mean())
    threshold = _threshold(nets, calibrators, scored_by, b_val, y_val.numpy(), groups, cfg)
    bundle = Bundle(
        name=cfg.name,
        version=cfg.version,
        config=BundleConfig(
            crop=cfg.crop,
            encoder=cfg.encoder,
            view=cfg.selection.view,
            model=k.model,
            policy_hidden=cfg.selection.policy.hidden,
            n_scorers=len(scorers),
        ),
        standardiser=std,
        encoder=encoder,
        policy=policy,
        scorers=scorers,
        tabular=nets["tabular"],  # type: ignore[arg-type]
        image=nets["image"],  # type: ignore[arg-type]
        student=nets["student"],  # type: ignore[arg-type]
        background=_background(nets["student"], b_train, cfg.background, cfg.seed),  # type: ignore[arg-type]
        calibrators=calibrators,
        scored_by=scored_by,
        threshold=threshold,
        operating_point=f"sensitivity {cfg.calibration.sensitivity:.0%} for osteoporosis on validation patients",
        lumbar_threshold=cfg.calibration.lumbar_threshold,
        metrics=metrics,
    )
    bundle.card = model_card(bundle, cfg)
    bundle.save(out)


def pick_bags(
    scans: Scans, policy: PolicyNet, scorers: list[AttentionPool], view: ViewConfig, quiet: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The policy's picks of every scan: embeddings float32 [S, keep, D] and mask bool [S, keep]."""
    bags = np.zeros((len(scans), view.keep, scans.embedding.shape[-1]), np.float32)
    masks = np.zeros(bags.shape[:2], bool)
    with stage("select slices", len(scans), "scan", quiet) as advance:
        for i in range(len(scans)):
            n = int(scans.valid[i].sum())
            s = select(scans.z_mm[i, :n], scans.embedding[i].__getitem__, policy, scorers, view)
            bags[i, : len(s.kept)] = s.embedding[s.kept]
            masks[i, : len(s.kept)] = True
            advance(1)
    return bags, masks


def _has(kind: str, b: Batch) -> np.ndarray:
    return (b.known.any(1) if kind == "tabular" else b.bag_mask.any(1)).numpy()


def _fitted(job: FitJob, dim: int, workers: int, storage: str) -> nn.Module:
    net = build(job.kind, job.groups, dim, job.model)
    net.load_state_dict(fit(job, workers, storage))
    return net.eval()


@torch.no_grad()
def _logits_or_nan(net: nn.Module, b: Batch, has: np.ndarray) -> torch.Tensor:
    return torch.where(torch.from_numpy(has)[:, None], net(b), torch.nan)


@torch.no_grad()
def _rest(net: nn.Module, b: Batch) -> np.ndarray:
    return rest_log_odds(net(b).numpy())


def _calibrate(
    nets: dict[str, nn.Module], b_val: Batch, y: np.ndarray, groups: list[str], cfg: TrainConfig
) -> tuple[dict, dict[str, str], dict[str, float | int | None]]:
    """A calibrator per pattern, by the student or, where its validation loss is lower, the pattern's teacher."""
    calibrators, scored_by = {}, {}
    metrics: dict[str, float | int | None] = {}
    here = nets["student"].present(b_val)  # type: ignore[operator]
    for size in range(1, len(MODALITIES) + 1):
        for subset in combinations(MODALITIES, size):
            pattern = "+".join(subset)
            rows = torch.where(here[:, [MODALITIES.index(m) for m in subset]].all(1))[0]
            b = hide(b_val.take(rows), {m: m in subset for m in MODALITIES}, tuple(groups))
            label = y[rows.numpy()]
            rivals = ["student"]
            if "ct" not in subset:
                rivals.append("tabular")
            elif subset == ("ct",):
                rivals.append("image")
            loss = {n: _loss(nets[n], b, label) for n in rivals} if len(rows) else {"student": 0.0}
            best = min(loss, key=loss.__getitem__)
            c = (
                fit_calibrator(pattern, _rest(nets[best], b), label, cfg.seed, cfg.calibration.level)
                if len(rows)
                else None
            )
            if c is not None:
                calibrators[pattern], scored_by[pattern] = c, best
                metrics[f"val_auc {pattern}"] = _auc(nets[best], b, label)
    return calibrators, scored_by, metrics


@torch.no_grad()
def _loss(net: nn.Module, b: Batch, label: np.ndarray) -> float:
    return float(F.cross_entropy(net(b), torch.from_numpy(label)))


@torch.no_grad()
def _auc(net: nn.Module, b: Batch, label: np.ndarray) -> float | None:
    """AUC of osteoporosis against normal; None where a class is absent."""
    ends = label != 1
    y = label[ends] == 2
    if y.all() or not y.any():
        return None
    logits = net(b).numpy()[ends]
    return float(roc_auc_score(y, logits[:, 2] - logits[:, 0]))


def _threshold(nets, calibrators, scored_by, b_val: Batch, y: np.ndarray, groups: list[str], cfg: TrainConfig) -> float:
    """Operating point on the fullest pattern that has a calibrator."""
    pattern = max(calibrators, key=lambda p: p.count("+"), default=None)
    if pattern is None:
        raise InputError(
            f"no calibrator could be fitted: fewer than {MIN_EVENTS} validation patients with, or without, osteoporosis"
        )
    subset = pattern.split("+")
    here = nets["student"].present(b_val)
    rows = torch.where(here[:, [MODALITIES.index(m) for m in subset]].all(1))[0]
    b = hide(b_val.take(rows), {m: m in subset for m in MODALITIES}, tuple(groups))
    p = calibrators[pattern](_rest(nets[scored_by[pattern]], b))[0]
    return operating_threshold(p, y[rows.numpy()], cfg.calibration.sensitivity)


@torch.no_grad()
def _background(student: Student, b: Batch, k: int, seed: int) -> dict[str, torch.Tensor]:
    """Cluster centres of the training patients with CT and records: what SHAP calls "absent"."""
    rows = torch.where(student.present(b)[:, [0, 2]].all(1))[0]
    b = b.take(rows)
    ct = student.pool(b.bag, b.bag_mask).hidden
    k = max(1, min(k, len(b) // MIN_CLUSTER))
    cluster = KMeans(k, n_init=4, random_state=seed).fit_predict(b.values.numpy())
    values, known, hidden = [], [], []
    for c in range(k):
        m = torch.from_numpy(cluster == c)
        if m.sum() < MIN_CLUSTER and k > 1:
            continue
        seen = b.known[m].float().sum(0)
        values.append(b.values[m].sum(0) / seen.clamp_min(1))
        known.append((seen >= MIN_CLUSTER).float())
        hidden.append(ct[m].mean(0))
    if not values:  # every cluster was small: one centre of all
        return _background(student, b, 1, seed)
    return {"values": torch.stack(values), "known": torch.stack(known), "ct": torch.stack(hidden)}
