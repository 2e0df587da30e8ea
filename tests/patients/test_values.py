"""What is written in a cell: numbers, bounds, codes, days and ages, by stated rules."""

import numpy as np
import pandas as pd
import pytest

from osteo_ray.config import ConfigError, validate
from osteo_ray.patients import Mapping, RecordsError, load
from osteo_ray.patients.dates import days, moments
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.mapping import Numbers
from osteo_ray.patients.values import BAD, BOUND, MISSING, OK, number

MISSES = frozenset({"", "na"})


@pytest.mark.parametrize(
    ("cell", "rule", "value", "state"),
    [
        ("5.2", {}, 5.2, OK),
        (" ５．２ ", {}, 5.2, OK),
        ("−2.5", {}, -2.5, OK),
        ("1e3", {}, 1000, OK),
        (7, {}, 7, OK),
        ("na", {}, np.nan, MISSING),
        (None, {}, np.nan, MISSING),
        ("5,2", {}, np.nan, BAD),
        ("5,2", {"decimal": ","}, 5.2, OK),
        ("1.234,5", {"decimal": ",", "thousands": "."}, 1234.5, OK),
        ("1,234.5", {"thousands": ","}, 1234.5, OK),
        ("12,34", {"thousands": ","}, np.nan, BAD),
        ("1 234", {"thousands": " "}, 1234, OK),
        ("<5", {}, np.nan, BOUND),
        ("＜5", {}, np.nan, BOUND),
        ("<= 5", {"bounds": "half"}, 2.5, BOUND),
        (">5", {"bounds": "half"}, np.nan, BOUND),
        ("<5,0", {"bounds": "half", "decimal": ","}, 2.5, BOUND),
        ("89+", {}, np.nan, BAD),
        ("89+", {"rules": ["top_coded"]}, 89, OK),
        ("067Y", {"rules": ["age_units"]}, 67, OK),
        ("804M", {"rules": ["age_units"]}, 67, OK),
        ("67岁", {"rules": ["age_units"]}, 67, OK),
        ("5.2 H", {}, np.nan, BAD),
        ("5.2 H", {"rules": ["flags"]}, 5.2, OK),
        ("5.2↑", {"rules": ["flags"]}, 5.2, OK),
        ("5.2 H*", {"rules": ["flags"]}, 5.2, OK),
        ("5.2 (H)", {"rules": ["flags"]}, 5.2, OK),
        (">89", {"rules": ["top_coded"]}, 89, OK),
        ("67 Jahre", {"rules": ["age_units"]}, 67, OK),
        ("1’234.5", {"thousands": "'"}, 1234.5, OK),
        ('="5.2"', {}, 5.2, OK),
        (20.5, {"decimal": ","}, 20.5, OK),
        ("inf", {}, np.nan, BAD),
        ("1_000", {}, np.nan, BAD),
        (True, {}, np.nan, BAD),
    ],
)
def test_a_number_is_read_by_the_rules_that_are_named(cell, rule, value, state):
    got = number(cell, MISSES, validate(Numbers, rule))
    assert got[1] == state
    assert got[0] == pytest.approx(value, nan_ok=True, abs=0.01)


def crea(tmp_path, text, on_bad="raise", **more):
    path = tmp_path / "r.csv"
    path.write_text(text)
    base = {"patient_id": "id", "features": {"creatinine_umol_l": {"column": "crea"}}}
    return load(path, Mapping.model_validate(base | more), on_bad=on_bad)


def told(t):
    assert t.report is not None
    return "; ".join(t.report.notes)


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("60,5", r"numbers: \{decimal: ','\}"),
        ("1,234", r"numbers: \{thousands: ','\}"),
        ("61 H", r"rules: \[flags\]"),
        ("haemolytic", "add it to `missing:`"),
        ("#DIV/0!", "a spreadsheet's error"),
        ("1.234,5", r"numbers: \{decimal: ',', thousands: '.'\}"),
        ("61 umol/L", "take 'umol/L' out"),
        ("-1", "outside 10 to 2500.*add it to `missing:`"),
        ("0.9", "outside 10 to 2500.*it would fit mg/dL"),
    ],
)
def test_what_is_no_number_names_what_would_mend_it(tmp_path, value, remedy):
    with pytest.raises(RecordsError, match=remedy):
        crea(tmp_path, f'id,crea\nA,"{value}"\n')


