"""Long tables, a row a test: by name or LOINC, converted, gathered by patient and day."""

import re

import numpy as np
import pandas as pd
import pytest

from osteo_ray.patients import Mapping, RecordsError, load
from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.observations import BLOCK, T_SCORE, Observations, gather
from osteo_ray.patients.schema import NAMES
from osteo_ray.patients.timeline import Timelines

LONG = {
    "format": "long",
    "patient_id": "pid",
    "date": "at",
    "test": "test",
    "value": "result",
    "unit": "unit",
    "tests": {"creatinine_umol_l": ["Crea", "肌酐"], "t_score": {"names": ["T hip", "T spine"]}},
}


def read(tmp_path, rows, name="r.csv", **more):
    path = tmp_path / name
    path.write_text("pid,at,test,result,unit\n" + "\n".join(rows) + "\n")
    return load(path, Mapping.model_validate(LONG | more))


def test_tests_by_name_and_loinc_become_records_of_a_day(tmp_path):
    t = read(
        tmp_path,
        [
            "A,2024-02-01 08:00,crea,0.9,mg/dL",
            "A,2024-02-01 15:00,Crea,1.1,mg/dL",
            "A,2024-02-01 08:00,6768-6,92,U/L",
            "A,2024-02-03 09:30,肌酐,88.4,umol/L",
            "B,2024-02-03,3094-0,14,mg/dL",
            "B,2024-02-03,Sodium,140,mmol/L",
            "B,2024-02-03,T hip,-1.0,",
            "B,2024-02-03,T spine,-2.7,",
        ],
    )
    f = t.frame.set_index(["patient_key", t.frame["record_date"].dt.strftime("%m-%d")])
    a, b = patient_key("A", None), patient_key("B", None)
    assert len(f) == 3
    assert f.loc[(a, "02-01"), "creatinine_umol_l"] == pytest.approx(97.2, abs=0.1)  # the later of the day
    assert f.loc[(a, "02-01"), "alp_u_l"] == 92
    assert f.loc[(a, "02-03"), "creatinine_umol_l"] == pytest.approx(88.4)
    assert f.loc[(b, "02-03"), "urea_mmol_l"] == pytest.approx(5.0, abs=0.05)
    assert f.loc[(b, "02-03"), "label"] == "osteoporosis"
    assert str(f.loc[(b, "02-03"), "dxa_date"].date()) == "2024-02-03"
    assert t.report.unknown == (("Sodium", 1),)


def test_what_can_not_be_used_is_named_by_line(tmp_path):
    rows = ["A,2024-02-01,Crea,1,", "A,2024-02-01,Crea,1,U/L", "A,x,Crea,80,umol/L", ",2024-02-01,Crea,80,umol/L"]
    with pytest.raises(RecordsError) as e:
        read(tmp_path, rows)
    text = str(e.value)
    assert "r.csv, line 2, column 'result': 1: no unit; creatinine_umol_l is measured in umol/L" in text
    assert "line 3, column 'result': 1: unit 'U/L' cannot be turned into" in text
    assert "line 4, column 'at': 'x' is no date" in text
    assert "line 5, column 'pid': no patient id" in text


