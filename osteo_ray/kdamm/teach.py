"""KDAMM from rows to models: teachers first, then the student that learns from them (plain torch).

    models = fit_all(train, val, groups, KdammConfig(), seed=0)
    models.student(batch)                     # any subset of modalities

Who is trained on what is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from osteo_ray.kdamm.config import KdammConfig
from osteo_ray.kdamm.objective import Rows, build
from osteo_ray.kdamm.train import FitJob, Weights, fit
from osteo_ray.model.networks import Batch, ImageTeacher, Student, TabularNetwork
from osteo_ray.model.patterns import MODALITIES

Run = Callable[[FitJob], Weights]
Teachers = dict[str, nn.Module]
CT = MODALITIES.index("ct")


@dataclass
class Models:
    """Fitted networks in eval mode."""

    tabular: TabularNetwork
    image: ImageTeacher
    student: Student


def present(b: Batch, groups: list[str]) -> torch.Tensor:
    """Which modalities each patient has, bool [n, 3] in the order of MODALITIES."""
    of = torch.tensor([MODALITIES.index(g) for g in groups])
    tabular = [b.known[:, of == j].any(1) for j in range(CT)]
    return torch.stack([*tabular, b.bag_mask.any(1)], dim=1)


def has(kind: str, b: Batch, groups: list[str]) -> torch.Tensor:
    """Whom a teacher can read, bool [n]."""
    available = present(b, groups)
    return available[:, CT] if kind == "image" else available[:, :CT].any(1)


def fit_teachers(
    train: Rows,
    val: Rows,
    groups: list[str],
    cfg: KdammConfig,
    seed: int,
    on: Literal["all", "complete"] = "all",
    run: Run = fit,
    kinds: Sequence[str] = ("tabular", "image"),
) -> Teachers:
    """One teacher a modality, on everybody who has it (`on: complete`: on complete patients only)."""
    teachers: Teachers = {}
    for kind in kinds:
        mask = has(kind, train.batch, groups)
        if on == "complete":
            mask = present(train.batch, groups).all(1)
        rows, judged = _labelled(train, mask), _labelled(val, has(kind, val.batch, groups))
        how = cfg.tabular if kind == "tabular" else cfg.image
        job = FitJob(kind, rows, judged, groups, cfg.model, how, seed)  # type: ignore[arg-type]
        teachers[kind] = fitted(job, run)
    return teachers


def with_teacher_outputs(rows: Rows, teachers: Teachers, groups: list[str]) -> Rows:
    """The rows with what each teacher says of them; NaN where a patient lacks its modality."""
    logits, features = {}, {}
    with torch.no_grad():
        for kind, net in teachers.items():
            mask = has(kind, rows.batch, groups)[:, None]
            logits[kind] = torch.where(mask, net(rows.batch), torch.nan)
            features[kind] = torch.where(mask, net.features(rows.batch), torch.nan)  # type: ignore[operator]
    return replace(rows, logits=logits, features=features)


def with_cross_fitted_outputs(
    train: Rows,
    val: Rows,
    teachers: Teachers,
    groups: list[str],
    cfg: KdammConfig,
    seed: int,
    patient: torch.Tensor | None = None,
) -> Rows:
    """`with_teacher_outputs`, each row's by teachers that were fitted without it (`distill.teacher_folds` shares).

    A teacher knows its own training patients better than it will know anyone, and a student that learns from that
    learns too much certainty. Fits run in this process.

    Args:
        teachers: fitted on all; which of them there are says which are cross-fitted.
        patient: int64 [n], as in `cross_fitted`.
    """
    folds = cfg.distill.teacher_folds
    known = with_teacher_outputs(train, teachers, groups)
    if not teachers or folds < 2 or not enough_to_share(_labelled(train, train.label >= 0), groups):
        return known
    share = shares(train, groups, seed, folds, patient)
    for k in range(folds):
        rows = torch.where(share == k)[0]
        rest = train.take(torch.where(share != k)[0])
        apart = fit_teachers(rest, val, groups, cfg, seed, kinds=tuple(teachers))
        own = with_teacher_outputs(train.take(rows), apart, groups)
        for kind in teachers:
            known.logits[kind][rows], known.features[kind][rows] = own.logits[kind], own.features[kind]
    return known


def fit_student(
    train: Rows,
    val: Rows,
    teachers: Teachers,
    groups: list[str],
    cfg: KdammConfig,
    seed: int,
    run: Run = fit,
    patient: torch.Tensor | None = None,
) -> Student:
    """The student, on complete patients (`distill.on: complete`) or on everybody with at least one modality.

    With no teachers there is no distillation. `distill.start: teachers` first trains the branches by themselves, each
    on everybody who has its modality.

    Args:
        train: where it has teachers' outputs already, they are what the student learns from, whatever `teachers` are.
        patient: int64 [n], a number for each patient, whose examples no teacher parts; None: one example each.
    """
    available = present(train.batch, groups)
    everyone = torch.where(available.any(1))[0]
    rows = torch.where(available.all(1))[0] if cfg.distill.on == "complete" else everyone
    if cfg.distill.on == "all":
        rows = torch.cat([rows, rows[available[rows, CT]].repeat(cfg.distill.ct_repeat - 1)])
    judged = _labelled(val, present(val.batch, groups).any(1))
    start: Weights = {}
    if cfg.distill.start == "teachers":
        alone = cfg.distill.model_copy(update={"on": "all", "start": "random", "unimodal": 3.0, "fused": 0.0})
        first = FitJob("student", train.take(everyone), judged, groups, cfg.model, cfg.student, seed, alone)
        start = run(first)
    known = train if train.logits else with_cross_fitted_outputs(train, val, teachers, groups, cfg, seed, patient)
    return fitted(  # type: ignore[return-value]
        FitJob("student", known.take(rows), judged, groups, cfg.model, cfg.student, seed, cfg.distill, start), run
    )


def fit_all(
    train: Rows,
    val: Rows,
    groups: list[str],
    cfg: KdammConfig,
    seed: int,
    run: Run = fit,
    patient: torch.Tensor | None = None,
) -> Models:
    """Teachers, then the student; `patient` as in `fit_student`."""
    teachers = fit_teachers(train, val, groups, cfg, seed, run=run)
    student = fit_student(train, val, teachers, groups, cfg, seed, run, patient)
    return Models(teachers["tabular"], teachers["image"], student)  # type: ignore[arg-type]


def cross_fitted(
    train: Rows,
    groups: list[str],
    cfg: KdammConfig,
    seed: int,
    folds: int,
    advance: Callable[[], object] = lambda: None,
    patient: torch.Tensor | None = None,
    judged: torch.Tensor | None = None,
) -> list[tuple[Rows, Models]]:
    """`folds` times everything anew, each without one share of the patients: [(that share, models)].

    What they say of people whom they don't know is what a calibrator needs, and of training patients there are four
    times as many as of validation patients. Fits run in this process. Nobody is cross-fitted where fewer than two
    classes have two patients with CT.

    Args:
        train: labelled patients.
        patient: int64 [n], a number for each patient, whose examples all fall into one share; None: one example each.
        judged: bool [n], the examples by which patients count in a share that is judged; None: all.
    """
    if not enough_to_share(train, groups):
        return []
    counts = torch.ones(len(train), dtype=torch.bool) if judged is None else judged
    share = shares(train, groups, seed, folds, patient)
    out = []
    for k in range(folds):
        others = torch.where(share != k)[0]
        apart, rest = train.take(torch.where((share == k) & counts)[0]), train.take(others)
        number = None if patient is None else patient[others]
        out.append((apart, fit_all(rest, apart, groups, cfg, seed, patient=number)))
        advance()
    return out


def enough_to_share(train: Rows, groups: list[str]) -> bool:
    """Whether two classes have two patients with CT each, so that none is lost with a share of the patients."""
    ct = present(train.batch, groups)[:, CT]
    return sum(n >= 2 for n in train.label[ct].bincount().tolist()) >= 2


def shares(train: Rows, groups: list[str], seed: int, folds: int, patient: torch.Tensor | None = None) -> torch.Tensor:
    """Which of `folds` shares each row falls into, int64 [n]; every share has its part of each class, with and without
    CT, and all examples of its patients."""
    n = len(train)
    ct = present(train.batch, groups)[:, CT]
    _, of = torch.unique(torch.arange(n) if patient is None else patient, return_inverse=True)
    first = torch.full((int(of.max()) + 1,), n).scatter_reduce(0, of, torch.arange(n), "amin")
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(2 * train.label[first[order]] + ct[first[order]], stable=True)]
    share = torch.empty_like(order)
    share[order] = torch.arange(len(first)) % max(folds, 1)
    return share[of]


def fitted(job: FitJob, run: Run) -> nn.Module:
    """The model of a job, trained, in eval mode."""
    net = build(job.kind, job.groups, job.dim, job.model)
    net.load_state_dict(run(job))
    return net.eval()


def _labelled(rows: Rows, mask: torch.Tensor) -> Rows:
    return rows.take(torch.where(mask & (rows.label >= 0))[0])
