"""Typed config of `osteo-ray screen`."""

from __future__ import annotations

from pydantic import Field

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.config import Section
from osteo_ray.patients.window import WindowConfig
from osteo_ray.screening.isolated import SeriesLimits
from osteo_ray.screening.patients import PatientConfig
from osteo_ray.screening.predictor import ScoringConfig


class PipelineConfig(Section):
    """How the archive streams through the scorers (Ray Data)."""

    shard_rows: int = Field(2000, ge=1, description="catalogue rows to a finished file; changing it costs a rewrite")
    series_per_task: int = Field(8, ge=1, description="series scored together, and in one part file")
    actors: int = Field(2, ge=1, description="scorers; each holds the bundle once")
    actor_cpus: float = Field(0.9, gt=0)
    actor_gpus: float = Field(0.0, ge=0, description="share of a GPU for each scorer, for `scoring.device: cuda`")
    max_retries: int = Field(20, ge=0, description="of a batch whose actor was killed or whose node was lost")
    store_patience_s: float = Field(
        300.0, ge=0, description="how long to try again where results can't be written: a full disk, a store away"
    )
    limits: SeriesLimits = SeriesLimits()


class ScreenConfig(Section):
    """Everything `osteo-ray screen` does."""

    index: IndexConfig = IndexConfig()
    window: WindowConfig = WindowConfig()
    scoring: ScoringConfig = ScoringConfig()
    pipeline: PipelineConfig = PipelineConfig()
    people: PatientConfig = PatientConfig()
    worklist_top_n_per_week: int | None = Field(None, ge=1, description="capacity: entries a week; null: no cut")
    report_studies: int = Field(12, ge=0, description="studies shown in full in the HTML report")


class ScreenJob(ScreenConfig):
    """`osteo-ray screen`."""

    archive: tuple[str, ...] | str | None = Field(None, description="archive, or a catalogue.parquet made by index")
    records: str | None = Field(None, description="null: CT alone")
    mapping: str | None = None
    bundle: str | None = Field(None, description="null: the reference bundle, which is not validated on patients")
    out: str | None = None
    patients: str | None = Field(None, description="Parquet with patient_key and part: screen only `part`'s patients")
    part: str = "test"
    dry_run: bool = False
