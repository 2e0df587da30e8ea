"""`osteo-ray targets`: vertebra masks to per-slice targets for `train --targets`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteo_ray.commands import Command
from osteo_ray.config import Section, need


class TargetsJob(Section):
    """`osteo-ray targets`."""

    catalogue: str | None = Field(None, description="catalogue.parquet of the archive that the masks belong to")
    masks: tuple[str, ...] | str | None = Field(
        None, description="files or folders: NIfTI (multi-label, or one file a label), DICOM SEG"
    )
    numbering: Literal["totalsegmentator", "verse"] | None = Field(
        None, description="what multi-label NIfTI labels mean; null: as far as the labels themselves can say"
    )
    out: str | None = Field(None, description="Parquet file of slice targets; beside it <out>.masks.parquet: left out")


def targets(job: TargetsJob) -> list[str]:
    """Measure level, place within the vertebra and trabecular HU of every slice that a mask covers."""
    from osteo_ray.training.targets import write_targets

    masks = need(job, "masks")
    roots = [masks] if isinstance(masks, str) else list(masks)
    return write_targets(need(job, "catalogue"), roots, need(job, "out"), job.numbering).lines()


COMMAND = Command(TargetsJob, targets)
