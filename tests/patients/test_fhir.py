"""FHIR NDJSON is read like any other source, with the same refusals."""

import json

import numpy as np
import pytest

from osteo_ray import patients as records
from osteo_ray.patients import units
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.schema import feature


def observation(code, value, unit, day="2024-05-01", patient_id="p1", status="final"):
    return {
        "resourceType": "Observation",
        "status": status,
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": f"Patient/{patient_id}"},
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


def patient(pid="p1", mrn="7", **more):
    return PATIENT | {"id": pid, "identifier": [{"type": {"coding": [{"code": "MR"}]}, "value": mrn}]} | more


def crea(value=61, patient_id="p1", **more):
    return observation("14682-9", value, "umol/L", patient_id=patient_id) | more


def load_lines(tmp_path, *resources, **kw):
    return records.load(write(tmp_path, *resources), **kw)


def keys(table):
    return table.frame["patient_key"].tolist()


SSN = {"type": {"coding": [{"code": "SS"}]}, "system": "http://ssn", "value": "999"}
OLD = {"use": "old", "type": {"coding": [{"code": "MR"}]}, "system": "http://mrn", "value": "1"}
MR = {"type": {"coding": [{"code": "MR"}]}, "system": "http://mrn", "value": "7"}
MR2 = {"type": {"coding": [{"code": "MR"}]}, "system": "http://other", "value": "8"}


def test_the_identifier_is_that_of_its_type_or_system_never_the_first(tmp_path):
    t = load_lines(tmp_path, patient(identifier=[SSN, OLD, MR]), crea())
    assert keys(t) == [patient_key("7", None)]
    by_system = records.Mapping.model_validate({"format": "fhir", "fhir": {"identifier_system": "http://ssn"}})
    t = load_lines(tmp_path, patient(identifier=[MR, SSN]), crea(), mapping=by_system)
    assert keys(t) == [patient_key("999", None)]


@pytest.mark.parametrize(
    ("identifiers", "error"),
    [
        ([SSN], "no identifier of type MR.*http://ssn"),
        ([OLD], "no identifier of type MR.*none at all"),
        ([MR, MR2], "several identifiers of type MR.*http://mrn, http://other"),
        ([{"type": {"coding": [{"code": "MR"}]}, "value": "UNKNOWN"}], "'UNKNOWN' is no number"),
    ],
)
def test_a_patient_without_one_clear_number_is_refused(tmp_path, identifiers, error):
    with pytest.raises(records.RecordsError, match=error):
        load_lines(tmp_path, patient(identifier=identifiers), crea())


def test_final_and_amended_values_come_before_preliminary_ones(tmp_path):
    t = load_lines(tmp_path, patient(), crea(61), crea(300, status="preliminary"), crea(400, status="cancelled"))
    assert t.frame["creatinine_umol_l"].tolist() == [61]
    assert dict(t.report.dropped) == {"Observation cancelled": 1}
    t = load_lines(tmp_path, patient(), crea(70, status="amended"), crea(61))
    assert t.frame["creatinine_umol_l"].tolist() == [70]
    assert load_lines(tmp_path, patient(), crea(90, status="preliminary")).frame["creatinine_umol_l"].tolist() == [90]


@pytest.mark.parametrize(
    ("when", "day"),
    [
        ({"effectiveInstant": "2024-03-10T23:30:00-05:00"}, "2024-03-10"),
        ({"effectivePeriod": {"start": "2024-03-10", "end": "2024-03-12"}}, "2024-03-10"),
        ({"effectiveTiming": {"event": ["2024-03-10T08:00:00Z"]}}, "2024-03-10"),
        ({"issued": "2024-03-10T08:00:00Z"}, "2024-03-10"),
    ],
)
def test_every_form_of_the_effective_time(tmp_path, when, day):
    o = crea()
    del o["effectiveDateTime"]
    t = load_lines(tmp_path, patient(), o | when)
    assert [str(d.date()) for d in t.frame["record_date"]] == [day]


def test_a_month_alone_is_no_day(tmp_path):
    with pytest.raises(records.RecordsError, match="'2024-03' names no day"):
        load_lines(tmp_path, patient(), crea(effectiveDateTime="2024-03"))


@pytest.mark.parametrize(
    "reference",
    ["Patient/p1", "Patient/p1/_history/3", "http://ehr/fhir/Patient/p1", "http://ehr/fhir/Patient/p1/_history/1"],
)
def test_versioned_and_absolute_references_of_a_bulk_export(tmp_path, reference):
    assert len(load_lines(tmp_path, patient(), crea(subject={"reference": reference}))) == 1


def bundle(tmp_path, kind, *entries, **more):
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"resourceType": "Bundle", "type": kind, "entry": list(entries)} | more))
    return path


