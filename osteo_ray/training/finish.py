"""The last step of training: bags by the policy, teachers, student, calibration, bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score
from torch import nn

from osteo_ray.kdamm.objective import Rows
from osteo_ray.kdamm.teach import Models, cross_fitted, fit_all, has
from osteo_ray.kdamm.train import FitJob, Weights, fit
from osteo_ray.model import onnx_encoder, onnx_policy
from osteo_ray.model.acquisition import extend
from osteo_ray.model.bundle import Bundle, Prediction
from osteo_ray.model.calibration import (
    MIN_EVENTS,
    fit_calibrator,
    normal_log_odds,
    operating_threshold,
    rest_log_odds,
)
from osteo_ray.model.config import BundleConfig, NoveltyConfig
from osteo_ray.model.conformal import fit_conformal
from osteo_ray.model.networks import Batch, Student
from osteo_ray.model.novelty import Novelty, fit_novelty, picks_summary
from osteo_ray.model.patterns import PATTERNS, members, modalities_of, show_only
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.standardise import Standardiser, fit_standardiser
from osteo_ray.outcomes import InputError
from osteo_ray.patients.labels import OSTEOPENIA, OSTEOPOROSIS
from osteo_ray.patients.schema import FEATURES
from osteo_ray.progress import progress_bar
from osteo_ray.training.card import model_card
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.heldout import judge
from osteo_ray.training.patients import Patients, rows_of
from osteo_ray.training.picks import Picks
from osteo_ray.training.prepare import Prepared
from osteo_ray.training.reference_distributions import reference_of
from osteo_ray.training.scalars import scalars

MIN_CLUSTER = 5
"""Fewest patients behind a background centre, so that none of them can be read from the bundle."""


def finish(
    out: Path,
    prepared: Prepared,
    picks: Picks,
    policy: PolicyNet,
    scorers: list[AttentionPool],
    cfg: TrainConfig,
    storage: str,
    quiet: bool,
    headers: pd.DataFrame | None = None,
) -> None:
    """Fit what stands on the selection and write the bundle to `out`."""
    people = prepared.people.patients
    names, groups = [f.name for f in FEATURES], [str(f.group) for f in FEATURES]
    masks = picks.masks
    bags = extend(picks.bags, cfg.encoder.layout, prepared.people.scanned, cfg.acquisition)
    # Patients without a label teach as well: the student learns from what the teachers say of them.
    train, val = people.rows("train", labelled=False), people.rows("val")
    std = fit_standardiser(people.values[train], names, groups)
    known, judged = (rows_of(people, r, std, bags, masks) for r in (train, val))
    b_train, b_val, y_val = known.batch, judged.batch, judged.label
    nets: dict[str, nn.Module] = {}
    with progress_bar("fit teachers and student", 3, "model", quiet) as advance:

        def run(job: FitJob) -> Weights:
            keep = None if cfg.kdamm.workers else out / f"{job.kind}{'-start' if not job.distill.fused else ''}.state"
            alone = "" if job.distill.fused else " alone"  # the student's branches, before they are distilled
            carried_on = keep is not None and keep.exists()
            with scalars(prepared.stages.out, f"{job.kind}{alone}", carried_on) as write:
                weights = fit(
                    job,
                    cfg.kdamm.workers,
                    storage,
                    on_epoch=lambda r: write(int(r["epoch"]), {k: v for k, v in r.items() if k != "epoch"}),
                    keep=keep,
                    use_gpu=cfg.kdamm.use_gpu,
                )
            advance(1)
            return weights

        models = fit_all(known, judged, groups, cfg.kdamm, cfg.seed, run)
        nets = {"tabular": models.tabular, "image": models.image, "student": models.student}
    student = models.student

    with_label = torch.where(known.label >= 0)[0]
    labelled = known.take(with_label)
    number, once = (torch.from_numpy(a[train])[with_label] for a in (people.number, people.judged))
    # An encoder that saw the training patients' labels would make their cross-fitted risks look better than they are.
    folds = 0 if cfg.pretrain.patient_weight else cfg.calibration.folds
    with progress_bar("cross-fit for calibration", folds, "fold", quiet) as advance:
        apart = cross_fitted(labelled, groups, cfg.kdamm, cfg.seed, folds, lambda: advance(1), number, once)
    calibrators, scored_by, conformal, metrics = _calibrate(nets, judged, apart, groups, cfg)
    complete = student.present(b_train).all(1).numpy()
    n_complete = len(np.unique(people.key[train[complete]]))
    n_train = len(np.unique(people.key[train]))
    metrics |= {"n_train": n_train, "n_train_complete": n_complete, "n_val": len(val)}
    image_rows = torch.where(has("image", b_train, groups))[0]
    metrics["image_mean_log_odds"] = float(_rest(nets["image"], b_train.take(image_rows)).mean())
    threshold = _threshold(nets, calibrators, scored_by, b_val, y_val.numpy(), groups, cfg)
    bundle = Bundle(
        name=cfg.name,
        version=cfg.version,
        config=BundleConfig(
            crop=cfg.crop,
            encoder=cfg.encoder,
            view=cfg.selection.view,
            acquisition=cfg.acquisition,
            model=cfg.kdamm.model,
            policy_hidden=cfg.selection.policy.hidden,
            n_scorers=len(scorers),
        ),
        standardiser=std,
        encoder=prepared.encoder,
        encoder_onnx=b"" if cfg.encoder.network else onnx_encoder.exported(prepared.encoder, cfg.crop.size),
        policy_onnx=onnx_policy.exported(policy, scorers, cfg.selection.view, cfg.encoder.dim),
        policy=policy,
        reward_classifiers=scorers,
        tabular=models.tabular,
        image=models.image,
        student=student,
        background=_background(student, b_train, cfg.background, cfg.seed),
        calibrators=calibrators,
        scored_by=scored_by,
        conformal=conformal,
        conformal_level=cfg.calibration.conformal,
        novelty=_novelty(people, train, val, std, picks, cfg.novelty),
        threshold=threshold,
        operating_point=f"sensitivity {cfg.calibration.sensitivity:.0%} for osteoporosis on validation patients",
        lumbar_threshold=cfg.calibration.lumbar_threshold,
        metrics=metrics,
    )
    if prepared.heldout is not None:
        metrics |= judge(bundle, prepared.heldout, quiet)
    reference = reference_of(bundle, prepared.people, picks, headers)
    bundle.metrics["distributions"] = reference.to_dict()
    bundle.card = model_card(bundle, cfg)
    bundle.save(out)
    for state in out.glob("*.state"):  # what a run that was cut short would have gone on from
        state.unlink()


def _novelty(
    people: Patients,
    train: np.ndarray,
    val: np.ndarray,
    std: Standardiser,
    picked: Picks,
    cfg: NoveltyConfig,
) -> dict[str, Novelty]:
    """What is unlike the training patients: by the picks' embeddings, and by the record."""
    summary = picks_summary(picked.bags, picked.masks)
    scanned = [summary[people.scan[r][people.scan[r] >= 0]] for r in (train, val)]
    records = [std.spreads(people.values[r]) for r in (train, val)]
    return {
        "image": fit_novelty(scanned[0], scanned[1], cfg),
        "record": fit_novelty(records[0], records[1], cfg),
    }