def test_bounds_are_missing_and_counted_or_half_the_limit(tmp_path):
    text = "id,crea\nA,<30\nB,60\n"
    t = crea(tmp_path, text)
    assert np.isnan(t.frame["creatinine_umol_l"][0])
    assert next(f.bounds for f in t.report.features if f.name == "creatinine_umol_l") == 1
    assert any("bounds" in line and "creatinine_umol_l 1" in line for line in t.report.lines())
    assert crea(tmp_path, text, numbers={"bounds": "half"}).frame["creatinine_umol_l"].tolist() == [15, 60]


def test_codes_may_be_what_yaml_makes_of_them(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("id,sex,smokes\nA,1,yes\nB,2,no\nC,1.0,no\n")
    yaml = tmp_path / "m.yaml"
    yaml.write_text(
        "patient_id: id\nfeatures:\n"
        "  sex_male: {column: sex, codes: {1: 1, 2: 0}}\n  smoker: {column: smokes, codes: {yes: true, no: false}}\n"
    )
    f = load(path, yaml).frame
    assert f["sex_male"].tolist() == [1, 0, 1]
    assert f["smoker"].tolist() == [1, 0, 0]


def test_a_text_where_codes_are_needed_names_them(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("id,sex\nA,F\nB,M\n")
    m = Mapping.model_validate({"patient_id": "id", "features": {"sex_male": {"column": "sex"}}})
    with pytest.raises(RecordsError, match=r"'F' is not a number.*`codes: \{M: 1, F: 0\}`"):
        load(path, m)


def test_missing_texts_may_be_numbers(tmp_path):
    assert crea(tmp_path, "id,crea\nA,-999.0\nB,n/a\n", missing=[-999, "N/A"]).frame["creatinine_umol_l"].isna().all()


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2024-03-10T20:30:00-05:00", "2024-03-10"),
        ("2024-03-11T07:30:00+08:00", "2024-03-11"),
        ("2024-03-10T23:59:59.123Z", "2024-03-10"),
        ("2024-03-10 08:00", "2024-03-10"),
        ("20240310", "2024-03-10"),
        ("20240310083000", "2024-03-10"),
        ("2024/3/5", "2024-03-05"),
        ("2024年3月5日", "2024-03-05"),
        ("05/03/2024", None),
        ("2024-02-30", None),
        ("9999-12-31", None),
        ("2024-03", None),
        ("45356", None),
        ("2024-03-10 8:30 PM", "2024-03-10"),
        ("2024年3月10日 下午8:30", "2024-03-10"),
        ("2024-03-10 25:00", None),
    ],
)
def test_a_date_is_its_local_day_and_never_guessed(text, day):
    parsed = days(pd.Series([text]), MISSES)
    assert str(parsed.values[0]) == (day or "NaT")
    assert parsed.state[0] == (OK if day else BAD)


def test_dates_of_another_form_or_zone_are_named_by_the_mapping(tmp_path):
    assert str(days(pd.Series(["05/03/2024 08:00"]), MISSES, ("%d/%m/%Y",)).values[0]) == "2024-03-05"
    assert str(days(pd.Series(["2024-03-10T20:30:00Z"]), MISSES, (), "Asia/Shanghai").values[0]) == "2024-03-11"
    text = "id,day,crea\nA,05/03/2024,61\n"
    with pytest.raises(RecordsError, match=r"day or month first.*'%d/%m/%Y'. or '%m/%d/%Y'"):
        crea(tmp_path, text, date="day")
    f = crea(tmp_path, text, date="day", date_format="%d/%m/%Y").frame
    assert str(f["record_date"][0].date()) == "2024-03-05"