@pytest.mark.parametrize("kind", ["collection", "searchset", "transaction"])
def test_bundles_with_urn_references(tmp_path, kind):
    p = {"fullUrl": "urn:uuid:1", "resource": patient()}
    o = {"fullUrl": "urn:uuid:2", "resource": crea(subject={"reference": "urn:uuid:1"})}
    gone = {"request": {"method": "DELETE"}, "resource": crea(400)}
    t = records.load(bundle(tmp_path, kind, o, p, gone))
    assert t.frame["creatinine_umol_l"].tolist() == [61]
    assert keys(t) == [patient_key("7", None)]


def test_equal_ids_of_two_servers_are_two_patients(tmp_path):
    entries = []
    for server, mrn, value in (("http://a", "1", 60), ("http://b", "2", 90)):
        entries.append({"fullUrl": f"{server}/Patient/p1", "resource": patient(mrn=mrn)})
        entries.append({"fullUrl": f"{server}/Observation/o", "resource": crea(value)})
    t = records.load(bundle(tmp_path, "collection", *entries))
    got = dict(zip(keys(t), t.frame["creatinine_umol_l"], strict=True))
    assert got == {patient_key("1", None): 60, patient_key("2", None): 90}


def test_one_page_of_a_search_is_said(tmp_path):
    p, o = {"resource": patient()}, {"resource": crea()}
    t = records.load(bundle(tmp_path, "searchset", p, o, link=[{"relation": "next", "url": "http://x"}]))
    assert t.report is not None
    assert "the pages after it are not here" in t.report.notes[0]


