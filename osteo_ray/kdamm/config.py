"""Typed configs of KDAMM: distillation, and each network's training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteo_ray.config import Section
from osteo_ray.model.config import ModelConfig


class DistillConfig(Section):
    """The KDD 2020 loss (alpha, temperature) and its named extensions."""

    alpha_tabular: float = Field(
        1.0, ge=0, description="weight of the tabular teacher's divergence from the student's full prediction"
    )
    alpha_image: float = Field(
        1.0, ge=0, description="weight of the image teacher's divergence from the student's full prediction"
    )
    temperature: float = Field(2.0, gt=0, description="softmax temperature of both sides of the distillation")
    view: float = Field(
        1.0, ge=0, description="weight of each teacher's KL to the student that sees that teacher's modalities alone"
    )
    hint: float = Field(0.0, ge=0, description="weight of the feature hints: branches learn the teachers' features")
    unimodal: float = Field(0.5, ge=0, description="weight of the unimodal heads' loss (MIND, arXiv 2502.01158)")
    more: float = Field(
        0.0,
        ge=0,
        description="weight of the excess of a patient's loss with everything known over that with modalities hidden: "
        "more should never rank worse (SimMLM)",
    )
    modality_dropout: float = Field(0.3, ge=0, lt=1, description="chance that a modality is hidden in a step")
    ct_repeat: int = Field(5, ge=1, description="times a patient with CT is drawn in an epoch, for they are few")
    fused: float = Field(1.0, ge=0, description="weight of the fused head's loss on labels")
    teacher_folds: int = Field(
        3,
        ge=0,
        description="shares of the training patients, each with the outputs of teachers fitted without it; below 2: "
        "teachers also teach those they were fitted on",
    )
    on: Literal["complete", "all"] = Field(
        "all", description="complete: labels of complete patients only, as published"
    )
    start: Literal["random", "teachers"] = Field(
        "random",
        description="teachers: branches are trained by themselves first, each on everybody who has it",
    )


class FitConfig(Section):
    """One model's optimisation."""

    epochs: int = Field(40, ge=1, description="passes over the training patients")
    batch: int = Field(64, ge=2, description="patients of one gradient step")
    lr: float = Field(
        2e-3, gt=0, description="highest learning rate; it rises over the first tenth and falls to 0 as a cosine"
    )
    weight_decay: float = Field(1e-2, ge=0, description="AdamW's weight decay")
    t_score: float = Field(
        0.8, ge=0, le=1, description="share of the label's loss that is the T-score's, where it is known; 0: classes"
    )
    patience: int | None = Field(
        None, ge=1, description="epochs without a better validation loss before stopping; null: train to the end"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="number format of the forward pass; anything but fp32 is for a GPU"
    )
    checkpoint_every: int = Field(10, ge=1, description="epochs between saved states of a fit")


class TabularFit(FitConfig):
    """The tabular teacher's: many records."""

    epochs: int = Field(15, ge=1, description="passes over the training patients")
    batch: int = Field(128, ge=2, description="patients of one gradient step")


class ImageFit(FitConfig):
    """The image teacher's: few scans, so a strong decay."""

    epochs: int = Field(30, ge=1, description="passes over the training patients")
    lr: float = Field(
        5e-3, gt=0, description="highest learning rate; it rises over the first tenth and falls to 0 as a cosine"
    )
    weight_decay: float = Field(1.0, ge=0, description="AdamW's weight decay")


class StudentFit(FitConfig):
    """The student's: with `distill.ct_repeat` a scan is seen 40 times, and at 150 times it was learned by heart."""

    epochs: int = Field(8, ge=1, description="passes over the training patients")
    batch: int = Field(128, ge=2, description="patients of one gradient step")
    lr: float = Field(
        5e-3, gt=0, description="highest learning rate; it rises over the first tenth and falls to 0 as a cosine"
    )
    weight_decay: float = Field(1.0, ge=0, description="AdamW's weight decay")


class KdammConfig(Section):
    """KDAMM: architectures, teachers, student."""

    model: ModelConfig = ModelConfig()
    tabular: TabularFit = TabularFit()
    image: ImageFit = ImageFit()
    student: StudentFit = StudentFit()
    distill: DistillConfig = DistillConfig()
    workers: int = Field(0, ge=0, description="Ray Train workers; 0 trains in-process")
    use_gpu: bool | None = Field(
        None, description="train on GPUs, one a worker; null: where there is one (with workers: one for each of them)"
    )
