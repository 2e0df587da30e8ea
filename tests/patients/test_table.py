"""The record table: mapping, units, refusal of bad values, and the one-person form."""

import numpy as np
import pandas as pd
import pytest

from osteo_ray import patients as records
from osteo_ray.config import ConfigError
from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.mapping import Mapping


def mapping(**features):
    return Mapping.model_validate({"patient_id": "id", "features": features})


def write(tmp_path, text):
    path = tmp_path / "r.csv"
    path.write_text(text)
    return path


def test_a_bmi_that_height_and_weight_contradict_is_told(tmp_path):
    m = mapping(
        height_cm={"column": "h", "unit": "cm"},
        weight_kg={"column": "w", "unit": "kg"},
        bmi={"column": "bmi", "unit": "kg/m2"},
    )
    t = records.load(write(tmp_path, "id,h,w,bmi\nA,170,70,24\nB,160,60,32\nC,160,,32\n"), m)
    assert t.report is not None
    assert [n for n in t.report.notes if "BMI" in n] == [
        "1 records state a BMI more than 2 kg/m2 off that by their height and weight: one of the three is wrong, or of "
        "another day"
    ]


def test_units_are_converted_to_the_schema(tmp_path):
    path = write(tmp_path, "id,crea,alp,hb,u\nA,1.0,70,13.5,g/dL\nB,,80,8.5,mmol/L\n")
    m = mapping(
        creatinine_umol_l={"column": "crea", "unit": "mg/dL"},
        alp_u_l={"column": "alp", "unit": "IU/L"},
        haemoglobin_g_l={"column": "hb", "unit_column": "u"},
    )
    t = records.load(path, m, "k").frame
    assert t["creatinine_umol_l"][0] == pytest.approx(88.4, abs=0.05)
    assert np.isnan(t["creatinine_umol_l"][1])
    assert list(t["alp_u_l"]) == [70, 80]
    assert t["haemoglobin_g_l"][0] == pytest.approx(135)
    assert t["haemoglobin_g_l"][1] == pytest.approx(137, abs=0.1)  # 8.5 mmol/L of haem iron
    assert t["patient_key"][0] == patient_key("A", "k")


def test_each_bad_value_is_named_with_row_column_value_and_unit(tmp_path):
    path = write(tmp_path, "id,crea,sex\nA,88000,F\nB,high,X\n")
    m = mapping(
        creatinine_umol_l={"column": "crea", "unit": "umol/L"}, sex_male={"column": "sex", "codes": {"M": 1, "F": 0}}
    )
    with pytest.raises(records.RecordsError) as e:
        records.load(path, m)
    text = str(e.value)
    assert "r.csv, line 2, column 'crea': creatinine_umol_l = 88000 umol/L is outside 10 to 2500 umol/L" in text
    assert "r.csv, line 3, column 'crea': 'high' is not a number" in text
    assert "r.csv, line 3, column 'sex': 'X' is no code of sex_male (M, F)" in text
    kept = records.load(path, m, on_bad="missing")
    assert len(kept.issues) == 3
    assert kept.frame["creatinine_umol_l"].isna().all()


def test_a_wrong_unit_is_refused_and_named(tmp_path):
    path = write(tmp_path, "id,alp\nA,70\n")
    with pytest.raises(records.RecordsError, match=r"line 2, column 'alp': 70: unit 'mmol/L' cannot be turned into"):
        records.load(path, mapping(alp_u_l={"column": "alp", "unit": "mmol/L"}))


def test_an_absent_column_names_what_the_table_has(tmp_path):
    path = write(tmp_path, "id,alp\nA,70\n")
    with pytest.raises(
        records.RecordsError,
        match=r"column 'ALP' \(alp_u_l\): named.*did you mean 'alp'.*has: id, alp",
    ):
        records.load(path, mapping(alp_u_l={"column": "ALP"}))


def test_an_unknown_feature_in_a_mapping_is_refused(tmp_path):
    bad = tmp_path / "m.yaml"
    bad.write_text("patient_id: id\nfeatures:\n  creatinin: {column: c}\n")
    with pytest.raises(ConfigError, match="unknown feature 'creatinin'"):
        records.load_mapping(bad)


