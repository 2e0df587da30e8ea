"""NIfTI volumes: the same HU as the same series in DICOM; what is no CT is refused."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pytest
from ct_making import dataset, stack, to_bytes

from osteo_ray.catalogue.build import assemble_table
from osteo_ray.catalogue.config import IndexConfig, NiftiConfig
from osteo_ray.catalogue.indexing import index_entries
from osteo_ray.catalogue.instances import INSTANCE
from osteo_ray.dicom.nifti import VolumeReader, is_nifti
from osteo_ray.dicom.sources import read_uri, roots
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.patients.identity import patient_key

N, ROWS, COLS, STEP = 90, 24, 20, 2.0
SPACING = (0.8, 0.7)  # row, column
ORIGIN = np.array([-9.0, -11.0, -200.0])


def body(dtype=np.int16) -> np.ndarray:
    """HU [N, ROWS, COLS]: a body in air, no two slices or pixels alike."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:ROWS, :COLS]
    inside = (y - ROWS / 2) ** 2 / 80 + (x - COLS / 2) ** 2 / 50 < 1
    hu = np.where(inside, rng.integers(-150, 900, (N, ROWS, COLS)), rng.integers(-1010, -990, (N, ROWS, COLS)))
    return hu.astype(dtype)


def affine_ras() -> np.ndarray:
    """Of a volume [i, j, k] = [column, row, slice] in DICOM's directions, in NIfTI's axes."""
    a = np.diag([SPACING[1], SPACING[0], STEP, 1.0])
    a[:3, 3] = ORIGIN
    return np.diag([-1.0, -1, 1, 1]) @ a


def image(hu: np.ndarray, affine: np.ndarray | None = None, kind=nib.Nifti1Image):
    """[slice, row, col] -> NIfTI image, with sform."""
    return kind(np.ascontiguousarray(hu.transpose(2, 1, 0)), affine_ras() if affine is None else affine)


SIDECAR = {
    "Modality": "CT",
    "Manufacturer": "Siemens",
    "ManufacturersModelName": "Force",
    "KVP": 120,
    "ConvolutionKernel": "Br38f",
    "SliceThickness": 2,
    "PatientID": "P-1",
    "PatientAge": 63,
    "PatientSex": "F",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "SeriesNumber": 4,
    "AcquisitionDateTime": "2021-03-12T10:11:12.5",
    "StudyInstanceUID": "1.2.3.4",
    "SeriesInstanceUID": "1.2.3.4.5",
    "ContrastBolusAgent": "none",
}


def put(folder: Path, name: str, img, sidecar: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(img, folder / name)
    if sidecar is not None:
        (folder / (name.split(".nii")[0] + ".json")).write_text(json.dumps(sidecar))
    return folder / name


def indexed(path, cfg: IndexConfig | None = None):
    """(catalogue rows, code and message of the other files by name)."""
    cfg = cfg or IndexConfig()
    rows: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    for source in roots(str(path)):
        for ok, r in index_entries(source.list(), cfg):
            (rows if ok else files).append(r)
    series, left = assemble_table(pa.Table.from_pylist(rows, schema=INSTANCE), cfg)
    assert left.num_rows == 0
    return series.to_pylist(), {Path(f["uri"].split("::")[0]).name: (f["code"], f["message"]) for f in files}


def volume_of(row) -> np.ndarray:
    with SliceStack.from_row(row) as s:
        return np.stack([s.axial(i) for i in range(s.n)])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_hu_geometry_and_header_are_those_of_the_series(tmp_path, name, dtype):
    hu = body()
    put(tmp_path, name, image(hu.astype(dtype)), SIDECAR)
    (row,), files = indexed(tmp_path)
    assert files == {"a.json": ("SIDECAR", "a JSON file: read with the NIfTI volume of its name")}
    assert (row["state"], row["n_slices"], row["transfer_syntax"]) == (
        None,
        N,
        "nifti+gzip" if name.endswith("gz") else "nifti",
    )
    assert (row["study_uid"], row["series_uid"], row["kvp"], row["convolution_kernel"]) == (
        "1.2.3.4",
        "1.2.3.4.5",
        120,
        "Br38f",
    )
    assert (row["age_y"], row["sex"], row["study_date"], row["contrast"]) == (63, "F", "20210312", "none")
    assert row["patient_key"] == patient_key("P-1", None)
    assert (row["pixel_spacing_row_mm"], row["pixel_spacing_col_mm"]) == pytest.approx(SPACING)
    assert (row["spacing_z_median_mm"], row["z_min_mm"]) == pytest.approx((STEP, ORIGIN[2]))
    assert np.array_equal(volume_of(row), hu)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, -1)])
