"""The examples of docs/your-own-data.md: their files, read by their mappings, give what the page says."""

import re
from pathlib import Path

import pytest

from osteo_ray.cli import main
from osteo_ray.patients import load
from osteo_ray.patients.identity import patient_key

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"
FILE = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def files(tmp_path):
    for name, text in FILE.findall(PAGE.read_text(encoding="utf-8")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".ndjson":
            text = text.replace("\n", "")  # one resource, shown on several lines
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_the_wide_table(files):
    t = load(files / "labs.csv", files / "labs.yaml")
    first, second = t.frame.to_dict("records")
    assert first["patient_key"] == patient_key("0012345", None, site="north")
    assert [str(first[d].date()) for d in ("record_date", "dxa_date")] == ["2024-01-05", "2023-12-20"]
    assert first["creatinine_umol_l"] == pytest.approx(79.6, abs=0.1)
    assert first["urea_mmol_l"] == pytest.approx(5.0, abs=0.01)
    assert (first["t_score"], first["sex_male"], first["smoker"], first["osteoporosis_treatment"]) == (-2.6, 0, 1, 0)
    assert first["age_y"] == pytest.approx(68.8, abs=0.1)
    assert second["creatinine_umol_l"] != second["creatinine_umol_l"]  # a bound
    assert second["alp_u_l"] == 92


def test_the_long_export(files):
    t = load(files / "export.csv", files / "export.yaml")
    assert t.frame["creatinine_umol_l"].tolist() == [pytest.approx(79.6, abs=0.1), pytest.approx(88.4, abs=0.1)]
    assert t.frame["alt_u_l"].tolist()[0] == 92
    assert t.frame["t_score"].tolist()[1] == -2.7
    assert t.report is not None
    assert t.report.unknown == (("Sodium", 1),)


def test_the_fhir_export(files, capsys):
    t = load(files / "fhir", files / "fhir.yaml")
    assert t.frame["patient_key"].tolist() == [patient_key("12345", None)]
    assert t.frame["creatinine_umol_l"].tolist() == [61]
    assert main(["records", str(files / "fhir"), "--mapping", str(files / "fhir.yaml")]) == 0
    assert "1 records of 1 patients" in capsys.readouterr().out


def test_the_draft_is_for_a_person_and_not_far_off(files, capsys):
    assert main(["records", "--draft", str(files / "labs.csv")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# Proposed")
    assert "patient_id: MRN" in out
    assert "date_format:\n- '%d.%m.%Y'" in out


@pytest.mark.parametrize("name", ["labs.csv", "export.csv"])
def test_without_its_mapping_a_file_is_refused_with_exit_code_3(files, name, capsys):
    assert main(["records", str(files / name)]) == 3
    assert "named by the mapping, not there" in capsys.readouterr().err
