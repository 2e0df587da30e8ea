"""Real CT: every readable slice equals SimpleITK, stacks are in order, and the zoo ends in its stated states."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osteo_ray.catalogue.build import assemble_table, build
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.indexing import index_entries
from osteo_ray.catalogue.instances import INSTANCE
from osteo_ray.dicom.sources import roots
from osteo_ray.dicom.stack import PADDING_HU, SliceStack, padding_mask

sitk = pytest.importorskip("SimpleITK")
pytestmark = pytest.mark.real

CT_ZIPS = [
    "acrin_flt_breast_001_lower_thorax_to_pelvis_dicom.zip",
    "cptac_pda_c3l00189_upper_abdomen_dicom.zip",
    "dcmqi_ct_3slice_with_spine_seg.zip",
    "totalseg_ct_dicom_jpeg2000.zip",
]


def member(uri: str) -> str:
    from urllib.parse import unquote

    return unquote(uri.removeprefix("zip://").split("::")[0])


def indexed(path: Path):
    rows: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    for source in roots(path):
        for ok, r in index_entries(source.list(), IndexConfig()):
            (rows if ok else files).append(r)
    return rows, files


def reference(archive: zipfile.ZipFile, name: str, frame: int, tmp_path: Path) -> np.ndarray | None:
    """HU by SimpleITK; None where it can't read the file."""
    path = tmp_path / "one.dcm"
    path.write_bytes(archive.read(name))
    try:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[frame]
    except RuntimeError:
        return None


def equal_to_reference(rows, path: Path, tmp_path: Path) -> Counter:
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    seen: Counter = Counter()
    with zipfile.ZipFile(path) as archive:
        for r in rows:
            if r["modality"] != "CT" or r["slope"] is None:
                continue
            stack = SliceStack([dict(r, z_mm=0.0)], (r["rows"], r["cols"]), (1.0, 1.0), np.array([1.0, 0, 0, 0, 1, 0]))
            hu = stack.hu(0)
            want = reference(archive, member(r["uri"]), r["frame"], tmp_path)
            if want is None:
                seen["not read by SimpleITK"] += 1
                continue
            # padded voxels are ours to set; everything else is equal to the last bit of the type
            pad = padding_mask(np.rint((want - r["intercept"]) / r["slope"]).astype(np.int64), r)
            keep = np.ones(hu.shape, bool) if pad is None else ~pad
            np.testing.assert_array_equal(hu[keep], want.astype(hu.dtype)[keep], err_msg=r["uri"])
            assert np.all(hu[~keep] == PADDING_HU)
            seen[r["transfer_syntax"]] += 1
    return seen


def test_every_slice_of_the_zoo_equals_simpleitk(real_data, tmp_path):
    path = real_data / "dicom" / "dicom_zoo.zip"
    rows, _ = indexed(path)
    seen = equal_to_reference(rows, path, tmp_path)
    assert seen.pop("not read by SimpleITK") == 5  # JPEG-LS multi-frame; mixed byte orders
    syntaxes = {
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.5",
    }
    assert syntaxes <= set(seen)
    assert sum(seen.values()) >= 80


@pytest.mark.parametrize("name", CT_ZIPS[:3])
def test_every_slice_of_the_real_series_equals_simpleitk(real_data, tmp_path, name):
    path = real_data / "ct" / name
    rows, _ = indexed(path)
    assert sum(equal_to_reference(rows, path, tmp_path).values()) == len(rows)


def test_series_without_uids_decodes_where_uids_are_put_in(real_data, tmp_path):
    """The JPEG 2000 series lost its UIDs: it is quarantined, file by file; with UIDs it is a good stack."""
    import io

    import pydicom

    path = real_data / "ct" / CT_ZIPS[3]
    rows, files = indexed(path)
    assert rows == []
    assert {f["code"] for f in files} == {"MISSING_UID"}
    assert len(files) == 20
    again = tmp_path / "with_uids.zip"
    with zipfile.ZipFile(path) as z, zipfile.ZipFile(again, "w") as out:
        for i, name in enumerate(z.namelist()):
            ds = pydicom.dcmread(io.BytesIO(z.read(name)))
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.3", "1.2.4", f"1.2.5.{i}"
            buffer = io.BytesIO()
            ds.save_as(buffer)
            out.writestr(name, buffer.getvalue())
    rows, files = indexed(again)
    assert files == []
    assert equal_to_reference(rows, again, tmp_path) == {"1.2.840.10008.1.2.4.90": 20}


