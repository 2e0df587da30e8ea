"""`osteo-ray screen`: score an archive; results, worklist and report."""

from __future__ import annotations

from osteo_ray.commands import Command
from osteo_ray.screening.config import ScreenJob


def screen(job: ScreenJob) -> list[str]:
    """Score an archive; worklist, results and report in `out`."""
    from osteo_ray.reports.run import screen_archive

    return screen_archive(job)


COMMAND = Command(ScreenJob, screen, positional="archive")