def test_seconds_are_those_of_the_local_day():
    texts = ["2024-03-10 02:00 PM", "2024-03-10 10:00 AM", "20240310083000", "2024-03-10T16:30:00Z", "10.03.2024 08.30"]
    assert moments(pd.Series(texts), MISSES, ("%d.%m.%Y %H.%M",))[1].tolist() == [50400, 36000, 30600, 59400, 30600]
    parsed, second = moments(pd.Series(["2024-03-10T16:30:00Z", "20240310163000+0000"]), MISSES, (), "Asia/Shanghai")
    assert [str(d) for d in parsed.values] == ["2024-03-11", "2024-03-11"]
    assert second.tolist() == [1800, 1800]


def test_of_two_named_forms_that_fit_none_is_right(tmp_path):
    both = ("%d/%m/%Y", "%m/%d/%Y")
    parsed = days(pd.Series(["25/03/2024", "03/25/2024", "05/05/2024", "05/03/2024"]), MISSES, both)
    assert parsed.state.tolist() == [OK, OK, OK, BAD]
    with pytest.raises(RecordsError, match="two of the forms that date_format names fit"):
        crea(tmp_path, "id,day,crea\nA,05/03/2024,61\n", date="day", date_format=list(both))


@pytest.mark.parametrize(
    ("text", "remedy"),
    [("45356", "a spreadsheet's number of a day"), ("05-MAR-24", "'%d-%b-%y'"), ("5. Mar 2024", "'%d. %b %Y'")],
)
def test_what_is_no_date_names_its_form(tmp_path, text, remedy):
    with pytest.raises(RecordsError, match=remedy):
        crea(tmp_path, f"id,day,crea\nA,{text},61\n", date="day")


def test_a_year_or_month_of_birth_is_taken_by_its_middle(tmp_path):
    text = "id,day,crea,born\nA,2024-07-01,61,1954\nB,2024-07-01,61,1954-03\n"
    f = crea(tmp_path, text, date="day", birth_date="born").frame
    assert f["age_y"].tolist() == pytest.approx([70, 70.3], abs=0.05)


def test_a_text_may_mean_missing_in_one_feature_alone(tmp_path):
    features = {"creatinine_umol_l": {"column": "crea", "missing": [99]}, "weight_kg": {"column": "w"}}
    f = crea(tmp_path, "id,crea,w\nA,99,99\nB,61,70\n", features=features).frame
    assert f["creatinine_umol_l"].tolist() == pytest.approx([np.nan, 61], nan_ok=True)
    assert f["weight_kg"].tolist() == [99, 70]


def test_a_birth_year_of_two_digits_is_never_in_the_future(tmp_path):
    more = {"date": "day", "birth_date": "born", "date_format": "%d.%m.%y"}
    text = "id,day,crea,born\nA,05.01.24,61,01.03.55\nB,05.01.24,61,29.02.48\nC,05.01.24,61,01.03.70\n"
    assert crea(tmp_path, text, **more).frame["age_y"].tolist() == pytest.approx([68.8, 75.8, 53.8], abs=0.1)


def test_what_stands_beside_a_refused_date_is_not_undated(tmp_path):
    text = "id,day,crea,t,on\nA,x,61,-2.6,2024-01-05\nB,2024-01-05,62,-2.6,x\nC,,63,-2.6,\n"
    f = crea(tmp_path, text, date="day", dxa_date="on", t_score="t", on_bad="missing").frame
    assert f["creatinine_umol_l"].tolist() == pytest.approx([np.nan, 62, 63], nan_ok=True)
    assert f["t_score"].tolist() == pytest.approx([-2.6, np.nan, -2.6], nan_ok=True)


