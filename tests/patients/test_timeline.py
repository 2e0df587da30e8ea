"""The timeline: hand-written cases, each with its stated pairing, and what holds for any records."""

import numpy as np
import pandas as pd
import pytest
from pairing import CASES, found

from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.events import class_of, days_of
from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.labels import CLASSES, label_of
from osteo_ray.patients.record_set import MemoryRecords, open_record_set, partition_of, write_record_set
from osteo_ray.patients.schema import NAMES
from osteo_ray.patients.table import RecordTable
from osteo_ray.patients.timeline import Timelines, latest_per_patient, training_examples

CFG = TimelineConfig()


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_hand_written_timelines(case):
    assert found(case) == case.expected


def drawn(n: int, seed: int = 0) -> RecordTable:
    """n records of about n / 3 patients, some without date, with DXA and treatment."""
    rng = np.random.default_rng(seed)
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 2000, n), unit="D")
    frame = pd.DataFrame({
        "patient_key": [f"k{i:05d}" for i in rng.integers(0, max(1, n // 3), n)],
        "record_date": pd.Series(day).where(rng.random(n) > 0.1),
        "dxa_date": pd.Series(day).where(rng.random(n) > 0.5),
        "t_score": np.where(rng.random(n) < 0.4, rng.normal(-1.5, 1.2, n).round(1), np.nan),
        "osteoporosis_treatment": np.where(rng.random(n) < 0.2, rng.integers(0, 2, n), np.nan),
        "sex_male": np.where(rng.random(n) < 0.5, 1.0, np.nan),
        "creatinine_umol_l": np.where(rng.random(n) < 0.6, rng.normal(70, 9, n).round(), np.nan),
        "alp_u_l": np.where(rng.random(n) < 0.6, rng.normal(70, 9, n).round(), np.nan),
    })  # fmt: skip
    return RecordTable.of(frame)


def scans(n: int, patients: int, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 2000, n), unit="D")
    dates = pd.Series(day.strftime("%Y%m%d")).where(rng.random(n) > 0.05)
    keys = [f"k{i:05d}" for i in rng.integers(0, patients, n)]
    return pd.DataFrame({"patient_key": keys, "series_uid": [f"s{i}" for i in range(n)], "study_date": dates})


def one_by_one(table: RecordTable, key: str, day: np.datetime64, cfg: TimelineConfig, name: str) -> float:
    """A lab at a CT by the words of the rule, without an array in sight."""
    rows = [r for r in table.frame.to_dict("records") if r["patient_key"] == key and r[name] == r[name]]
    by_gap: dict[int, list[float]] = {}
    for r in rows:
        if pd.notna(r["record_date"]) and not np.isnat(day):
            gap = int((day - np.datetime64(r["record_date"], "D")).astype(int))
            if -cfg.after_days <= gap <= cfg.lab_days:
                by_gap.setdefault(gap, []).append(r[name])
    if by_gap:
        gap = min(by_gap, key=lambda g: (abs(g), g < 0))
        return float(np.mean(by_gap[gap]))
    loose = {r[name] for r in rows if pd.isna(r["record_date"])}
    return loose.pop() if len(loose) == 1 else np.nan


@pytest.mark.parametrize("cfg", [CFG, TimelineConfig(after_days=30, lab_days=200)])
def test_the_arrays_say_what_the_rule_says(cfg):
    table, cts = drawn(600), scans(200, 200)
    days = days_of(cts["study_date"])
    got = Timelines.of(table).values_at(cts["patient_key"], days, cfg).values
    for name in ("creatinine_umol_l", "alp_u_l"):
        wanted = [one_by_one(table, k, d, cfg, name) for k, d in zip(cts["patient_key"], days, strict=True)]
        assert np.isfinite(wanted).sum() > 20
        np.testing.assert_allclose(got[:, NAMES.index(name)], wanted)


def test_the_order_of_rows_means_nothing():
    table, cts = drawn(600), scans(200, 200)
    mixed = RecordTable.of(table.frame.sample(frac=1, random_state=3))
    a, b = (training_examples(Timelines.of(t), cts, CFG) for t in (table, mixed))
    for f in a.__dataclass_fields__:
        x, y = getattr(a, f), getattr(b, f)
        assert np.array_equal(x, y) if x.dtype.kind in "OUb" else np.array_equal(x, y, equal_nan=True), f


def test_every_ct_is_an_example_and_a_patient_counts_once():
    e = training_examples(Timelines.of(drawn(600)), scans(300, 250), CFG)
    assert sorted(e.scan[e.scan >= 0].tolist()) == list(range(300))
    assert set(e.patient[e.scan < 0].tolist()).isdisjoint(e.patient[e.scan >= 0].tolist())
    assert pd.Series(e.patient[e.scan < 0]).is_unique
    per = pd.Series(e.judged).groupby(e.patient).sum()
    assert (per == 1).all()
    labelled = pd.Series(e.label >= 0).groupby(e.patient).any()
    assert (pd.Series(e.label[e.judged] >= 0, e.patient[e.judged]).sort_index() == labelled.sort_index()).all()
    assert "CTs of" in e.lines()[0]


def test_a_join_that_meets_nobody_is_said_aloud():
    cts = scans(20, 20).assign(patient_key=lambda f: "x" + f["patient_key"])
    lines = training_examples(Timelines.of(drawn(60)), cts, CFG).lines()
    assert any("no CT met a record" in line for line in lines)


def test_classes_and_days_of_arrays_are_those_of_one_value():
    t = np.array([-2.5, -2.49, -1.0, -1.01, np.nan])
    assert [None if c < 0 else CLASSES[c] for c in class_of(t)] == [label_of(v) for v in t]
    assert days_of(["20240301", "2024-03-01", "2024-03-01T23:30:00+08:00", "", None, "2024"]).astype(str).tolist() == [
        *["2024-03-01"] * 3, *["NaT"] * 3]  # fmt: skip


@pytest.mark.parametrize("partitions", [1, 7])
def test_a_partitioned_set_says_the_same_as_the_table(tmp_path, partitions):
    table, cts = drawn(4000), scans(500, 1500)
    record_set = write_record_set(table, str(tmp_path / "set"), partitions)
    assert record_set == open_record_set(str(tmp_path / "set"))
    whole = MemoryRecords(table)
    assert (len(record_set), record_set.patients) == (len(whole), table.frame["patient_key"].nunique())
    keys, days = cts["patient_key"], days_of(cts["study_date"])
    for name in ("values", "days"):
        a, b = (getattr(r.take(keys).values_at(keys, days, CFG), name) for r in (whole, record_set))
        assert np.array_equal(a, b, equal_nan=True)
    a, b = (r.take(keys).labels_at(keys, days, CFG) for r in (whole, record_set))
    assert a.why.tolist() == b.why.tolist()
    assert (whole.digests([*keys, "nobody", None]) == record_set.digests([*keys, "nobody", None])).all()
    assert sum(len(t) for t in record_set.parts()) == record_set.patients
    pd.testing.assert_frame_equal(whole.take(keys).known(), record_set.take(keys).known())


def test_a_set_that_is_written_anew_is_read_anew(tmp_path):
    uri = str(tmp_path)
    first = write_record_set(drawn(3000, 1), uri, 2)
    keys = [f"k{i:05d}" for i in range(900)]
    assert len(first.take(keys))
    second = write_record_set(drawn(9000, 2), uri, 2)
    wanted = MemoryRecords(drawn(9000, 2)).take(keys)
    assert second.take(keys).keys.tolist() == wanted.keys.tolist()
    with pytest.raises(RecordsError, match="no record set"):
        open_record_set(str(tmp_path / "nothing"))


def test_the_partition_of_a_patient_never_changes():
    assert partition_of(np.array(["9f3c", "", "é"]), 64).tolist() == [55, 0, 62]


def test_the_latest_study_stands_for_a_patient_and_a_label_goes_first():
    rows = pd.DataFrame({
        "patient_key": ["a", "a", "a", "b", "b"],
        "study_date": ["20200101", "20240101", None, None, "20190101"],
        "row_key": ["1", "2", "0", "4", "5"],
    })  # fmt: skip
    assert latest_per_patient(rows)["row_key"].tolist() == ["2", "5"]
    labelled = np.array([True, False, False, False, False])
    assert set(latest_per_patient(rows, labelled)["row_key"]) == {"1", "5"}


def test_an_age_grows_until_the_ct():
    """60 at its record, 65 at a CT five years later: a wide window must not make a patient younger than the header."""
    frame = pd.DataFrame({"patient_key": ["a"], "record_date": pd.to_datetime(["2015-03-01"]), "age_y": [60.0]})
    wide = TimelineConfig(demographics_days=3650, after_days=3650)
    days = days_of(["20200301", "20100301", "20150301", None])
    ages = Timelines.of(RecordTable.of(frame)).values_at(["a"] * 4, days, wide).values[:, NAMES.index("age_y")]
    assert ages[:3] == pytest.approx([65, 55, 60], abs=0.01)
    assert np.isnan(ages[3])


def test_a_birth_month_gives_the_age_at_any_ct(tmp_path):
    """A patient table has no record dates, and a birth date is true on every day; two of them are none."""
    table = RecordTable.of(pd.DataFrame({
        "patient_key": ["a", "b", "b", "c"],
        "record_date": pd.to_datetime([None, "2012-05-01", "2013-05-01", "2020-02-01"]),
        "birth_month": pd.to_datetime(["1955-03-01", "1950-01-01", "1951-01-01", "1960-07-01"]),
        "age_y": [40.0, np.nan, np.nan, 59.5],
    }))  # fmt: skip
    keys, days = ["a", "a", "a", "b", "c", "nobody"], ["20150315", "19500101", None, "20130601", "20200301", "20200301"]
    ages = {}
    for name, records in (("table", MemoryRecords(table)), ("set", write_record_set(table, str(tmp_path / "s"), 2))):
        got = records.take(keys).values_at(keys, days_of(days), CFG)
        ages[name] = got.values[:, NAMES.index("age_y")]
    np.testing.assert_array_equal(ages["table"], ages["set"])
    # before the birth, and at a CT without a date, the undated statement is all there is
    assert ages["set"] == pytest.approx([60, 40, 40, np.nan, 59.58, np.nan], abs=0.01, nan_ok=True)
    changed = RecordTable.of(table.frame.assign(birth_month=pd.Timestamp("1955-04-01")))
    assert MemoryRecords(table).digests(["a"]) != MemoryRecords(changed).digests(["a"])
    without = table.frame.drop(columns="birth_month")
    unknown = table.frame.assign(birth_month=pd.NaT)
    assert (MemoryRecords(RecordTable.of(without)).digests(["a", "b"]) == MemoryRecords(
        RecordTable.of(unknown)).digests(["a", "b"])).all()  # fmt: skip


def test_a_set_of_before_there_were_birth_months_is_read(tmp_path):
    import json

    import pyarrow.parquet as pq

    table = drawn(300)
    record_set = write_record_set(table, str(tmp_path), 2)
    for part in tmp_path.glob("part-*.parquet"):
        pq.write_table(pq.read_table(part).drop_columns("birth_month"), part, row_group_size=1024)
    facts = json.loads((tmp_path / "records.json").read_text()) | {"version": 1, "id": "old"}
    (tmp_path / "records.json").write_text(json.dumps(facts))
    old, keys = open_record_set(str(tmp_path)), [f"k{i:05d}" for i in range(100)]
    days = days_of(["20220101"] * len(keys))
    a, b = (r.take(keys).values_at(keys, days, CFG).values for r in (MemoryRecords(table), old))
    np.testing.assert_array_equal(a, b)
    assert sum(len(t) for t in old.parts()) == record_set.patients
    (tmp_path / "records.json").write_text(json.dumps(facts | {"version": 3}))
    with pytest.raises(RecordsError, match="version 3"):
        open_record_set(str(tmp_path))
