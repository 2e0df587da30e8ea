"""What `osteo-ray cohort` does: one function an action, as in `osteo_ray.commands`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from osteo_ray import progress
from osteo_ray.commands import Action, Command
from osteo_ray.config import narrow, need
from osteo_ray.model.config import CropConfig
from osteo_ray.synthetic.config import CohortConfig


class CohortJob(CohortConfig):
    """`osteo-ray cohort`."""

    out: str | None = Field(None, description="folder for archive, records and truth, or for the slice set")
    crop: CropConfig = CropConfig()
    positions: int = Field(64, ge=8, description="length of the z-grid of `cohort slices`")


def write(job: CohortJob) -> list[str]:
    """Write a synthetic archive, its records and its truth, unless it is there already."""
    from osteo_ray.synthetic.write import write_cohort

    def write_archive(out: Path) -> list[str]:
        with progress.counted({"write archive": "patients"}) as say:
            return write_cohort(out, narrow(job, CohortConfig), lambda i, n: say("write archive", i, n)).lines()

    return _once(job, "cohort", write_archive)


def slices(job: CohortJob) -> list[str]:
    """Write a synthetic cohort as a slice set for training, without DICOM, unless it is there already."""
    from osteo_ray.synthetic.slice_set import write_slice_set

    return _once(job, "slices", lambda out: write_slice_set(out, narrow(job, CohortConfig), job.crop, job.positions))


def checked(job: CohortJob) -> list[str]:
    """The synthetic cohort's figures beside the published ones."""
    from osteo_ray.synthetic import check

    return check.lines(check.check(narrow(job, CohortConfig)))


def _once(job: CohortJob, what: str, write: Callable[[Path], list[str]]) -> list[str]:
    """Do `write(out)` unless `out` says that it was done for the same config."""
    from osteo_ray import __version__
    from osteo_ray.io.step_cache import StepCache, digest
    from osteo_ray.io.uris import absolute

    above, _, name = absolute(need(job, "out")).rpartition("/")

    def work(folder: Path) -> None:
        (folder / "made.txt").write_text("\n".join(write(folder)) + "\n")

    run = StepCache(above)
    out = run.run(name, digest(what, __version__, job.model_dump(mode="json", exclude={"out"})), work)
    return (out / "made.txt").read_text().splitlines() + (["  (as made before)"] if run.reused else [])


COMMAND = Command(
    CohortJob,
    actions={
        "write": Action("a DICOM archive, records and truth", write),
        "slices": Action("a slice set for training, without DICOM", slices),
        "check": Action("the cohort's figures beside the published ones", checked),
    },
    default_action="write",
)
