import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit
from scipy.stats import ks_2samp, wasserstein_distance
from synthetic_bundle import synthetic_bundle

from osteo_ray import cli
from osteo_ray.model.config import AcquisitionConfig
from osteo_ray.model.distributions import Distributions, Numbers
from osteo_ray.monitoring.config import DriftConfig
from osteo_ray.monitoring.drift import _distance, _ks, compare, holm
from osteo_ray.monitoring.frame import of_results
from osteo_ray.patients.schema import LABS
from osteo_ray.screening.schema import RESULTS

CFG = DriftConfig(resamples=100, tables=1000)


def cohort(
    n: int, seed: int, hu: float = 0.0, kvp=(0.8, 0.2), labs: float = 0.6, kernel=(0.7, 0.27, 0.03)
) -> pd.DataFrame:
    """Patients of one scanner park; the arguments are what may drift."""
    rng = np.random.default_rng(seed)
    pattern = np.where(rng.random(n) < labs, "demographics+labs+ct", "demographics+ct")
    given = rng.random(n) < 0.3
    density = rng.normal(135, 45, n) + hu
    return pd.DataFrame(
        {
            "hu_120": np.where(given, np.nan, density),
            "hu_120_contrast": np.where(given, density + 15, np.nan),
            "age_y": rng.normal(66, 10, n).round(),
            "slice_thickness_mm": rng.choice([1.25, 3.0, 5.0], n, p=[0.2, 0.3, 0.5]),
            "labs_known": np.where(pattern == "demographics+ct", 0.0, rng.beta(9, 1, n)),
            "score": rng.normal(-1, 1.5, n) - hu / 45,
            "pattern": pattern,
            "kvp": rng.choice(["120 kVp", "100 kVp"], n, p=kvp),
            "convolution_kernel": rng.choice(["B30f", "STANDARD", "odd"], n, p=kernel),
            "manufacturer": rng.choice(["A", "B"], n),
            "contrast": np.where(given, "given", "none"),
            "sex": rng.choice(["F", "M"], n, p=[0.6, 0.4]),
            "abstained": rng.choice(["scored", "NO_LUMBAR_SEEN", "OOD_IMAGE"], n, p=[0.93, 0.06, 0.01]),
        }
    )


@pytest.fixture(scope="module")
def reference() -> Distributions:
    return Distributions.of(cohort(800, 1))


@pytest.mark.parametrize("n", [60, 300])
def test_a_run_without_drift_is_called_moved_as_rarely_as_promised(n):
    # Every draw has its own reference: its chance belongs to the test.
    runs = [compare(Distributions.of(cohort(300, 2 * s)), cohort(n, 2 * s + 1), CFG) for s in range(50)]
    assert sum(bool(r.moved) for r in runs) <= 3, "1 % is promised; 4 or more of 50 would come by chance once in 600"


@pytest.mark.parametrize(
    ("change", "named", "words"),
    [
        (dict(hu=20.0), "hu_120", "HU"),
        (dict(kvp=(0.5, 0.5)), "kvp", "100 kVp "),
        (dict(labs=0.2), "pattern", "demographics+labs+ct"),
        (dict(kernel=(0.3, 0.67, 0.03)), "convolution_kernel", "B30f "),
    ],
)
def test_what_moved_is_named_and_what_did_not_is_not(reference, change, named, words):
    report = compare(reference, cohort(800, 7, **change), CFG)
    found = {f.name: f for f in report.moved}
    assert named in found
    assert words in found[named].text
    may = {"hu": ("hu_", "score"), "kvp": ("kvp",), "labs": ("pattern", "labs_known"), "kernel": ("convolution",)}
    assert all(name.startswith(may[next(iter(change))]) for name in found)
    if "hu" in change:
        shift = float(found[named].text.split("(")[1].split(";")[0])
        assert shift == pytest.approx(20, abs=10)


def test_among_many_patients_a_certain_but_tiny_move_is_not_told():
    a, b = cohort(60_000, 1), cohort(60_000, 2, hu=2.0)
    report = compare(Distributions.of(a), b, CFG)
    tiny = next(f for f in report.findings if f.name == "hu_120")
    assert tiny.p < 1e-6
    assert not tiny.moved


def test_a_new_scanner_that_nobody_named_before_shows_as_other(reference):
    frame = cohort(300, 4)
    frame.loc[:150, "manufacturer"] = "NEW"
    moved = {f.name: f for f in compare(reference, frame, CFG).moved}
    assert "other 0% -> 50%" in moved["manufacturer"].text