@torch.no_grad()
def _logits(net: nn.Module, b: Batch) -> np.ndarray:
    return net(b).numpy().astype(float)


def _rest(net: nn.Module, b: Batch) -> np.ndarray:
    return rest_log_odds(_logits(net, b))


def _calibrate(
    nets: dict[str, nn.Module], val: Rows, apart: list[tuple[Rows, Models]], groups: list[str], cfg: TrainConfig
) -> tuple[dict, dict[str, str], dict[str, list[float]], dict[str, float | int | None]]:
    """A calibrator per pattern, by the student or, where its validation loss is lower, the pattern's teacher.

    Args:
        apart: cross-fitted training patients, with models that don't know them; they count for the curve alone, and
            what is chosen or promised (scorer, class sets) rests on validation patients.
    """
    b_val, y = val.batch, val.label.numpy()
    calibrators, scored_by, conformal = {}, {}, {}
    metrics: dict[str, float | int | None] = {}
    available = nets["student"].present(b_val)  # type: ignore[operator]
    for pattern in PATTERNS:
        rows = members(pattern, available)
        if not len(rows):
            continue
        b, label = show_only(b_val.take(rows), pattern, tuple(groups)), y[rows.numpy()]
        rivals = ["student"]
        if "ct" not in modalities_of(pattern):
            rivals.append("tabular")
        elif pattern == "ct":
            rivals.append("image")
        loss = {n: _loss(nets[n], b, label) for n in rivals}
        best = min(loss, key=loss.__getitem__)
        x, cases = [_rest(nets[best], b)], [label]
        for more, models in apart:
            holders = members(pattern, models.student.present(more.batch))
            x.append(_rest(getattr(models, best), show_only(more.batch.take(holders), pattern, tuple(groups))))
            cases.append(more.label[holders].numpy())
        c = fit_calibrator(pattern, np.concatenate(x), np.concatenate(cases), cfg.seed, cfg.calibration.level)
        if c is None:
            continue
        calibrators[pattern], scored_by[pattern] = c, best
        probs = Prediction.of(_logits(nets[best], b), c).probabilities
        conformal[pattern] = fit_conformal(probs, label, cfg.calibration.conformal)
        metrics[f"val_auc {pattern}"] = _auc(nets[best], b, label)
    return calibrators, scored_by, conformal, metrics


@torch.no_grad()
def _loss(net: nn.Module, b: Batch, label: np.ndarray) -> float:
    return float(F.cross_entropy(net(b), torch.from_numpy(label)))


@torch.no_grad()
def _auc(net: nn.Module, b: Batch, label: np.ndarray) -> float | None:
    """AUC of osteoporosis against normal; None where a class is absent."""
    ends = label != OSTEOPENIA
    y = label[ends] == OSTEOPOROSIS
    if y.all() or not y.any():
        return None
    return float(roc_auc_score(y, normal_log_odds(net(b).numpy()[ends])))


def _threshold(nets, calibrators, scored_by, b_val: Batch, y: np.ndarray, groups: list[str], cfg: TrainConfig) -> float:
    """Operating point on the fullest pattern that has a calibrator."""
    pattern = max(calibrators, key=lambda p: p.count("+"), default=None)
    if pattern is None:
        raise InputError(
            f"no calibrator could be fitted: fewer than {MIN_EVENTS} validation patients with, or without, osteoporosis"
        )
    rows = members(pattern, nets["student"].present(b_val))
    b = show_only(b_val.take(rows), pattern, tuple(groups))
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
