"""Every gate: one case that fires, one that does not."""

from __future__ import annotations

import numpy as np
import pytest
from ct_making import gate, series_of, stack

from osteo_ray.catalogue import checks as g
from osteo_ray.catalogue.config import IndexConfig, QualityChecks

CFG = QualityChecks()


@pytest.mark.parametrize(
    ("name", "fires", "tags"),
    [
        ("Q_MODALITY", "fail", {"Modality": "MR"}),
        ("Q_LOCALIZER", "fail", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("Q_THICKNESS", "fail", {"SliceThickness": 6.0}),
        ("Q_KERNEL_SHARP", "warn", {"ConvolutionKernel": "BONEPLUS"}),
        ("Q_KVP", "warn", {"KVP": 80}),
        ("Q_KVP", "warn", {"KVP": None}),
        ("Q_CONTRAST", "warn", {"ContrastBolusAgent": "OMNIPAQUE"}),
        ("Q_AGE", "fail", {"PatientAge": "039Y"}),
        ("Q_AGE", "warn", {"PatientAge": None}),
        ("Q_LOSSY", "warn", {"LossyImageCompression": "01"}),
        ("Q_DATE", "warn", {"StudyDate": "20240301", "AcquisitionDate": "20190204"}),
    ],
    ids=lambda v: str(v),
)
def test_header_gates_fire_and_do_not(name, fires, tags):
    plain = series_of(stack(90))[0]
    assert gate(plain, name)["verdict"] == "pass"
    assert plain["state"] is None
    r = series_of(stack(90, **tags))[0]
    assert gate(r, name)["verdict"] == fires
    assert (r["state"], r["code"]) == (("EXCLUDED", name) if fires == "fail" else (None, None))
    assert gate(r, name)["threshold"]


@pytest.mark.parametrize(
    ("tags", "day"),
    [
        ({"StudyDate": "20240301"}, "20240301"),
        ({"StudyDate": "20240301", "AcquisitionDate": "20240302"}, "20240301"),  # past midnight
        ({"StudyDate": "20240301", "AcquisitionDate": "20190204"}, None),  # imported, or shifted in one place alone
        ({"StudyDate": "20240301", "AcquisitionDateTime": "20190204093000.000000+0100"}, None),
        ({"StudyDate": "20240301", "AcquisitionDate": "19000101"}, "20240301"),  # a placeholder contradicts nothing
        ({"AcquisitionDate": "20190204", "ContentDate": "20190205"}, "20190204"),
        ({"StudyDate": "19000101", "SeriesDate": "20190204"}, "20190204"),
        ({"ContentDate": "20190205"}, "20190205"),
        ({"StudyDate": "2019.02.04"}, "20190204"),
        ({"StudyDate": "19000101"}, None),
    ],
    ids=str,
)
def test_the_day_of_a_study(tags, day):
    none = dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), "")
    assert series_of(stack(90, **none | tags))[0]["study_date"] == day


def test_a_site_may_say_that_the_study_date_counts():
    rows = stack(90, StudyDate="20240301", AcquisitionDate="20190204")
    off = series_of(rows, IndexConfig(gates=QualityChecks(date="off")))[0]
    assert (off["study_date"], off["state"]) == ("20240301", None)
    failed = series_of(rows, IndexConfig(gates=QualityChecks(date="fail")))[0]
    assert (failed["state"], failed["code"]) == ("EXCLUDED", "Q_DATE")


def test_thick_spacing_fires_like_thick_slices():
    r = series_of(stack(40, 7.0, SliceThickness=1.0))[0]
    assert (r["code"], gate(r, "Q_THICKNESS")["value"]) == ("Q_THICKNESS", "7")


def test_strict_policy_turns_warnings_into_failures():
    cfg = IndexConfig(gates=QualityChecks(policy="strict"))
    assert series_of(stack(90, KVP=80), cfg)[0]["code"] == "Q_KVP"
    assert series_of(stack(90), cfg)[0]["state"] is None


