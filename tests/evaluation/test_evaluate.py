import io
import json
import math
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from osteo_ray import patients as records
from osteo_ray.evaluation import figures, metrics
from osteo_ray.evaluation.evaluate import evaluate
from osteo_ray.screening.schema import RESULTS


def row(key: str | None, risk: float | None, **more) -> dict:
    base = dict.fromkeys(RESULTS.names) | dict(
        row_key=f"k-{key}", series_uid=f"1.2.{key}", patient_key=key, state="SCORED", code="OK", risk_prob=risk
    )
    if risk is not None:
        base |= dict(log_odds=math.log(risk / (1 - risk)), threshold=0.4, modalities=["ct", "labs"])
    return base | more


def table(rows: list[dict], extra: pa.Schema | None = None) -> pa.Table:
    schema = RESULTS if extra is None else pa.unify_schemas([RESULTS, extra])
    return pa.Table.from_pylist(rows, schema=schema)


def people(n: int = 300, seed: int = 0) -> tuple[pa.Table, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    t = rng.normal(-1.6, 1.2, n)
    risk = 1 / (1 + np.exp(1.4 * (t + 2.3) + rng.normal(0, 0.8, n)))
    rows = [
        row(
            f"{i:04d}",
            float(risk[i]),
            sex="FM"[i % 2],
            age_y=float(40 + i % 50),
            kvp=(120.0, 100.0)[i % 2],
            slice_thickness_mm=(1.0, 3.0, 6.0)[i % 3],
            modalities=(["ct", "demographics"], ["ct", "demographics", "labs"])[i % 2],
        )
        for i in range(n)
    ]
    labels = pd.DataFrame(dict(patient_key=[r["patient_key"] for r in rows], t_score=t))
    return table(rows), labels


SMALL = [
    row("a", 0.9),
    row("b", 0.6),
    row("c", 0.3),
    row("d", 0.5),
    row("e", 0.1),
    row("f", None, state="EXCLUDED", code="Q_MODALITY"),
    row("g", None, state="ERROR", code="E_TIMEOUT"),
]
TRUTH = pd.DataFrame(
    dict(patient_key=list("abcdef"), label=["osteoporosis", "normal", "osteoporosis", "osteopenia", "normal", "normal"])
)


def test_both_tasks_by_hand():
    ev = evaluate(table(SMALL), TRUTH)
    assert ev.by_state == {"SCORED": 5, "EXCLUDED": 1, "ERROR": 1}
    assert sum(ev.by_state.values()) == ev.series == 7
    assert (ev.patients, ev.patients_scored, ev.patients_labelled) == (7, 5, 5)
    assert ev.label_counts == {"normal": 2, "osteopenia": 1, "osteoporosis": 2}
    normal, rest = ev.task("vs_normal"), ev.task("vs_rest")
    assert normal.auc.value == pytest.approx(3 / 4)  # a > b, a > e, c > e; c < b
    assert rest.auc.value == pytest.approx(4 / 6)  # and a > d; c < d
    assert (normal.auc.n_pos, normal.auc.n_neg, rest.auc.n_neg) == (2, 2, 3)
    c = rest.at_threshold  # 0.4: a, b, d are called
    assert (c.tp, c.fp, c.fn, c.tn) == (1, 2, 1, 1)
    assert normal.at_threshold.specificity.value == 0.5
    assert rest.calibration is not None
    assert normal.calibration is None


def test_label_column_t_score_and_record_table_agree():
    scored, labels = people()
    by_t = evaluate(scored, labels)
    named = labels.assign(label=[records.label_of(t) for t in labels["t_score"]])
    assert evaluate(scored, named.drop(columns="t_score")) == by_t
    assert evaluate(scored, records.RecordTable.of(labels)) == by_t
    assert evaluate(scored, pa.Table.from_pandas(labels)) == by_t


def test_figures_are_those_of_the_metrics():
    scored, labels = people()
    ev = evaluate(scored, labels)
    y = labels["t_score"].to_numpy() <= -2.5
    p = scored["risk_prob"].to_numpy()
    assert ev.task("vs_rest").auc == metrics.auc_delong(y, p)
    assert ev.task("vs_rest").calibration == metrics.calibration(y, p)
    keep = y | (labels["t_score"].to_numpy() >= -1)
    assert ev.task("vs_normal").auc == metrics.auc_delong(y[keep], scored["log_odds"].to_numpy()[keep])


def test_files_and_order_make_no_difference(tmp_path):
    scored, labels = people()
    order = np.random.default_rng(1).permutation(len(labels))
    pq.write_table(scored.take(order), tmp_path / "results.parquet")
    labels.to_csv(tmp_path / "labels.csv", index=False)
    read = pd.read_csv(tmp_path / "labels.csv", dtype={"patient_key": str})
    from_file, in_memory = evaluate(tmp_path / "results.parquet", read), evaluate(scored, labels)
    assert from_file.task("vs_normal").auc == in_memory.task("vs_normal").auc
    assert from_file.task("vs_rest").at_threshold == in_memory.task("vs_rest").at_threshold
    assert [(g.by, g.group, g.n) for g in from_file.subgroups] == [(g.by, g.group, g.n) for g in in_memory.subgroups]
    assert evaluate(tmp_path / "results.parquet", tmp_path / "labels.csv").patients_labelled == len(labels)


def test_every_subgroup_cut_splits_all_patients():
    scored, labels = people()
    ev = evaluate(scored, labels)
    sizes: dict[str, int] = {}
    for g in ev.subgroups:
        sizes[g.by] = sizes.get(g.by, 0) + g.n
    assert set(sizes) == {
        "sex",
        "age",
        "modalities",
        "manufacturer",
        "kVp",
        "slice thickness",
        "kernel",
        "contrast",
    }
    assert set(sizes.values()) == {300}
    groups = {(g.by, g.group) for g in ev.subgroups}
    assert {("sex", "F"), ("kVp", "100"), ("contrast", "not recorded"), ("modalities", "ct + demographics")} <= groups
    ages = [g.group for g in ev.subgroups if g.by == "age"]
    assert ages == ["< 50 y", "50-59 y", "60-69 y", "70-79 y", ">= 80 y"]
    thick = [g.group for g in ev.subgroups if g.by == "slice thickness"]
    assert thick == ["<= 1 mm", "2 < .. <= 3 mm", "> 5 mm"]
    women = next(g for g in ev.subgroups if g.group == "F")
    keep = np.array([s == "F" for s in scored["sex"].to_pylist()])
    y = labels["t_score"].to_numpy() <= -2.5
    assert women.auc_vs_rest == metrics.auc_delong(y[keep], scored["risk_prob"].to_numpy()[keep])


def test_one_row_per_patient_the_latest_study_where_dated():
    twice = [*SMALL, row("a", 0.05, row_key="k-0", series_uid="1.2.0")]
    undated = evaluate(table(twice), TRUTH)
    assert undated.patients_labelled == 5
    assert any("no study_date" in n for n in undated.notes)
    dates = dict(zip("abcde", ["20300101"] * 5, strict=True))
    dated = [r | dict(study_date=dates.get(r["patient_key"])) for r in SMALL]
    newest = row("a", 0.05, row_key="k-9", series_uid="1.2.9", study_date="20310101")
    older = row("a", 0.05, row_key="k-9", series_uid="1.2.9", study_date="20290101")
    extra = pa.schema([("study_date", pa.string())])
    latest = evaluate(table([*dated, newest], extra), TRUTH)
    assert latest.task("vs_rest").auc.value == pytest.approx(1 / 6)  # a now stands below everyone
    assert evaluate(table([*dated, older], extra), TRUTH).task("vs_rest").auc.value == pytest.approx(4 / 6)


def test_the_threshold_is_the_rows_own():
    rows = [
        r | dict(threshold=None if r["risk_prob"] is None else t)
        for r, t in zip(SMALL, [0.95, *[0.4] * 6], strict=True)
    ]
    assert evaluate(table(rows), TRUTH).task("vs_rest").at_threshold.tp == 0


def test_the_label_nearest_to_the_ct_counts_and_two_undated_ones_are_refused():
    more = pd.DataFrame(dict(patient_key=["a", "b"], label=["normal", "osteoporosis"]))
    both = pd.concat([TRUTH, more], ignore_index=True)
    with pytest.raises(ValueError, match="patient_key a has two labels"):
        evaluate(table(SMALL), both)
    both["record_date"] = pd.to_datetime(["2030-01-01"] * len(TRUTH) + ["2031-01-01", "2029-01-01"])
    newest = evaluate(table(SMALL), both)
    assert newest.label_counts == {"normal": 3, "osteopenia": 1, "osteoporosis": 1}
    assert any("no study_date: of a patient's labels the latest" in n for n in newest.notes)
    extra = pa.schema([("study_date", pa.string())])
    dated = evaluate(table([r | dict(study_date="20300301") for r in SMALL], extra), both)
    assert dated.label_counts == {"normal": 2, "osteopenia": 1, "osteoporosis": 2}
    far = evaluate(table([r | dict(study_date="20250301") for r in SMALL], extra), both)
    assert far.patients_labelled == 0
    assert any("5 DXA of more than 365 days" in n for n in far.notes)


def test_a_patient_with_two_cts_counts_by_the_one_that_has_a_label():
    extra = pa.schema([("study_date", pa.string())])
    rows = [r | dict(study_date="20200301") for r in SMALL]
    rows.append(row("a", 0.01, row_key="k-9", series_uid="1.2.9", study_date="20240301"))
    labels = TRUTH.assign(record_date="2020-02-01")
    assert evaluate(table(rows, extra), labels).task("vs_rest").auc.value == pytest.approx(4 / 6)


def test_the_bayes_optimal_auc_stands_beside():
    scored, labels = people()
    y = labels["t_score"].to_numpy() <= -2.5
    truth = labels.assign(p_bayes=-labels["t_score"], p_bayes_rest=-labels["t_score"])
    ev = evaluate(scored, truth)
    assert [t.bayes_auc and t.bayes_auc.value for t in ev.tasks] == [1.0, 1.0]
    assert any("Bayes-optimal AUC" in line for line in ev.lines())
    half = truth.assign(p_bayes_rest=truth["p_bayes_rest"].where(np.arange(len(y)) < 150))
    estimate = evaluate(scored, half).task("vs_rest").bayes_auc
    assert estimate is not None
    assert estimate.n == 150


def test_other_systems_need_only_two_columns():
    bare = table(SMALL).select(["patient_key", "risk_prob"])
    ev = evaluate(bare, TRUTH)
    assert ev.task("vs_normal").auc.value == pytest.approx(3 / 4)
    assert math.isnan(ev.task("vs_rest").at_threshold.sensitivity.value)
    assert any("no threshold" in n for n in ev.notes)
    assert ev.subgroups == ()


@pytest.mark.parametrize(
    ("results", "labels"),
    [
        (table([]), TRUTH),
        (table(SMALL), TRUTH.iloc[:0]),
        (table(SMALL), TRUTH[TRUTH["label"] != "normal"]),
        (table(SMALL), TRUTH[TRUTH["label"] == "normal"]),
        (table(SMALL[5:]), TRUTH),
    ],
)
def test_undefined_runs_are_reported_not_raised(results, labels):
    ev = evaluate(results, labels)
    assert math.isnan(ev.task("vs_normal").auc.value)
    assert "n/a" in "\n".join(ev.lines())
    for draw in (figures.roc, figures.calibration, figures.decision, figures.forest):
        assert Image.open(io.BytesIO(draw(ev))).size[0] > 100


def test_json_is_strict_and_complete():
    scored, labels = people(40)
    ev = evaluate(scored, labels)
    doc = json.loads(ev.to_json(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    assert doc["tasks"][1]["auc"]["value"] == ev.task("vs_rest").auc.value
    assert doc["by_state"] == {"SCORED": 40}
    assert len(doc["subgroups"]) == len(ev.subgroups)


@pytest.mark.parametrize(
    ("results", "labels", "words"),
    [
        (table(SMALL).drop_columns(["risk_prob"]), TRUTH, "risk_prob"),
        (table(SMALL), TRUTH.drop(columns="patient_key"), "patient_key"),
        (table(SMALL), TRUTH.drop(columns="label"), "label"),
        (table(SMALL), TRUTH.replace("osteopenia", "thin"), "'thin'"),
        (table(SMALL), 7, "int"),
    ],
)
def test_input_that_cannot_be_used_is_named(results, labels, words):
    with pytest.raises(ValueError, match=words):
        evaluate(results, labels)


@pytest.mark.parametrize("draw", [figures.roc, figures.calibration, figures.decision, figures.forest])
def test_figures_are_readable_and_repeatable(draw):
    ev = evaluate(*people(120))
    png = draw(ev, "png")
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    assert pixels.min() < 100
    assert pixels.max() == 255
    svg = draw(ev, "svg")
    assert ET.fromstring(svg).tag.endswith("svg")
    assert draw(ev, "svg") == svg


def test_the_forest_shows_every_group_and_the_roc_both_aucs():
    ev = evaluate(*people(120))
    forest = figures.forest(ev, "svg").decode()
    for g in ev.subgroups:
        assert f"(n = {g.n})" in forest
    assert str(ev.task("vs_normal").auc) in figures.roc(ev, "svg").decode()
