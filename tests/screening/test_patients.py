import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from osteo_ray.patients.table import RecordTable
from osteo_ray.reports.worklist import write_worklist
from osteo_ray.screening.config import PatientConfig
from osteo_ray.screening.patients import PATIENTS, READ, write_patients
from osteo_ray.screening.schema import RESULTS

CFG = PatientConfig()


def study(patient: str, date: str | None, risk: float, hu: float | None = 120.0, n: int = 1, **more) -> dict:
    uid = f"{patient}.{date}.{n}"
    row = dict.fromkeys(RESULTS.names) | dict(patient_key=patient, study_date=date, risk_prob=risk, trabecular_hu=hu)
    row |= dict(study_uid=f"s{patient}{date}", series_uid=uid, row_key=uid, state="SCORED", code="OK")
    return row | dict(kvp=120.0, contrast="none", risk_class="high", modalities=["ct"]) | more


@pytest.fixture
def judged(tmp_path):
    """Patients by key, of rows and records."""

    def run(rows, records=None, cfg=CFG, **kw):
        pq.write_table(pa.Table.from_pylist(rows, schema=RESULTS), tmp_path / "results.parquet")
        write_patients(tmp_path / "results.parquet", records, tmp_path / "patients.parquet", cfg, **kw)
        table = pq.read_table(tmp_path / "patients.parquet")
        assert table.schema.equals(PATIENTS)
        return {r["patient_key"]: r for r in table.to_pylist()}

    return run


def test_the_latest_scored_study_stands_for_a_patient(judged):
    rows = [
        study("a", "20200101", 0.8),
        study("a", "20220101", 0.3, n=1),
        study("a", "20220101", 0.4, n=2),  # two series of one study: the higher risk
        study("a", "20230101", 0.9, state="ABSTAINED"),
        study("b", None, 0.7),
        study("b", "20190101", 0.2),  # an undated study is never the latest of several
        study("c", None, 0.6),
        study("x", "20220101", 0.6, patient_key=None),
    ]
    p = judged(rows)
    assert set(p) == {"a", "b", "c"}
    assert (p["a"]["risk_prob"], p["a"]["n_studies"], p["a"]["series_uid"]) == (0.4, 2, "a.20220101.2")
    assert [str(p["a"][k]) for k in ("first_date", "study_date")] == ["2020-01-01", "2022-01-01"]
    assert (p["b"]["risk_prob"], p["b"]["n_studies"], str(p["b"]["study_date"])) == (0.2, 2, "2019-01-01")
    assert (p["c"]["study_date"], p["c"]["hu_verdict"]) == (None, "NO_PRIOR")


@pytest.mark.parametrize(
    ("before", "now", "hu", "risk"),
    [
        (dict(hu=150.0), dict(hu=140.0), "NONE", "NONE"),  # 10 HU is what repeated scans differ by
        (dict(hu=150.0), dict(hu=110.0), "FALLEN", "NONE"),
        (dict(hu=100.0, risk=0.3), dict(hu=140.0, risk=0.05), "RISEN", "FALLEN"),
        (dict(kvp=100.0), dict(), "NOT_COMPARABLE", "NONE"),
        (dict(contrast="portal"), dict(), "NOT_COMPARABLE", "NONE"),
        (dict(contrast="unknown"), dict(contrast="unknown"), "NOT_COMPARABLE", "NONE"),
        (dict(kvp=None), dict(kvp=None), "NOT_COMPARABLE", "NONE"),
        (dict(hu=None), dict(), "NOT_COMPARABLE", "NONE"),
        (dict(risk=0.1), dict(risk=0.5), "NONE", "RISEN"),
    ],
)
def test_change_is_told_only_between_like_scans_and_beyond_their_noise(judged, before, now, hu, risk):
    rows = [study("a", d, **{"risk": 0.3} | kw) for d, kw in (("20200101", before), ("20230101", now))]
    p = judged(rows)["a"]
    assert (p["hu_verdict"], p["risk_verdict"]) == (hu, risk)
    if hu in ("NONE", "FALLEN", "RISEN"):
        assert (abs(p["hu_change"]) > p["hu_noise"]) == (hu != "NONE")
        assert p["hu_noise"] == pytest.approx(2.77 * 0.065 * (p["trabecular_hu"] + p["hu_before"]) / 2, rel=1e-3)


def test_repeats_without_change_are_called_unchanged_as_often_as_promised(judged):
    rng = np.random.default_rng(3)
    rows = []
    for i in range(800):
        hu = 130 * (1 + 0.065 * rng.normal(size=2))
        logit = -1 + PatientConfig().risk_repeat_sd * rng.normal(size=2)
        for date, h, x in zip(("20210101", "20220101"), hu, logit, strict=True):
            rows.append(study(f"p{i}", date, float(1 / (1 + np.exp(-x))), float(h)))
    p = pd.DataFrame(judged(rows).values())
    for verdict in ("hu_verdict", "risk_verdict"):
        assert 0.93 <= (p[verdict] == "NONE").mean() <= 0.97


