"""The bundle that ships with the package: it fits this code, scores a synthetic study, and says what it is."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from osteo_ray import load_bundle
from osteo_ray.cli import main
from osteo_ray.model import reference
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.patterns import MODALITIES

FOLDER = Path(reference.bundle())


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(FOLDER)


def test_it_is_small_and_fits_this_version(bundle):
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 10_000_000
    assert bundle.name == reference.NAME
    assert "+".join(MODALITIES) in bundle.calibrators
    assert all(np.isfinite(n.threshold) for n in bundle.novelty.values())


def test_its_card_says_what_it_saw_what_it_scored_and_what_it_is_not(bundle):
    m, card = bundle.metrics, " ".join(bundle.card.split())
    assert f"{m['n_train']} patients" in card
    assert "All of them are synthetic" in card
    assert "NOT VALIDATED ON PATIENTS" in card
    assert "Research use only" in card
    assert "cannot rule out low bone density" in card
    by_pattern = {r["pattern"]: r for r in m["heldout"]}
    assert set(by_pattern) == set(bundle.calibrators)
    for r in by_pattern.values():
        value, low, high = r["auc"]
        assert low < value < high
        assert f"{value:.3f} ({low:.3f}-{high:.3f})" in card
        assert min(r["events"], r["normal"]) >= 100, "figures with useful intervals"
    # It has learned: worse than this and something is broken, not merely retrained.
    assert by_pattern["demographics+labs+ct"]["auc"][0] > 0.9
    assert by_pattern["ct"]["auc"][0] > 0.87
    assert by_pattern["demographics+labs"]["auc"][0] > 0.78


@pytest.mark.ray
def test_screen_without_a_bundle_uses_it_and_says_so(cohort_run, tmp_path, capsys):
    argv = [
        "screen",
        cohort_run.catalogue,
        "--records",
        cohort_run.records,
        "--out",
        tmp_path,
        "--set",
        "scoring.shap=false",
    ]
    assert main([str(a) for a in argv]) == 0
    printed = capsys.readouterr().out
    assert "NOT VALIDATED ON PATIENTS" in printed
    assert "NOT VALIDATED ON PATIENTS" in (tmp_path / "report.html").read_text()
    results = pq.read_table(tmp_path / "results.parquet").to_pylist()
    seen = [r for r in results if r["slices_decoded"]]
    scored = [r for r in seen if r["risk_prob"] is not None]
    assert {r["model_name"] for r in seen} == {reference.NAME}
    assert len(scored) >= 0.7 * len(seen), {r["code"] for r in seen}
    lumbar = np.array([p["p_lumbar"] for r in scored for p in r["selected"]])
    assert (lumbar > 0.5).mean() > 0.8, "it looks where the lumbar spine is"


def test_one_study_from_python(cohort_run):
    study = next(p for p in sorted(Path(cohort_run.archive).iterdir()) if any(p.rglob("*.dcm")))
    folder = next(d for d in sorted(study.iterdir()) if d.is_dir())
    r = load_bundle().score(folder, record={"age_y": 70, "sex": "F"}).to_dict()
    assert r["model_name"] == reference.NAME
    assert r["code"]
