"""The series rules, one test each: what is grouped, ordered, dropped and refused."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from ct_making import ROOT, dataset, file_bytes, gate, header_rows, same_never, series_of, stack, to_bytes
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from osteo_ray.catalogue.assembly import assemble
from osteo_ray.catalogue.choice import choose
from osteo_ray.catalogue.config import Geometry, IndexConfig

FIT = IndexConfig()


def one(files, cfg=None, same=same_never):
    rows = series_of(files, cfg, same)
    assert len(rows) == 1, [(r["split"], r["code"]) for r in rows]
    return rows[0]


def test_a_plain_series_is_open_and_measured():
    r = one(stack(100))
    assert (r["state"], r["code"], r["n_slices"], r["sop_count"]) == (None, None, 100, 100)
    assert r["spacing_z_median_mm"] == 2.0
    assert r["spacing_z_max_dev_mm"] == pytest.approx(0, abs=1e-9)
    assert (r["z_min_mm"], r["z_max_mm"], r["n_missing_slices"], r["n_duplicate_positions"]) == (0.0, 198.0, 0, 0)
    assert (r["pixel_spacing_row_mm"], r["pixel_spacing_col_mm"]) == (20.0, 17.5)  # rule 15
    assert {g["verdict"] for g in r["gates"]} == {"pass"}


# rule 1
@pytest.mark.parametrize(
    "tags",
    [
        {"FrameOfReferenceUID": f"{ROOT}.99"},
        {"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]},
        {"PixelSpacing": [0.9, 0.9]},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]},
        {"px": np.zeros((16, 18), np.int16)},
        {"px": np.zeros((16, 16), np.uint16)},
    ],
    ids=lambda t: next(iter(t)),
)
def test_one_uid_with_two_kinds_of_image_is_two_rows(tags):
    files = stack(80) + [file_bytes(200 + i, 2.0 * i, **tags) for i in range(90)]
    rows = series_of(files)
    assert sorted(r["n_slices"] for r in rows) == [80, 90]
    assert all(r["split"] for r in rows)
    assert len({r["content_hash"] for r in rows}) == 2


def test_orientation_jitter_on_a_rounding_edge_does_not_split():
    edge = 0.00005  # rounding to four places would put these into two groups
    files = [
        file_bytes(i, ImageOrientationPatient=[1, edge + (1e-6 if i % 2 else -1e-6), 0, 0, 1, 0]) for i in range(90)
    ]
    assert one(files)["n_slices"] == 90


def test_two_phases_under_one_uid_are_split_by_acquisition():
    a = [file_bytes(i, 2.0 * i, AcquisitionNumber=1) for i in range(80)]
    b = [file_bytes(100 + i, 2.0 * i, AcquisitionNumber=2) for i in range(80)]
    rows = series_of(a + b)
    assert [(r["split"], r["n_slices"], r["spacing_z_median_mm"]) for r in rows] == [
        ("acquisition 1", 80, 2.0),
        ("acquisition 2", 80, 2.0),
    ]


def test_acquisitions_that_do_not_collide_stay_one_volume():
    r = one([file_bytes(i, AcquisitionNumber=1 + i // 40) for i in range(80)])
    assert (r["n_slices"], r["split"]) == (80, None)


# rule 2
@pytest.mark.parametrize("kind", ["LOCALIZER", "SCOUT", "MIP", "SCREEN SAVE", "SECONDARY"])
def test_images_that_are_no_slices_are_excluded(kind):
    image_type = ["DERIVED", "SECONDARY"] if kind == "SECONDARY" else ["ORIGINAL", "PRIMARY", kind]
    r = one(stack(5, ImageType=image_type))
    assert (r["state"], r["code"]) == ("EXCLUDED", "Q_LOCALIZER")
    assert kind in gate(r, "Q_LOCALIZER")["value"]


def test_a_derived_series_is_used_only_where_no_original_is():
    original = series_of(stack(100, SliceThickness=5.0, ConvolutionKernel="BONE"))
    other: dict[str, Any] = {"SeriesInstanceUID": f"{ROOT}.7", "ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}
    derived = series_of(stack(100, **other))
    both = original + derived
    choose(both, FIT)
    assert (original[0]["chosen"], derived[0]["chosen"], derived[0]["code"]) == (True, False, "NOT_CHOSEN")
    alone = series_of(stack(100, **other))
    choose(alone, FIT)
    assert alone[0]["chosen"]
    assert "derived" in alone[0]["choice_reason"]


# rule 3
def test_order_comes_from_positions_whatever_names_and_numbers_say():
    z = [3.0 * i for i in range(60)]
    files = [file_bytes(i, z[i], InstanceNumber=60 - i, SliceLocation=-z[i]) for i in range(60)]
    random.Random(3).shuffle(files)
    r = one(files)
    assert [i["z_mm"] for i in r["instances"]] == z
    assert [i["sop_uid"] for i in r["instances"]] == [f"{ROOT}.3.{i + 1}" for i in range(60)]


def test_the_result_does_not_depend_on_the_order_of_files():
    files = stack(40) + [file_bytes(100 + i, 2.0 * i, AcquisitionNumber=2) for i in range(40)]
    rows = header_rows(files)
    want = assemble(rows, FIT, lambda a, b: True)
    for seed in range(5):
        mixed = rows[:]
        random.Random(seed).shuffle(mixed)
        assert assemble(mixed, FIT, lambda a, b: True) == want


# rule 4
def test_tiny_jitter_of_the_orientation_is_fine_a_skewed_one_is_not():
    assert one(stack(90, ImageOrientationPatient=[1, 1e-6, 0, 0, 1.000001, 0]))["state"] is None
    r = one(stack(90, ImageOrientationPatient=[1, 0.01, 0, 0, 1, 0]))
    assert (r["state"], r["code"]) == ("QUARANTINED", "BAD_ORIENTATION")


# rule 5
def test_a_copy_of_a_file_counts_once():
    files = stack(80)
    rows, left = assemble(header_rows([*files, files[3]]), FIT, lambda a, b: True)
    assert (len(rows), rows[0]["n_slices"], rows[0]["state"]) == (1, 80, None)
    assert [(f["code"], f["uri"]) for f in left] == [("DUPLICATE_INSTANCE", "mem://00080")]


def test_one_sop_uid_with_other_pixels_is_refused():
    files = stack(80)
    rows, left = assemble(header_rows([*files, file_bytes(3, 500.0)]), FIT, lambda a, b: False)
    assert [(r["state"], r["code"], r["n_slices"]) for r in rows] == [("QUARANTINED", "SOP_UID_CLASH", 81)]
    assert left == []


def test_other_uid_at_the_same_position_is_refused_where_nothing_parts_them():
    r = one([*stack(80), file_bytes(300, 10.0)], same=lambda a, b: False)
    assert (r["state"], r["code"], r["n_duplicate_positions"]) == ("EXCLUDED", "Q_DUP_SLICES", 1)


# rules 6 and 7
def test_spacing_is_measured_never_the_thickness_tag():
    assert one(stack(100, 1.5, SliceThickness=3.0))["spacing_z_median_mm"] == 1.5


def test_a_missing_slice_is_told_where_and_the_longest_run_is_kept():
    files = [f for i, f in enumerate(stack(120)) if i not in (100, 101)]
    rows = series_of(files)
    kept, rest = rows
    assert (kept["state"], kept["n_slices"], kept["n_missing_slices"], kept["z_max_mm"]) == (None, 100, 2, 198.0)
    assert gate(kept, "Q_MISSING_SLICES")["verdict"] == "warn"
    assert kept["message"] == "2 missing after z 198.0 mm"
    assert (rest["n_slices"], rest["code"], rest["split"]) == (18, "Q_MISSING_SLICES", "outside the longest run")


def test_a_gap_that_leaves_no_long_run_excludes():
    r = one([f for i, f in enumerate(stack(100)) if i != 50])
    assert (r["state"], r["code"], r["n_slices"]) == ("EXCLUDED", "Q_MISSING_SLICES", 99)
    assert "1 missing after z 98.0 mm" in r["message"]


# rule 8
def test_variable_spacing_keeps_the_real_positions_or_is_refused():
    z = np.cumsum([2.0] * 60 + [3.1] * 40)
    files = [file_bytes(i, float(v)) for i, v in enumerate(z)]
    r = one(files)
    assert r["state"] is None
    assert [i["z_mm"] for i in r["instances"]] == pytest.approx(z)
    assert r["spacing_z_max_dev_mm"] == pytest.approx(1.1)
    strict = one(files, IndexConfig(geometry=Geometry(variable_spacing="reject")))
    assert (strict["state"], strict["code"]) == ("EXCLUDED", "IRREGULAR_SPACING")


# rule 9
@pytest.mark.parametrize(("deg", "verdict"), [(0.0, "pass"), (0.08, "pass"), (3.0, "warn"), (18.0, "fail")])
def test_tilt_is_the_angle_between_step_and_normal_not_the_tag(deg, verdict):
    shear = np.tan(np.radians(deg))
    files = [
        file_bytes(i, ImagePositionPatient=[-100, -120 + shear * 2 * i, 2.0 * i], GantryDetectorTilt=-7)
        for i in range(90)
    ]
    r = one(files)
    assert r["gantry_tilt_deg"] == pytest.approx(deg, abs=1e-3)
    assert gate(r, "Q_TILT")["verdict"] == verdict
    assert r["instances"][-1]["position"][1] == pytest.approx(-120 + shear * 178, abs=1e-6)  # the shear is kept


# rule 10
def test_in_plane_drift_that_is_no_straight_line_is_refused():
    files = [file_bytes(i, ImagePositionPatient=[-100 + (4.0 if i > 50 else 0.0), -120, 2.0 * i]) for i in range(90)]
    r = one(files)
    assert (r["state"], r["code"]) == ("QUARANTINED", "DRIFT")


# rule 11
def test_rescale_is_per_slice():
    files = [file_bytes(i, RescaleIntercept=-1024 + i % 2) for i in range(90)]
    assert [i["intercept"] for i in one(files)["instances"]][:3] == [-1024, -1023, -1024]


@pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept"])
def test_ct_without_rescale_is_quarantined_never_guessed(tag):
    absent: dict[str, Any] = {tag: None}
    r = one([*stack(80), file_bytes(90, 160.0, **absent)])
    assert (r["state"], r["code"]) == ("QUARANTINED", "NO_RESCALE")


# rule 17
def test_too_few_slices():
    r = one(stack(2))
    assert (r["state"], r["code"]) == ("EXCLUDED", "TOO_FEW_SLICES")


@pytest.mark.parametrize("spacing", [[0, 0.7], [-1, 0.7]])
def test_pixel_spacing_that_is_no_length(spacing):
    assert one(stack(80, PixelSpacing=spacing))["code"] == "BAD_SPACING"


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_no_position_no_volume(tag):
    absent: dict[str, Any] = {tag: None}
    rows = series_of([*stack(80), file_bytes(90, 160.0, **absent)])
    assert {r["code"] for r in rows if r["n_slices"] in (1, 81)} == {"NO_GEOMETRY"}


def test_sagittal_originals_are_not_axial():
    files = [
        file_bytes(i, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[2.0 * i, -100, 300])
        for i in range(90)
    ]
    assert one(files)["code"] == "NOT_AXIAL"


# rule 16
def enhanced(n: int = 90, override: bool = True) -> bytes:
    """Enhanced CT whose frames lie in shuffled order; shared groups carry a wrong position that frames override."""
    ds = dataset(0)
    px = np.stack([np.full((16, 16), 100 + i, np.int16) for i in range(n)])
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        del ds[tag]
    ds.SOPClassUID, ds.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.2.1", n
    order = list(range(n))
    random.Random(1).shuffle(order)

    def item(**kw):
        d = Dataset()
        for k, v in kw.items():
            setattr(d, k, v)
        return d

    shared = item(
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[20.0, 17.5], SliceThickness=2.0)]),
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelValueTransformationSequence=Sequence([item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")]),
        PlanePositionSequence=Sequence([item(ImagePositionPatient=[0, 0, 777])]),
    )
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for i in order:
        f = item(PlanePositionSequence=Sequence([item(ImagePositionPatient=[-100, -120, 2.0 * i])]))
        if i == 5 and override:
            f.PixelValueTransformationSequence = Sequence(
                [item(RescaleIntercept=-1000, RescaleSlope=1, RescaleType="HU")]
            )
        frames.append(f)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.PixelData = px[order].tobytes()
    return to_bytes(ds)


def test_enhanced_multi_frame_equals_single_files(tmp_path):
    from osteo_ray.dicom.sources import file_uri
    from osteo_ray.dicom.stack import SliceStack

    path = tmp_path / "enhanced"
    path.write_bytes(enhanced())
    r = one([path.read_bytes()])
    assert (r["state"], r["n_slices"], r["sop_count"], r["spacing_z_median_mm"]) == (None, 90, 1, 2.0)
    for item in r["instances"]:
        item["uri"] = file_uri(path)
    with SliceStack.from_row(r) as s:
        for i in (0, 5, 89):
            assert s.hu(i).min() == s.hu(i).max() == 100 + i - (1000 if i == 5 else 1024)
    assert r["bytes"] == path.stat().st_size


@pytest.mark.parametrize(("degrees", "code"), [(10.0, None), (30.0, "NOT_AXIAL")])
def test_oblique_slices_are_not_axial(degrees, code):
    c, s = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))
    files = [
        file_bytes(i, ImageOrientationPatient=[1, 0, 0, 0, c, -s], ImagePositionPatient=[0.0, 2 * i * s, 2 * i * c])
        for i in range(90)
    ]
    assert one(files)["code"] == code


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        ({}, 1),
        ({"PatientName": "DOE^JANE^Dr."}, 1),
        ({"PatientName": "Roe^Jane"}, 2),
        ({"PatientName": None}, 2),
        ({"PatientBirthDate": "19560102"}, 2),
        ({"PatientBirthDate": ""}, 2),
        ({"PatientSex": "M"}, 2),
    ],
    ids=str,
)
def test_images_that_lack_the_number_are_of_the_person_whom_they_name(other, parts):
    """An export left PatientID out of every third image of one series."""
    born = {"PatientBirthDate": "19560101"}
    files = [file_bytes(i, 2.0 * i, **born | ({"PatientID": ""} | other if i % 3 == 0 else {})) for i in range(100)]
    rows = series_of(files)
    assert len({r["split"] for r in rows}) == parts
    assert max(r["n_slices"] for r in rows) == (100 if parts == 1 else 66)
    if parts == 1:
        assert (rows[0]["n_slices"], rows[0]["state"]) == (100, None)
        assert rows[0]["patient_key"] == series_of(stack(100, PatientBirthDate="19560101"))[0]["patient_key"]


def test_of_two_numbers_neither_is_that_of_images_without_one():
    tags = ({"PatientID": "P-1"}, {"PatientID": "P-2"}, {"PatientID": ""})
    rows = series_of(file_bytes(i, 2.0 * i, PatientBirthDate="19560101", **tags[i % 3]) for i in range(99))
    assert [r["n_slices"] for r in rows] == [33, 33, 33]
