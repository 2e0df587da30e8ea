"""SHAP over a run, the figures of it, the one-file page, the checklists, and the commands that write them."""

import io
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from osteo_ray.cli import main
from osteo_ray.commands.evaluate import EvaluateJob
from osteo_ray.commands.evaluate import evaluate as command
from osteo_ray.config import load
from osteo_ray.evaluation import attribution as attr
from osteo_ray.evaluation import evidence
from osteo_ray.evaluation.checklists import STATES, TITLES, checklists, markdown, read_answers
from osteo_ray.evaluation.evaluate import evaluate
from osteo_ray.outcomes import InputError
from osteo_ray.reports.evaluation_page import shown
from osteo_ray.screening.schema import RESULTS

FEATURES = (("age_y", "demographics", "a"), ("alp_u_l", "labs", "U/L"), ("wbc_10e9_l", "labs", "10*9/L"))


def run(n: int = 60, seed: int = 0) -> tuple[pa.Table, np.ndarray]:
    """Results with SHAP: age moves most, ALP some, white cells nothing; every fifth patient lacks ALP."""
    rng = np.random.default_rng(seed)
    age, alp = rng.normal(65, 8, n), rng.normal(70, 20, n)
    odds = 0.15 * (age - 65) + 0.02 * (alp - 70) + rng.normal(0, 0.7, n)
    rows = []
    for i in range(n):
        known = i % 5 != 0
        moved = (0.15 * (age[i] - 65), 0.02 * (alp[i] - 70) if known else 0.05, 0.0)
        values = (age[i], alp[i] if known else None, 6.0)
        shap = [
            dict(feature=f, group=g, value=v, unit=u, shap=s)
            for (f, g, u), v, s in zip(FEATURES, values, moved, strict=True)
        ]
        shap.append(dict(feature="ct", group="ct", value=None, unit=None, shap=0.3))
        if i == 1:  # scored by the CT alone
            shap = shap[-1:]
        p = float(1 / (1 + np.exp(-odds[i])))
        rows.append(
            dict.fromkeys(RESULTS.names)
            | dict(row_key=f"k{i:03d}", patient_key=f"p{i:03d}", state="SCORED", code="OK", risk_prob=p, threshold=0.5)
            | dict(log_odds=float(odds[i]), shap=shap, shap_base=0.0, modalities=["ct", "demographics", "labs"])
        )
    t = -1.7 - 0.5 * odds + rng.normal(0, 0.6, n)
    return pa.Table.from_pylist(rows, schema=RESULTS), t


@pytest.fixture
def files(tmp_path):
    table, t = run()
    (tmp_path / "run").mkdir()
    pq.write_table(table, tmp_path / "run" / "results.parquet")
    keys = table["patient_key"].to_pylist()
    pd.DataFrame(dict(patient_key=keys, t_score=t)).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("patient_key,t_score\nsomebody,-2.6\n", "none of the 1 patients with a label is among the 60 scored: are ps"),
        ("patient_key,t_score\nsomebody,\n", "holds no T-score and no label"),
    ],
)
def test_labels_of_nobody_who_was_scored_are_no_evaluation(files, capsys, table, why):
    """A wrong secret, or the wrong table, must not look like a finished evaluation to a scheduler."""
    (files / "others.csv").write_text(table)
    assert main(["evaluate", str(files / "run"), "--labels", str(files / "others.csv"), "--out", str(files / "o")]) == 3
    assert why in capsys.readouterr().err
    assert not (files / "o" / "evaluation.json").exists()


def test_attributions_keep_every_value_in_its_place():
    table, _ = run(7)
    a = attr.attributions(table["shap"])
    assert a.features == ("age_y", "alp_u_l", "wbc_10e9_l", "ct")
    for i, cell in enumerate(table["shap"].to_pylist()):
        by_feature = {s["feature"]: (s["value"], s["shap"]) for s in cell}
        for j, f in enumerate(a.features):
            value, shap = by_feature.get(f, (None, None))
            assert (np.isnan(a.shap[i, j]) and shap is None) or a.shap[i, j] == shap
            assert (np.isnan(a.value[i, j]) and value is None) or a.value[i, j] == value
    assert a.by_group()["labs"][2] == pytest.approx(a.shap[2, 1] + a.shap[2, 2])
    assert attr.labs_missing(a)[[0, 2]].tolist() == [1, 0]
    assert np.isnan(attr.labs_missing(a)[1]), "nothing is said of labs that were no players"