def records(**columns) -> RecordTable:
    dates = ("record_date", "dxa_date")
    return RecordTable.of(pd.DataFrame({k: pd.to_datetime(v) if k in dates else v for k, v in columns.items()}))


KNOWN = [
    (dict(t_score=[-2.6], dxa_date=["2021-06-01"]), "KNOWN_DXA", True),
    (dict(t_score=[-0.5], dxa_date=["2023-06-01"]), "KNOWN_DXA", True),  # after the CT: known all the same
    (dict(t_score=[-2.6], dxa_date=["2018-06-01"]), "DXA_OLD", False),
    (dict(t_score=[-2.6], record_date=["2021-12-01"]), "DXA_UNDATED", False),  # a record's date is no DXA's
    (dict(t_score=[np.nan], dxa_date=["2021-06-01"]), None, False),  # a date without its result says nothing
    (dict(osteoporosis_treatment=[1.0], record_date=["2021-12-01"]), "ON_TREATMENT", True),
    (dict(osteoporosis_treatment=[1.0], record_date=["2019-12-01"]), "TREATMENT_OLD", False),
    (dict(osteoporosis_treatment=[1.0], record_date=[None]), "TREATMENT_UNDATED", False),
    (dict(osteoporosis_treatment=[0.0], record_date=["2021-12-01"]), None, False),
    (dict(osteoporosis_treatment=[1.0, 0.0], record_date=["2021-08-01", "2021-12-01"]), None, False),  # stopped
]


@pytest.mark.parametrize(("record", "code", "suppressed"), KNOWN)
def test_what_is_known_suppresses_only_with_a_date_that_places_it(judged, record, code, suppressed):
    n = len(next(iter(record.values())))
    p = judged([study("a", "20220101", 0.9), study("b", "20220101", 0.5)], records(patient_key=["a"] * n, **record))
    assert (p["a"]["known"], p["a"]["suppressed"]) == (code, suppressed)
    assert bool(p["a"]["known_text"]) == (code is not None)
    assert (p["b"]["known"], p["b"]["suppressed"]) == (None, False)


def test_a_ct_without_a_date_is_placed_by_nothing_and_suppression_can_be_turned_off(judged):
    known = records(patient_key=["a"], t_score=[-3.0], dxa_date=["2021-06-01"])
    assert judged([study("a", None, 0.9)], known)["a"]["known"] == "STUDY_UNDATED"
    p = judged([study("a", "20220101", 0.9)], known, PatientConfig(suppress=False))["a"]
    assert (p["known"], p["suppressed"]) == ("KNOWN_DXA", False)


def test_a_run_too_large_for_memory_comes_out_the_same(judged):
    rng = np.random.default_rng(0)
    rows = [
        study(f"p{rng.integers(40)}", f"20{rng.integers(10, 24)}0101", float(rng.random()), n=i) for i in range(300)
    ]
    for r in rows:
        r["study_uid"] = r["series_uid"]
    whole = judged(rows)
    assert judged(rows, rows_at_once=29) == whole
    assert set(READ) <= set(RESULTS.names)


def test_suppressed_patients_use_no_capacity_and_are_listed_beside(tmp_path, judged):
    rows = [study(k, "20220101", r) for k, r in (("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.6))]
    rows.append(study("c", "20200101", 0.95))
    judged(rows, records(patient_key=["a", "b"], t_score=[-3.0, np.nan], dxa_date=["2021-06-01"] * 2))
    results = pa.Table.from_pylist(rows, schema=RESULTS)
    written = write_worklist(tmp_path / "w.csv", results, 2, pq.read_table(tmp_path / "patients.parquet"))
    listed, beside = pd.read_csv(tmp_path / "w.csv"), pd.read_csv(tmp_path / "suppressed.csv")
    assert listed[["rank", "week", "patient_key", "latest"]].to_numpy().tolist() == [
        [2, 1, "b", "yes"],
        [3, 1, "c", "yes"],
        [3, 1, "c", "no"],  # an older study of higher risk does not lift the patient
        [4, 2, "d", "yes"],
    ]
    assert listed["studies"].tolist() == [1, 2, 2, 1]
    assert beside[["rank", "patient_key", "known"]].to_numpy().tolist() == [[1, "a", "KNOWN_DXA"]]
    assert (written.listed, written.suppressed) == (3, {"KNOWN_DXA": 1})
    assert "1 more are in" in str(written)
    assert listed["notice"].str.contains("1 patients are not in this list").all()
    write_worklist(tmp_path / "w.csv", results, 2)
    assert not (tmp_path / "suppressed.csv").exists(), "of an earlier run"
