"""A proposed mapping is complete enough to be corrected, and says what has to be looked at."""

import pytest
import yaml

from osteo_ray.patients import Mapping, load
from osteo_ray.patients.draft import draft


def test_a_wide_table_with_units_in_its_header(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(
        "MRN;Datum;Geschlecht;Alter;Kreatinin (mg/dl);BUN;Hb;ward\n"
        "1;05.03.2024;m;67Y;0,9;14,1;13,5;x\n2;25.03.2024;w;89+;1,1;16;12,1;y\n"
    )
    lines = draft(path)
    proposed = yaml.safe_load("\n".join(lines))
    assert proposed["date_format"] == ["%d.%m.%Y"]
    assert proposed["numbers"] == {"decimal": ",", "rules": ["top_coded", "age_units"]}
    assert proposed["features"]["sex_male"]["codes"] == {"m": 1, "w": 0}
    assert proposed["features"]["urea_mmol_l"] == {"column": "BUN", "unit": "mg/dL", "analyte": "urea_nitrogen"}
    notes = "\n".join(line for line in lines if line.startswith("#"))
    assert "'ward': used by nothing" in notes
    assert "haemoglobin_g_l: no unit is written; by its median of 12.8 it may be g/dL" in notes
    f = load(path, Mapping.model_validate(proposed)).frame
    assert f["creatinine_umol_l"][0] == pytest.approx(79.6, abs=0.1)
    assert f["age_y"].tolist() == [67, 89]


def test_a_long_table_in_another_encoding(tmp_path):
    path = tmp_path / "r.csv"
    rows = ["肌酐,61,μmol/L", "谷丙转氨酶,20,U/L", "钠,140,mmol/L"]
    text = "病历号,采样时间,检验项目,结果,单位\n" + "".join(f"1,2024-01-05,{r}\n" for r in rows)
    path.write_bytes(text.encode("gb18030"))
    lines = draft(path)
    proposed = yaml.safe_load("\n".join(lines))
    assert proposed["format"] == "long"
    assert proposed["tests"] == {"creatinine_umol_l": {"names": ["肌酐"]}, "alt_u_l": {"names": ["谷丙转氨酶"]}}
    assert any("钠" in line for line in lines)
    t = load(path, Mapping.model_validate(proposed | {"encoding": "gb18030"}))
    assert t.frame.loc[0, ["creatinine_umol_l", "alt_u_l"]].tolist() == [61, 20]


def test_a_header_that_its_values_contradict_is_flagged(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("patient_id,glucose_mmol_l\n" + "".join(f"{k},{90 + k}\n" for k in range(12)))
    assert any("the header says mmol/l, but the median fits mg/dL" in line for line in draft(path))


def test_what_can_not_be_proposed_is_left_for_a_person(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("a,b\n1,2\n")
    lines = draft(path)
    assert "patient_id: ???" in lines
    assert any("no column was recognised" in line for line in lines)