@pytest.mark.parametrize(
    ("name", "n", "spacing", "age", "sex", "code"),
    [
        (CT_ZIPS[0], 99, 4.25, 49, "F", None),
        (CT_ZIPS[1], 35, 5.0, 68, "F", None),
        (CT_ZIPS[2], 3, 1.0, 60, "M", "SHORT_COVERAGE"),
    ],
)
def test_real_series_are_ordered_and_measured(real_data, name, n, spacing, age, sex, code):
    import pyarrow as pa

    rows, _ = indexed(real_data / "ct" / name)
    series, _ = assemble_table(pa.Table.from_pylist(rows, schema=INSTANCE), IndexConfig())
    ct = [r for r in series.to_pylist() if r["modality"] == "CT"]
    assert len(ct) == 1
    r = ct[0]
    assert (r["n_slices"], r["code"], r["age_y"], r["sex"], r["n_missing_slices"]) == (n, code, age, sex, 0)
    assert r["spacing_z_median_mm"] == pytest.approx(spacing, abs=0.01)
    z = np.array([i["z_mm"] for i in r["instances"]])
    assert np.all(np.diff(z) > 0)
    with SliceStack.from_row(r) as s:
        np.testing.assert_array_equal(s.z_mm, z)
        assert s.decoded == 0
        middle = s.axial(s.n // 2)
        assert s.decoded == 1
        assert -1030 <= np.median(middle[:20, :20]) <= -900 or middle[:20, :20].max() == PADDING_HU
        # the table is behind a supine patient: below the body there is more matter than above it
        assert (middle[-200:] > -300).sum() > (middle[:200] > -300).sum()


ZOO_SERIES = {
    ("EXCLUDED", "Q_MODALITY"): 17,
    ("EXCLUDED", "TOO_FEW_SLICES"): 14,
    # One Toshiba series holds original and derived images: two rows, since image types are never one volume.
    ("EXCLUDED", "Q_LOCALIZER"): 13,
    ("EXCLUDED", "Q_TILT"): 2,
}
ZOO_FILES = {
    "DUPLICATE_INSTANCE": 15,
    "DUPLICATE_SLICE": 2,
    "MISSING_UID": 5,
    "NOT_DICOM": 1,
    "NO_PIXELS": 1,
    "TRUNCATED_HEADER": 1,
}


@pytest.mark.ray
def test_the_zoo_ends_in_its_states(real_data, tmp_path, ray_session):
    import pyarrow.parquet as pq

    s = build(real_data / "dicom" / "dicom_zoo.zip", tmp_path, IndexConfig())
    series = pq.read_table(tmp_path / "catalogue.parquet").to_pylist()
    assert Counter((r["state"], r["code"]) for r in series) == ZOO_SERIES
    files = pq.read_table(tmp_path / "files.parquet").to_pylist()
    assert Counter(r["code"] for r in files) == ZOO_FILES
    uris = {i["uri"] for r in series for i in r["instances"]}
    assert not uris & {r["uri"] for r in files}
    with zipfile.ZipFile(real_data / "dicom" / "dicom_zoo.zip") as z:
        assert len(uris) + len(files) == sum(not i.is_dir() for i in z.infolist())
    assert s.n_series == len(series)
    tilt = {round(r["gantry_tilt_deg"], 1) for r in series if r["code"] == "Q_TILT"}
    assert tilt == {14.0, 18.5}


@pytest.mark.ray
def test_a_folder_with_zips_and_other_files_simply_works(real_data, tmp_path, ray_session):
    import pyarrow.parquet as pq

    s = build(real_data / "ct", tmp_path, IndexConfig())
    series = pq.read_table(tmp_path / "catalogue.parquet").to_pylist()
    fit = Counter(
        "nifti" if r["transfer_syntax"].startswith("nifti") else "dicom" for r in series if r["state"] is None
    )
    assert fit == {"dicom": 2, "nifti": 4}
    assert s.n_open == 6
    files = Counter(r["code"] for r in pq.read_table(tmp_path / "files.parquet").to_pylist())
    assert (files["MISSING_UID"], files["DUPLICATE_INSTANCE"]) == (20, 20)
    # Label maps among the volumes are no HU; the JSON beside a volume describes it.
    assert set(files) <= {"MISSING_UID", "DUPLICATE_INSTANCE", "NOT_DICOM", "NOT_HU", "SIDECAR"}
    assert files["NOT_HU"] == 3
