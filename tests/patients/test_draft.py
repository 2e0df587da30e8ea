"""A proposed mapping is complete enough to be corrected, and says what has to be looked at."""

import openpyxl
import pytest
import yaml

from osteo_ray.patients import Mapping, RecordsError, load
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
    assert proposed["encoding"] == "gb18030"
    t = load(path, Mapping.model_validate(proposed))
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
    assert any("no column of a feature was recognised" in line for line in lines)


def proposal(path):
    lines = draft(path)
    proposed = yaml.safe_load("\n".join(lines))
    notes = "\n".join(line for line in lines if line.startswith("#"))
    return proposed, notes, load(path, Mapping.model_validate(proposed))


@pytest.mark.parametrize(
    ("encoding", "header", "rows"),
    [
        ("cp1252", "Patientennummer;Abnahmedatum;Kreatinin [µmol/l]", "1;25.01.2024;61\n"),
        ("cp1252", "Patientennr;Entnahmedatum;Analyse;Ergebnis;Einheit", "1;25.01.2024;Kreatinin;61;µmol/l\n"),
        ("cp932", "患者ID,採血日,クレアチニン(µmol/L)".replace("µ", "u"), "1,2024/01/25,61\n"),
        ("gb18030", "病历号,采样时间,肌酐(μmol/L)", "1,2024-01-25,61\n"),
    ],
)
def test_the_encoding_is_that_in_which_most_names_are_known(tmp_path, encoding, header, rows):
    path = tmp_path / "r.csv"
    path.write_bytes((header + "\n" + rows).encode(encoding))
    proposed, notes, t = proposal(path)
    assert proposed["encoding"] == encoding
    assert "encoding" in notes
    assert t.frame["creatinine_umol_l"].tolist() == [61]
    assert str(t.frame["record_date"][0].date()) == "2024-01-25"


def test_the_header_row_and_the_units_under_it(tmp_path):
    path = tmp_path / "r.csv"
    table = "No,MRN,Collected,Creatinine,Calcium\n,,,mg/dL,mmol/L\n1,007,25-JAN-24,---,2.3\n"
    path.write_text("Laboratory, printed today\n\n" + table)
    proposed, notes, t = proposal(path)
    assert (proposed["header_row"], proposed["skip_rows"], proposed["patient_id"]) == (3, 1, "MRN")
    assert proposed["date_format"] == ["%d-%b-%y"]
    assert proposed["features"]["creatinine_umol_l"]["unit"] == "mg/dL"
    assert "'---' mean missing" in notes
    assert t.frame["calcium_mmol_l"].tolist() == [2.3]


def test_the_sheet_and_all_t_scores(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["About this file"])
    sheet = book.create_sheet("DXA")
    for row in (["MRN", "DXA date", "hip T-score", "spine T-score", "treated"], ["007", "2024-01-25", -1.0, -2.6, "n"]):
        sheet.append(row)
    other = book.create_sheet("Labor")
    for row in (["MRN", "Test", "Result", "Unit"], ["007", "CREA", 0.9, "mg/dL"]):
        other.append(row)
    book.save(tmp_path / "r.xlsx")
    proposed, notes, t = proposal(tmp_path / "r.xlsx")
    assert proposed["sheet"] == "DXA"
    assert "sheets that look like records too: 'Labor'; each needs a mapping" in notes
    assert proposed["t_score"] == ["hip T-score", "spine T-score"]
    assert t.frame["t_score"].tolist() == [-2.6]
    assert t.frame["osteoporosis_treatment"].tolist() == [0]


def test_dates_that_no_name_tells_are_pointed_out(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("MRN,Zeitpunkt,crea_mg_dl\n1,25.01.2024,0.9\n")
    assert any("column 'Zeitpunkt' holds dates" in line for line in draft(path))


def test_a_folder_has_no_one_mapping(tmp_path):
    with pytest.raises(RecordsError, match="a folder; name one of its files"):
        draft(tmp_path)


def test_a_year_of_two_digits_that_may_stand_first_has_to_be_checked(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("MRN,date,CREA\n1,24-01-25,80\n2,24-01-26,82\n")
    assert any("date: day, month or year first? %d-%m-%y or %y-%m-%d" in line for line in draft(path))


def test_a_score_of_another_kind_is_no_t_score(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("MRN,patient_score,T-Score L1-L4,hipTscore,z_score\n1,5,-2.1,-1.0,0.1\n")
    assert proposal(path)[0]["t_score"] == ["T-Score L1-L4", "hipTscore"]


def test_signs_and_a_status_in_columns_of_their_own(tmp_path):
    path = tmp_path / "labs.csv"
    path.write_text(
        "pid,date,test,result,unit,op,flag,status\nA,2024-01-05,Creatinine,30,umol/L,<,<,final\n"
        "B,2024-01-05,Creatinine,80,umol/L,,,cancelled\n"
    )
    text = "\n".join(draft(path))
    assert "comparator: op" in text
    assert "withdrawn:\n  column: status" in text
    assert "# CHECK  status: rows with 'cancelled' are passed over; do those with 'final' count?" in text
    t = load(path, Mapping.model_validate(yaml.safe_load(text)))
    assert t.report is not None
    assert t.report.dropped == (("rows with 'cancelled' in 'status'", 1),)


def test_a_status_of_another_kind_withdraws_nobody(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("MRN,date,age,status\nA,2024-01-05,70,M\nB,2024-01-05,81,W\nC,2024-01-05,64,D\n")
    lines = draft(path)
    assert not any("withdrawn" in line for line in lines)
    assert "# CHECK  column 'status': used by nothing" in lines
    m = Mapping.model_validate({"patient_id": "MRN", "date": "date", "features": {"age_y": {"column": "age"}}})
    t = load(path, m)
    assert t.report is not None
    assert not t.report.notes
