"""Records and CTs that met, and what would join those that did not."""

import pytest

from osteo_ray.patients import Mapping, load
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.match import form_of, match


def table(tmp_path, ids, **more):
    path = tmp_path / "r.csv"
    path.write_text("id,age\n" + "".join(f"{i},67\n" for i in ids))
    m = {"patient_id": "id", "features": {"age_y": {"column": "age"}}} | more
    return load(path, Mapping.model_validate(m), "k")


def test_both_sides_are_counted_and_lost_forms_are_shown_without_a_number(tmp_path):
    t = table(tmp_path, ["12345.0", "0012345", "p1", "P 1"])
    m = match(t, [patient_key(p, "k") for p in ("12345", "P1")], "k")
    assert (m.records_met, m.record_patients, m.cts_met, m.ct_patients) == (1, 4, 1, 2)
    assert dict(m.forms) == {"9999999": 1, "a9": 1, "A 9": 1}
    assert {rule for rule, _ in m.would_meet} == {
        "identity.leading_zeros: drop", "identity.case: upper", "identity.blanks: remove",
    }  # fmt: skip
    assert not any(n in "\n".join(m.lines()) for n in ("12345", "p1", "P 1"))


def test_zeros_that_the_ct_alone_has_are_found_too(tmp_path):
    m = match(table(tmp_path, ["12345"]), [patient_key("0012345", "k")], "k")
    assert m.would_meet == (("identity.leading_zeros: drop", 1),)


def test_hardly_any_match_is_said_loudly(tmp_path):
    t = table(tmp_path, [f"A{k}" for k in range(50)])
    lines = match(t, [patient_key(f"B{k}", "k") for k in range(50)], "k").lines()
    assert lines[-1].startswith("WARNING")
    assert not any(line.startswith("WARNING") for line in match(t, [patient_key("A1", "k")], "k").lines())
    assert not any(line.startswith("WARNING") for line in match(t, list(t.frame["patient_key"]), "k").lines())


def test_a_site_on_one_side_alone_is_named(tmp_path):
    t = table(tmp_path, ["1", "2"], site="north")
    m = match(t, [patient_key("1", "k"), patient_key("2", "k")], "k")
    assert m.records_met == 0
    assert any("site" in line for line in m.lines())


@pytest.mark.parametrize(("written", "form"), [("00-12aB", "99-99aA"), ("张3", "a9"), ("x" * 40, "a" * 21 + "...")])
def test_a_form_names_nobody(written, form):
    assert form_of(written) == form
