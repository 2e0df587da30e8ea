"""A small CT on disk with planted identifiers, its catalogue row, and a result row that belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ct_making import stack
from synthetic_run import empty_row, scored_row

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.study import index_study

PLANTED = {
    "PatientName": "Müller^Änne",
    "PatientID": "HOSP-4711-XK",
    "PatientBirthDate": "19540209",
    "PatientSex": "F",
    "AccessionNumber": "ACC-99-31337",
    "StudyID": "STUDY77",
    "StudyTime": "071357",
    "ReferringPhysicianName": "Quacksalver^Otto",
    "InstitutionName": "Klinikum Sonnenhain",
    "PatientAddress": "Lindenallee 3",
    "SpecificCharacterSet": "ISO_IR 100",
}


def study(folder: Path, key: str = "secret", **tags: Any) -> dict[str, Any]:
    """Write a CT of 90 slices into `folder`; returns its catalogue row."""
    folder.mkdir(parents=True)
    for i, data in enumerate(stack(90, 3.0, **(PLANTED | tags))):
        (folder / f"{i:03d}").write_bytes(data)
    return index_study(folder, IndexConfig(pseudonym_key=key))


def result(catalogue_row: dict[str, Any], risk: float | None = 0.62, **columns: Any) -> dict[str, Any]:
    """A result row of that study: scored, or abstained where `risk` is None."""
    row = scored_row(1, risk if risk is not None else 0.5)
    if risk is None:
        row = empty_row(1, "ABSTAINED", "NO_LUMBAR_SEEN", "select", "no slice looked at shows the lumbar spine")
        row |= {"selected": scored_row(1, 0.5)["selected"], "gates": scored_row(1, 0.5)["gates"], "slices_total": 90}
    row |= {k: catalogue_row[k] for k in ("study_uid", "series_uid", "patient_key", "study_date", "sex")}
    row |= {"row_key": "c0ffee" * 5 + "00", "model_name": "osteo-ray demo", "model_sha256": "9f2c" * 16}
    row["selected"] = [s | {"sop_uid": catalogue_row["instances"][s["index"]]["sop_uid"]} for s in row["selected"]]
    return row | columns