def test_ages_that_contradict_the_birth_date_are_told(tmp_path):
    features = {"age_y": {"column": "age"}, "creatinine_umol_l": {"column": "crea"}}
    text = "id,day,age,born,crea\nA,2024-01-01,67,1980-01-01,61\nB,2024-01-01,67,1957-01-01,61\n"
    t = crea(tmp_path, text, date="day", birth_date="born", features=features)
    assert any("1 ages are more than 2 years off" in n for n in t.report.notes)


def test_dates_that_can_hardly_be_are_told(tmp_path):
    t = crea(tmp_path, "id,day,crea\nA,1900-01-01,61\nB,2190-01-05,61\nC,2024-01-05,61\n", date="day")
    assert any("1 date is before 1980-01-01, the first 1900-01-01" in n for n in t.report.notes)
    assert any("1 date is after today, the first 2190-01-05" in n for n in t.report.notes)


def test_numbers_that_stand_for_missing_are_told(tmp_path):
    t = crea(tmp_path, "id,crea\n" + "".join(f"{k},{v}\n" for k, v in enumerate([61, 70, 999, 80, 999, 75])))
    assert any("999 stands 2 times for creatinine_umol_l" in n for n in t.report.notes)
    assert not crea(tmp_path, "id,crea\nA,61\nB,99\n").report.notes
    many = [*range(60, 90), 999, 999, 999, 600]
    t = crea(tmp_path, "id,crea\n" + "".join(f"P{k},{v}\n" for k, v in enumerate(many, 1)))
    assert "999 stands 3 times for creatinine_umol_l, and no other value above 600" in told(t)
    once = [v for v in many if v != 999] + [999]
    assert not told(crea(tmp_path, "id,crea\n" + "".join(f"P{k},{v}\n" for k, v in enumerate(once, 1))))


def test_t_scores_without_a_sign_are_told(tmp_path):
    rows = "".join(f"{k},61,{0.7 + k / 50}\n" for k in range(12))
    t = crea(tmp_path, "id,crea,t\n" + rows, t_score="t")
    assert any("not one of 12 T-scores is below 0" in n for n in t.report.notes)


def test_a_birth_date_gives_the_age_at_the_record(tmp_path):
    f = crea(
        tmp_path, "id,day,crea,born\nA,2024-03-01,61,1954-03-01\nB,,61,1954-03-01\n", date="day", birth_date="born"
    )
    assert f.frame["age_y"][0] == pytest.approx(70, abs=0.1)
    assert np.isnan(f.frame["age_y"][1])
    assert str(f.frame["birth_month"][1].date()) == "1954-03-01"
    with pytest.raises(RecordsError, match="an age of -30 at the record's date"):
        crea(tmp_path, "id,day,crea,born\nA,2024-03-01,61,2054-03-01\n", date="day", birth_date="born")


def test_a_table_of_birth_dates_without_record_dates_is_no_table_without_ages(tmp_path):
    first = crea(tmp_path, "id,crea,born\nA,61,1954-03-01\nB,62,1960-07-11\n", birth_date="born")
    first.to_parquet(tmp_path / "own.parquet")
    for report in (first.report, again := load(tmp_path / "own.parquet").report):
        assert report is not None
        assert not any("holds not one value" in n for n in report.notes)
        assert any(line.startswith("birth dates: 2;") for line in report.lines())
    assert again is not None
    assert "urea_mmol_l" in again.not_given


def test_the_lowest_of_several_t_scores_counts(tmp_path):
    f = crea(tmp_path, "id,crea,hip,spine\nA,61,-1.0,-2.6\nB,61,,-0.5\nC,61,,\n", t_score=["hip", "spine"]).frame
    assert f["label"].tolist()[:2] == ["osteoporosis", "normal"]
    assert np.isnan(f["t_score"][2])


@pytest.mark.parametrize("pid", ["1.23457E+11", "1.2345E7", "1.23457e+11"])
def test_an_id_that_a_spreadsheet_rounded_is_refused(tmp_path, pid):
    with pytest.raises(RecordsError, match="lost its last digits"):
        crea(tmp_path, f"id,crea\n{pid},61\n")


