"""The last step of training: bags by the policy, teachers, student, calibration, bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import KMeans
from torch import nn

from osteo_ray.kdamm.teach import cross_fitted, fit_all, has
from osteo_ray.kdamm.train import FitJob, Weights, fit
from osteo_ray.model.acquisition import extend
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.calibration import (
    MIN_EVENTS,
    rest_log_odds,
)
from osteo_ray.model.config import BundleConfig, NoveltyConfig
from osteo_ray.model.networks import Batch, Student
from osteo_ray.model.novelty import Novelty, fit_novelty, picks_summary
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.standardise import Standardiser, fit_standardiser
from osteo_ray.outcomes import InputError
from osteo_ray.patients.schema import FEATURES
from osteo_ray.progress import progress_bar
from osteo_ray.training.calibrate import calibrate, evidence
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
    b_train = known.batch
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

        everyone = torch.from_numpy(people.number[train])
        models = fit_all(known, judged, groups, cfg.kdamm, cfg.seed, run, everyone)
        nets = {"tabular": models.tabular, "image": models.image, "student": models.student}
    student = models.student

    with_label = torch.where(known.label >= 0)[0]
    labelled = known.take(with_label)
    number, once = (torch.from_numpy(a[train])[with_label] for a in (people.number, people.judged))
    # An encoder that saw the training patients' labels would make their cross-fitted risks look better than they are.
    folds = 0 if cfg.pretrain.patient_weight else cfg.calibration.folds
    with progress_bar("cross-fit for calibration", folds, "fold", quiet) as advance:
        apart = cross_fitted(labelled, groups, cfg.kdamm, cfg.seed, folds, lambda: advance(1), number, once)
    calibrated = calibrate(evidence(nets, judged, apart, groups), cfg.calibration, cfg.seed)
    metrics: dict[str, Any] = dict(calibrated.metrics)
    if not calibrated.calibrators:
        raise InputError(
            f"no calibrator could be fitted: fewer than {MIN_EVENTS} validation patients with, or without, osteoporosis"
        )
    fullest = max(calibrated.calibrators, key=lambda p: p.count("+"))
    complete = student.present(b_train).all(1).numpy()
    n_complete = len(np.unique(people.key[train[complete]]))
    n_train = len(np.unique(people.key[train]))
    metrics |= {"n_train": n_train, "n_train_complete": n_complete, "n_val": len(val)}
    image_rows = torch.where(has("image", b_train, groups))[0]
    metrics["image_mean_log_odds"] = float(_rest(nets["image"], b_train.take(image_rows)).mean())
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
        policy=policy,
        reward_classifiers=scorers,
        tabular=models.tabular,
        image=models.image,
        student=student,
        background=_background(student, b_train, cfg.background, cfg.seed),
        calibrators=calibrated.calibrators,
        scored_by=calibrated.scored_by,
        conformal=calibrated.conformal,
        conformal_level=cfg.calibration.conformal,
        novelty=_novelty(people, train, val, std, picks, cfg.novelty),
        threshold=calibrated.operating_points[fullest].threshold,
        operating_point=calibrated.operating_points[fullest].text,
        operating_points=calibrated.operating_points,
        lumbar_threshold=cfg.calibration.lumbar_threshold,
        metrics=metrics,
    )
    bundle.export()
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
    summary = picks_summary(*picked.of_kept())
    scanned = [summary[people.scan[r][people.scan[r] >= 0]] for r in (train, val)]
    records = [std.spreads(people.values[r]) for r in (train, val)]
    return {
        "image": fit_novelty(scanned[0], scanned[1], cfg),
        "record": fit_novelty(records[0], records[1], cfg),
    }


def _rest(net: nn.Module, b: Batch) -> np.ndarray:
    with torch.no_grad():
        return rest_log_odds(net(b).numpy().astype(float))


@torch.no_grad()
def _background(student: Student, b: Batch, k: int, seed: int) -> dict[str, np.ndarray]:
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
    return {k: torch.stack(v).numpy() for k, v in {"values": values, "known": known, "ct": hidden}.items()}
