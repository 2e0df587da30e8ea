"""Typed configs of the networks and their input: what a bundle fixes. No torch: a command's help reads these."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from osteo_ray.config import Section
from osteo_ray.model.embedding import EmbeddingLayout

EXTRA = 5
"""Columns that `acquisition.extend` appends: density at 120 kVp, kVp and whether known, contrast and whether known."""


class CropConfig(Section):
    """Geometry of the crop; ships in the bundle."""

    size: int = Field(96, ge=32, le=512, description="pixels a side")
    pixel_mm: float = Field(2.0, gt=0.2, le=5.0, description="side of a crop's pixel, mm")
    body_hu: float = Field(-300.0, description="above this a voxel is body, below it air, HU")
    skin_margin_mm: float = Field(8.0, description="air kept behind the skin of the back, mm")


class ViewConfig(Section):
    """What the policy sees and how much it may take; ships in the bundle."""

    view: Literal["all", "coarse"] = Field(
        "coarse",
        description="all: every grid position is decoded before the first action; coarse: `coarse` evenly spaced ones",
    )
    positions: int = Field(64, ge=8, le=512, description="length T of the z-grid")
    coarse: int = Field(12, ge=1, description="slices seen at the start of the coarse view")
    keep: int = Field(6, ge=1, le=64, description="most slices kept")
    spare: int = Field(
        4,
        ge=0,
        le=64,
        description="slices taken beyond `keep`; those that the encoder believes least to show the middle of one of "
        "L1-L4 fall out",
    )
    read: Literal["kept", "looked"] = Field(
        "kept",
        description="what teachers and student read: kept: the kept slices; looked: also the others that were decoded "
        "for the selection, where their pixels are sound",
    )
    by_level: bool = Field(
        True,
        description="picks that the column of looked-at slices places outside the bodies of L1-L4 fall out "
        "(model.levels), and the surest slices inside take their place",
    )
    more_looks: int = Field(
        12,
        ge=0,
        description="with by_level: slices looked at beyond the policy's, a few at a time, while a pick's level is not "
        "known; 0: none",
    )
    method: Literal["drlis", "rule", "uniform"] = Field(
        "drlis",
        description="what selects: drlis: the learned policy; rule: the encoder's beliefs, at the policy's budget "
        "(model/rules.py); uniform: evenly spaced slices",
    )
    selector: str | None = Field(
        None,
        description="dotted name of a slice selector of one's own (model/extension.py), in place of the method",
    )

    @model_validator(mode="after")
    def _one_selector(self) -> ViewConfig:
        if self.selector is not None and self.method != "drlis":
            raise ValueError(f"selector {self.selector!r} stands in place of method {self.method!r}: give one of them")
        return self


class AcquisitionConfig(Section):
    """What the CT's features know of the scan; ships in the bundle."""

    bone_contrast: dict[int, float] = Field(
        {80: 1.44, 100: 1.17, 120: 1.0, 140: 0.89},
        description="HU of bone at a tube voltage (kVp) against 120 kVp; linear between and beyond, from 70 to 150",
    )


class TissueScaleConfig(Section):
    """Internal calibration by air, fat and muscle (model/tissue_scale.py): what is expected, and how surely.

    Fat of 4,000 abdominal CTs lies within -123 to -89 HU, all tube voltages together (PubMed 37296765). Between 140 and
    80 kVp, a bone factor of 1.62, fat falls by 15 HU and muscle rises by 7 (PubMed 29625351).
    """

    fat_hu: float = Field(-104.0, description="HU; subcutaneous fat at 120 kVp")
    fat_sd: float = Field(5.0, gt=0, description="HU; how much it differs from person to person")
    fat_per_beam: float = Field(-31.0, description="HU; change of fat with the logarithm of the bone factor")
    muscle_hu: float = Field(45.0, description="HU; muscle beside the spine at 120 kVp, without contrast agent")
    muscle_sd: float = Field(14.0, gt=0, description="HU; how much it differs from person to person, by fat in it")
    muscle_per_beam: float = Field(14.0, description="HU; change of muscle with the logarithm of the bone factor")
    muscle_enhancement: float = Field(12.0, ge=0, description="HU; what contrast agent adds to muscle")
    air_sd: float = Field(6.0, gt=0, description="HU; how much the air around the body differs from -1000")
    offset_sd: float = Field(6.0, gt=0, description="HU; prior SD of a scanner's offset")
    gain_sd: float = Field(0.01, gt=0, description="prior SD of a scanner's gain, as a share")
    beam_sd: float = Field(0.06, gt=0, description="prior SD of the log bone factor beyond that of the stated kVp")
    reading_sd: float = Field(10.0, gt=0, description="HU; error of reading a level (docs/results/hu_precision.md)")
    marrow_sd: float = Field(8.0, ge=0, description="mg/cm3; what marrow fat leaves unknown at one tube voltage")


class EncoderConfig(Section):
    """Architecture of the slice encoder; ships in the bundle."""

    width: int = Field(
        16, ge=4, le=128, description="channels of the first convolution; deeper ones have two and four times as many"
    )
    n_rois: int = Field(
        4,
        ge=1,
        le=32,
        description="regions of interest whose mean and spread of HU are in the embedding; the first is "
        "the trabecular core",
    )
    n_learned: int = Field(20, ge=1, le=512, description="free dimensions of the embedding")
    network: str | None = Field(
        None, description="dotted name of an encoder of one's own (model/extension.py); null: the project's"
    )

    @property
    def layout(self) -> EmbeddingLayout:
        """Which column of the embedding means what."""
        return EmbeddingLayout(self.n_learned, self.n_rois)

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.layout.dim


class ModelConfig(Section):
    """Architecture of teachers and student; ships in the bundle."""

    tabular_width: int = Field(64, ge=8, description="width of the tabular teacher's layers")
    tabular_blocks: int = Field(2, ge=1, description="hidden layers of the tabular teacher")
    tabular_k: int = Field(16, ge=1, description="members of the tabular teacher's implicit ensemble (TabM)")
    embedding: int = Field(8, ge=1, description="length of the tabular teacher's embedding of one value")
    hidden: int = Field(48, ge=8, description="width of each branch")
    dropout: float = Field(
        0.15, ge=0, lt=1, description="share of hidden units dropped in training, teachers and student"
    )
    tabular_network: str | None = Field(
        None, description="dotted name of a tabular teacher of one's own (model/extension.py); null: TabM"
    )
    pattern_heads: bool = Field(True, description="the student's head differs by pattern of modalities")


class NoveltyConfig(Section):
    """When input counts as unlike the training data."""

    quantile: float = Field(
        0.99, gt=0.5, le=1, description="quantile of validation patients' distances that sets the limit"
    )
    slack: float = Field(1.25, ge=1, description="factor on that distance: few validation patients see few odd inputs")


class BundleConfig(Section):
    """Everything that fixes the networks and their input."""

    crop: CropConfig = CropConfig()
    encoder: EncoderConfig = EncoderConfig()
    view: ViewConfig = ViewConfig()
    acquisition: AcquisitionConfig = AcquisitionConfig()
    model: ModelConfig = ModelConfig()
    policy_hidden: int = Field(48, description="width of the slice policy's layers")
    n_scorers: int = Field(3, description="cross-fitted reward classifiers")

    @property
    def features(self) -> int:
        """Length of a slice's features: its embedding, and how it was scanned."""
        return self.encoder.dim + EXTRA