def test_what_keeps_a_spreadsheet_from_numbers_is_no_part_of_an_id(tmp_path):
    f = crea(tmp_path, 'id,crea\n\'0012,61\n="0012",62\n0012,63\n').frame
    assert f["patient_key"].tolist() == [patient_key("0012", None)] * 3
    with pytest.raises(RecordsError, match="'#REF!' is a spreadsheet's error, not a patient id"):
        crea(tmp_path, "id,crea\n#REF!,61\n")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"format": "long", "patient_id": "id"}, "a long mapping needs test, value"),
        ({"patient_id": "id"}, "a wide mapping needs features"),
        ({"patient_id": "id", "features": {"alt_u_l": {"column": "a", "analyte": "urea_nitrogen"}}}, "no analyte"),
        ({"patient_id": "id", "t_score": "t", "numbers": {"decimal": ",", "thousands": ","}}, "can't both be ','"),
        ({"patient_id": "id", "timezone": "Asia/Peking", "t_score": "t"}, "no such time zone"),
        ({"patient_id": "id", "date_format": "DD.MM.YYYY", "t_score": "t"}, "names no day, month and year"),
        ({"patient_id": "id", "test": "x", "t_score": "t"}, "format wide has no use for: test"),
        ({"format": "long", "patient_id": "id", "test": "x", "value": "v", "t_score": "t"}, "no use for: t_score"),
        ({"format": "fhir", "patient_id": "id"}, "format fhir has no use for: patient_id"),
        ({"patient_id": "id", "features": {"alt_u_l": {"column": "a"}, "ast_u_l": {"column": "a"}}}, "two features"),
        ({"patient_id": "id", "features": {"smoker": {"column": "a", "codes": {"Y": 1, "y": 0}}}}, "in case alone"),
        ({"patient_id": "id", "site": "A", "site_column": "s", "features": {"bmi": {"column": "b"}}}, "not both"),
    ],
)
def test_a_mapping_that_can_not_work_is_refused(bad, error):
    with pytest.raises(ConfigError, match=error):
        validate(Mapping, bad)


@pytest.mark.parametrize("value", ["80¹", "8①", "90₂", "80½", "5⒈"])
def test_a_raised_or_circled_digit_is_no_part_of_a_number(tmp_path, value):
    with pytest.raises(RecordsError, match=rf"'{value}' is not a number.*a footnote's mark"):
        crea(tmp_path, f"id,crea\nA,{value}\n")


@pytest.mark.parametrize("pid", ["三院00123", "千葉123", "一二三", "Ⅳ-12"])
def test_a_numeral_that_is_a_letter_may_stand_in_an_id(tmp_path, pid):
    assert crea(tmp_path, f"id,crea\n{pid},61\n").frame["patient_key"].tolist() == [patient_key(pid, None)]


def swapped(tmp_path, texts, name="day"):
    rows = [[k, pd.Timestamp(2024, k, 1), 61] for k in range(1, 6)]
    rows += [[k, text, 61] for k, text in enumerate(texts, 6)]
    pd.DataFrame(rows, columns=["id", name, "crea"]).to_excel(tmp_path / "r.xlsx", index=False)
    features = {"creatinine_umol_l": {"column": "crea"}}
    m = {"patient_id": "id", "date_format": "%d/%m/%Y", "features": features}
    m["date" if name == "day" else "birth_date"] = name
    return lambda on_bad="raise": load(tmp_path / "r.xlsx", Mapping.model_validate(m), on_bad=on_bad)


