"""The reference bundle on real CT: a score or an abstention with a reason, and a risk that moves with the bone's HU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from ct_making import dataset, to_bytes
from scipy import ndimage

from osteo_ray import index_archive, load_bundle
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.study import index_study
from osteo_ray.cli import main
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.outcomes import State
from osteo_ray.screening.config import ScoringConfig

pytestmark = pytest.mark.real
RECORD = {"age_y": 55, "sex": "M"}  # as the volume's publisher says


def write_dicom(
    hu: np.ndarray, spacing: tuple[float, float, float], folder: Path, age: str = "055Y", sex: str = "M"
) -> Path:
    """A volume [x to the left, y to the back, z to the head] of HU as a DICOM series."""
    folder.mkdir()
    for k in range(hu.shape[2]):
        px = np.ascontiguousarray(hu[:, :, k].T.clip(-1024, 3071).astype(np.int16) + 1024)
        tags: dict[str, Any] = {
            "PixelSpacing": [spacing[1], spacing[0]],
            "ImagePositionPatient": [0, 0, spacing[2] * k],
            "SliceThickness": spacing[2],
            "PatientAge": age,
            "PatientSex": sex,
        }
        (folder / f"{k:04d}.dcm").write_bytes(to_bytes(dataset(k, px=px, **tags)))
    return folder


@pytest.fixture(scope="module")
def volume(real_data):
    """HU, mask of the vertebral bodies, spacing in mm: T11 to the femora of one man at 3 mm."""

    def load(name):
        image = nibabel.Nifti1Image.from_filename(real_data / "ct" / f"totalseg_example_ct_{name}.nii.gz")
        axes = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
        image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), axes))
        return np.asarray(image.dataobj), image.header.get_zooms()

    hu, spacing = load("t11_to_femur_3mm")
    body, _ = load("vertebral_body_label")
    return hu, body == 1, tuple(float(s) for s in spacing)


@pytest.fixture(scope="module")
def scorer():
    """The reference bundle with abstention on unlike input set aside: the volumes' picks may be too blurred for it."""
    s = load_bundle()
    s.cfg = ScoringConfig(shap=False)
    s.bundle.novelty = {k: replace(n, threshold=np.inf) for k, n in s.bundle.novelty.items()}
    return s


def spine(hu: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Bone of the spine without a label map: filled bone within 40 mm of the body's midline in its back half."""
    x, y = np.arange(hu.shape[0])[:, None], np.arange(hu.shape[1])[None]
    out = np.zeros(hu.shape, bool)
    for k in range(hu.shape[2]):
        body = ndimage.binary_opening(hu[:, :, k] > -300, iterations=3)
        cx, cy = (np.average(np.broadcast_to(a, body.shape), weights=body) for a in (x, y))
        near = (abs(x - cx) * spacing[0] < 40) & (y > cy)
        bone = ndimage.binary_closing((hu[:, :, k] > 110) & near, iterations=3)
        out[:, :, k] = ndimage.binary_fill_holes(bone) & near
    return out


def test_the_risk_falls_as_the_hu_of_labelled_vertebral_bodies_rise(volume, scorer, tmp_path):
    hu, body, spacing = volume
    risk, density = {}, []
    for change in (-60, -40, -20, 0, 20, 40, 60):
        folder = write_dicom(np.where(body, hu + change, hu), spacing, tmp_path / f"{change:+d}")
        r = scorer.score(folder, record=RECORD).to_dict()
        assert r["state"] in (State.SCORED, State.SCORED_WARN), (change, r["code"], r["message"])
        risk[change] = r["log_odds"]
        density.append(r["trabecular_hu"])
    assert np.all(np.diff(density) > 0), density
    # Step by step where bodies still look like bodies; at -60 they are as dark as the muscle around them.
    assert np.all(np.diff([risk[c] for c in (-40, -20, 0, 20, 40, 60)]) < 0), risk
    assert risk[-60] > risk[0] + 1, risk


def test_only_the_vertebrae_count(volume, scorer, tmp_path):
    """The same change in all other bone moves the risk less than in the vertebral bodies."""
    hu, body, spacing = volume
    other = (hu > 150) & ~body
    got = {}
    for name, mask in (("as it is", np.zeros_like(body)), ("bodies", body), ("other bone", other)):
        folder = write_dicom(np.where(mask, hu - 60, hu), spacing, tmp_path / name)
        got[name] = scorer.score(folder, record=RECORD).to_dict()["log_odds"]
    assert abs(got["bodies"] - got["as it is"]) > abs(got["other bone"] - got["as it is"]), got


def test_the_risk_of_a_diagnostic_scan_follows_its_spine(real_data, tmp_path):
    """An original series at full resolution, its vertebral HU changed in the array, through the bundle as it ships."""
    zipped = real_data / "ct" / "acrin_flt_breast_001_lower_thorax_to_pelvis_dicom.zip"
    with SliceStack.from_row(index_study(zipped, IndexConfig())) as stack:
        hu = np.stack([stack.axial(i).T for i in range(stack.n)], axis=-1)
        spacing = (*stack.axial_spacing_mm[::-1], float(np.median(np.diff(stack.z_mm))))
    bone = spine(hu, spacing)
    scorer, risk, density = load_bundle(), {}, []
    for change in (-60, -30, 0, 30, 60):
        folder = write_dicom(np.where(bone, hu + change, hu), spacing, tmp_path / f"{change:+d}", age="049Y", sex="F")
        r = scorer.score(folder).to_dict()
        density.append(r["trabecular_hu"])
        if r["state"] in (State.SCORED, State.SCORED_WARN):
            risk[change] = r["risk_prob"]
        else:
            assert r["code"] == "OOD_IMAGE", (change, r["code"], r["message"])
    assert np.all(np.diff(density) > 0), density
    # At -60 the crude mask's edges are darker than the muscle beside them, and a score or an abstention is luck.
    assert set(risk) >= {-30, 0}, risk
    assert np.all(np.diff([risk[c] for c in (-30, 0, 30, 60) if c in risk]) < 0), risk
    assert risk.get(-60, 1.0) > risk[0], risk


@pytest.mark.ray
def test_real_series_get_a_score_or_a_reason(real_data, ray_session, tmp_path, capsys):
    assert main(["screen", str(real_data / "ct"), "--out", str(tmp_path), "--set", "scoring.shap=false"]) == 0
    assert "NOT VALIDATED ON PATIENTS" in capsys.readouterr().out
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    indexed = index_archive(real_data / "ct").series
    assert len({r["row_key"] for r in rows}) == len(rows)
    assert sorted(str(r["series_uid"]) for r in rows) == sorted(str(s["series_uid"]) for s in indexed)
    scored = [r for r in rows if r["state"] in (State.SCORED, State.SCORED_WARN)]
    assert len(scored) <= sum(s["state"] is None for s in indexed)
    for r in rows:
        if r["state"] in (State.SCORED, State.SCORED_WARN):
            assert 0 < r["risk_prob"] < 1
        else:
            assert r["state"] != State.ERROR
            assert r["code"]
            assert r["message"]
