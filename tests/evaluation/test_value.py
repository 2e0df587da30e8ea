"""Clinical value by pattern: by hand, and against the decision curve that is there already."""

import numpy as np
import pandas as pd
import pytest

from osteo_ray.evaluation.metrics import decision_curve
from osteo_ray.evaluation.value import EVERYONE, lines, value


def patients(n=400, seed=0):
    rng = np.random.default_rng(seed)
    t = rng.normal(-1.7, 1.1, n)
    risk = 1 / (1 + np.exp(2.2 * (t + 2.4) + rng.normal(size=n)))
    return pd.DataFrame({
        "label": np.select([t <= -2.5, t < -1], ["osteoporosis", "osteopenia"], "normal"), "risk_prob": risk,
        "threshold": np.where(np.arange(n) % 2 == 0, 0.2, 0.4), "l1_l2_hu": 150 + 25 * (t + 1.7) + rng.normal(0, 15, n),
        "modalities": [["ct"] if i % 2 == 0 else ["ct", "labs"] for i in range(n)],
    })  # fmt: skip


def test_each_pattern_at_its_own_threshold():
    frame = patients()
    found = {v.pattern: v for v in value(frame)}
    assert list(found) == [EVERYONE, "ct", "ct + labs"]
    for name, cut, start in (("ct", 0.2, 0), ("ct + labs", 0.4, 1)):
        part, v = frame.iloc[start::2], found[name]
        y = (part["label"] == "osteoporosis").to_numpy()
        curve = decision_curve(y, part["risk_prob"], [cut])
        assert v.net_benefit.value == pytest.approx(curve.model[0])
        assert v.against_all.value == pytest.approx(curve.model[0] - curve.treat_all[0])
        assert v.net_benefit.low < v.net_benefit.value < v.net_benefit.high
        assert v.sensitivity.n == y.sum()
        assert v.threshold == pytest.approx(cut)
        called = (part["risk_prob"] >= cut).to_numpy()
        assert v.number_needed.value == pytest.approx(called.sum() / (called & y).sum())
        low = (part["l1_l2_hu"] <= 160).to_numpy()
        rule = ((low & y).sum() - (low & ~y).sum() * cut / (1 - cut)) / len(y)
        assert v.hu_rule.value == pytest.approx(rule)
        assert v.against_hu_rule.value == pytest.approx(curve.model[0] - rule)


def test_the_worklists_top_by_hand():
    frame = patients()
    everyone = value(frame)[0]
    assert [t.n for t in everyone.top] == [10, 20, 50, 100, 200]
    first = frame.sort_values("risk_prob", ascending=False).head(50)
    cases = (first["label"] == "osteoporosis").sum()
    at_50 = everyone.top[2]
    assert at_50.cases == cases
    assert at_50.right.value == pytest.approx(cases / 50)
    assert at_50.found.value == pytest.approx(cases / (frame["label"] == "osteoporosis").sum())


def test_what_is_not_known_has_no_figure():
    frame = patients(30).drop(columns=["l1_l2_hu", "modalities"])
    frame["label"] = "normal"
    (only,) = value(frame)
    assert np.isnan(only.hu_rule.value)
    assert np.isnan(only.number_needed.value)
    assert "n/a" in "\n".join(lines((only,)))
    assert value(frame.drop(columns="threshold")) == ()
    assert value(frame.assign(threshold=np.nan)) == ()