def test_sex_and_birth_date_may_be_columns_of_every_row(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("pid,at,test,result,unit,sex,born\nA,2024-02-01,Crea,80,umol/L,F,1954-02-01\n")
    more = {"features": {"sex_male": {"column": "sex", "codes": {"M": 1, "F": 0}}}, "birth_date": "born"}
    f = load(path, Mapping.model_validate(LONG | more)).frame
    assert f.loc[0, ["sex_male", "creatinine_umol_l"]].tolist() == [0, 80]
    assert f["age_y"][0] == pytest.approx(70, abs=0.1)


def test_two_sexes_and_two_undated_values_are_kept_apart_for_the_timeline(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("pid,at,test,result,unit,sex\nA,2024-02-01,Crea,80,umol/L,F\nA,2024-02-01,Crea,90,umol/L,M\n")
    sexes = {"features": {"sex_male": {"column": "sex", "codes": {"M": 1, "F": 0}}}}
    f = load(path, Mapping.model_validate(LONG | sexes)).frame
    assert sorted(f["sex_male"]) == [0, 1]
    assert Timelines.of(f).sex_conflict.tolist() == [True]
    f = read(tmp_path, ["A,,Crea,80,umol/L", "A,,Crea,90,umol/L", "B,,Crea,70,umol/L", "B,,Crea,70,umol/L"]).frame
    assert f.groupby("patient_key")["creatinine_umol_l"].nunique().to_dict() == {
        patient_key("A", None): 2,
        patient_key("B", None): 1,
    }


def test_the_later_of_a_day_is_so_by_any_clock(tmp_path):
    rows = ["A,02/01/2024 02:00 PM,Crea,80,umol/L", "A,02/01/2024 10:00 AM,Crea,90,umol/L"]
    assert read(tmp_path, rows, date_format="%m/%d/%Y").frame["creatinine_umol_l"].tolist() == [80]


def test_an_age_that_can_not_be_is_a_problem_here_too(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("pid,at,test,result,unit,born\nA,2024-02-01,Crea,80,umol/L,2015-02-01\n")
    with pytest.raises(RecordsError, match="an age of 9 at the record's date"):
        load(path, Mapping.model_validate(LONG | {"birth_date": "born"}))


def test_where_no_test_is_used_the_tests_are_named(tmp_path):
    with pytest.raises(RecordsError, match=r"no record in what was read; .*LOINC:2160-0 x 1"):
        read(tmp_path, ["A,2024-02-01,LOINC:2160-0,80,umol/L"])


def test_a_test_gives_one_feature():
    more = {"tests": {"creatinine_umol_l": ["Crea"], "urine_creatinine_mmol_l": ["crea"]}}
    with pytest.raises(ValueError, match="the test 'crea' is given for two features"):
        Mapping.model_validate(LONG | more)


def test_equal_numbers_of_two_sites_are_two_patients(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(
        "pid,at,test,result,unit,site\n1,2024-02-01,Crea,80,umol/L,north\n1,2024-02-01,Crea,90,umol/L,south\n"
    )
    f = load(path, Mapping.model_validate(LONG | {"site_column": "site"})).frame
    assert f["patient_key"].nunique() == 2
    assert dict(zip(f["site"], f["creatinine_umol_l"], strict=True)) == {"north": 80, "south": 90}


def test_a_day_with_nothing_but_bounds_is_still_a_record(tmp_path):
    t = read(tmp_path, ["A,2024-02-01,Crea,<20,umol/L"])
    assert len(t) == 1
    assert t.frame["creatinine_umol_l"].isna().all()


def observations(rng, n):
    block = np.zeros(n, BLOCK)
    block["patient"] = rng.integers(1, 1 << 63, 40, dtype=np.uint64)[rng.integers(0, 40, n)]
    block["what"] = rng.integers(0, len(NAMES), n)
    block["day"], block["second"] = rng.integers(19000, 19020, n), rng.integers(0, 86400, n)
    block["rank"], block["value"], block["order"], block["site"] = 1, rng.normal(size=n), np.arange(n), -1
    return block


def test_spilled_to_disk_the_records_are_the_same():
    block = observations(np.random.default_rng(0), 5000)
    with Observations() as memory, Observations(spill_rows=700, partitions=7) as disk:
        for k in range(0, 5000, 300):
            memory.add(block[k : k + 300])
            disk.add(block[k : k + 300])
        one, many = (pd.concat(list(s.records())) for s in (memory, disk))
    order = ["patient_key", "record_date"]
    assert len(one) > 500
    pd.testing.assert_frame_equal(
        one.sort_values(order, ignore_index=True),
        many[one.columns].sort_values(order, ignore_index=True),
    )


def test_of_a_day_the_final_value_comes_first_then_the_latest_and_of_t_scores_the_lowest():
    block = np.zeros(6, BLOCK)
    block["patient"], block["day"], block["site"] = 7, 19000, -1
    block["what"] = [6, 6, 6, T_SCORE, T_SCORE, T_SCORE]
    block["rank"] = [1, 1, 0, 1, 1, 0]
    block["second"] = [10, 20, 30, 10, 20, 30]
    block["value"] = [60, 70, 300, -2.6, -1.0, -4.0]
    f = gather(block, [])
    assert f["creatinine_umol_l"].tolist() == [70]
    assert f["t_score"].tolist() == [-2.6]


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "T-Wert",
            "T-Werte",
            "standard deviations",
            "Standardabweichungen",
            "stdev",
            "{STDEV}",
            "DE",
            "DP",
            "SS",
            "СО",
        ),
        *("écart-type", "T値", "Tスコア", "T评分", "dimensionless", "none", "no unit", "SD units", "1", "{T-score}"),
    ],
)
def test_a_t_score_may_have_any_word_for_a_standard_deviation(tmp_path, unit):
    t = read(tmp_path, [f"A,2024-02-01,T hip,-2.7,{unit}"])
    assert t.frame["t_score"].tolist() == [-2.7]
    assert t.report is not None
    assert not t.report.notes


def test_a_t_score_with_an_unknown_word_is_read_and_told(tmp_path):
    t = read(tmp_path, ["A,2024-02-01,T hip,-2.7,Punkte"])
    assert t.frame["t_score"].tolist() == [-2.7]
    assert t.report is not None
    assert any("T-scores have the unit 'Punkte', which is not known" in n for n in t.report.notes)


@pytest.mark.parametrize("unit", ["g/cm2", "g/cm²", "g/cm^2", "Z", "Z-score", "{Z-score}", "%", "mg/cm³", "kg", "HU"])
def test_a_density_under_a_t_scores_name_is_no_t_score(tmp_path, unit):
    rows = [f"A,2024-02-01,T hip,0.712,{unit}", "A,2024-02-03,T hip,-2.7,T-Score", "B,2024-02-03,T hip,-1.2,SD"]
    with pytest.raises(
        RecordsError, match=rf"line 2, column 'result': 0.712 {re.escape(unit)}: a T-score has no such unit"
    ):
        read(tmp_path, rows)
    assert len(read(tmp_path, rows, units={unit: "1"})) == 3


def test_what_a_mapping_says_of_the_t_scores_tests_is_heeded(tmp_path):
    tests = {"t_score": {"names": ["T hip"], "missing": ["0"], "numbers": {"decimal": ","}}}
    f = read(tmp_path, ['A,2024-02-01,T hip,"-2,7",', "B,2024-02-01,T hip,0,"], tests=tests).frame
    assert sorted(f["t_score"].dropna()) == [-2.7]


def test_an_age_that_is_stated_counts_and_one_that_contradicts_the_birth_date_is_told(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(
        "pid,at,test,result,unit,age,born\nA,2024-01-05,Crea,80,umol/L,70,1990-01-01\n"
        "B,2024-01-05,Crea,80,umol/L,,1954-01-05\n"
    )
    more = {"features": {"age_y": {"column": "age"}}, "birth_date": "born"}
    t = load(path, Mapping.model_validate(LONG | more))
    f = t.frame.set_index("patient_key")["age_y"]
    assert f[patient_key("A", None)] == 70
    assert f[patient_key("B", None)] == pytest.approx(70, abs=0.1)
    assert t.report is not None
    assert any("1 ages are more than 2 years off" in n for n in t.report.notes)


def test_undated_values_of_a_long_table_that_differ_are_told(tmp_path):
    t = read(tmp_path, ["A,,Crea,80,umol/L", "A,,Crea,120,umol/L", "B,,Crea,80,umol/L"])
    assert any("none is used: creatinine_umol_l of 1 patients" in n for n in t.report.notes)


def test_signs_of_bounds_in_a_column_of_their_own(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(
        "pid,at,test,op,result,unit\nA,2024-01-05,Crea,<,30,umol/L\nA,2024-01-05,Crea,=,31,umol/L\n"
        "B,2024-01-05,Crea,,80,umol/L\nC,2024-01-05,Crea,<,,umol/L\n"
    )
    with pytest.raises(RecordsError, match=r"column 'op' holds the signs of bounds \(<\).*`comparator: op`"):
        load(path, Mapping.model_validate(LONG))
    t = load(path, Mapping.model_validate(LONG | {"comparator": "op"}))
    assert sorted(t.frame["creatinine_umol_l"].dropna()) == [31, 80]
    assert t.report is not None
    assert next(f.bounds for f in t.report.features if f.name == "creatinine_umol_l") == 1
    half = LONG | {"comparator": "op", "numbers": {"bounds": "half"}}
    path.write_text("pid,at,test,op,result,unit\nA,2024-01-05,Crea,<,30,umol/L\n")
    assert load(path, Mapping.model_validate(half)).frame["creatinine_umol_l"].tolist() == [15]


def test_a_number_beside_a_sign_has_no_decimal_sign(tmp_path):
    cells = {"pid": ["A", "B"], "at": ["2024-01-05"] * 2, "test": ["Crea"] * 2, "op": ["<", ""], "result": [80.5, 61.5]}
    pd.DataFrame(cells | {"unit": ["umol/L"] * 2}).to_parquet(tmp_path / "r.parquet")
    m = LONG | {"comparator": "op", "numbers": {"decimal": ",", "bounds": "half"}}
    f = load(tmp_path / "r.parquet", Mapping.model_validate(m)).frame
    assert sorted(f["creatinine_umol_l"]) == [40.25, 61.5]


@pytest.mark.parametrize("column", ["flag", "Abnormal", "ref_op", "lower limit"])
def test_signs_of_a_flag_or_a_reference_range_make_no_bounds(tmp_path, column):
    path = tmp_path / "r.csv"
    path.write_text(f"pid,at,test,result,unit,{column}\nA,2024-01-05,Crea,80,umol/L,<\nB,2024-01-05,Crea,81,umol/L,\n")
    t = load(path, Mapping.model_validate(LONG))
    assert sorted(t.frame["creatinine_umol_l"]) == [80, 81]
    assert t.report is not None
    assert any(f"'{column}' holds the signs of bounds (<)" in n for n in t.report.notes)


def test_a_mapping_can_say_that_no_signs_are_those_of_values(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("pid,at,test,result,unit,prefix\nA,2024-01-05,Crea,80,umol/L,<\n")
    with pytest.raises(RecordsError, match=r"name it: `comparator: prefix`, or say .* `comparator: null`"):
        load(path, Mapping.model_validate(LONG))
    t = load(path, Mapping.model_validate(LONG | {"comparator": None}))
    assert t.frame["creatinine_umol_l"].tolist() == [80]
    assert t.report is not None
    assert not t.report.notes


def test_rows_that_are_said_to_be_withdrawn_are_told(tmp_path):
    path = tmp_path / "r.csv"
    for header, word in (("status", "X"), ("remark", "Storniert")):
        path.write_text(f"pid,at,test,result,unit,{header}\nA,2024-01-05,Crea,80,umol/L,{word}\n")
        t = load(path, Mapping.model_validate(LONG))
        assert t.report is not None
        assert any(f"column '{header}' says {word.casefold()} of some rows" in n for n in t.report.notes)
    path.write_text("pid,at,test,result,unit,ward\nA,2024-01-05,Crea,80,umol/L,D\n")
    report = load(path, Mapping.model_validate(LONG)).report
    assert report is not None
    assert not report.notes


def test_rows_that_a_mapping_says_are_withdrawn_are_passed_over_and_counted(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(
        "pid,at,test,result,unit,status\nA,2024-01-05 08:00,Crea,80,umol/L,final\n"
        "A,2024-01-05 09:00,Crea,800,umol/L,Cancelled\nB,2024-01-05,Crea,81,umol/L,\nC,2024-01-05,Crea,82,umol/L,X\n"
    )
    t = load(path, Mapping.model_validate(LONG | {"withdrawn": {"column": "status"}}))
    assert sorted(t.frame["creatinine_umol_l"]) == [80, 81]
    assert t.report is not None
    assert t.report.dropped == (("rows with 'Cancelled' in 'status'", 1), ("rows with 'X' in 'status'", 1))
    assert not t.report.notes
    own = LONG | {"withdrawn": {"column": "status", "texts": ["final"]}}
    assert sorted(load(path, Mapping.model_validate(own)).frame["creatinine_umol_l"]) == [81, 82, 800]
    with pytest.raises(RecordsError, match="column 'state'"):
        load(path, Mapping.model_validate(LONG | {"withdrawn": {"column": "state"}}))


def test_what_only_later_rows_say_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("osteo_ray.patients.readers.text.ROWS", 1)
    path = tmp_path / "r.csv"
    path.write_text("pid,at,test,result,unit,op\nA,2024-01-05,Crea,80,umol/L,\nB,2024-01-05,Crea,30,umol/L,<\n")
    with pytest.raises(RecordsError, match="holds the signs of bounds"):
        load(path, Mapping.model_validate(LONG))


def test_a_row_that_states_another_unit_than_its_tests_is_refused(tmp_path):
    tests = {"urea_mmol_l": {"names": ["Urea"], "unit": "mmol/L"}}
    rows = ["A,2024-01-05,Urea,30,mg/dL", "B,2024-01-05,Urea,5,MMOL/L", "C,2024-01-05,Urea,6,", "D,2024-01-05,Urea,7,?"]
    with pytest.raises(RecordsError, match=r"line 2, column 'result': 30 mg/dL, but the mapping says that all of urea"):
        read(tmp_path, rows, tests=tests)
    assert sorted(read(tmp_path, rows[1:], tests=tests).frame["urea_mmol_l"]) == [5, 6, 7]


def test_a_birth_date_gives_the_age_at_any_ct(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(
        "pid,at,test,result,unit,born\nA,2014-01-05,Crea,80,umol/L,1954-03-11\nA,2014-01-05,Urea,5,mmol/L,1954-03-11\n"
        "B,2014-01-05,Crea,81,umol/L,1954-03-11\nB,2014-01-05,Crea,82,umol/L,1964-03-11\n"
    )
    t = load(path, Mapping.model_validate(LONG | {"birth_date": "born"}))
    keys = [patient_key(p, None) for p in "AB"]
    at_ct = Timelines.of(t).values_at(keys, ["2024-03-15"] * 2, TimelineConfig())
    age = at_ct.values[:, NAMES.index("age_y")]
    assert age[0] == pytest.approx(70, abs=0.1)
    assert np.isnan(age[1])  # two birth dates
    assert t.report is not None
    assert any(line.startswith("birth dates: 3;") for line in t.report.lines())
