"""The bundle that ships with the package: it gives a score before anyone has trained.

    from osteo_ray.model import reference
    reference.bundle()          # its folder; screen, listen and serve use it where no bundle is given

It was trained on synthetic patients alone (`make reference`) and is not validated on patients; its card says so, and
what it scored on synthetic patients that it never saw.
"""

from __future__ import annotations

from pathlib import Path

NAME = "osteo-ray reference"
"""The bundle's name; results that carry it are marked on the run's page."""
NOTICE = (
    "Scored by the reference bundle that ships with osteo-ray: trained on synthetic patients alone and NOT VALIDATED "
    "ON PATIENTS. Its risks show that the pipeline works; they are no evidence about anybody. Train your own bundle "
    "with osteo-ray train."
)


def bundle() -> str:
    """Folder of the reference bundle."""
    return str(Path(__file__).parent / "bundle")
