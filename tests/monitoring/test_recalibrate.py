import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, logit
from synthetic_bundle import synthetic_bundle

from osteo_ray import cli
from osteo_ray.evaluation.metrics import calibration
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.calibration import Calibrator
from osteo_ray.monitoring.config import SiteConfig
from osteo_ray.monitoring.recalibrate import Pairs, fit_curve, recalibrate
from osteo_ray.outcomes import InputError
from osteo_ray.patients.record_set import write_record_set
from osteo_ray.patients.table import RecordTable
from osteo_ray.screening.schema import RESULTS

CFG = SiteConfig(resamples=100)


def drawn_pairs(n: int, slope: float, intercept: float, seed: int = 0) -> Pairs:
    """Patients of a site where osteoporosis follows sigmoid(slope * logit(reported) + intercept)."""
    rng = np.random.default_rng(seed)
    p = expit(rng.normal(-0.5, 1.5, n))
    y = rng.random(n) < expit(slope * logit(p) + intercept)
    probs = np.c_[(1 - p) * 0.6, (1 - p) * 0.4, p]
    label = np.where(y, 2, rng.integers(0, 2, n))
    return Pairs(
        np.array([f"k{i:04d}" for i in range(n)]), probs, np.array(["ct", "demographics+ct"])[np.arange(n) % 2], label
    )


def test_a_shifted_site_is_mended_and_the_gain_is_shown_on_unseen_patients():
    found = recalibrate(drawn_pairs(400, 0.6, -1.2), "north", CFG, seed=1, conformal_level=0.9)
    assert (found.slope, found.intercept) == (pytest.approx(0.6, abs=0.15), pytest.approx(-1.2, abs=0.3))
    f = found.figures
    for name, ideal in (("slope", 1.0), ("intercept", 0.0)):
        assert not f[name].before[1] <= ideal <= f[name].before[2], "the shift shows before"
        assert f[name].after[1] <= ideal <= f[name].after[2]
    assert f["brier"].after[0] < f["brier"].before[0]
    assert f["ece"].after[0] < f["ece"].before[0]
    assert found.gains
    assert "north" not in json.dumps(found.facts()["figures"])


def test_the_figures_are_those_of_the_evaluation():
    pairs = drawn_pairs(200, 0.6, -1.2)
    figures = recalibrate(pairs, "north", CFG, seed=1).figures
    known = calibration(pairs.y, pairs.probs[:, 2])
    assert figures["slope"].before[0] == pytest.approx(known.slope.value, abs=1e-4)
    assert figures["intercept"].before[0] == pytest.approx(known.intercept.value, abs=1e-4)
    assert figures["brier"].before[0] == pytest.approx(known.brier)
    assert figures["ece"].before[0] == pytest.approx(known.ece)


def test_a_site_like_the_training_data_shows_no_sure_gain():
    found = [recalibrate(drawn_pairs(150, 1.0, 0.0, s), "same", CFG, seed=s) for s in range(4)]
    assert sum(f.gains for f in found) <= 1
    assert all(abs(f.slope - 1) < 0.5 for f in found)
    assert any("no sure gain" in line for f in found for line in f.lines())


def test_few_pairs_move_the_bundle_less_than_many():
    def moved(n: int) -> float:
        pairs = drawn_pairs(n, 0.6, -1.2)
        free = SiteConfig(slope_sd=100, intercept_sd=100)
        x = logit(pairs.probs[:, 2])
        return abs(fit_curve(x, pairs.y, CFG)[1]) / abs(fit_curve(x, pairs.y, free)[1])

    assert moved(30) < moved(300) < 1


def test_too_few_and_unordered_pairs_are_refused_with_the_number_and_the_remedy():
    pairs = drawn_pairs(60, 1.0, -2.5)
    with pytest.raises(
        InputError, match=rf"{pairs.y.sum()} scored patients with .* at least 20 of each .* Screen more"
    ):
        recalibrate(pairs, "small", CFG, 0)
    with pytest.raises(InputError, match="do not order this site's patients"):
        recalibrate(drawn_pairs(300, -0.8, 0.0), "odd", CFG, 0)
    with pytest.raises(InputError, match="site 'a b'"):
        recalibrate(pairs, "a b", CFG, 0)