def test_dates_whose_day_and_month_a_spreadsheet_exchanged_are_refused(tmp_path):
    read = swapped(tmp_path, ["15/01/2024", "16/01/2024"])
    with pytest.raises(RecordsError, match=r"5 cells are dates .*'15/01/2024'.*day and month are exchanged; export"):
        read()
    f = read("missing").frame
    assert f["record_date"].notna().tolist() == [False] * 5 + [True] * 2
    assert f["creatinine_umol_l"].tolist() == pytest.approx([np.nan] * 5 + [61] * 2, nan_ok=True)
    with pytest.raises(RecordsError, match="column 'born': 5 cells are dates"):
        swapped(tmp_path, ["15/01/2024", "16/01/2024"], "born")()


def test_dates_that_may_be_exchanged_by_chance_are_told(tmp_path):
    assert "look whether they are" in told(swapped(tmp_path, ["15/01/2024"])())
    rows = "".join(f"{k},2024-{k:02d}-01,61\n" for k in range(1, 10)) + "10,15/01/2024,61\n11,16/01/2024,61\n"
    t = crea(tmp_path, "id,day,crea\n" + rows, date="day", date_format="%d/%m/%Y")
    assert "look whether they are" in told(t)
    assert t.frame["record_date"].notna().all()


def test_dates_in_two_forms_of_which_either_has_late_days_are_read(tmp_path):
    text = "id,day,crea\nA,2024-01-15,61\nB,2024-02-01,61\nC,15/01/2024,61\nD,25/02/2024,61\n"
    t = crea(tmp_path, text, date="day", date_format="%d/%m/%Y")
    assert t.frame["record_date"].notna().all()
    assert not t.report.notes
    few = crea(tmp_path, "id,day,crea\nA,2024-01-05,61\nB,15/01/2024,61\n", date="day", date_format="%d/%m/%Y")
    assert few.frame["record_date"].notna().all()
    assert any("look whether they are" in n for n in few.report.notes)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("05.03.2024 08:00 Uhr", "2024-03-05"),
        ("05.03.2024 08.30", "2024-03-05"),
        ("05.03.2024 08:30 CEST", "2024-03-05"),
        ("05.03.2024T08:00:00.123+01:00", "2024-03-05"),
        ("05.03.2024 23:30:00Z", "2024-03-06"),
        ("05.03.2024 - 12.04.2024", None),
        ("05.03.2024 12.04.2024", None),
        ("05.03.2024 cancelled", None),
        ("05.03.2024 25:00", None),
    ],
)
def test_behind_a_date_of_a_named_form_only_a_time_may_stand(text, day):
    parsed = days(pd.Series([text]), MISSES, ("%d.%m.%Y",), "Asia/Shanghai")
    assert str(parsed.values[0]) == (day or "NaT")
    assert parsed.state[0] == (OK if day else BAD)


@pytest.mark.parametrize(
    ("time", "second"),
    [
        ("01:50 p. m.", 49800),
        ("01.50.40.000000 PM", 49840),
        ("13.50.40", 49840),
        ("13:50:40:123", 49840),
        ("à 13:50", 49800),
        ("오후 1:50", 49800),
        ("午後 1:50", 49800),
        ("上午 1:50", 6600),
        ("13:50 hs", 49800),
        ("13:50 hrs", 49800),
        ("13:50 MSK", 49800),
        ("13:50 UTC+1", 49800),
        ("13:50 UTC+01:00", 49800),
    ],
)
def test_a_time_of_day_is_one_in_any_writing(time, second):
    texts = [f"{day} {time}" for day in ("24/11/2013", "24-NOV-13", "24.11.2013", "2013-11-24")]
    parsed, seconds = moments(pd.Series(texts), MISSES, ("%d/%m/%Y", "%d-%b-%y", "%d.%m.%Y"))
    assert [str(d) for d in parsed.values] == ["2013-11-24"] * 4
    assert seconds.tolist() == [second] * 4