def test_the_statistics_agree_with_scipy():
    rng = np.random.default_rng(5)
    a, b = rng.normal(0, 1, 900), rng.normal(0.12, 1.1, 700)
    kept = Numbers.of(a)
    assert _ks(kept, np.sort(b)) == pytest.approx(ks_2samp(a, b, method="asymp").pvalue, rel=0.35)
    assert _distance(kept, np.sort(b)) == pytest.approx(wasserstein_distance(a, b), abs=0.02)
    steps = rng.choice([1.0, 2.0, 5.0], 600, p=[0.2, 0.3, 0.5])
    assert _ks(Numbers.of(steps), np.sort(rng.choice([1.0, 2.0, 5.0], 500, p=[0.2, 0.3, 0.5]))) > 0.05
    assert _ks(Numbers.of(steps), np.sort(rng.choice([1.0, 2.0, 5.0], 500, p=[0.5, 0.3, 0.2]))) < 1e-6
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def rows_of(frame: pd.DataFrame, sha: str, seed: int = 0) -> pa.Table:
    rows = []
    for i, r in enumerate(frame.to_dict("records")):
        given, kvp = r["contrast"] == "given", float(r["kvp"].split()[0])
        row = dict.fromkeys(RESULTS.names) | dict(patient_key=f"p{i}", row_key=f"r{i}", study_date="20240101")
        row |= {k: r[k] for k in ("age_y", "sex", "manufacturer", "convolution_kernel", "slice_thickness_mm")}
        row |= dict(contrast="portal" if given else "none", kvp=kvp, model_sha256=sha)
        row["trabecular_hu"] = (r["hu_120_contrast"] if given else r["hu_120"]) * {120.0: 1.0, 100.0: 1.17}[kvp]
        if r["abstained"] == "scored":
            row |= dict(state="SCORED", code="OK", risk_prob=float(expit(r["score"])), calibrator=r["pattern"])
            known = round(r["labs_known"] * len(LABS))
            labs = [dict(feature=c, group="labs", value=1.0 if k < known else None) for k, c in enumerate(LABS)]
            row["shap"] = [*labs, dict(feature="ct", group="ct", value=None)]
        else:
            row |= dict(state="ABSTAINED", code=r["abstained"])
        rows.append(row)
    rows.append(dict.fromkeys(RESULTS.names) | dict(patient_key="x", row_key="x", state="EXCLUDED", code="Q_AGE"))
    return pa.Table.from_pylist(rows, schema=RESULTS)


def test_results_are_read_as_they_were_made(tmp_path):
    written = cohort(80, 3)
    pq.write_table(rows_of(written, "m"), tmp_path / "results.parquet")
    read = of_results(tmp_path / "results.parquet", AcquisitionConfig())
    assert len(read) == 80
    order = np.argsort([f"p{i}" for i in range(80)])
    written = written.iloc[order].reset_index(drop=True)
    scored = (written["abstained"] == "scored").to_numpy()
    assert read["abstained"].tolist() == written["abstained"].tolist()
    for name in ("hu_120", "hu_120_contrast", "score", "age_y"):
        assert read[name].to_numpy(float)[scored] == pytest.approx(written[name].to_numpy(float)[scored], nan_ok=True)
    assert read["labs_known"].to_numpy(float)[scored] == pytest.approx(
        written["labs_known"].to_numpy()[scored], abs=0.03
    )
    assert read.loc[~scored, ["hu_120", "age_y", "kvp"]].isna().all(axis=None)


def test_the_command_says_what_moved_and_ends_with_6(tmp_path, capsys):
    bundle = synthetic_bundle()
    bundle.metrics["distributions"] = Distributions.of(cohort(800, 1)).to_dict()
    sha = bundle.save(tmp_path / "bundle")
    for name, frame in (("same", cohort(500, 11)), ("moved", cohort(500, 12, hu=20.0))):
        (tmp_path / name).mkdir()
        pq.write_table(rows_of(frame, sha), tmp_path / name / "results.parquet")

    def drift(run: str, *more: str) -> int:
        return cli.main(["drift", "--results", str(tmp_path / run), "--bundle", str(tmp_path / "bundle"), *more])

    assert drift("same") == 0
    assert "moved" not in capsys.readouterr().out
    assert drift("moved") == 6
    output = capsys.readouterr()
    assert "trabecular HU at 120 kVp, unenhanced: median" in output.out
    assert "osteo-ray drift: moved: " in output.err
    report = json.loads((tmp_path / "moved" / "drift.json").read_text())
    assert "hu_120" in report["moved"]
    assert drift("moved", "--baseline", str(tmp_path / "same")) == 6
    (tmp_path / "few").mkdir()
    pq.write_table(rows_of(cohort(3, 13), sha), tmp_path / "few" / "results.parquet")
    capsys.readouterr()
    assert drift("few") == 3, "a run that nothing can be said of is no run without drift"
    assert "nothing could be compared: of 3 patients" in capsys.readouterr().err
    del bundle.metrics["distributions"]
    bundle.save(tmp_path / "bundle")
    capsys.readouterr()
    assert drift("same") == 3
    assert "--baseline" in capsys.readouterr().err
