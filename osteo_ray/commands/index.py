"""`osteo-ray index`: catalogue an archive; every series and every file accounted for."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.commands import Command
from osteo_ray.config import narrow, need


class IndexJob(IndexConfig):
    """`osteo-ray index`."""

    archive: tuple[str, ...] | str | None = Field(None, description="folder, zip, tar, s3:// or DICOMweb address")
    out: str | None = Field(None, description="folder for catalogue.parquet and files.parquet")
    explain: str | None = Field(
        None,
        description="SeriesInstanceUID: print everything that the catalogue in `out` knows of it; nothing is built",
    )


def index(job: IndexJob) -> Iterator[str]:
    """Build a catalogue of an archive, or explain one of its series.

    Raises:
        InputError: after the last line, where the archive holds no CT series.
    """
    from osteo_ray import progress
    from osteo_ray.catalogue import build
    from osteo_ray.catalogue.explain import one_series, reasons

    if job.explain is not None:
        yield from one_series(str(need(job, "out")), job.explain)
        return
    with progress.counted(build.UNITS) as say:
        summary = build.build(need(job, "archive"), need(job, "out"), narrow(job, IndexConfig), say)
    yield from summary.lines()
    yield from reasons(summary.out)
    build.check_not_empty(summary, job.archive)


COMMAND = Command(IndexJob, index, positional="archive")
