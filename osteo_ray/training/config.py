"""Typed config of `osteo-ray train`: one tree, read from top to bottom."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteo_ray.config import Section
from osteo_ray.drlis.config import SelectionConfig
from osteo_ray.kdamm.config import KdammConfig
from osteo_ray.model.config import AcquisitionConfig, CropConfig, EncoderConfig, NoveltyConfig
from osteo_ray.patients.config import TimelineConfig


class AugmentConfig(Section):
    """What is varied in the encoder's training crops, within what real scanners and patients differ by."""

    shift_px: int = Field(10, ge=0, description="largest shift, pixels")
    rotation_deg: float = Field(8.0, ge=0, le=45, description="largest rotation, degrees")
    zoom: float = Field(0.12, ge=0, lt=0.5, description="largest change of size: body size, field of view")
    blur_px: float = Field(0.9, ge=0, le=4, description="largest blur (SD), pixels: thick or smoothed reconstructions")
    sharpen: float = Field(0.8, ge=0, le=3, description="largest gain of edges: sharp kernels")
    coarse: float = Field(1.8, ge=1, le=4, description="largest factor by which pixels are made coarser")
    noise_hu: float = Field(14.0, ge=0, description="largest noise (SD), HU, at the crop's pixels")
    gain: float = Field(0.02, ge=0, le=0.1, description="largest error of the HU scale; targets move with it")
    offset_hu: float = Field(4.0, ge=0, le=20, description="largest offset, HU; targets move with it")
    couch_share: float = Field(0.3, ge=0, le=1, description="share of crops with a couch drawn behind the back")


class PretrainConfig(Section):
    """How the encoder is pre-trained, before it is frozen: slice targets, and the patients' T-scores."""

    steps: int = Field(500, ge=1, description="gradient steps")
    batch: int = Field(48, ge=2, description="slices of one gradient step")
    lr: float = Field(2e-3, gt=0, description="highest learning rate of the schedule")
    patient_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the T-score loss through slices believed lumbar; above 0 the encoder sees labels, and "
        "risks are then calibrated on validation patients alone",
    )
    own_share: float = Field(
        0.5, gt=0, lt=1, description="share of a batch from the archive's own slices with targets, where it has any"
    )
    slices: int = Field(40_000, ge=100, description="most slices kept in memory, drawn evenly; 18 KB each at 96 x 96")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where pre-training runs")
    checkpoint_every: int = Field(
        200, ge=1, description="steps between checkpoints; a training that was cut short goes on from the last one"
    )
    augment: AugmentConfig = AugmentConfig()


class SplitConfig(Section):
    """Patients are split once, by their key and the seed, before anything is fitted."""

    test: float = Field(0.2, ge=0, lt=1, description="share of the archive's patients held out")
    val: float = Field(0.2, gt=0, lt=1, description="share of the others used to stop, choose and calibrate")
    test_sites: tuple[str, ...] = Field(
        (), description="sites whose patients are all held out (leave one site out); `evaluate` judges each site apart"
    )


class PrepareConfig(Section):
    """Reading the archive's slices for training (Ray Data)."""

    series_per_task: int = Field(2, ge=1, description="series that one Ray task reads and crops")
    embed_actors: int | None = Field(None, ge=1, description="most actors that embed slices; null: as many as fit")
    embed_gpus: float = Field(0.0, ge=0, le=1, description="GPU share of each; 0: on CPU")


class CalibrationConfig(Section):
    """From logits to a risk and a decision."""

    method: Literal["logistic", "gaussian"] = Field(
        "gaussian",
        description="gaussian: shift, stretch, spread by T-score; logistic: a curve on the log-odds by class (Firth)",
    )
    population: Literal["everyone", "as_known"] = Field(
        "everyone",
        description="whose risk (gaussian) and sensitivity are meant: everyone's in the records, patients weighted by "
        "1 / P(their pattern); or of those who have the pattern, as they are",
    )
    pool: bool = Field(False, description="gaussian: draw patterns with few patients towards those like them")
    level: float = Field(0.9, gt=0, lt=1, description="of the risk interval")
    folds: int = Field(
        4,
        ge=0,
        description="fits for cross-fitted training patients, who calibrate as well; 0: validation patients alone",
    )
    sensitivity: float = Field(
        0.85, gt=0, le=1, description="asked for osteoporosis: each pattern's threshold reaches it by its lower bound"
    )
    sensitivity_confidence: float = Field(
        0.9, gt=0.5, lt=1, description="of that bound, one-sided; it rests on the patients that calibrate"
    )
    useful_specificity: float = Field(
        0.5, ge=0, le=1, description="a pattern whose threshold has less is said to be of little use for it"
    )
    conformal: float = Field(0.9, gt=0, lt=1, description="chance that a class set holds the true class, by class")
    lumbar_threshold: float = Field(0.5, ge=0, le=1, description="belief below which a slice is not lumbar")


class TrainConfig(Section):
    """Everything `osteo-ray train` does to a catalogue and records."""

    name: str = Field("osteo-ray", description="the bundle's name, in results and reports")
    version: str = Field("0.1", description="the bundle's version, in results and reports")
    origin: str | None = Field(None, description="where the patients come from, in the card's words")
    seed: int = Field(0, description="of the patients' split and of every training")
    split: SplitConfig = SplitConfig()
    timeline: TimelineConfig = TimelineConfig()
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
