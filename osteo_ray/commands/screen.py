"""`osteo-ray screen`: score an archive; results, worklist and report."""

from __future__ import annotations

from osteo_ray.commands import Command
from osteo_ray.screening.config import ScreenJob


def screen(job: ScreenJob) -> list[str]:
    """Score an archive; worklist, results and report in `out`.

    Raises:
        InputError: `out` holds the run of another archive or bundle, and `overwrite` is not set.
    """
    from osteo_ray.reports.run import claim_folder, screen_archive

    if not job.dry_run:
        claim_folder(job)
    return screen_archive(job)


COMMAND = Command(ScreenJob, screen, positional="archive")