def test_missing_stays_missing_in_the_matrix():
    t = records.from_mapping_dict({"age_y": 67, "sex": "F", "height_cm": 160, "weight_kg": 64, "alp_u_l": None})
    values, mask = t.matrix(["age_y", "sex_male", "bmi", "alp_u_l", "tc_mmol_l"])
    assert values.dtype == np.float32
    assert mask.tolist() == [[True, True, True, False, False]]
    assert values[0, :3] == pytest.approx([67, 0, 25.0])
    assert np.isnan(values[0, 3:]).all()


def test_one_person_is_checked_like_a_file():
    with pytest.raises(records.RecordsError) as e:
        records.from_mapping_dict({"age": 67, "sex": "woman", "height_cm": 1.60})
    text = str(e.value)
    assert "age: no such feature" in text
    assert "sex: 'woman' is neither 'M' nor 'F'" in text
    assert "height_cm: 1.6 cm is outside 120 to 220 cm" in text


@pytest.mark.parametrize(
    ("t", "label"),
    [(-2.5, "osteoporosis"), (-2.49, "osteopenia"), (-1.01, "osteopenia"), (-1.0, "normal"), (None, None)],
)
def test_labels_follow_the_who_limits(t, label):
    assert records.label_of(t) == label


def test_parquet_round_trip(tmp_path):
    t = records.from_mapping_dict({"age_y": 67, "sex": "F", "t_score": -2.7}, patient_key="0" * 16)
    t.to_parquet(tmp_path / "t.parquet")
    again = records.load(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(again.frame, t.frame)
    assert again.frame["label"][0] == "osteoporosis"
    assert len(again.by_key("0" * 16)) == 1
    assert len(again.by_key("1" * 16)) == 0


def test_an_id_that_a_table_holds_as_a_number_is_the_id_that_the_ct_has(tmp_path):
    pd.DataFrame({"id": [1234.0, 5.0], "alp": [70.0, np.nan]}).to_parquet(tmp_path / "r.parquet")
    t = records.load(tmp_path / "r.parquet", mapping(alp_u_l={"column": "alp"}), "k").frame
    assert t["patient_key"].tolist() == [patient_key("1234", "k"), patient_key("5", "k")]
    assert np.isnan(t["alp_u_l"][1])


def test_a_record_without_an_id_is_named_and_joins_nothing(tmp_path):
    path = write(tmp_path, "id,alp\n,70\nB,80\n")
    m = mapping(alp_u_l={"column": "alp"})
    with pytest.raises(records.RecordsError, match="line 2, column 'id': no patient id"):
        records.load(path, m)
    assert records.load(path, m, on_bad="missing").frame["patient_key"].isna().tolist() == [True, False]


def test_dxa_date_and_treatment_are_read_checked_and_absent_where_the_source_lacks_them(tmp_path):
    csv = tmp_path / "r.csv"
    csv.write_text(
        "patient_id,record_date,t_score,dxa_date,osteoporosis_treatment\na,2022-01-05,-2.6,2021-11-02,yes\nb,,,,\n"
    )
    frame = records.load(csv).frame
    assert str(frame["dxa_date"][0].date()) == "2021-11-02"
    assert frame["osteoporosis_treatment"].tolist()[0] == 1
    assert frame.loc[1, ["dxa_date", "osteoporosis_treatment"]].isna().all()
    records.load(csv).to_parquet(tmp_path / "r.parquet")
    again = records.load(tmp_path / "r.parquet").frame
    assert again["dxa_date"].equals(frame["dxa_date"])
    csv.write_text("patient_id,dxa_date,osteoporosis_treatment\na,2021-13-40,perhaps\n")
    with pytest.raises(RecordsError, match="'2021-13-40' is no date") as e:
        records.load(csv)
    assert "'perhaps' is no code of osteoporosis_treatment" in str(e.value)
    csv.write_text("patient_id,age_y\na,60\n")
    assert not {"dxa_date", "osteoporosis_treatment"} & set(records.load(csv).frame)
