import json

import jsonschema
import pytest
from synthetic_run import many_rows, odd_rows, scored_row, table

from osteo_ray.outcomes import State
from osteo_ray.reports.language import DISCLAIMER
from osteo_ray.reports.result_json import schema, to_result
from osteo_ray.screening.schema import RESULT_VERSION, RESULTS


def test_the_schema_is_one_and_every_kind_of_row_follows_it():
    jsonschema.Draft202012Validator.check_schema(schema())
    rows = table(many_rows(5)).to_pylist()
    assert {r["state"] for r in rows} == set(State)
    for row in rows:
        doc = json.loads(json.dumps(to_result(row), allow_nan=False))
        jsonschema.validate(doc, schema())
        assert doc["version"] == RESULT_VERSION
        assert doc["notice"] == DISCLAIMER


def test_every_column_of_the_results_is_in_the_document():
    row = dict.fromkeys(RESULTS.names) | scored_row(1, 0.62)
    row |= dict(message="a message", contrast="portal venous", attempt=3, study_date="20310402")

    def leaves(x):
        if isinstance(x, dict):
            return [v for value in x.values() for v in leaves(value)]
        return [v for value in x for v in leaves(value)] if isinstance(x, list) else [x]

    found = leaves(to_result(row))
    for name in RESULTS.names:
        for value in leaves(row[name]):
            if isinstance(value, str | float):
                assert value in found, name


def test_shap_is_grouped_and_adds_up():
    row = scored_row(1, 0.62)
    shap = to_result(row)["shap"]
    assert [g["group"] for g in shap["groups"]] == ["demographics", "labs", "ct"]
    assert sum(g["sum"] for g in shap["groups"]) == pytest.approx(sum(s["shap"] for s in row["shap"]))


def test_only_a_scored_row_has_a_risk_and_only_an_abstained_one_a_reason():
    for row in odd_rows():
        doc = to_result(row)
        assert (doc["risk"] is not None) == (row["state"] in ("SCORED", "SCORED_WARN"))
        assert doc["abstain_reason"] == (row["code"] if row["state"] == "ABSTAINED" else None)


def test_the_schema_refuses_what_is_wrong():
    good = to_result(scored_row(1, 0.62))
    for path, value in ((("risk", "prob"), 1.2), (("risk", "prob"), None), (("outcome", "state"), "LOST"), (("x",), 1)):
        bad = json.loads(json.dumps(good))
        node = bad
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema())


def test_unknown_values_are_null_and_an_unknown_state_is_refused():
    doc = to_result(scored_row(1, 0.62) | dict(age_y=float("nan")))
    assert doc["patient"]["age_y"] is None
    with pytest.raises(ValueError, match="'DONE'"):
        to_result(scored_row(1, 0.62) | dict(state="DONE"))
