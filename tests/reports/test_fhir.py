import json
import re
from datetime import UTC, datetime

import fhirkit
import pytest
from fhir.resources.R4B import get_fhir_model_class
from synthetic_run import many_rows, odd_rows, scored_row
from synthetic_study import PLANTED, result, study

from osteo_ray.config import ConfigError, validate
from osteo_ray.outcomes import InputError
from osteo_ray.patients.schema import T_SCORE_LOINC, feature
from osteo_ray.reports import codes as c
from osteo_ray.reports.config import FhirSystems, PackageConfig
from osteo_ray.reports.fhir import parse, write_fhir
from osteo_ray.reports.language import DISCLAIMER
from osteo_ray.reports.source import read_source

CREATED = datetime(2031, 4, 2, 10, 11, 12, tzinfo=UTC)
NOT_OURS = {T_SCORE_LOINC, "24966-4"}
"""LOINC codes of DXA: they mean something else."""


def resources(path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for entry in json.loads(path.read_text())["entry"]:
        found.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    return found


def strings(node):
    if isinstance(node, dict | list):
        for v in node.values() if isinstance(node, dict) else node:
            yield from strings(v)
    elif isinstance(node, str):
        yield node


def codings(node):
    if isinstance(node, dict):
        yield from ((x["system"], x["code"]) for x in node.get("coding", ()))
        for v in node.values():
            yield from codings(v)
    elif isinstance(node, list):
        for v in node:
            yield from codings(v)


@pytest.mark.parametrize("row", [*many_rows(3)[:3], *odd_rows()], ids=lambda r: f"{r['state']}-{r['row_key'][-3:]}")
def test_every_row_is_valid_fhir_and_reads_back_equal(tmp_path, row):
    path = write_fhir(tmp_path / "a.json", row, None, CREATED)
    document = json.loads(path.read_text())
    again = parse(document)
    assert json.loads(again.model_dump_json()) == document
    # R4 itself, generated from the standard: unknown elements, cardinality, data types, in every resource.
    assert [str(i) for i in fhirkit.validate(document)] == []
    # The standard's `string` takes no white space but these; a narrow one looks well and is refused by strict servers.
    assert all(re.fullmatch(r"[ \r\n\t\S]+", text) for text in strings(document))
    for entry in document["entry"]:
        r = entry["resource"]
        get_fhir_model_class(r["resourceType"]).model_validate(r)
        assert entry["request"] == {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}
    assert DISCLAIMER in resources(path)["DiagnosticReport"][0]["conclusion"]


def test_the_numbers_of_a_scored_row(tmp_path):
    row = scored_row(1, 0.62)
    found = resources(write_fhir(tmp_path / "a.json", row, None, CREATED))
    assert set(found) == {"DiagnosticReport", "Observation", "RiskAssessment", "Device"}
    risk, gates, *densities = found["Observation"]
    for v, r in zip(row["hu_by_level"], densities, strict=True):
        assert r["bodySite"]["text"] == v["level"]
        assert r["valueQuantity"] == {
            "value": round(v["hu"], 1),
            "unit": "HU",
            "system": "http://unitsofmeasure.org",
            "code": "[hnsf'U]",
        }
        assert ("component" in r) == (v["hu_120_kvp"] is not None)
    assert [r["bodySite"]["coding"][0]["code"] for r in densities] == ["66794005", "14293000"]
    assert risk["valueQuantity"] == {"value": 0.62, "unit": "1", "system": "http://unitsofmeasure.org", "code": "1"}
    parts = {p["code"]["coding"][0]["code"]: p for p in risk["component"]}
    assert [parts[k]["valueQuantity"]["value"] for k in ("RISK_LOW", "RISK_HIGH", "THRESHOLD")] == [0.51, 0.75, 0.35]
    assert parts["OUTCOME"]["valueCodeableConcept"]["coding"][0]["code"] == "SCORED"
    assert len(gates["component"]) == len(row["gates"])
    (prediction,) = found["RiskAssessment"][0]["prediction"]
    assert prediction["probabilityDecimal"] == 62
    assert found["Device"][0]["identifier"][0]["value"] == row["model_sha256"]
    assert {r["status"] for kind in ("DiagnosticReport", "Observation", "RiskAssessment") for r in found[kind]} == {
        "preliminary"
    }
    report = found["DiagnosticReport"][0]
    assert report["imagingStudy"][0]["identifier"]["value"] == f"urn:oid:{row['study_uid']}"
    assert report["effectiveDateTime"] == "2031-04-02"


def test_the_strict_validator_does_refuse(tmp_path):
    document = json.loads(write_fhir(tmp_path / "a.json", scored_row(1, 0.62), None, CREATED).read_text())
    document["entry"][0]["resource"] |= {"effectiveDateTime": "2031-13-45", "finding": "low"}
    del document["entry"][2]["resource"]["code"]
    found = [str(i) for i in fhirkit.validate(document)]
    assert len(found) == 3, found


def test_inputs_have_loinc_codes_and_what_was_found_has_not(tmp_path):
    found = resources(write_fhir(tmp_path / "a.json", scored_row(1, 0.62), None, CREATED))
    inputs = {r["id"]: r for r in found["RiskAssessment"][0]["contained"]}
    assert inputs["in-alp-u-l"]["code"]["coding"][0] == {
        "system": "http://loinc.org",
        "code": feature("alp_u_l").loinc,
        "display": "Alkaline phosphatase",
    }
    assert inputs["in-alp-u-l"]["valueQuantity"]["value"] == 118
    assert inputs["in-sex-male"]["valueCodeableConcept"]["coding"][0]["code"] == "female"
    assert "in-haemoglobin-g-l" not in inputs, "what is missing is not an observation"
    basis = {b["reference"] for b in found["RiskAssessment"][0]["basis"]}
    assert {f"#{i}" for i in inputs} < basis
    for r in (*found["DiagnosticReport"], *found["Observation"], *found["Device"]):
        assert "http://loinc.org" not in {s for s, _ in codings(r)}
    assert not NOT_OURS & {code for _, code in codings(found["RiskAssessment"])}
    own = {s for s, code in codings(found["Observation"]) if code.startswith("RISK")}
    assert own == {c.FHIR_SYSTEM}


@pytest.mark.parametrize("state", ["ABSTAINED", "EXCLUDED", "QUARANTINED", "ERROR"])
def test_without_a_score_there_is_no_number_and_no_assessment(tmp_path, state):
    row = scored_row(1, 0.62) | {"state": state, "code": "Q_X", "message": "why it is so"}
    path = write_fhir(tmp_path / "a.json", row, None, CREATED)
    found = resources(path)
    assert "RiskAssessment" not in found
    assert "valueQuantity" not in json.dumps(found["Observation"])
    assert "0.62" not in path.read_text()
    absent = found["Observation"][0]["dataAbsentReason"]
    assert absent["coding"][0]["code"] == ("error" if state in ("QUARANTINED", "ERROR") else "not-performed")
    assert absent["text"] == "Q_X: why it is so"


def test_the_same_row_has_the_same_ids_and_who_it_is_about_is_asked_for(tmp_path):
    ct = study(tmp_path / "ct")
    row = result(ct)
    a = write_fhir(tmp_path / "a.json", row, read_source(ct, row), CREATED).read_text()
    assert a == write_fhir(tmp_path / "b.json", row, read_source(ct, row), CREATED).read_text()
    assert ct["patient_key"] in a
    for secret in PLANTED.values():
        if len(secret) > 2:
            assert secret not in a
    known = write_fhir(tmp_path / "c.json", row, read_source(ct, row, identifiers=True), CREATED)
    report = resources(known)["DiagnosticReport"][0]
    assert report["subject"]["identifier"] == {"value": PLANTED["PatientID"]}
    assert report["basedOn"][0]["identifier"]["value"] == PLANTED["AccessionNumber"]
    order = "https://klinik.example/auftrag"
    systems = FhirSystems(patient="urn:oid:1.2.3", accession=order, pseudonym="urn:oid:1.2.4")
    source = read_source(ct, row, identifiers=True)
    named = resources(write_fhir(tmp_path / "d.json", row, source, CREATED, systems))["DiagnosticReport"][0]
    assert named["subject"]["identifier"] == {"system": "urn:oid:1.2.3", "value": PLANTED["PatientID"]}
    assert named["basedOn"][0]["identifier"]["system"] == order
    assert fhirkit.validate(json.loads((tmp_path / "d.json").read_text())) == []
    hidden = resources(write_fhir(tmp_path / "e.json", row, read_source(ct, row), CREATED, systems))
    assert hidden["DiagnosticReport"][0]["subject"]["identifier"]["system"] == "urn:oid:1.2.4"
    assert "basedOn" not in hidden["DiagnosticReport"][0]
    with pytest.raises(ConfigError, match=r"fhir\.patient"):
        validate(PackageConfig, {"fhir": {"patient": "our patients"}})
    assert "Müller" not in known.read_text(), "an identifier files it; a name is not needed"
    ids = {e["fullUrl"] for e in json.loads(a)["entry"]} & {
        e["fullUrl"] for e in json.loads(known.read_text())["entry"]
    }
    assert len(ids) == 1, "only the device is the same in both forms"


def test_what_is_no_fhir_is_refused(tmp_path):
    good = json.loads(write_fhir(tmp_path / "a.json", scored_row(1, 0.62), None, CREATED).read_text())

    def spoilt(change) -> dict:
        document = json.loads(json.dumps(good))
        change(document["entry"])
        return document

    with pytest.raises(InputError, match=r"DiagnosticReport\.status is 'bogus'"):
        parse(spoilt(lambda e: e[0]["resource"].update(status="bogus")))
    with pytest.raises(InputError, match="no valid FHIR"):
        parse(spoilt(lambda e: e[0]["resource"].pop("code")))
    with pytest.raises(InputError, match="refers to nothing"):
        parse(spoilt(lambda e: e.pop(1)))
    with pytest.raises(InputError, match="time zone"):
        write_fhir(tmp_path / "b.json", scored_row(1, 0.62), None, CREATED.replace(tzinfo=None))
    with pytest.raises(InputError, match="row_key"):
        write_fhir(tmp_path / "b.json", scored_row(1, 0.62) | {"row_key": None}, None, CREATED)
