"""Typed config of `osteo-ray train`: one tree, read from top to bottom."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteo_ray.config import Section
from osteo_ray.drlis.config import SelectionConfig
from osteo_ray.kdamm.config import KdammConfig
from osteo_ray.model.config import AcquisitionConfig, CropConfig, EncoderConfig, NoveltyConfig
from osteo_ray.patients.config import WindowConfig


class PretrainConfig(Section):
    """How the encoder is pre-trained, before it is frozen."""

    supervision: Literal["slices", "patients"] = Field(
        "slices", description="slices: region, mid-vertebra and trabecular HU per slice; patients: only the DXA label"
    )
    steps: int = Field(500, ge=1)
    batch: int = Field(48, ge=2)
    lr: float = Field(2e-3, gt=0)
    shift_px: int = Field(10, ge=0, description="random shift of the crop, pixels")
    noise_hu: float = Field(10.0, ge=0)


class SplitConfig(Section):
    """Patients are split once, by their key and the seed, before anything is fitted."""

    test: float = Field(0.2, ge=0, lt=1, description="share of the archive's patients held out")
    val: float = Field(0.2, gt=0, lt=1, description="share of the others used to stop, choose and calibrate")


class PrepareConfig(Section):
    """Reading the archive's slices for training (Ray Data)."""

    series_per_task: int = Field(2, ge=1)


class CalibrationConfig(Section):
    """From logits to a risk and a decision."""

    level: float = Field(0.9, gt=0, lt=1, description="of the risk interval")
    folds: int = Field(
        4,
        ge=0,
        description="fits for cross-fitted training patients, who calibrate as well; 0: validation patients alone",
    )
    sensitivity: float = Field(0.85, gt=0, le=1, description="for osteoporosis, on validation patients")
    conformal: float = Field(0.9, gt=0, lt=1, description="chance that a class set holds the true class, by class")
    lumbar_threshold: float = Field(0.5, ge=0, le=1, description="belief below which a slice is not lumbar")


class TrainConfig(Section):
    """Everything `osteo-ray train` does to a catalogue and records."""

    name: str = "osteo-ray"
    version: str = "0.1"
    origin: str | None = Field(None, description="where the patients come from, in the card's words")
    seed: int = 0
    split: SplitConfig = SplitConfig()
    window: WindowConfig = WindowConfig()
    prepare: PrepareConfig = PrepareConfig()
    crop: CropConfig = CropConfig()
    encoder: EncoderConfig = EncoderConfig()
    pretrain: PretrainConfig = PretrainConfig()
    selection: SelectionConfig = SelectionConfig()
    acquisition: AcquisitionConfig = AcquisitionConfig()
    kdamm: KdammConfig = KdammConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    novelty: NoveltyConfig = NoveltyConfig()
    background: int = Field(12, ge=1, description="cluster centres that SHAP compares a patient with")