@pytest.fixture
def at_site(tmp_path):
    """A bundle, a run's results by it, and labels, on disk."""
    bundle = synthetic_bundle()
    sha = bundle.save(tmp_path / "run" / "bundle")
    pairs = drawn_pairs(260, 0.7, -1.0, seed=3)
    rows = []
    for k, p, pattern in zip(pairs.patient, pairs.probs, pairs.pattern, strict=True):
        row = dict.fromkeys(RESULTS.names) | dict(patient_key=k, row_key=k, series_uid=k, state="SCORED", code="OK")
        row |= dict(risk_prob=p[2], p_normal=p[0], p_osteopenia=p[1], p_osteoporosis=p[2], study_date="20240101")
        rows.append(row | dict(calibrator=pattern, model_sha256=sha))
    pq.write_table(pa.Table.from_pylist(rows, schema=RESULTS), tmp_path / "results.parquet")
    names = np.array(["normal", "osteopenia", "osteoporosis"])[pairs.label]
    pd.DataFrame({"patient_key": pairs.patient, "label": names}).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path, bundle, pairs


def run(folder, *more) -> int:
    args = {"site": "north", "bundle": "run/bundle", "results": "results.parquet", "labels": "labels.csv", "out": "new"}
    flags = [x for k, v in args.items() for x in (f"--{k}", v if k == "site" else str(folder / v))]
    return cli.main(["recalibrate", *flags, "--set", "resamples=100", *more])


def test_the_command_writes_a_bundle_that_scores_by_the_sites_curve(at_site, capsys):
    folder, old, pairs = at_site
    split = pa.table({"patient_key": pairs.patient[:20].tolist(), "part": ["train"] * 10 + ["test"] * 10})
    pq.write_table(split, folder / "run" / "split.parquet")
    assert run(folder) == 0
    output = capsys.readouterr().out
    assert "10 patients on whom the bundle was trained or calibrated were left out" in output
    assert "250 patients with CT and DXA" in output
    new = Bundle.load(folder / "new")
    assert new.sha256 != old.sha256
    site = new.metrics["site"]
    assert (site["site"], site["n"], site["from_sha256"]) == ("north", 250, old.sha256)
    assert "Recalibrated for north" in new.card
    assert new.version.endswith("+north")
    x = np.linspace(-3, 3, 7)
    for pattern, c in new.calibrators.items():
        was = old.calibrators[pattern]
        assert isinstance(c, Calibrator)
        assert isinstance(was, Calibrator)
        before, after = was(x)[0], c(x)
        assert after[0] == pytest.approx(expit(site["slope"] * logit(before) + site["intercept"]))
        assert (after[1] <= after[0]).all()
        assert (after[0] <= after[2]).all()
        # The same patients are called.
        assert ((after[0] >= new.threshold) == (before >= old.threshold)).all()
    assert run(folder) == 3, "a bundle is never written over"


def test_results_of_another_bundle_are_refused(at_site, capsys):
    folder, *_ = at_site
    synthetic_bundle(seed=1).save(folder / "run" / "bundle")
    assert run(folder) == 3
    assert "nobody was scored by this bundle" in capsys.readouterr().err


def test_a_dxa_long_before_the_ct_does_not_count(at_site, capsys):
    folder, _, pairs = at_site
    t = np.array([0.0, -1.5, -3.0])[pairs.label]
    dates = np.where(np.arange(len(t)) < 30, "2015-01-01", "2023-10-01")
    frame = pd.DataFrame({"patient_key": pairs.patient, "record_date": pd.NaT, "t_score": t})
    frame["dxa_date"] = pd.to_datetime(dates)
    RecordTable.of(frame).to_parquet(folder / "labels.parquet")
    assert run(folder, "--labels", str(folder / "labels.parquet")) == 0
    output = capsys.readouterr().out
    assert "30 DXA of more than 365 days" in output
    assert "230 patients with CT and DXA" in output
    write_record_set(RecordTable.of(frame), str(folder / "set"), partitions=3)
    assert run(folder, "--labels", str(folder / "set"), "--out", str(folder / "of_set")) == 0
    assert capsys.readouterr().out == output.replace(str(folder / "new"), str(folder / "of_set"))
