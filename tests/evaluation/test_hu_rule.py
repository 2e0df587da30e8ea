"""The plain HU rule as a rival of the model, on the same patients."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from osteo_ray.evaluation.evaluate import evaluate
from osteo_ray.evaluation.hu_rule import judge, l1_l2_hu
from osteo_ray.evaluation.reference_hu import cut_offs
from osteo_ray.screening.schema import RESULTS

BY_LEVEL = RESULTS.field("hu_by_level").type


def levels(**hu: float | None) -> list[dict]:
    return [{"level": k, "hu": v, "hu_120_kvp": v, "slices": 2, "spread": None} for k, v in hu.items()]


def test_the_mean_of_l1_and_l2_of_what_is_known():
    rows = [levels(T12=300, L1=100, L2=120, L3=10), levels(L2=90), levels(L3=80), levels(L1=None), [], None]
    got = l1_l2_hu(pa.chunked_array([pa.array(rows[:3], BY_LEVEL), pa.array(rows[3:], BY_LEVEL)]))
    np.testing.assert_array_equal(got, [110, 90, np.nan, np.nan, np.nan, np.nan])
    assert np.isnan(l1_l2_hu(pa.array([None, None], BY_LEVEL))).all()
    assert np.isnan(l1_l2_hu(pa.nulls(2))).all()


def people(n: int = 80) -> tuple[pa.Table, pd.DataFrame]:
    """Patients whose HU say nearly all, and a model that knows as much and a little more; some lack a level."""
    rng = np.random.default_rng(0)
    t = rng.normal(-1.8, 1.2, n)
    hu = 160 + 25 * t + rng.normal(0, 20, n)
    risk = 1 / (1 + np.exp(2 * (t + 2.5) + rng.normal(0, 0.8, n)))
    rows = [
        dict.fromkeys(RESULTS.names)
        | {
            "row_key": f"{i:032x}", "patient_key": f"p{i}", "state": "SCORED", "code": "OK",
            "risk_prob": float(risk[i]),
            "log_odds": float(np.log(risk[i] / (1 - risk[i]))), "threshold": 0.3, "study_date": "20240101",
            "hu_by_level": levels(L1=float(hu[i])) if i >= 10 else levels(L4=float(hu[i])),
        }
        for i in range(n)
    ]  # fmt: skip
    labels = pd.DataFrame({"patient_key": [f"p{i}" for i in range(n)], "t_score": t})
    return pa.Table.from_pylist(rows, schema=RESULTS), labels


def test_it_stands_in_the_evaluation_beside_the_model_on_the_same_patients():
    results, labels = people()
    ev = evaluate(results, labels, resamples=100)
    rule = ev.task("vs_rest").hu_rule
    assert rule is not None
    assert rule.auc.n == rule.model_auc.n == 70
    assert rule.difference.diff == pytest.approx(rule.model_auc.value - rule.auc.value)
    assert 0.7 < rule.auc.value < 1
    assert [hu for hu, _ in rule.at_cut_offs] == [cut_offs().specific, cut_offs().sensitive]
    strict, wide = (c for _, c in rule.at_cut_offs)
    assert wide.sensitivity.value >= strict.sensitivity.value
    assert wide.specificity.value <= strict.specificity.value
    assert sum("mean HU of L1, L2" in line for line in ev.lines()) == 2
    assert '"hu_rule"' in ev.to_json()
    without = results.drop_columns(["hu_by_level"])
    assert evaluate(without, labels, resamples=100).task("vs_rest").hu_rule is None


def test_low_hu_is_what_it_calls():
    y, hu = np.array([True, True, False, False]), np.array([80.0, 100.0, 150.0, np.nan])
    rule = judge(y, hu, np.array([0.9, 0.2, 0.4, 0.1]), 0.95)
    assert rule is not None
    assert rule.auc.value == 1
    assert rule.model_auc.value == 0.5
    assert judge(y, np.full(4, np.nan), np.zeros(4), 0.95) is None