@pytest.mark.parametrize("turned", [False, True])
def test_every_way_to_lay_the_voxels_gives_the_same_slices(tmp_path, flips, turned):
    """Axes flipped, and rows with columns exchanged: the affine says so, the standard view is one."""
    hu = body()
    put(tmp_path / "plain", "a.nii", image(hu))
    img = image(hu)
    ornt = np.array([[i, f] for i, f in zip((1, 0, 2) if turned else (0, 1, 2), flips, strict=True)])
    put(tmp_path / "laid", "a.nii", img.as_reoriented(ornt))
    (want,), _ = indexed(tmp_path / "plain")
    (got,), _ = indexed(tmp_path / "laid")
    assert np.array_equal(volume_of(got), volume_of(want))
    assert np.array_equal(volume_of(want), hu)
    assert (got["z_min_mm"], got["z_max_mm"]) == pytest.approx((want["z_min_mm"], want["z_max_mm"]))


def test_a_volume_with_z_first_is_sliced_along_z_where_no_voxel_changes_by_it(tmp_path):
    a = affine_ras()
    a[0, 0] = -SPACING[0]  # square pixels
    img = image(body(), a)
    put(tmp_path / "ok", "a.nii", img.as_reoriented(np.array([[1, 1], [2, 1], [0, 1]])))
    (row,), _ = indexed(tmp_path / "ok")
    assert (row["state"], row["code"], row["message"]) == (None, None, None)
    assert np.array_equal(volume_of(row), body())
    sagittal = image(body()).as_reoriented(np.array([[2, 1], [1, 1], [0, 1]]))  # pixels of a cross-section not square
    put(tmp_path / "no", "a.nii", sagittal)
    (row,), _ = indexed(tmp_path / "no")
    assert (row["state"], row["code"]) == ("EXCLUDED", "NOT_AXIAL")


def test_only_the_slices_asked_for_are_read_of_a_plain_file(tmp_path):
    put(tmp_path, "a.nii", image(body()))
    put(tmp_path / "z", "a.nii.gz", image(body()))
    (plain,), _ = indexed(tmp_path / "a.nii")
    (packed,), _ = indexed(tmp_path / "z")
    with SliceStack.from_row(plain) as s:
        s.axial(3), s.axial(40)
        assert (s.decoded, s.bytes_read) == (2, 2 * ROWS * COLS * 2)
    with SliceStack.from_row(packed) as s:
        s.axial(3), s.axial(40)
        assert s.bytes_read == (tmp_path / "z" / "a.nii.gz").stat().st_size  # once, whole


def test_scaling_of_the_header_is_applied(tmp_path):
    hu = body()
    img = image(((hu + 1024) * 2).astype(np.int16))
    img.header.set_slope_inter(0.5, -1024)
    put(tmp_path, "a.nii", img)
    data = bytearray((tmp_path / "a.nii").read_bytes())  # nibabel would choose its own
    raw = np.ascontiguousarray(((hu + 1024) * 2).astype("<i2").transpose(2, 1, 0)).tobytes(order="F")
    fortran = np.asfortranarray(((hu + 1024) * 2).astype("<i2").transpose(2, 1, 0)).tobytes(order="F")
    assert len(raw) == len(fortran)
    data[112:120] = np.array([0.5, -1024], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(data[:352]) + fortran)
    (row,), _ = indexed(tmp_path)
    assert np.array_equal(volume_of(row), hu)