def test_a_gate_that_is_off_says_pass():
    cfg = IndexConfig(gates=QualityChecks(kvp_action="off", age="off"))
    r = series_of(stack(90, KVP=80, PatientAge="010Y"), cfg)[0]
    assert (gate(r, "Q_KVP")["verdict"], gate(r, "Q_AGE")["verdict"], r["state"]) == ("pass", "pass", None)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("LUNG", "sharp"),
        ("BONE", "sharp"),
        ("EDGE", "sharp"),
        ("B70f", "sharp"),
        ("Br64d\\3", "sharp"),
        ("Bl57f", "sharp"),
        ("I70f\\2", "sharp"),
        ("YB", "sharp"),
        ("L", "sharp"),
        ("FC51", "sharp"),
        ("FC30", "sharp"),
        ("STANDARD", "soft"),
        ("SOFT", "soft"),
        ("B30f", "soft"),
        ("Br38f\\3", "soft"),
        ("B", "soft"),
        ("FC08", "soft"),
        (None, "unknown"),
    ],
)
def test_kernels_of_four_makers(kernel, kind):
    assert g.kernel_class(kernel, CFG) == kind


def body(air: float = -1000.0) -> np.ndarray:
    hu = np.full((64, 64), air, np.float32)
    hu[16:48, 16:48] = 40
    return hu


def test_metal():
    hu = body()
    assert g.q_metal(hu, CFG).verdict == "pass"
    hu[20:23, 20:23] = 3000
    assert g.q_metal(hu, CFG).verdict == "warn"


@pytest.mark.parametrize(("levels", "verdict"), [(5, "pass"), (2, "pass"), (1, "fail"), (0, "fail"), (None, "fail")])
def test_coverage(levels, verdict):
    assert g.q_coverage(levels, CFG).verdict == verdict


@pytest.mark.parametrize(
    ("air", "verdict"), [(-1000, "pass"), (-960, "pass"), (-1024, "pass"), (-850, "warn"), (0, "warn")]
)
def test_air(air, verdict):
    assert g.q_air_calib(body(air), CFG).verdict == verdict


def test_air_is_found_beside_padding():
    hu = body(-995)
    hu[:3], hu[-3:], hu[:, :3], hu[:, -3:] = -3024, -3024, -3024, -3024
    assert g.q_air_calib(hu, CFG).verdict == "pass"


def test_missing_modalities():
    assert g.q_modality_missing([], CFG).verdict == "pass"
    fired = g.q_modality_missing(["labs"], CFG)
    assert (fired.verdict, fired.value) == ("warn", "labs")


def test_tilt_of_either_sign():
    assert [g.q_tilt(t, CFG).verdict for t in (0.05, -0.05, 2.0, -2.0, 9.0, -9.0)] == [
        "pass",
        "pass",
        "warn",
        "warn",
        "fail",
        "fail",
    ]


@pytest.mark.parametrize("fn", [g.q_missing_slices, g.q_dup_slices])
def test_counts(fn):
    assert fn(0, CFG).verdict == "pass"
    assert fn(3, CFG).verdict in ("warn", "fail")


@pytest.mark.parametrize(
    ("header", "record", "verdict", "value"),
    [
        ({"age_y": 49, "sex_male": 0}, {"age_y": 67, "sex_male": 1}, "fail",
         "age 49 in the header, 67 in the record; sex F in the header, M in the record"),
        ({"age_y": 49, "sex_male": 0}, {"age_y": 51, "sex_male": 0}, "pass", "no conflict"),
        ({"age_y": 49}, {"age_y": 51.1}, "fail", "age 49 in the header, 51 in the record"),
        ({"age_y": 90}, {"age_y": 97}, "pass", "no conflict"),  # de-identified: 90 stands for every age above 89
        ({"age_y": 90}, {"age_y": 80}, "fail", "age 90 in the header, 80 in the record"),
        ({"sex_male": 1}, {"age_y": 51}, "pass", "absent"),
        ({}, {}, "pass", "absent"),
    ],
)  # fmt: skip
def test_header_and_record_of_two_people(header, record, verdict, value):
    q = g.q_identity(header, record, CFG)
    assert (q.gate, q.verdict, q.value) == ("Q_IDENTITY", verdict, value)
    assert g.q_identity(header, record, QualityChecks(identity="off")).verdict == "pass"
    warned = g.q_identity(header, record, QualityChecks(identity="warn"))
    assert warned.verdict == {"fail": "warn", "pass": "pass"}[verdict]
    assert g.q_identity(header, record, QualityChecks(identity_age_y=120)).verdict in (
        ("fail",) if "sex" in value else ("pass",)
    )