def test_a_bulk_export_is_several_files_or_a_folder(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    files = {
        "Observation.1": [crea(61)],
        "Observation.2": [crea(80, patient_id="p2")],
        "Patient": [patient(), patient("p2", "8")],
    }
    for name, resources in files.items():
        (folder / f"{name}.ndjson").write_text("\n".join(json.dumps(r) for r in resources))
    (folder / "Condition.ndjson").write_text(json.dumps({"resourceType": "Condition"}))
    t = records.load(folder)
    assert sorted(t.frame["creatinine_umol_l"]) == [61, 80]
    assert t.report is not None
    assert dict(t.report.dropped) == {"Condition": 1}
    one = records.load([folder / f"{n}.ndjson" for n in files])
    assert sorted(keys(one)) == sorted(keys(t))


def test_observations_without_their_patients_are_refused(tmp_path):
    with pytest.raises(records.RecordsError, match=r"1 Observations of 1 patients.*Patient/p1.*give the Patient file"):
        load_lines(tmp_path, crea())


def test_patients_alone_are_undated_records(tmp_path):
    t = load_lines(tmp_path, patient(), patient("p2", "8"))
    assert len(t) == 2
    assert t.frame["sex_male"].tolist() == [0, 0]
    assert t.frame["record_date"].isna().all()


def test_subjects_by_identifier_contained_or_merged(tmp_path):
    inside = patient("x", "9")
    merged = patient("old", "1", link=[{"type": "replaced-by", "other": {"reference": "Patient/p1"}}])
    t = load_lines(
        tmp_path,
        patient(),
        merged,
        crea(60, subject={"identifier": MR | {"value": "5"}}),
        crea(70, subject={"reference": "#x"}, contained=[inside]),
        crea(80, subject={"reference": "Patient/old"}),
    )
    got = dict(zip(keys(t), t.frame["creatinine_umol_l"], strict=True))
    assert got == {patient_key("5", None): 60, patient_key("9", None): 70, patient_key("7", None): 80}


def test_a_subject_that_is_no_patient_is_refused(tmp_path):
    with pytest.raises(records.RecordsError, match="no patient as subject"):
        load_lines(tmp_path, patient(), crea(subject={"reference": "Group/1"}))


def test_t_scores_of_hip_and_neck_count_and_the_lowest_is_the_label(tmp_path):
    scores = [observation(c, v, "{T-score}") for c, v in (("38267-1", -1.2), ("38264-8", -2.6), ("80948-3", -2.0))]
    f = load_lines(tmp_path, patient(), *scores).frame
    assert f["t_score"].tolist() == [-2.6]
    assert f["label"].tolist() == ["osteoporosis"]


def test_bounds_components_urea_nitrogen_and_unknown_codes(tmp_path):
    bound = crea()
    bound["valueQuantity"] = {"value": 20, "comparator": "<", "code": "umol/L"}
    panel = observation("24321-2", 0, "1")
    del panel["valueQuantity"]
    panel["component"] = [
        {
            "code": {"coding": [{"system": "http://loinc.org", "code": "3094-0"}]},
            "valueQuantity": {"value": 14, "unit": "mg/dL"},
        }
    ]
    t = load_lines(
        tmp_path, patient(), bound, panel, observation("2951-2", 140, "mmol/L"), observation("2951-2", 139, "mmol/L")
    )
    assert t.frame["urea_mmol_l"].tolist() == [pytest.approx(5.0, abs=0.05)]
    assert t.frame["creatinine_umol_l"].isna().all()
    assert next(f.bounds for f in t.report.features if f.name == "creatinine_umol_l") == 1
    assert [n for code, n in t.report.unknown if code.startswith("2951-2")] == [2]
    half = records.Mapping.model_validate({"format": "fhir", "numbers": {"bounds": "half"}})
    assert load_lines(tmp_path, patient(), bound, mapping=half).frame["creatinine_umol_l"].tolist() == [10]


def test_local_codes_are_named_by_the_mapping(tmp_path):
    o = crea()
    o["code"] = {"coding": [{"system": "http://lab", "code": "CREA"}], "text": "Kreatinin"}
    m = records.Mapping.model_validate({"format": "fhir", "tests": {"creatinine_umol_l": ["http://lab|CREA"]}})
    assert load_lines(tmp_path, patient(), o, mapping=m).frame["creatinine_umol_l"].tolist() == [61]
    by_text = records.Mapping.model_validate({"format": "fhir", "tests": {"creatinine_umol_l": ["kreatinin"]}})
    assert load_lines(tmp_path, patient(), o, mapping=by_text).frame["creatinine_umol_l"].tolist() == [61]


def test_smoking_and_values_that_are_no_quantity(tmp_path):
    smokes = crea()
    smokes["code"] = {"coding": [{"system": "http://loinc.org", "code": "72166-2"}]}
    del smokes["valueQuantity"]
    smokes["valueCodeableConcept"] = {"coding": [{"code": "LA18976-3"}]}
    assert load_lines(tmp_path, patient(), smokes).frame["smoker"].tolist() == [1]
    text = crea()
    del text["valueQuantity"]
    with pytest.raises(records.RecordsError, match="'high' is not a number"):
        load_lines(tmp_path, patient(), text | {"valueString": "high"})


@pytest.mark.parametrize(("name", "text"), [("r.ndjson", ""), ("r.json", "[1]"), ("r.json", "{"), ("r.json", "")])
def test_files_that_are_no_fhir_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(records.RecordsError, match=r"empty|not JSON|no FHIR resource"):
        records.load(tmp_path / name)


def test_what_is_withdrawn_or_replaced_later_does_not_count(tmp_path):
    wrong = crea(61, id="o")
    for lines in ([wrong, wrong | {"status": "entered-in-error"}], [wrong | {"status": "entered-in-error"}, wrong]):
        assert load_lines(tmp_path, patient(), *lines).frame["creatinine_umol_l"].isna().all()
    other_day = observation("14682-9", 65, "umol/L", day="2024-05-02") | {"id": "o", "meta": {"versionId": "2"}}
    t = load_lines(tmp_path, patient(), other_day, wrong | {"meta": {"versionId": "1"}})
    assert t.frame["creatinine_umol_l"].tolist() == [65]
    absent = {k: v for k, v in other_day.items() if k != "valueQuantity"}
    t = load_lines(tmp_path, patient(), absent, wrong)
    assert t.frame["creatinine_umol_l"].isna().all()


def test_a_history_counts_by_its_newest_entries(tmp_path):
    def load_history(*entries):
        path = tmp_path / "r.json"
        path.write_text(json.dumps({"resourceType": "Bundle", "type": "history", "entry": [*entries]}))
        return records.load(path).frame["creatinine_umol_l"]

    newest, older = {"resource": crea(65, id="o")}, {"resource": crea(61, id="o")}
    assert load_history({"resource": patient()}, newest, older).tolist() == [65]
    deleted = {"request": {"method": "DELETE", "url": "Observation/o"}}
    assert load_history({"resource": patient()}, deleted, older).isna().all()


def test_numbers_that_hold_no_more_give_way(tmp_path):
    ended = MR | {"value": "6", "period": {"end": "2015-01-01"}}
    assert keys(load_lines(tmp_path, patient(identifier=[ended, MR]), crea())) == [patient_key("7", None)]
    assert keys(load_lines(tmp_path, patient(identifier=[MR | {"value": "6", "use": "temp"}, MR]), crea())) == [
        patient_key("7", None)
    ]
    with pytest.raises(records.RecordsError, match="several numbers of type MR, all of system http://mrn"):
        load_lines(tmp_path, patient(identifier=[MR, MR | {"value": "6"}]), crea())


def test_equal_numbers_of_two_systems_are_refused(tmp_path):
    people = patient("p1", identifier=[MR]), patient("p2", identifier=[MR | {"system": "http://other"}])
    with pytest.raises(records.RecordsError, match=r"2 patients: .* several systems .http://mrn, http://other"):
        load_lines(tmp_path, *people, crea(), crea(patient_id="p2"))
    m = records.Mapping.model_validate({"format": "fhir", "fhir": {"identifier_system": "http://mrn"}})
    assert keys(load_lines(tmp_path, people[0], crea(), mapping=m)) == [patient_key("7", None)]


def test_a_merge_counts_from_either_side(tmp_path):
    link = [{"other": {"reference": "Patient/p1"}, "type": "replaces"}]
    t = load_lines(tmp_path, patient("p1", "OLD"), patient("p2", "NEW", link=link), crea())
    assert keys(t) == [patient_key("NEW", None)]
    link = [{"other": {"reference": "Patient/p9"}, "type": "replaced-by"}]
    t = load_lines(tmp_path, patient("p1", "OLD", link=link), crea())
    assert any("merged into others that are in none of the files" in n for n in t.report.notes)


def test_patients_of_one_number_who_contradict_each_other(tmp_path):
    other = patient("p2", birthDate="1990-01-01", gender="male")
    t = load_lines(tmp_path, patient(), other, crea(), crea(patient_id="p2"))
    assert t.frame[["sex_male", "age_y"]].isna().all(axis=None)
    assert sum("of Patients with two" in n for n in t.report.notes) == 2


def test_patients_who_are_no_fhir_are_named(tmp_path):
    with pytest.raises(records.RecordsError, match=r"birthDate '01.03.1955' is no date"):
        load_lines(tmp_path, patient(birthDate="01.03.1955"), crea())
    t = load_lines(tmp_path, patient(gender="F", birthDate="1954-05-01T00:00:00Z"), crea())
    assert t.report.unknown == (("Patient.gender = F", 1),)
    assert t.frame["age_y"][0] == pytest.approx(70, abs=0.1)


def test_forms_of_codes_and_units(tmp_path):
    o = crea()
    o["code"] = {"coding": [{"system": "http://loinc.org/", "code": " 14682-9 "}]}
    o["valueQuantity"] = {"value": 61, "unit": "umol/L", "code": "UMOLL", "system": "http://lab"}
    assert load_lines(tmp_path, patient(), o).frame["creatinine_umol_l"].tolist() == [61]
    o["code"]["coding"].append({"system": "http://loinc.org", "code": "2345-7"})
    t = load_lines(tmp_path, patient(), o)
    assert t.report.unknown == (("codes of creatinine_umol_l and glucose_mmol_l at once", 1),)


def test_a_text_that_means_missing_does_so_in_fhir_too(tmp_path):
    text = {k: v for k, v in crea().items() if k != "valueQuantity"} | {"valueString": "haemolytic"}
    m = records.Mapping.model_validate({"format": "fhir", "missing": ["haemolytic"]})
    assert load_lines(tmp_path, patient(), text, mapping=m).frame["creatinine_umol_l"].isna().all()


def test_of_a_local_day_the_latest_by_the_local_clock_counts(tmp_path):
    times = {61: "2024-03-10T16:30:00Z", 99: "2024-03-11T02:00:00Z"}
    lines = [crea(value) | {"effectiveDateTime": at} for value, at in times.items()]
    m = records.Mapping.model_validate({"format": "fhir", "timezone": "Asia/Shanghai"})
    assert load_lines(tmp_path, patient(), *lines, mapping=m).frame["creatinine_umol_l"].tolist() == [99]


def test_a_servers_note_beside_an_export_is_passed_over(tmp_path):
    write(tmp_path, patient(), crea())
    (tmp_path / "manifest.json").write_text('{"transactionTime": "2024-01-01", "output": []}')
    report = records.load(tmp_path).report
    assert report is not None
    assert report.dropped == (("file manifest.json", 1),)


@pytest.mark.parametrize(
    "resource",
    [
        patient(identifier=1),
        patient(identifier=[{"type": "MR", "value": "7"}]),
        patient(identifier=[MR | {"value": "\x00"}]),
        patient(link=[{"other": [1], "type": "replaces"}]),
        crea(value=[61]),
        {"resourceType": "Bundle", "entry": 1},
        {"resourceType": "Bundle", "entry": [{"resource": patient(), "request": "PUT"}]},
    ],
)
def test_resources_out_of_shape_are_named_by_line(tmp_path, resource):
    with pytest.raises(records.RecordsError, match=r"r.ndjson, line 2: a \w+ out of shape"):
        load_lines(tmp_path, patient("p0"), resource)


def test_a_patient_without_a_number_refuses_nothing_where_nothing_is_observed(tmp_path):
    t = load_lines(tmp_path, patient("p0", identifier=[]), patient(), crea())
    assert keys(t) == [patient_key("7", None)]
    assert t.report.dropped[0][0].startswith("Patient without observations: no identifier of type MR")


def test_a_code_and_a_shown_unit_that_contradict_each_other_are_refused(tmp_path):
    def urea(**quantity):
        q = {"value": 30, "system": "http://unitsofmeasure.org", "code": "mmol/L"} | quantity
        return observation("22664-7", 30, "mmol/L") | {"valueQuantity": q}

    with pytest.raises(records.RecordsError, match="30 has the code 'mmol/L' and shows 'mg/dL', which are two units"):
        records.load(write(tmp_path, PATIENT, urea(unit="mg/dL")))
    for same in ("mmol/l", "mM", "millimoles per litre"):
        assert records.load(write(tmp_path, PATIENT, urea(unit=same))).frame["urea_mmol_l"].tolist() == [30]


def test_a_density_is_no_t_score(tmp_path):
    with pytest.raises(records.RecordsError, match=r"0.712 g/cm2: a T-score has no such unit"):
        records.load(write(tmp_path, PATIENT, observation("38267-1", 0.712, "g/cm2")))


@pytest.mark.parametrize("version", [None, "MTcxNDU1"])
def test_versions_that_are_no_numbers_count_by_their_time(tmp_path, version):
    def of(value, updated):
        meta = {"lastUpdated": updated} | ({"versionId": version} if version else {})
        return observation("14682-9", value, "umol/L") | {"id": "o", "meta": meta}

    new, old = of(61, "2024-05-03T00:30:00+02:00"), of(99, "2024-05-02T22:29:00.123Z")
    for order in ((new, old), (old, new)):
        assert records.load(write(tmp_path, PATIENT, *order)).frame["creatinine_umol_l"].tolist() == [61]


def test_a_number_that_a_spreadsheet_has_rounded_is_nobodys(tmp_path):
    with pytest.raises(records.RecordsError, match=r"1 patients: '1.23457E\+11' has lost its last digits"):
        load_lines(tmp_path, patient(mrn="1.23457E+11"), crea())


def test_ages_are_held_against_the_birth_date(tmp_path):
    t = records.load(write(tmp_path, PATIENT, observation("30525-0", 30, "a")))
    assert t.report is not None
    assert any("1 ages are more than 2 years off" in n for n in t.report.notes)
    with pytest.raises(records.RecordsError, match=r"r.ndjson, line 1: birthDate: an age of 9 .* leave the Patient"):
        records.load(write(tmp_path, PATIENT | {"birthDate": "2015-05-01"}, observation("6768-6", 85, "U/L")))


def test_no_problem_names_a_patients_number(tmp_path):
    by_number = observation("6768-6", 85, "U/L") | {"subject": {"identifier": PATIENT["identifier"][0]}}
    with pytest.raises(records.RecordsError, match=r"r.ndjson, line \d: birthDate: an age of 9") as e:
        records.load(write(tmp_path, by_number, PATIENT | {"birthDate": "2015-05-01"}))
    assert "MRN7" not in str(e.value)


def test_two_units_are_compared_once(monkeypatch):
    asked: list[str] = []

    def is_ucum(code: str) -> bool:
        asked.append(code)
        return False

    monkeypatch.setattr(units, "_is_ucum", is_ucum)
    for _ in range(3):
        assert not units.contradict("never heard of", "nor of this", feature("alt_u_l"))
    assert len(asked) == 2