def test_what_is_no_ct_is_refused(tmp_path):
    hu = body()
    rng = np.random.default_rng(0)
    refused = {
        "label16.nii": image(np.where(hu > 0, rng.integers(1, 30, hu.shape), 0).astype(np.int16)),
        "mask8.nii.gz": image((hu > 0).astype(np.uint8)),
        "labels_float.nii.gz": image((hu // 100).clip(0).astype(np.float32)),
        "mr.nii": image((hu.astype(np.int32) + 1024).clip(0).astype(np.int16)),  # or CT without its intercept
        "window.nii.gz": image(hu.clip(-160, 240)),
        "unit.nii.gz": image(((hu + 1024) / 2000.0).astype(np.float32)),
        "air_only.nii": image(np.full_like(hu, -1000)),
        "nan.nii": image(np.full(hu.shape, np.nan, np.float32)),
    }
    for name, img in refused.items():
        put(tmp_path / "hu", name, img)
    series, files = indexed(tmp_path / "hu")
    assert [r["instances"][0]["uri"] for r in series] == []
    assert {n: c for n, (c, _) in files.items()} == dict.fromkeys(refused, "NOT_HU")
    four = nib.Nifti1Image(np.zeros((8, 8, 8, 3), np.int16), np.eye(4))
    colour = nib.Nifti1Image(np.zeros((8, 8, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4))
    others = {"four.nii.gz": (four, "NOT_A_VOLUME"), "rgb.nii": (colour, "NOT_GREY")}
    for name, (img, _) in others.items():
        put(tmp_path / "other", name, img)
    bare = bytearray(put(tmp_path / "x", "bare.nii", image(hu)).read_bytes())
    bare[252:256] = bytes(4)  # the codes of qform and sform
    (tmp_path / "other" / "bare.nii").write_bytes(bare)
    nib.save(nib.Nifti1Pair(hu, np.eye(4)), tmp_path / "other" / "pair.hdr")
    series, files = indexed(tmp_path / "other")
    assert series == []
    want = {n: c for n, (_, c) in others.items()} | {
        "bare.nii": "NO_GEOMETRY",
        "pair.hdr": "NIFTI_PAIR",
        "pair.img": "NOT_DICOM",
    }
    assert {n: c for n, (c, _) in files.items()} == want


def test_another_modality_is_excluded_by_its_sidecar(tmp_path):
    put(tmp_path, "a.nii", image(body()), {"Modality": "PT"})
    (row,), _ = indexed(tmp_path)
    assert (row["state"], row["code"]) == ("EXCLUDED", "Q_MODALITY")


def test_broken_files_and_sidecars_are_rows(tmp_path):
    whole = put(tmp_path / "x", "a.nii.gz", image(body())).read_bytes()
    plain = gzip.decompress(whole)
    cases = {
        "cut.nii.gz": (whole[: len(whole) // 2], "TRUNCATED"),
        "cut.nii": (plain[:-100], "TRUNCATED"),
        "huge.nii": (plain[:42] + (30000).to_bytes(2, "little") * 3 + plain[48:], "VOXEL_CAP"),
        "type.nii": (plain[:70] + (9999).to_bytes(2, "little") + plain[72:], "BROKEN_NIFTI"),
        "zero.nii": (plain[:280] + bytes(48) + plain[328:], "BAD_SPACING"),
    }
    folder = tmp_path / "bad"
    folder.mkdir()
    for name, (data, _) in cases.items():
        (folder / name).write_bytes(data)
    (folder / "side.nii").write_bytes(plain)
    (folder / "side.json").write_text("{not json")
    series, files = indexed(folder)
    assert series == []
    want = {n: c for n, (_, c) in cases.items()} | {"side.nii": "BAD_SIDECAR", "side.json": "SIDECAR"}
    assert {n: c for n, (c, _) in files.items()} == want


def test_the_patient_comes_from_sidecar_or_path_and_age_and_sex_are_never_guessed(tmp_path):
    put(tmp_path / "sub-07" / "ct", "x.nii.gz", image(body()))
    (row,), _ = indexed(tmp_path)
    assert row["patient_key"] == patient_key("sub-07", None)
    assert row["contrast"] == "unknown"
    assert [row[k] for k in ("age_y", "sex", "kvp", "study_date")] == [None] * 4
    assert row["study_uid"].startswith("2.25.")
    rule = IndexConfig(nifti=NiftiConfig(patient_id=r"sub-(\d+)", tags={"KVP": 100, "ContrastBolusAgent": "none"}))
    (row,), _ = indexed(tmp_path, rule)
    assert (row["patient_key"], row["kvp"], row["contrast"]) == (patient_key("07", None), 100, "none")
    (row,), _ = indexed(tmp_path, IndexConfig(nifti=NiftiConfig(patient_id=None)))
    assert row["patient_key"] is None


def test_two_volumes_of_one_series_stay_two(tmp_path):
    """dcm2niix splits what varies within a series; each volume names the same SeriesInstanceUID."""
    put(tmp_path, "a.nii", image(body()), SIDECAR)
    shifted = affine_ras()
    shifted[2, 3] += 1.0
    put(tmp_path, "a_Eq_1.nii", image(body() + 5, shifted), SIDECAR)
    rows, _ = indexed(tmp_path)
    assert [r["n_slices"] for r in rows] == [N, N]
    assert all(len({i["uri"] for i in r["instances"]}) == 1 for r in rows)


def test_members_of_a_zip_are_read_with_their_sidecars(tmp_path):
    put(tmp_path / "x", "a.nii.gz", image(body()), SIDECAR)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as z:
        for p in sorted((tmp_path / "x").iterdir()):
            z.write(p, f"study/{p.name}")
    shutil.rmtree(tmp_path / "x")
    (row,), _ = indexed(tmp_path)
    assert row["kvp"] == 120
    assert np.array_equal(volume_of(row), body())


def test_a_changed_sidecar_changes_what_is_listed(tmp_path):
    put(tmp_path, "a.nii", image(body()), SIDECAR)
    before = {e.uri: e.stamp for e in roots(str(tmp_path))[0].list()}
    (tmp_path / "a.json").write_text(json.dumps(SIDECAR | {"KVP": 100}))
    after = {e.uri: e.stamp for e in roots(str(tmp_path))[0].list()}
    assert all(before[u] != after[u] for u in before)


def test_nifti_2_and_big_endian_files_are_read(tmp_path):
    hu = body()
    put(tmp_path / "two", "a.nii", image(hu, kind=nib.Nifti2Image))
    big = nib.Nifti1Image(hu.transpose(2, 1, 0).astype(">i2"), affine_ras(), nib.Nifti1Header(endianness=">"))
    put(tmp_path / "big", "a.nii", big)
    for where in ("two", "big"):
        (row,), _ = indexed(tmp_path / where)
        assert np.array_equal(volume_of(row), hu)


def test_the_reader_agrees_with_nibabel(tmp_path):
    at = put(tmp_path, "a.nii.gz", image(body(), affine_ras() @ np.diag([1, 1, -1, 1])))
    reader = VolumeReader(lambda o, n: read_uri(f"file://{at}", o, n))
    want = nib.Nifti1Image.from_filename(at)
    assert is_nifti(at.read_bytes()[:4096])
    got = np.stack([reader.stored(k) for k in range(reader.volume.n)])
    assert np.array_equal(got.transpose(2, 1, 0), np.asanyarray(want.dataobj))
    assert np.allclose(np.diag([-1.0, -1, 1, 1]) @ reader.volume.affine, want.affine)


def series_files(folder: Path) -> Path:
    folder.mkdir()
    for i, hu in enumerate(body()):
        ds = dataset(i, z=float(ORIGIN[2] + STEP * i), px=(hu + 1024).astype(np.uint16))
        ds.PixelSpacing, ds.ImagePositionPatient = list(SPACING), [*ORIGIN[:2], float(ORIGIN[2] + STEP * i)]
        (folder / f"{i}.dcm").write_bytes(to_bytes(ds))
    return folder


@pytest.mark.parametrize("packed", ["n", "i"])
def test_a_series_and_what_dcm2niix_makes_of_it_are_the_same(tmp_path, packed):
    tool = shutil.which("dcm2niix", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("dcm2niix is not installed")
    files = series_files(tmp_path / "dicom")
    (tmp_path / "nifti").mkdir()
    args = [tool, "-b", "y", "-ba", "n", "-z", packed, "-f", "x", "-o", str(tmp_path / "nifti"), str(files)]
    subprocess.run(args, check=True, capture_output=True)
    (want,), _ = indexed(files)
    (got,), others = indexed(tmp_path / "nifti")
    assert list(others) == ["x.json"]
    same = ("study_uid", "series_uid", "patient_key", "sex", "n_slices", "rows", "cols", "image_type")
    assert {k: got[k] for k in same} == {k: want[k] for k in same}
    assert np.allclose([i["z_mm"] for i in got["instances"]], [i["z_mm"] for i in want["instances"]], atol=1e-3)
    assert np.array_equal(volume_of(got), volume_of(want))


def test_dicom_files_are_not_taken_for_nifti():
    assert not any(is_nifti(data[:16384]) for data in stack(3))


@pytest.mark.parametrize(("scale", "code"), [(1.0, None), (1.02, None), (1.5, "NO_GEOMETRY"), (-1.0, "NO_GEOMETRY")])
def test_sform_and_qform_that_disagree_are_not_chosen_between(tmp_path, scale, code):
    img, other = image(body()), affine_ras()
    other[:3, 2] *= scale
    img.set_sform(affine_ras(), 1)
    img.set_qform(other, 1)
    put(tmp_path, "a.nii.gz", img)
    series, files = indexed(tmp_path)
    assert len(series) == (code is None)
    assert [c for c, _ in files.values()] == [code] * (code is not None)


def test_a_sidecar_keeps_its_words_whatever_their_script(tmp_path):
    put(tmp_path, "a.nii.gz", image(body()), SIDECAR | {"SeriesDescription": "腹部平扫", "ContrastBolusAgent": None})
    (row,), _ = indexed(tmp_path)
    assert row["contrast"] == "none"


@pytest.mark.parametrize(
    ("name", "sidecar", "special", "contrast"),
    [
        ("p7_vnc.nii", None, "virtual non-contrast", "unknown"),
        ("p7_40keV.nii.gz", {}, "virtual mono-energetic", "unknown"),
        ("p7_portal.nii.gz", None, None, "portal"),
        ("sub-01_ct.nii.gz", None, None, "unknown"),
        ("p7_portal.nii", {"SeriesDescription": "Abdomen nativ"}, None, "none"),  # what is stated comes first
    ],
)
def test_the_file_s_name_describes_a_volume_that_nothing_else_does(tmp_path, name, sidecar, special, contrast):
    put(tmp_path / "vnc", name, image(body()), sidecar)  # the folder's name says nothing
    (row,), _ = indexed(tmp_path)
    assert (row["special"], row["contrast"]) == (special, contrast)
