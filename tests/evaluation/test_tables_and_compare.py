"""Any system's scores, two systems side by side, and statistics held against second implementations."""

import json
import math

import dcurves
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from osteo_ray.evaluation import metrics as m
from osteo_ray.evaluation import resample as r
from osteo_ray.evaluation import selective
from osteo_ray.evaluation.compare import compare
from osteo_ray.evaluation.evaluate import evaluate
from osteo_ray.evaluation.labels import is_plain_labels
from osteo_ray.evaluation.tables import read_results
from osteo_ray.outcomes import InputError
from osteo_ray.patients.config import SitePatientKeys
from osteo_ray.patients.identity import patient_key

RNG = np.random.default_rng(0)


def people(n: int = 240, seed: int = 0, noise: float = 0.8) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores with the two columns that any system has, and labels."""
    rng = np.random.default_rng(seed)
    t = np.random.default_rng(7).normal(-1.6, 1.2, n)
    risk = 1 / (1 + np.exp(1.4 * (t + 2.3) + rng.normal(0, noise, n)))
    keys = [f"{i:04d}" for i in range(n)]
    return pd.DataFrame(dict(patient_key=keys, risk_prob=risk)), pd.DataFrame(dict(patient_key=keys, t_score=t))


def test_a_csv_of_keys_and_scores_is_enough(tmp_path):
    scores, labels = people()
    odds = np.log(scores["risk_prob"] / (1 - scores["risk_prob"]))
    foreign = pd.DataFrame(dict(patient_key=scores["patient_key"], score=odds, threshold=0.0, site=["A", "B"] * 120))
    foreign["modalities"] = "ct + labs"
    foreign.to_csv(tmp_path / "theirs.csv", index=False)
    labels.to_csv(tmp_path / "labels.csv", index=False)
    ev = evaluate(tmp_path / "theirs.csv", tmp_path / "labels.csv", resamples=100)
    y = labels["t_score"].to_numpy() <= -2.5
    rest = ev.task("vs_rest")
    assert rest.auc.value == pytest.approx(roc_auc_score(y, scores["risk_prob"]))
    assert rest.at_threshold.tp == int((y & (odds >= 0)).sum())
    assert rest.calibration is None
    assert rest.brier is None
    assert ev.abstention is None
    assert any("no risk_prob" in n for n in ev.notes)
    assert {(g.by, g.group) for g in ev.subgroups} == {("site", "A"), ("site", "B"), ("modalities", "ct + labs")}
    foreign.to_parquet(tmp_path / "theirs.parquet")
    assert evaluate(tmp_path / "theirs.parquet", labels, resamples=100).task("vs_rest").auc == rest.auc


def test_patient_ids_become_keys_under_the_same_secret(tmp_path):
    scores, labels = people(60)
    scores, labels = (f.rename(columns={"patient_key": "patient_id"}) for f in (scores, labels))
    scores.to_csv(tmp_path / "s.csv", index=False)
    labels.assign(label="").to_csv(tmp_path / "l.csv", index=False)
    assert is_plain_labels(tmp_path / "l.csv")
    keys = SitePatientKeys(pseudonym_key="secret")
    read = read_results(tmp_path / "s.csv", keys)
    assert read["patient_key"][7] == patient_key("0007", "secret"), "zeros in front are kept"
    assert evaluate(tmp_path / "s.csv", tmp_path / "l.csv", resamples=100, keys=keys).patients_labelled == 60


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame(dict(patient_key=["a"], other=[1])), "risk_prob"),
        (pd.DataFrame(dict(name=["a"], score=[1])), "patient_key"),
        (pd.DataFrame(dict(patient_key=["a", "b"], risk_prob=[0.2, 1.7])), "row 2: risk_prob 1.7"),
        (pd.DataFrame(dict(patient_key=["a"], score=["high"])), "'high' is no finite number"),
        (pd.DataFrame(dict(patient_id=[7], score=[1])), "must be text"),
    ],
)
def test_scores_that_cannot_be_used_are_named(frame, words):
    with pytest.raises(InputError, match=words):
        read_results(frame)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        read_results(tmp_path / "nowhere.csv")


# ---- two systems


def test_two_results_are_compared_patient_by_patient():
    a, labels = people(seed=1, noise=0.4)
    b, _ = people(seed=2, noise=2.5)
    a["threshold"], b["threshold"] = 0.4, 0.5
    c = compare(a.iloc[:230], b.iloc[10:], labels, resamples=300)
    assert (c.both, c.only_a, c.only_b) == (220, 10, 10)
    y = (labels["t_score"].to_numpy() <= -2.5)[10:230]
    pa_, pb_ = a["risk_prob"].to_numpy()[10:230], b["risk_prob"].to_numpy()[10:230]
    by = {(d.figure, d.task, d.method): d for d in c.differences}
    delong = by["AUC", "vs rest", "DeLong, paired"]
    assert delong.diff == pytest.approx(roc_auc_score(y, pa_) - roc_auc_score(y, pb_))
    assert delong.p < 0.001
    boot = by["AUC", "vs rest", "bootstrap over patients"]
    assert boot.diff == pytest.approx(delong.diff)
    assert (boot.low, boot.high) == pytest.approx((delong.low, delong.high), abs=0.02)
    sens = by["sensitivity", "vs rest", "bootstrap; p: exact McNemar"]
    hit_a, hit_b = (pa_ >= 0.4)[y], (pb_ >= 0.5)[y]
    assert sens.diff == pytest.approx(hit_a.mean() - hit_b.mean())
    table = [[(hit_a & hit_b).sum(), (hit_a & ~hit_b).sum()], [(~hit_a & hit_b).sum(), (~hit_a & ~hit_b).sum()]]
    assert sens.p == pytest.approx(mcnemar(table).pvalue)
    brier = by["Brier score", "vs rest", "bootstrap over patients"]
    assert brier.diff == pytest.approx(brier_score_loss(y, pa_) - brier_score_loss(y, pb_))
    json.loads(c.to_json(), parse_constant=lambda x: pytest.fail(f"{x} is no JSON"))
    assert len(c.lines()) == 5 + len(c.differences) + len(c.notes)


def test_a_system_against_itself_differs_in_nothing_and_strangers_are_refused():
    a, labels = people(80)
    c = compare(a, a, labels, resamples=100)
    assert all(d.diff == 0 for d in c.differences)
    with pytest.raises(InputError, match="share no labelled patient"):
        compare(a, a.assign(patient_key=a["patient_key"] + "x"), labels)


# ---- second implementations


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_a_weighted_auc_is_that_of_the_repeated_rows(seed):
    rng = np.random.default_rng(seed)
    y, s, w = rng.integers(0, 2, 30), rng.integers(0, 6, 30).astype(float), rng.integers(0, 4, 30)
    got = r.weighted_auc(r.Order.of(y, s), w.astype(float))
    rows = np.repeat(np.arange(30), w)
    if len(np.unique(y[rows])) < 2:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(roc_auc_score(y[rows], s[rows]))


def test_patients_are_drawn_whole():
    y = RNG.integers(0, 2, 60)
    s = RNG.normal(size=60) + y
    alone = r.auc_clustered(y, s, np.arange(60), 400)
    # The same rows three times over are no new evidence: the interval stays, where rows drawn singly would shrink it.
    thrice = r.auc_clustered(np.tile(y, 3), np.tile(s, 3), np.tile(np.arange(60), 3), 400)
    assert (thrice.value, thrice.low, thrice.high) == pytest.approx((alone.value, alone.low, alone.high))
    naive = r.auc_clustered(np.tile(y, 3), np.tile(s, 3), np.arange(180), 400)
    assert naive.high - naive.low < 0.75 * (alone.high - alone.low)
    by_hand = m.bootstrap(lambda rows: m.auc_delong(y[rows], s[rows]).value, np.arange(60), 400, seed=3)
    assert (alone.low, alone.high) == pytest.approx((by_hand.low, by_hand.high), abs=0.03)


def test_calibration_and_brier_are_those_of_other_packages():
    scores, labels = people(400)
    y, p = (labels["t_score"] <= -2.5).to_numpy(), scores["risk_prob"].to_numpy()
    k = m.calibration(y, p)
    fit = sm.GLM(y.astype(float), sm.add_constant(np.log(p / (1 - p))), family=sm.families.Binomial()).fit()
    assert k.slope.value == pytest.approx(fit.params[1], rel=1e-5)
    assert k.brier == pytest.approx(brier_score_loss(y, p))
    wilson = proportion_confint(30, 41, method="wilson")
    e = m.proportion(30, 41)
    assert (e.low, e.high) == pytest.approx(wilson)


def test_net_benefit_is_that_of_dcurves():
    scores, labels = people(300)
    y = (labels["t_score"] <= -2.5).to_numpy()
    cuts = np.round(np.arange(0.05, 0.6, 0.05), 2)
    reference = dcurves.dca(pd.DataFrame(dict(y=y.astype(int), p=scores["risk_prob"])), "y", ["p"], thresholds=cuts)
    ours = m.decision_curve(y, scores["risk_prob"], cuts)
    for model, values in (("p", ours.model), ("all", ours.treat_all)):
        column = reference[reference["model"] == model].sort_values("threshold")["net_benefit"].to_numpy()
        assert values == pytest.approx(column, abs=1e-9)


# ---- where the score may stay silent


def test_abstention_keeps_the_surest_by_hand():
    y = [1, 1, 0, 0]
    p = [0.9, 0.45, 0.55, 0.1]
    a = selective.abstention(y, p, [0.5] * 4)
    assert a is not None
    assert a.n[0] == 4
    assert a.at[0].accuracy.value == 0.5
    # 0.9 and 0.1 are equally far from 0.5, and both right; 0.45 and 0.55 are the unsure, and both wrong.
    assert a.n[-1] == 2
    assert a.at[-1].accuracy.value == 1.0
    assert a.area < a.area_random == 0.5
    assert selective.abstention([], [], []) is None


def test_conformal_coverage_by_class():
    labels = ["osteoporosis"] * 4 + ["normal"] * 2
    sets = [["osteoporosis"], ["osteopenia", "osteoporosis"], ["normal"], [], ["normal"], ["normal", "osteopenia"]]
    c = {g.name: g for g in selective.conformal(labels, sets).groups}
    assert c["all"].covered.value == pytest.approx(4 / 6)
    assert c["osteoporosis"].covered.value == 0.5
    assert c["osteoporosis"].sizes == (1, 2, 1, 0)
    assert c["normal"].covered.value == 1.0
    assert math.isnan(c["osteopenia"].covered.value)
    with pytest.raises(ValueError, match="'thin' is no class"):
        selective.conformal(["normal"], [["thin"]])


def test_conformal_sets_come_from_the_results():
    scores, labels = people(40)
    sets = [["osteoporosis"] if p > 0.5 else ["normal", "osteopenia"] for p in scores["risk_prob"]]
    table = pa.Table.from_pandas(scores.assign(threshold=0.5)).append_column("conformal_set", pa.array(sets))
    ev = evaluate(table, labels, resamples=100)
    assert ev.conformal is not None
    assert ev.conformal.groups[0].n == 40
    as_text = scores.assign(conformal_set=["+".join(s) for s in sets])
    assert evaluate(as_text, labels, resamples=100).conformal == ev.conformal
