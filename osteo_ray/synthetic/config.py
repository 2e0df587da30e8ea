"""Config of a synthetic archive: who is in it, what is missing, how they were scanned.

Defaults are the calibrated cohort (`osteo_ray.synthetic.check`). What may be changed as a difficulty has a
published range, stated at the key.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from osteo_ray.config import Section
from osteo_ray.patients.config import PseudonymConfig
from osteo_ray.synthetic.tables import PROTOCOLS


class PopulationConfig(Section):
    """People, their latent bone density, their DXA."""

    source: Literal["published", "nhanes"] = Field(
        "published", description="people from published distributions, or resampled from NHANES' measured ones"
    )
    nhanes_path: str | None = Field(None, description="nhanes_bmd.parquet, for `source: nhanes`")
    female_share: float = Field(0.55, gt=0, lt=1, description="share of women")
    age_min: float = Field(40, ge=20, le=90, description="youngest age, years")
    age_max: float = Field(92, ge=40, le=100, description="oldest age, years")
    dxa_noise: float = Field(
        1.0,
        ge=0.8,
        le=3.0,
        description="noise of DXA against the calibrated one; 1: correlation of HU and T-score of about "
        "0.75 (published: 0.35 to 0.79)",
    )
    extreme_share: float = Field(0.03, ge=0, le=0.2, description="people of BMI below 17 or above 36, half of each")


class MissingnessConfig(Section):
    """Who has what. Shares are expected values over the population."""

    complete_share: float = Field(
        0.11, gt=0, le=1, description="expected share of people with CT and labs (246 of 2,210 in the source cohort)"
    )
    ct_only_share: float = Field(0.03, ge=0, le=0.5, description="expected share with a CT alone")
    no_labs_share: float = Field(0.06, ge=0, le=0.5, description="expected share with demographics alone, no CT")
    healthy_odds: float = Field(
        2.0, ge=1, le=5, description="odds ratio, per standard deviation of the T-score, that labs are missing"
    )
    single_lab: float = Field(0.03, ge=0, le=0.3, description="chance that one ordered lab value is absent")


class ScanConfig(Section):
    """Shares of scan properties in the archive."""

    size_512_share: float = Field(
        0.2, ge=0, le=1, description="share of scans of 512 x 512 pixels; the others have 256 x 256"
    )
    size_128_share: float = Field(
        0.0, ge=0, le=1, description="scans stored at 128 x 128 pixels, as copies reduced for research are"
    )
    slice_max: int = Field(120, ge=20, le=800, description="most slices of a series")
    slice_min: int = Field(40, ge=10, le=400, description="fewest slices of a series")
    kvp: dict[int, float] = Field(
        {120: 0.76, 100: 0.13, 140: 0.07, 80: 0.04}, description="tube voltage (kVp): share of scans"
    )
    thickness: dict[float, float] = Field(
        {1.25: 0.05, 2.0: 0.1, 2.5: 0.15, 3.0: 0.2, 5.0: 0.5}, description="slice thickness (mm): share of scans"
    )
    contrast_share: float = Field(0.25, ge=0, le=1, description="share of scans with intravenous contrast agent")
    sharp_share: float = Field(
        0.05, ge=0, le=1, description="share of scans whose main series has a bone or lung kernel"
    )
    protocols: dict[str, float] = Field(
        {
            "abdomen": 0.40,
            "abdomen_pelvis": 0.24,
            "trunk": 0.14,
            "chest": 0.12,
            "neck_chest": 0.04,
            "pelvis": 0.04,
            "neck": 0.02,
        },
        description="share of each protocol (its range: synthetic.tables.PROTOCOLS); they are normalised",
    )
    oral_share: float = Field(0.15, ge=0, le=1, description="scans of abdomen or pelvis with contrast drunk before")
    arms_down_share: float = Field(0.15, ge=0, le=1, description="chance that an arm lies at the side, not overhead")
    blanket_share: float = Field(0.3, ge=0, le=1, description="scans with a blanket or clothes over the patient")
    tilt_share: float = Field(0.02, ge=0, le=1, description="share of scans with a gantry tilt of 3 to 12 degrees")
    phantom_share: float = Field(
        0.03, ge=0, le=1, description="share of scans with a QCT calibration phantom under the back"
    )
    extra_series_share: float = Field(
        0.3, ge=0, le=1, description="share of studies with a second series of another kernel or thickness"
    )
    scout_share: float = Field(0.7, ge=0, le=1, description="share of studies with a localiser")
    reformat_share: float = Field(0.15, ge=0, le=1, description="share of studies with a sagittal or coronal reformat")
    repeat_share: float = Field(0.05, ge=0, le=1, description="share of people scanned a second time")
    repeat_cv: float = Field(
        0.055,
        ge=0.0,
        le=0.12,
        description="scan-to-scan error of bone HU as a coefficient of variation (published: 0.05 to 0.08)",
    )

    @field_validator("protocols")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(value) - set(PROTOCOLS))
        if unknown or not sum(value.values()) > 0 or min(value.values()) < 0:
            raise ValueError(f"{', '.join(unknown) or value}: give shares of {', '.join(PROTOCOLS)}")
        return value


class SpineConfig(Section):
    """Shares of what makes a spine hard to read, at age 65 (each grows or shrinks with age where it does in life)."""

    wedge_share: float = Field(
        0.10, ge=0, le=1, description="people with a wedge fracture at age 65; more with age and low density"
    )
    cement_share: float = Field(0.13, ge=0, le=1, description="share of fractured vertebrae filled with cement")
    screws_share: float = Field(0.015, ge=0, le=1, description="people with pedicle screws; more with degeneration")
    sacralised_share: float = Field(0.06, ge=0, le=1, description="people whose L5 belongs to the sacrum")
    lumbarised_share: float = Field(
        0.02, ge=0, le=1, description="people with a sixth free lumbar vertebra, called L6 (2.3 % of 9,709, Park 2019)"
    )
    sclerosis_share: float = Field(
        0.25, ge=0, le=1, description="chance of sclerotic endplates of a vertebra; more with degeneration"
    )
    haemangioma_share: float = Field(
        0.013, ge=0, le=1, description="vertebrae with a haemangioma (26 % of adults have one, Slon 2015)"
    )
    scoliosis_share: float = Field(0.09, ge=0, le=1, description="people with a curve (8.9 % over 40, Kebaish 2011)")
    fused_share: float = Field(0.03, ge=0, le=1, description="people with a disc bridged by bone")


class BodyConfig(Section):
    """Shares of what else a body carries."""

    hip_prosthesis_share: float = Field(0.02, ge=0, le=1, description="hips with a prosthesis, more with age")


class CohortConfig(PseudonymConfig):
    """The tree behind `osteo-ray cohort`."""

    seed: int = Field(0, ge=0, description="of everybody and everything in the cohort")
    persons: int = Field(440, ge=1, description="people; about 14 % of them have a CT by the defaults")
    transfer_syntaxes: tuple[str, ...] = Field(
        (
            "explicit-le",
            "explicit-le",
            "implicit-le",
            "deflated",
            "rle",
            "jpeg-ls",
            "j2k",
        ),
        description="one is drawn for each scan; named twice it is drawn twice as often; htj2k is written too",
    )
    concurrency: int | None = Field(None, ge=1, description="Ray tasks at once; null: Ray decides")
    population: PopulationConfig = PopulationConfig()
    missing: MissingnessConfig = MissingnessConfig()
    scan: ScanConfig = ScanConfig()
    spine: SpineConfig = SpineConfig()
    body: BodyConfig = BodyConfig()
