"""Typed config of `osteo-ray screen`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.config import Section
from osteo_ray.model.config import TissueScaleConfig
from osteo_ray.patients.config import RecordsOfCt, TimelineConfig


class PatientConfig(Section):
    """What counts as known, and as change."""

    suppress: bool = Field(
        True, description="leave KNOWN_DXA and ON_TREATMENT out of the worklist (never out of files)"
    )
    dxa_years: float = Field(2.0, gt=0, description="a DXA this long before the CT, or after it, is KNOWN_DXA")
    treatment_years: float = Field(
        1.0, gt=0, description="a drug recorded this long before the CT, or after it, counts"
    )
    hu_repeat_cv: float = Field(0.065, gt=0, lt=1, description="repeat error of bone HU; published: 0.05 to 0.08")
    risk_repeat_sd: float = Field(
        0.5, gt=0, description="repeat error of the risk, in log-odds; 0.72 / sqrt(2) in benchmarks/selection_robust.py"
    )
    kvp_tolerance: float = Field(5.0, ge=0, description="tube voltages this near can be compared (kVp)")


class NextStep(Section):
    """What a site asks its readers to do; shown as it stands on page, sheet and worklist. null: nothing is shown."""

    high: str | None = Field(None, description="a result at or above the operating point")
    low: str | None = Field(None, description="a result below the operating point")
    known: str | None = Field(None, description="a recent DXA or treatment is on record; in place of `high` and `low`")
    not_scored: str | None = Field(None, description="a study without a score")


def _placeholders(address: str | None) -> str | None:
    if address is not None and ("{study_uid}" not in address or set(re.findall(r"\{.*?\}", address)) - UIDS):
        raise ValueError("it has to hold {study_uid}, may hold {series_uid}, and nothing else in braces")
    return address


UIDS = {"{study_uid}", "{series_uid}"}
Viewer = Annotated[str | None, Field(pattern=r"^https?://\S+$"), AfterValidator(_placeholders)]
"""Address of a site's viewer, or None."""


class ReportText(Section):
    """In what words people are told, and where they can open a study."""

    language: Literal["en", "de", "zh"] = Field(
        "en", description="of page, sheet and worklist notes; codes of results, SR and FHIR are the same in all"
    )
    next_step: NextStep = NextStep()
    viewer: Viewer = Field(
        None,
        description="address at which the site's viewer opens a study, with {study_uid} and, where wanted, "
        "{series_uid} in it, e.g. https://viewer/?StudyInstanceUIDs={study_uid}; null: page and worklist have no link",
    )


IN_ENGLISH = ReportText()


class ScoringConfig(Section):
    """What a scorer does beyond the score."""

    shap: bool = Field(True, description="explain each scored study")
    guard: bool = Field(
        True, description="decode compressed pixels in a child that may die, bounded in time and memory"
    )
    coarse_looks: bool = Field(
        False,
        description="decode JPEG 2000 and HTJ2K at the lowest resolution that the encoder can use, except for the "
        "slices that are kept: two thirds of the time, and picks that may differ from those of other transfer syntaxes",
    )
    threads: int = Field(1, ge=1, description="threads of one scorer, in ONNX Runtime or torch")
    read_at_once: int = Field(
        8,
        ge=1,
        le=64,
        description="slices that one scorer reads side by side from a bucket or a DICOMweb service; 1: one after the "
        "other, for a service that many requests at once would hold up. Files on disks are read one by one",
    )
    internal_calibration: bool = Field(
        False,
        description="add trabecular HU by the scan's own air, fat and muscle, and density in mg/cm3; the risk is as "
        "without it",
    )
    tissue_scale: TissueScaleConfig = TissueScaleConfig()
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="where the slice encoder runs, nearly all of a scorer's network time; the rest is on CPU"
    )


class SeriesLimits(Section):
    """What one series may cost a scorer."""

    series_timeout_s: float = Field(300.0, gt=0, description="wall time of one series")
    series_memory_mb: int = Field(3072, ge=256, description="memory beyond that of the loaded scorer")
    deaths: int = Field(2, ge=1, description="deaths of the scorer's process at one series before it is quarantined")


class PipelineConfig(Section):
    """How the archive streams through the scorers (Ray Data)."""

    shard_rows: int = Field(2000, ge=1, description="catalogue rows to a finished file; changing it costs a rewrite")
    series_per_task: int = Field(8, ge=1, description="series scored together, and in one part file")
    actors: int | None = Field(
        None,
        ge=1,
        description="most scorers; each holds the bundle once. null: as many as fit on the cluster, more when "
        "nodes join, fewer when they go",
    )
    actor_cpus: float = Field(1.0, gt=0, description="processors that Ray reserves for each scorer")
    actor_memory_mb: int | None = Field(
        None,
        ge=1,
        description="memory that Ray reserves for each scorer, so that no node is over-filled (MiB). null: what a "
        "loaded scorer takes, and `limits.series_memory_mb`",
    )
    actor_gpus: float = Field(0.0, ge=0, description="share of a GPU for each scorer, for `scoring.device: cuda`")
    max_retries: int = Field(20, ge=0, description="of a batch whose scorer was killed or whose node was lost")
    store_patience_s: float = Field(
        300.0, ge=0, description="how long to try again where results can't be written: a full disk, a store away"
    )
    limits: SeriesLimits = SeriesLimits()


class ScreenConfig(Section):
    """Everything `osteo-ray screen` does."""

    index: IndexConfig = IndexConfig()
    timeline: TimelineConfig = TimelineConfig()
    scoring: ScoringConfig = ScoringConfig()
    pipeline: PipelineConfig = PipelineConfig()
    people: PatientConfig = PatientConfig()
    worklist_top_n_per_week: int | None = Field(None, ge=1, description="capacity: entries a week; null: no cut")
    text: ReportText = ReportText()
    report_studies: int = Field(12, ge=0, description="studies shown in full in the HTML report")


class ScreenJob(RecordsOfCt, ScreenConfig):
    """`osteo-ray screen`."""

    archive: tuple[str, ...] | str | None = Field(
        None,
        description="folder of an index, or its catalogue.parquet: the usual way. Or an archive, indexed first",
    )
    bundle: str | None = Field(
        None, description="folder of a trained bundle; null: the reference bundle, which is not validated on patients"
    )
    out: str | None = Field(None, description="folder or URI for results, worklist and report")
    patients: str | None = Field(None, description="Parquet with patient_key and part: screen only `part`'s patients")
    part: str = Field("test", description="with `patients`: the part whose patients are screened")
    overwrite: bool = Field(
        False, description="write into a folder that holds the run of another archive or another bundle"
    )
    dry_run: bool = Field(False, description="count series and estimate the time; nothing is written, nothing scored")
