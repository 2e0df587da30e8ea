"""Records under other numbers than the CTs', joined by a table of both."""

import json

import pandas as pd
import pytest

from osteo_ray.patients import Mapping, RecordsError, load
from osteo_ray.patients.identity import patient_key


def wide(tmp_path, **key_table):
    return Mapping.model_validate(
        {
            "patient_id": "MRN",
            "features": {"creatinine_umol_l": {"column": "crea", "unit": "umol/L"}},
            "key_table": {"path": str(tmp_path / "keys.csv"), "number": "MRN", "ct": "pseudonym"} | key_table,
        }
    )


def write(tmp_path, keys, rows="0012,61\n13,62\n"):
    (tmp_path / "keys.csv").write_text(f"MRN,pseudonym\n{keys}")
    (tmp_path / "r.csv").write_text(f"MRN,crea\n{rows}")
    return tmp_path / "r.csv"


def by_number(t, *numbers):
    values = t.frame.set_index("patient_key")["creatinine_umol_l"]
    return [values.get(patient_key(n, None)) for n in numbers]


def test_a_patient_is_keyed_by_the_number_of_the_cts(tmp_path):
    path = write(tmp_path, "0012,P-1\n13,P-2\n14,\n")
    t = load(path, wide(tmp_path))
    assert by_number(t, "P-1", "P-2", "0012", "13") == [61, 62, None, None]
    assert t.report is not None
    assert not t.report.notes


def test_who_is_not_in_the_table_meets_no_ct_not_even_by_the_own_number(tmp_path):
    path = write(tmp_path, "13,0012\n")  # a pseudonym that is another patient's own number
    t = load(path, wide(tmp_path))
    assert by_number(t, "0012", "13") == [62, None]
    assert len(t.frame) == 2
    assert t.report is not None
    assert any("not all patients are in this key table" in n for n in t.report.notes)


def test_records_of_who_is_not_in_a_table_still_meet_each_other(tmp_path):
    labs = load(write(tmp_path, "13,P-2\n", "12,61\n"), wide(tmp_path))
    (tmp_path / "other.csv").write_text("MRN,pseudonym\n13,P-2\n")
    (tmp_path / "r.csv").write_text("MRN,crea\n12.0,62\n")
    more = load(tmp_path / "r.csv", wide(tmp_path, path=str(tmp_path / "other.csv")))
    assert labs.frame["patient_key"].tolist() == more.frame["patient_key"].tolist()


def test_numbers_of_several_sites_are_not_looked_up_in_one_table(tmp_path):
    m = wide(tmp_path).model_dump(exclude_unset=True) | {"site_column": "site"}
    with pytest.raises(ValueError, match="key_table knows no sites"):
        Mapping.model_validate(m)


def test_two_numbers_of_one_patient_are_one(tmp_path):
    path = write(tmp_path, "0012,P-1\n13,P-1\n")
    t = load(path, wide(tmp_path))
    assert t.frame["patient_key"].unique().tolist() == [patient_key("P-1", None)]


@pytest.mark.parametrize(
    ("keys", "more", "message"),
    [
        ("0012,P-1\n0012,P-2\n", {}, "line 3, column 'pseudonym': the same MRN stands above with another pseudonym"),
        ("0012,P-1\n", {"ct": "code"}, "key_table: no column 'code'; it has: MRN, pseudonym"),
        ("0012,P-1\n", {"path": "nowhere.csv"}, "nowhere.csv: key_table: no such file"),
        ("1.2E+10,P-1\n", {}, "line 2, column 'MRN': .* has lost its last digits"),
    ],
    ids=["two", "column", "file", "number"],
)
def test_a_table_that_can_not_be_used_is_named(tmp_path, keys, more, message):
    path = write(tmp_path, keys)
    with pytest.raises(RecordsError, match=message):
        load(path, wide(tmp_path, **more))


def test_long_tables_and_fhir_are_joined_by_it_too(tmp_path):
    write(tmp_path, "0012,P-1\n")
    pd.DataFrame({"MRN": ["0012"], "pseudonym": ["P-1"]}).to_parquet(tmp_path / "keys.parquet")
    table = {"path": str(tmp_path / "keys.parquet"), "number": "MRN", "ct": "pseudonym"}
    (tmp_path / "long.csv").write_text("id,test,value,unit\n0012,Crea,61,umol/L\n")
    m = {"format": "long", "patient_id": "id", "test": "test", "value": "value", "unit": "unit", "key_table": table}
    long = load(tmp_path / "long.csv", Mapping.model_validate(m | {"tests": {"creatinine_umol_l": ["Crea"]}}))
    assert by_number(long, "P-1") == [61]
    number = {"type": {"coding": [{"code": "MR"}]}, "value": "0012"}
    resources = [
        {"resourceType": "Patient", "id": "p", "identifier": [number]},
        {
            "resourceType": "Observation",
            "id": "o",
            "status": "final",
            "subject": {"reference": "Patient/p"},
            "code": {"coding": [{"system": "http://loinc.org", "code": "2160-0"}]},
            "effectiveDateTime": "2024-01-05",
            "valueQuantity": {"value": 61, "system": "http://unitsofmeasure.org", "code": "umol/L"},
        },
    ]
    (tmp_path / "all.ndjson").write_text("\n".join(map(json.dumps, resources)))
    fhir = load(tmp_path / "all.ndjson", Mapping.model_validate({"format": "fhir", "key_table": table}))
    assert by_number(fhir, "P-1") == [61]
