import csv
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydicom import dcmread
from synthetic_run import table
from synthetic_study import PLANTED, result, study

from osteo_ray.catalogue.schema import CATALOGUE
from osteo_ray.cli import main
from osteo_ray.reports import result_json
from osteo_ray.reports.package import FILES
from osteo_ray.reports.worklist import write_worklist


@pytest.fixture
def run(tmp_path):
    """A finished run over two studies, one of whose archives is gone, and one excluded series."""
    ct = study(tmp_path / "archive" / "Müller_Änne" / "ct")
    other = ct | {"series_uid": "1.2.3.4", "study_uid": "1.2.3"}
    other["instances"] = [i | {"uri": i["uri"].replace("archive", "nowhere")} for i in ct["instances"]]
    lost = result(other, 0.3, row_key="10" * 16)
    closed = result(ct, None, row_key="20" * 16, state="EXCLUDED", code="Q_AGE", series_uid="9.9")
    out = tmp_path / "screen"
    out.mkdir()
    pq.write_table(table([result(ct), lost, closed]), out / "results.parquet")
    pq.write_table(pa.Table.from_pylist([ct, other], schema=CATALOGUE), out / "catalogue.parquet")
    return out


def ledger(out) -> dict[str, dict]:
    return {x["row_key"]: x for x in map(json.loads, (out / "studies" / "reports.jsonl").read_text().splitlines())}


def test_report_writes_everything_it_can_and_names_the_rest(run, capsys):
    assert main(["report", str(run)]) == 0
    lines = capsys.readouterr().out
    assert "2 results: html 2, json 2, sr 1, sc 1, fhir 2, pdf 2" in lines
    assert "can't be read from the archive" in lines
    assert "Müller" not in lines
    assert "nowhere" not in lines
    whole, lost = (ledger(run)[k] for k in ("c0ffee" * 5 + "00", "10" * 16))
    folder = run / "studies" / whole["row_key"]
    assert whole["written"] == sorted(FILES)
    assert whole["problems"] == []
    assert {p.name for p in folder.iterdir()} == set(FILES.values()), "and no half file"
    assert dcmread(folder / "sr.dcm").Modality == "SR"
    document = json.loads((folder / "result.json").read_text())
    assert document["risk"]["prob"] == 0.62
    assert document["version"] == result_json.RESULT_VERSION
    assert lost["written"] == ["fhir", "html", "json", "pdf"]
    assert len(lost["problems"]) == 1


def test_run_again_leaves_the_objects_as_they_were(run):
    assert main(["report", str(run), "--formats", "sr", "sc", "fhir"]) == 0
    files = {p: p.read_bytes() for p in (run / "studies").rglob("*") if p.is_file()}
    half = next(p for p in files if p.name == "sr.dcm")
    before = {p: p.stat().st_mtime_ns for p in files}
    assert main(["report", str(run), "--formats", "sr", "sc", "fhir"]) == 0
    assert {p: p.read_bytes() for p in files} == files
    assert all(p.stat().st_mtime_ns == t for p, t in before.items() if p.name != "reports.jsonl")
    half.write_bytes(files[half][:500])
    assert main(["report", str(run), "--formats", "sr"]) == 0
    assert dcmread(half).SOPInstanceUID, "a file cut short is written anew"


def test_identifiers_are_never_replaced_by_a_pseudonym_in_silence(run):
    assert main(["report", str(run), "--identifiers", "--formats", "sr", "fhir", "json"]) == 0
    found = ledger(run)
    assert found["c0ffee" * 5 + "00"]["written"] == ["fhir", "json", "sr"]
    assert found["10" * 16]["written"] == ["json"]
    assert "no FHIR" in found["10" * 16]["problems"][0]
    sr = dcmread(run / "studies" / ("c0ffee" * 5 + "00-identified") / "sr.dcm")
    assert sr.PatientID == PLANTED["PatientID"]
    assert str(sr.PatientName) == PLANTED["PatientName"]


def test_a_worklist_with_names_is_written_where_identifiers_are_asked_for(run):
    write_worklist(run / "worklist.csv", pq.read_table(run / "results.parquet"))
    named = run / "studies" / "worklist-identified.csv"
    assert main(["report", str(run), "--formats", "json"]) == 0
    assert not named.exists()
    assert main(["report", str(run), "--formats", "json", "--identifiers"]) == 0
    first, lost = list(csv.DictReader(named.open(encoding="utf-8")))
    assert (first["number"], first["accession"]) == (PLANTED["PatientID"], PLANTED["AccessionNumber"])
    assert first["name"].split(", ") == PLANTED["PatientName"].split("^")[:2]
    assert (first["rank"], first["risk_prob"]) == ("1", "0.62")
    assert (lost["name"], lost["number"], lost["risk_prob"]) == ("", "", "0.3")
    assert named.stat().st_mode & 0o077 == 0
    assert main(["report", str(run), "--formats", "json", "--identifiers", "--top", "1"]) == 0
    assert len(list(csv.DictReader(named.open(encoding="utf-8")))) == 1


def test_what_is_reported_can_be_chosen(run, capsys):
    assert main(["report", str(run), "--top", "1", "--formats", "json"]) == 0
    assert list(ledger(run)) == ["c0ffee" * 5 + "00"]
    assert main(["report", str(run), "--series", "9.9", "--formats", "json", "sr"]) == 0
    assert ledger(run)["20" * 16]["state"] == "EXCLUDED"
    assert main(["report", str(run), "--set", "states=[ERROR]"]) == 3
    assert main(["report", str(run), "--series", "7.7"]) == 3
    assert "no series 7.7" in capsys.readouterr().err
    assert main(["report", str(run), "--formats", "docx"]) == 2
    assert "formats" in capsys.readouterr().err
    assert main(["report", str(run / "nowhere")]) == 3
    assert "finished run" in capsys.readouterr().err
    (run / "catalogue.parquet").unlink()
    assert main(["report", str(run)]) == 3
    assert "--catalogue" in capsys.readouterr().err


def test_a_missing_extra_is_named(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "osteo_ray.reports.package", None)
    assert main(["report", str(run)]) == 3
    assert "pip install 'osteo-ray[reports]'" in capsys.readouterr().err
