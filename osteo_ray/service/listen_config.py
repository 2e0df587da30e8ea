"""Typed config of live mode."""

from __future__ import annotations

from pydantic import Field

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.config import Section
from osteo_ray.patients.config import TimelineConfig
from osteo_ray.reports.config import PackageConfig
from osteo_ray.screening.config import ScoringConfig, SeriesLimits


class Destination(Section):
    """Where reports are sent to by C-STORE."""

    host: str = Field(description="name or address of the PACS")
    port: int = Field(ge=1, le=65535, description="its DICOM port")
    ae_title: str = Field(min_length=1, max_length=16, description="its AE title")


class ListenConfig(Section):
    """How studies are taken, when they are complete, and where reports go."""

    ae_title: str = Field("OSTEORAY", min_length=1, max_length=16, description="AE title that senders call")
    host: str = Field("127.0.0.1", description="address to listen at; 0.0.0.0 for all of the machine's")
    port: int = Field(11112, ge=0, le=65535, description="0: any free one")
    callers: tuple[str, ...] = Field((), description="AE titles that may send; any other is refused")
    max_associations: int = Field(8, ge=1, description="senders at once; more are refused")
    max_pdu: int = Field(65536, ge=4096, description="largest network message accepted, bytes")
    timeout_s: float = Field(60.0, gt=0, description="silence after which a sender's connection is closed, s")
    associate_s: float = Field(
        10.0, gt=0, description="time for a sender to introduce itself once it is connected, s; then it is cut off"
    )
    max_instance_bytes: int = Field(2 << 30, ge=1, description="largest instance accepted, bytes")
    max_spool_bytes: int = Field(
        50 << 30, ge=1, description="size of the spool beyond which senders are told: out of resources, bytes"
    )
    quiet_s: float = Field(30.0, gt=0, description="a study is complete when nothing has come for so long, s")
    hold_s: float = Field(
        3600.0,
        gt=0,
        description="a study of which an image was refused waits so long for that image, s; then it ends as "
        "INCOMPLETE, without a report",
    )
    keep_days: float | None = Field(
        None, gt=0, description="reports in the spool are removed after so many days; null: they are kept"
    )
    attempts: int = Field(5, ge=1, description="tries of screening a study, and of each sending")
    backoff_s: float = Field(10.0, gt=0, description="pause before the second attempt; each further one doubles it, s")
    destination: Destination | None = Field(None, description="null: reports stay in the spool's reports/")
    reports: PackageConfig = PackageConfig()
    index: IndexConfig = IndexConfig()
    timeline: TimelineConfig = TimelineConfig()
    scoring: ScoringConfig = ScoringConfig()
    limits: SeriesLimits = SeriesLimits()
