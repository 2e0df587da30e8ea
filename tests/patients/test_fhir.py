"""FHIR NDJSON is read like any other source, with the same refusals."""

import json

import numpy as np
import pytest

from osteo_ray import patients as records
from osteo_ray.patients.identity import patient_key


def observation(code, value, unit, day="2024-05-01", who="p1", status="final"):
    return {
        "resourceType": "Observation",
        "status": status,
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": f"Patient/{who}"},
        "effectiveDateTime": f"{day}T08:00:00Z",
        "valueQuantity": {"value": value, "code": unit, "system": "http://unitsofmeasure.org"},
    }


PATIENT = {
    "resourceType": "Patient",
    "id": "p1",
    "identifier": [{"type": {"coding": [{"code": "MR"}]}, "value": "MRN7"}],
    "gender": "female",
    "birthDate": "1954-05-01",
}


def write(tmp_path, *resources):
    path = tmp_path / "r.ndjson"
    path.write_text("\n".join(json.dumps(r) for r in resources))
    return path


def test_observations_of_a_day_become_one_record(tmp_path):
    path = write(
        tmp_path,
        observation("2160-0", 0.8, "mg/dL"),  # creatinine as mass
        observation("718-7", 12.9, "g/dL"),
        observation("38267-1", -2.7, "{T-score}"),
        observation("6768-6", 85, "U/L", day="2024-01-01"),
        observation("6768-6", 999, "U/L", status="entered-in-error"),
        observation("99999-9", 1, "1"),
        PATIENT,
    )
    t = records.load(path, pseudonym_key="k").frame
    assert len(t) == 2
    late = t[t["record_date"] == "2024-05-01"].iloc[0]
    assert late["patient_key"] == patient_key("MRN7", "k")
    assert late["creatinine_umol_l"] == pytest.approx(70.7, abs=0.1)
    assert late["haemoglobin_g_l"] == pytest.approx(129)
    assert late["age_y"] == pytest.approx(70.0, abs=0.1)
    assert late["sex_male"] == 0
    assert late["label"] == "osteoporosis"
    assert np.isnan(late["alp_u_l"])


def test_bad_observations_are_named(tmp_path):
    path = write(tmp_path, PATIENT, observation("6768-6", 85, "mmol/L"), observation("718-7", 1290, "g/dL"))
    with pytest.raises(records.RecordsError) as e:
        records.load(path)
    text = str(e.value)
    assert "r.ndjson, line 2, Observation '6768-6 (alp_u_l)': 85: unit 'mmol/L' cannot be turned into 'U/L'" in text
    assert "r.ndjson, line 3, Observation '718-7 (haemoglobin_g_l)': haemoglobin_g_l = 12900 g/L is outside" in text


def test_a_broken_line_does_not_hide_the_rest(tmp_path):
    path = write(tmp_path, PATIENT, observation("6768-6", 85, "U/L"))
    path.write_text(path.read_text() + "\n{not json")
    t = records.load(path, on_bad="missing")
    assert t.frame["alp_u_l"].tolist() == [85]
    assert "line 3: not JSON" in t.issues[0]