def test_summary_ranks_features_and_modalities():
    a = attr.attributions(run(60)[0]["shap"])
    features = attr.summary(a)
    assert [f.feature for f in features if f.group != "ct"] == ["age_y", "alp_u_l", "wbc_10e9_l"]
    age, alp = (next(f for f in features if f.feature == n) for n in ("age_y", "alp_u_l"))
    assert age.direction == pytest.approx(1.0)
    assert age.n == 59
    assert alp.known == pytest.approx(47 / 59)
    assert attr.modalities(a)[0].group == "demographics"


def test_evaluate_and_checklist_commands_write_everything(files, capsys):
    out = files / "out"
    job = dict(results=str(files / "run"), labels=str(files / "labels.csv"), out=str(out), resamples=100)
    lines = command(load(EvaluateJob, given=job | dict(against=str(files / "run" / "results.parquet"))))
    assert any("SHAP" in line for line in lines)
    page = (out / "evaluation.html").read_text()
    seen = Reader(page)
    assert seen.fetched == []
    assert seen.scripts == 0
    assert set(seen.ids) >= {"figures", "comparison", "abstention-table", "shap-table", "checklists"}
    assert all(label for label in seen.pictures)
    assert len(seen.pictures) == len(list((out / "figures").glob("*.png"))) >= 7
    assert "cannot rule out" in page
    assert json.loads((out / "comparison.json").read_text())["both"] == 60
    assert json.loads((out / "evaluation.json").read_text())["importance"][0]["feature"] == "age_y"
    assert main(["checklist", str(out), "--out", str(files / "tripod.md")]) == 0
    text = (files / "tripod.md").read_text()
    assert "60 series" in text
    assert "| 27c |" in text
    assert "| 44 |" in text
    assert main(["checklist", str(files / "nowhere"), "--out", str(files / "x.md")]) == 3
    assert "run `osteo-ray evaluate` first" in capsys.readouterr().err
    assert main(["evaluate", str(files / "run"), "--labels", str(files / "none.csv")]) == 3


class Reader(HTMLParser):
    """What a page would fetch, its scripts, ids and text alternatives of its pictures."""

    def __init__(self, page: str):
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.pictures: list[str | None] = []
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.scripts += tag == "script"
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith(("#", "data:"))]
        self.ids += [a["id"]] if "id" in a else []
        if tag == "svg":
            self.pictures.append(a.get("aria-label"))


def test_figures_of_evidence_are_readable_and_repeatable():
    table, t = run()
    labels = pa.table(dict(patient_key=table["patient_key"], t_score=t))
    sets = pa.array([["normal", "osteopenia"]] * len(table))
    others = table.select([c for c in table.column_names if c != "conformal_set"])
    ev = evaluate(others.append_column("conformal_set", sets), labels, resamples=100)
    assert {f.name for f in shown(ev)} >= {"shap", "missingness", "abstention", "conformal", "subgroups"}
    bare = evaluate(table.select(["patient_key", "risk_prob"]), labels, resamples=100)
    for draw in (evidence.beeswarm, evidence.missingness, evidence.risk_coverage, evidence.conformal):
        png = draw(ev)
        assert np.asarray(Image.open(io.BytesIO(png)).convert("L")).min() < 120
        assert draw(ev, "svg") == draw(ev, "svg")
        assert b"not defined" in draw(bare, "svg")
    assert [f.name for f in shown(bare)] == ["roc", "calibration", "decision"]


def test_checklists_are_whole_and_take_the_sites_answers(tmp_path):
    tripod, claim = checklists()
    assert len({i.id.rstrip("abcdefg") for i in tripod.items}) == 27
    assert [i.id for i in claim.items] == [str(k) for k in range(1, 45)]
    assert all(i.state in STATES and i.text for c in (tripod, claim) for i in c.items)
    assert any("without an evaluation" in i.text for i in tripod.items)
    (tmp_path / "a.yaml").write_text('tripod:\n  "6a": "One hospital | two scanners"\n')
    answered = checklists(answers=read_answers(tmp_path / "a.yaml"))
    assert next(i for i in answered[0].items if i.id == "6a").state == "answered"
    assert "One hospital \\| two scanners" in markdown(answered)
    for wrong, words in (({"tripod": {"99": "x"}}, "no item '99'"), ({"stard": {}}, "no checklist 'stard'")):
        with pytest.raises(InputError, match=words):
            checklists(answers=wrong)
    assert set(TITLES) == {"tripod", "claim"}
