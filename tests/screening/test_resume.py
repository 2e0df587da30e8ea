"""Kill the driver or an actor, let writing fail: the rerun gives the same bits, and does only what is missing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from osteo_ray import records
from osteo_ray.cli import main
from osteo_ray.config import validate
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.pipeline import screen
from osteo_ray.store import StoreError

pytestmark = pytest.mark.ray
RAW = {"pipeline": {"series_per_task": 1, "shard_rows": 10, "actors": 1}, "scoring": {"shap": False}}
CFG = validate(ScreenConfig, RAW)
ACTOR = "ScoreBatch"
DRIVER = """
import sys
from osteo_ray import rayenv, records
from osteo_ray.config import validate
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.pipeline import screen
catalogue, table, bundle, out = sys.argv[1:5]
screen(catalogue, records.load(table), bundle, out, validate(ScreenConfig, eval(sys.argv[5])), quiet=True)
"""


@pytest.fixture(scope="module")
def table(made):
    return records.load(made.records)


@pytest.fixture(scope="module")
def whole(made, table, bundle_dir, tmp_path_factory):
    return screen(made.catalogue, table, bundle_dir, tmp_path_factory.mktemp("whole"), CFG, quiet=True)


def wait_for_a_part(out: Path, alive=lambda: True) -> None:
    while not list(out.glob("parts/*.parquet")) and not list(out.glob("shards/*.parquet")):
        assert alive(), "the run ended before it wrote anything"
        time.sleep(0.02)


def rows_there(out: Path) -> int:
    return sum(pq.read_metadata(p).num_rows for p in out.glob("parts/*.parquet"))


def test_a_killed_driver_loses_nothing_that_was_written(made, table, bundle_dir, whole, ray_session, tmp_path):
    env = os.environ | {"RAY_ADDRESS": ray_session.get_runtime_context().gcs_address}
    args = [made.catalogue, made.records, bundle_dir, tmp_path, RAW]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *map(str, args)], env=env)
    wait_for_a_part(tmp_path, lambda: driver.poll() is None)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    written = rows_there(tmp_path)
    rest = screen(made.catalogue, table, bundle_dir, tmp_path, CFG, quiet=True)
    assert rest.reused >= written > 0
    assert rest.reused + rest.scored_now == whole.scored_now
    assert rest.digest == whole.digest
    assert rest.states == whole.states


def test_a_killed_actor_is_replaced_and_its_batch_done_again(made, table, bundle_dir, whole, tmp_path):
    killed = []

    def kill_one() -> None:
        wait_for_a_part(tmp_path)
        for p in psutil.process_iter(["cmdline"]):
            if ACTOR in " ".join(p.info["cmdline"] or []) and not killed:
                p.kill()
                killed.append(p.pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    got = screen(made.catalogue, table, bundle_dir, tmp_path, CFG, quiet=True)
    killer.join()
    assert killed
    assert (got.digest, got.states) == (whole.digest, whole.states)


def test_results_that_can_not_be_written_end_the_run_with_the_reason(made, table, bundle_dir, whole, tmp_path):
    """Where parts should lie there is a link to nowhere: no write succeeds until it is gone."""
    (tmp_path / "parts").symlink_to(tmp_path / "away" / "parts")
    cfg = validate(ScreenConfig, RAW | {"pipeline": RAW["pipeline"] | {"store_patience_s": 1}})
    with pytest.raises(StoreError, match=f"{tmp_path}.*tried for 1 s"):
        screen(made.catalogue, table, bundle_dir, tmp_path, cfg, quiet=True)
    (tmp_path / "parts").unlink()
    assert screen(made.catalogue, table, bundle_dir, tmp_path, cfg, quiet=True).digest == whole.digest


def test_retry_by_command_line(made, bundle_dir, tmp_path, capsys):
    """A file that can't be read is mended; retry scores its series again, and only it."""
    rows = pq.read_table(made.catalogue).to_pylist()
    victim = next(r for r in rows if r["state"] is None)
    uri = victim["instances"][0]["uri"].removeprefix("file://")
    hidden = [
        (Path(p), Path(p).with_suffix(".away")) for p in {i["uri"].removeprefix("file://") for i in victim["instances"]}
    ]
    assert Path(uri).is_file()
    out, sets = tmp_path / "out", ["scoring.shap=false", "report_studies=0", "pipeline.actors=1"]
    run = [
        str(a)
        for a in (made.catalogue, "--records", made.records, "--bundle", bundle_dir, "--out", out, "--set", *sets)
    ]
    try:
        for here, away in hidden:
            here.rename(away)
        assert main(["screen", *run]) == 0
    finally:
        for here, away in hidden:
            away.rename(here)
    first = {r["row_key"]: r for r in pq.read_table(out / "results.parquet").to_pylist()}
    bad = [r for r in first.values() if r["state"] in ("ERROR", "QUARANTINED")]
    assert [r["series_uid"] for r in bad] == [victim["series_uid"]]
    assert main(["retry", *run, "--code", "NO_SUCH"]) == 3
    assert "codes there are: " in capsys.readouterr().err
    assert main(["retry", *run, "scoring.guard=false", "--code", bad[0]["code"]]) == 3
    assert "give those of the run" in capsys.readouterr().err
    assert main(["retry", *run, "--code", bad[0]["code"]]) == 0
    assert "1 scored now" in capsys.readouterr().out
    after = {r["row_key"]: r for r in pq.read_table(out / "results.parquet").to_pylist()}
    mended = after.pop(bad[0]["row_key"])
    assert (mended["attempt"], mended["risk_prob"] is None) == (2, False)
    assert after == {k: v for k, v in first.items() if k in after}
    assert len(after) == len(first) - 1
