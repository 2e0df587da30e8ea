"""The whole pipeline, very small: archive -> catalogue -> bundle -> worklist -> evaluation, by the command line.

Training works in a bucket: what a second training needs of the first it finds there, as another machine would.
"""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from osteo_ray.cli import main
from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.store import Store

pytestmark = pytest.mark.ray

TRAIN = [
    "seed=1",
    "split.test=0.5",
    "split.val=0.5",
    "selection.view.positions=24",
    "selection.view.coarse=6",
    "selection.view.keep=3",
    "selection.view.by_level=false",  # this encoder has hardly learned where it is
    "selection.scorer.steps=60",
    "selection.policy={env_steps: 1500, batch: 500, minibatch: 250, epochs: 2, envs_per_runner: 8}",
    "pretrain={steps: 60, batch: 24}",
    "encoder.width=8",
    "kdamm.student.epochs=10",
]


def run(capsys, *argv: object) -> str:
    assert main([str(a) for a in argv]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def root(ray_session, tmp_path_factory):
    return tmp_path_factory.mktemp("pipeline")


def test_the_pipeline(root, cohort_run, s3, capsys):
    more, trained, bundle, out = root / "more", Store(f"{s3}/train"), root / "bundle", root / "out"
    small = ["seed=3", "persons=520", "positions=24", "scan={size_512_share: 0, slice_max: 40}"]
    assert "with CT" in run(capsys, "cohort", "slices", "--out", more, "--set", *small)
    assert "as made before" in run(capsys, "cohort", "slices", "--out", more, "--set", *small)

    train = ["train", "--catalogue", cohort_run.catalogue, "--records", cohort_run.records, more / "records.csv"]
    train += ["--targets", cohort_run.truth / "slices.parquet", "--extra-slices", more / "slices", "--out", trained.uri]
    train += ["--publish", bundle]
    first = run(capsys, *train, "--set", *TRAIN)
    assert "reused" not in first
    again = run(capsys, *train, "--set", *TRAIN)
    assert again.count("(reused)") == 6
    sha = (bundle / "SHA256SUMS").read_text()
    assert trained.get("bundle/SHA256SUMS").decode() == sha
    assert {n.split("/")[1] for n in trained.tree("tensorboard/")} >= {"tabular", "image", "student"}

    with trained.parquet("split.parquet") as f:
        split = f.read().to_pandas().set_index("patient_key")["part"]
    assert not split.index.duplicated().any()
    held_out = set(split[split == "test"].index)
    assert held_out <= set(pq.read_table(cohort_run.catalogue)["patient_key"].to_pylist())

    screen = [
        "screen",
        cohort_run.catalogue,
        "--records",
        cohort_run.records,
        "--bundle",
        bundle,
        "--out",
        out,
    ]
    dry = run(capsys, *screen, "--dry-run")
    assert "to score" in dry
    printed = run(capsys, *screen)
    n = len(open_set(cohort_run.catalogue))
    assert f"in all, of {n} indexed series" in printed
    results = pq.read_table(out / "results.parquet")
    assert results.num_rows == n
    scored = results.filter(results["state"].is_valid()).to_pylist()
    risks = [r["risk_prob"] for r in scored if r["risk_prob"] is not None]
    listed = pd.read_csv(out / "worklist.csv")
    assert len(listed) == len(risks)
    # A patient's series stand together, the latest study's first: it gives the rank, whatever earlier ones' risks.
    assert listed.groupby("rank")["risk_prob"].first().is_monotonic_decreasing
    assert listed["rank"].is_monotonic_increasing
    html = (out / "report.html").read_text()
    assert "cannot rule out low bone density" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "0 scored now" in run(capsys, *screen)

    judged = run(
        capsys, "evaluate", out, "--labels", cohort_run.records, "--truth", cohort_run.truth / "patients.parquet"
    )
    assert "AUC" in judged
    assert "Bayes-optimal AUC" in judged
    figures = json.loads((out / "evaluation.json").read_text())
    assert figures["series"] == n
    assert (bundle / "SHA256SUMS").read_text() == sha
