"""A study as DICOM and as NIfTI with a sidecar: one score."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from osteo_ray import load_bundle
from osteo_ray.dicom.stack import SliceStack

pytestmark = pytest.mark.ray


def as_nifti(row, folder, name: str):
    """The series of a catalogue row as a volume, rows to posterior and columns to the left, with its sidecar."""
    folder.mkdir()
    with SliceStack.from_row(row) as stack:
        hu = np.stack([stack.axial(i) for i in range(stack.n)])
        dy, dx = stack.axial_spacing_mm
        z = stack.z_mm
    affine = np.diag([-dx, -dy, (z[-1] - z[0]) / (len(z) - 1), 1.0])
    affine[2, 3] = z[0]
    nib.save(nib.Nifti1Image(np.ascontiguousarray(hu.transpose(2, 1, 0)), affine), folder / name)
    sidecar = {
        "Modality": "CT",
        "KVP": row["kvp"],
        "ConvolutionKernel": row["convolution_kernel"],
        "SliceThickness": row["slice_thickness_mm"],
        "PatientSex": row["sex"],
        "PatientAge": row["age_y"],
        "StudyDate": row["study_date"],
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "StudyInstanceUID": row["study_uid"],
        "SeriesInstanceUID": row["series_uid"],
    }
    if row["contrast"] != "unknown":  # what the header doesn't state the sidecar doesn't either
        sidecar["ContrastBolusAgent"] = "none" if row["contrast"] == "none" else "agent"
    (folder / (name.split(".nii")[0] + ".json")).write_text(json.dumps(sidecar))
    return folder


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_the_score_is_that_of_the_dicom_series(cohort_run, bundle_dir, tmp_path, name):
    rows = pq.read_table(cohort_run.catalogue).to_pylist()
    row = next(
        r for r in rows if r["state"] is None and r["spacing_z_max_dev_mm"] < 0.01 and r["gantry_tilt_deg"] < 0.1
    )
    study = next(p for p in cohort_run.archive.rglob("*") if p.is_dir() and p.name == row["study_uid"])
    scorer = load_bundle(bundle_dir)
    record = {"age_y": row["age_y"], "sex": row["sex"], "alp_u_l": 90}
    want = scorer.score(study, record=record).to_dict()
    got = scorer.score(as_nifti(row, tmp_path / "nifti", name), record=record).to_dict()
    # A NIfTI header keeps the spacing in single precision, and so the crops differ in the seventh digit.
    assert got["risk_prob"] == pytest.approx(want["risk_prob"], abs=1e-5)
    assert [s["index"] for s in got["selected"]] == [s["index"] for s in want["selected"]]
    assert (got["state"], got["kvp"], got["contrast"]) == (want["state"], want["kvp"], want["contrast"])
