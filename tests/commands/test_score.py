"""`osteo-ray score`: one study, to a person or as a document, without Ray."""

import json
import subprocess
import sys

import jsonschema
import pytest

from osteo_ray.cli import main
from osteo_ray.config import validate
from osteo_ray.reports.result_json import schema
from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.write import write_patient

pytestmark = pytest.mark.slow

SCAN = {"size_512_share": 0.0, "slice_max": 64, "protocols": {"abdomen": 1.0}}


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """(folder of the one study of a synthetic patient, the patient)."""
    cfg = validate(CohortConfig, {"seed": 5, "persons": 60, "scan": SCAN})
    person = next(p for p in fast.people(cfg) if p.has_ct and p.age_y > 45)
    archive = tmp_path_factory.mktemp("score")
    write_patient(person, cfg, archive)
    return next(p for p in archive.rglob("*") if p.is_dir() and p.name.startswith("2.25.")), person


def record_of(person):
    return {"age_y": int(person.age_y), "sex": "M" if person.male else "F", "alp_u_l": 90}


def test_a_study_for_a_person(patient, bundle_dir, capsys):
    folder, person = patient
    record = json.dumps(record_of(person))
    assert main(["score", str(folder), "--record", record, "--bundle", str(bundle_dir)]) == 0
    out = capsys.readouterr().out
    assert f"age {int(person.age_y)} y (record), sex {'M' if person.male else 'F'} (record)" in out
    for word in ("study", "state", "risk", "slices", "notice"):
        assert f"\n{word}" in f"\n{out}", word


def test_a_study_as_a_document_and_a_record_from_a_file(patient, bundle_dir, tmp_path, capsys):
    folder, person = patient
    (tmp_path / "record.json").write_text(json.dumps(record_of(person)))
    record = str(tmp_path / "record.json")
    assert main(["score", str(folder), "--record", record, "--bundle", str(bundle_dir), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema())
    assert document["outcome"]["state"] in ("SCORED", "SCORED_WARN")
    assert document["patient"]["age_from"] == "record"


def test_somebody_elses_record_gives_no_score(patient, bundle_dir, capsys):
    folder, person = patient
    record = record_of(person) | {"age_y": int(person.age_y) + 18 if person.age_y < 80 else 40}
    assert main(["score", str(folder), "--record", json.dumps(record), "--bundle", str(bundle_dir)]) == 0
    out = capsys.readouterr().out
    assert "ABSTAINED, Q_IDENTITY" in out
    assert f"age {int(person.age_y)} in the header, {record['age_y']} in the record" in out


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        ("{age: 3", 2, "not JSON"),
        ("nowhere.json", 2, "no file to read"),
        ("[1]", 2, "no file to read"),
        ('{"age_y": 670}', 3, "670"),
        ('{"shoe_size": 43}', 3, "shoe_size"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(patient, bundle_dir, capsys, record, code, words):
    assert main(["score", str(patient[0]), "--record", record, "--bundle", str(bundle_dir)]) == code
    assert words in capsys.readouterr().err


def test_no_study(tmp_path, bundle_dir, capsys):
    assert main(["score", str(tmp_path / "absent"), "--bundle", str(bundle_dir)]) == 3
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("nothing")
    assert main(["score", str(tmp_path / "notes"), "--bundle", str(bundle_dir)]) == 3
    assert "no CT series" in capsys.readouterr().err


def test_it_imports_no_ray(patient, bundle_dir):
    code = (
        "import sys\nfrom osteo_ray.cli import main\n"
        f"main(['score', {str(patient[0])!r}, '--bundle', {str(bundle_dir)!r}, '--no-scoring.shap'])\n"
        "print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False"), done.stdout
