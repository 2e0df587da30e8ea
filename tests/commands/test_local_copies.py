"""Commands on runs in an object store (moto's S3 server on loopback): what a disk gives, a bucket gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from osteo_ray.cli import main
from osteo_ray.commands.drift import DriftJob, Moved
from osteo_ray.commands.local_copies import run_on_local_copies
from osteo_ray.commands.recalibrate import RecalibrateJob
from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.store import Store
from osteo_ray.outcomes import InputError


@pytest.fixture
def run(s3, tmp_path) -> Store:
    """A run's folder in a bucket, of which only the bytes matter here."""
    store = Store(f"{s3}/{tmp_path.name}")
    store.put("run/results.parquet", b"rows")
    store.put("run/summary.json", b"{}")
    store.put("run/shards/0.parquet", b"never fetched")
    return store


def test_inputs_are_fetched_and_what_is_written_is_stored(run):
    seen: dict[str, Any] = {}

    def work(job):
        folder = Path(job.results)
        seen.update(names=sorted(p.name for p in folder.iterdir()), bundle=Path(job.bundle).exists())
        (folder / "figures").mkdir()
        (folder / "figures" / "a.png").write_bytes(b"png")
        (folder / "summary.json").write_bytes(b"{1}")
        Path(job.out).write_text("{}")
        yield f"figures  {folder}/figures, {job.out}"

    job = DriftJob(results=run.path("run"), bundle=run.path("nowhere"), out=run.path("told/drift.json"))
    assert list(run_on_local_copies("drift", job, work)) == [
        f"figures  {run.path('run')}/figures, {run.path('told/drift.json')}"
    ]
    assert seen == {"names": ["results.parquet", "summary.json"], "bundle": False}
    assert run.get("run/figures/a.png") == b"png"
    assert run.get("run/summary.json") == b"{1}"
    assert run.get("told/drift.json") == b"{}"


def test_an_error_names_the_uri_and_what_was_written_before_it_is_stored(run):
    def work(job):
        Path(job.results, "drift.json").write_text("moved")
        yield "told"
        raise Moved(f"moved: {job.results}")

    lines = run_on_local_copies("drift", DriftJob(results=run.path("run")), work)
    assert next(lines) == "told"
    with pytest.raises(Moved, match=run.path("run")):
        next(lines)
    assert run.get("run/drift.json") == b"moved"


def test_one_file_of_a_run_and_what_is_written_beside_it(run):
    def work(job):
        Path(job.results).with_name("drift.json").write_bytes(Path(job.results).read_bytes())
        return []

    list(run_on_local_copies("drift", DriftJob(results=run.path("run/results.parquet")), work))
    assert run.get("run/drift.json") == b"rows"


def test_a_bundle_in_a_bucket_is_never_written_over(run):
    run.put("bundle/bundle.json", b"{}")
    job = RecalibrateJob(results=run.path("run"), out=run.path("bundle"))
    with pytest.raises(InputError, match=f"{run.path('bundle')} is there already"):
        list(run_on_local_copies("recalibrate", job, lambda j: pytest.fail("it ran")))


def test_paths_stay_as_they_are_and_so_do_commands_that_know_stores_themselves(run, tmp_path):
    job = DriftJob(results=str(tmp_path), bundle="b", out="o.json")
    assert list(run_on_local_copies("drift", job, lambda j: [repr(j)])) == [repr(job)]
    job = DriftJob(results=run.path("run"), out=run.path("out"))
    assert list(run_on_local_copies("screen", job, lambda j: [repr(j)])) == [repr(job)]


COMMANDS = """
import json, sys
from osteo_ray.cli import main
for argv in json.load(sys.stdin):
    print("$", *argv)
    print("exit", main(argv))
"""


@pytest.mark.ray
def test_from_an_archive_in_a_bucket_to_its_evaluation(s3, cohort_run, bundle_dir, tmp_path):
    """Every path an s3:// one: index, records, screen, evaluate, drift, report; the results are those of a disk."""
    there = Store(f"{s3}/{tmp_path.name}")
    for p in cohort_run.archive.rglob("*"):
        if p.is_file():
            there.put(f"ct/{p.relative_to(cohort_run.archive)}", p.read_bytes())
    there.put("labs.csv", cohort_run.records.read_bytes())
    for p in bundle_dir.iterdir():
        there.put(f"bundle/{p.name}", p.read_bytes())
    screen = "screen @index/catalogue.parquet --records @records.parquet --bundle @bundle --out @run"
    commands = [
        "index @ct --out @index",
        "index @ct --out @index",
        "records @labs.csv --out @records.parquet",
        f"{screen} --set scoring.shap=false",
        f"{screen} --set scoring.shap=false",
        "evaluate @run --labels @records.parquet --set resamples=100",
        "drift --results @run --bundle @bundle --baseline @run",
        "report @run --top 1 --formats json --out @told",
    ]
    argv = [[there.path(a[1:]) if a.startswith("@") else a for a in c.split()] for c in commands]
    # A process of its own: the workers of its Ray find the store where this process does.
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS], input=json.dumps(argv), env=env, capture_output=True, text=True, timeout=600
    )
    output = ran.stdout.split("$ ")[1:]
    ends = ["exit 0"] * len(commands)
    ends[6] = "exit 3"  # drift: of so few patients nothing can be compared
    assert [t.splitlines()[-1] for t in output] == ends, ran.stdout + ran.stderr
    n = len(open_set(cohort_run.catalogue))
    assert "(unchanged)" in output[1]
    assert there.path("index/catalogue.parquet") in output[1]
    assert f"in all, of {n} indexed series" in output[3]
    assert "0 scored now" in output[4]
    assert json.loads(there.get("run/evaluation.json"))["series"] == n
    assert there.exists("run/evaluation.html")
    assert "nothing could be compared: of" in ran.stderr
    assert there.exists("run/drift.json"), "what a command wrote is stored also where it ends with an error"
    assert there.get("told/reports.jsonl").count(b"\n") == 1

    near = [
        "screen",
        cohort_run.catalogue,
        "--records",
        cohort_run.records,
        "--bundle",
        bundle_dir,
        "--out",
        tmp_path / "run",
    ]
    assert main([*map(str, near), "--set", "scoring.shap=false"]) == 0
    columns = ["study_uid", "series_uid", "state", "code", "risk_prob", "log_odds"]
    with there.parquet("run/results.parquet") as f:
        far = f.read(columns=columns)
    order = [(c, "ascending") for c in columns]
    assert far.sort_by(order).equals(
        pq.read_table(tmp_path / "run" / "results.parquet", columns=columns).sort_by(order)
    )