def test_a_zone_is_heeded_and_a_second_date_with_dots_is_no_time():
    texts = ["24/11/2013 23:50 UTC-1", "24/11/2013 23:50 GMT-0130", "24/11/2013 23:50 UTC+99"]
    parsed, _ = moments(pd.Series(texts), MISSES, ("%d/%m/%Y",), "UTC")
    assert [str(d) for d in parsed.values] == ["2013-11-25", "2013-11-25", "NaT"]
    ranges = pd.Series(["05.03.24 12.04.24", "05.03.24 - 12.04.24", "05.03.24 13.50.40"])
    assert days(ranges, MISSES, ("%d.%m.%y",)).state.tolist() == [BAD, BAD, OK]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("24-01-25", "day, month or year first.*'%d-%m-%y'. or '%y-%m-%d'"),
        ("24-01-05", "day, month or year first.*'%d-%m-%y'. or '%y-%m-%d'"),
        ("05.03.24", "'%d.%m.%y'. or '%m.%d.%y' or '%y.%m.%d'"),
        ("98-13-14", "write YYYY-MM-DD"),
    ],
)
def test_a_year_of_two_digits_may_stand_first(tmp_path, text, remedy):
    with pytest.raises(RecordsError, match=remedy):
        crea(tmp_path, f"id,day,crea\nA,{text},61\n", date="day")


def test_what_stands_behind_a_date_is_named(tmp_path):
    with pytest.raises(RecordsError, match=r"'05.03.2024 - 12.04.2024' is no date; behind '05.03.2024' only a time of"):
        crea(tmp_path, "id,day,crea\nA,05.03.2024 - 12.04.2024,61\n", date="day", date_format="%d.%m.%Y")


def test_t_scores_of_zero_that_stand_for_none_are_told(tmp_path):
    rows = "".join(f"{k},61,{0 if k % 2 else -1.5}\n" for k in range(12))
    assert any("6 of 12 T-scores are 0" in n for n in crea(tmp_path, "id,crea,t\n" + rows, t_score="t").report.notes)


def test_undated_values_that_no_timeline_uses_are_told(tmp_path):
    text = "id,crea,t\nA,61,-2.6\nA,90,-1.0\nB,61,-2.6\nB,61,-2.9\n"
    t = crea(tmp_path, text, t_score="t")
    assert "none is used: creatinine_umol_l of 1 patients, t_score of 1 patients; name the column" in told(t)
    dated = crea(tmp_path, "id,day,crea\nA,2024-01-05,61\nA,2024-01-06,90\nB,,61\n", date="day")
    assert not told(dated)


def test_patients_of_both_sexes_are_told(tmp_path):
    features = {"sex_male": {"column": "sex", "codes": {"M": 1, "F": 0}}}
    t = crea(tmp_path, "id,day,sex\nA,2024-01-05,M\nA,2024-01-06,F\nB,2024-01-05,M\n", date="day", features=features)
    assert "the records of 1 patients give both sexes" in told(t)


def test_signs_of_bounds_apart_from_their_values_are_told(tmp_path):
    assert "column 'op' holds the signs of bounds (<, >=)" in told(
        crea(tmp_path, "id,op,crea\nA,<,61\nB,>=,62\nC,,63\n")
    )
    assert not told(crea(tmp_path, "id,op,crea\nA,=,61\nB,,62\n"))


def test_a_birth_date_that_too_many_share_is_told(tmp_path):
    rows = [f"P{k},2024-01-05,61,{1930 + k}-03-0{k % 9 + 1}" for k in range(1, 20)]
    more = {"date": "day", "birth_date": "born"}
    assert not told(crea(tmp_path, "id,day,crea,born\n" + "\n".join(rows), **more))
    rows += [f"Q{k},2024-01-05,61,1950-01-01" for k in range(1, 6)]
    text = "id,day,crea,born\n" + "\n".join(rows)
    assert "5 of 24 patients are born on 1950-01-01" in told(crea(tmp_path, text, **more))


def test_sites_that_differ_in_writing_alone_are_told(tmp_path):
    text = "id,crea,s\nA1,61,North\nA1,62,NORTH \nB1,63,South\n"
    assert "'North', 'NORTH' are different sites" in told(crea(tmp_path, text, site_column="s"))
