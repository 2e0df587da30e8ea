"""Kill the driver, kill an actor: the results are bit-identical, and only what is missing is done."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from osteo_ray import patients as records
from osteo_ray.config import validate
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.pipeline import screen

pytestmark = pytest.mark.ray
RAW = {"pipeline": {"series_per_task": 1, "shard_rows": 10, "actors": 1}, "scoring": {"shap": False}}
CFG = validate(ScreenConfig, RAW)
ACTOR = "ScoreBatch"
DRIVER = """
import sys
from osteo_ray import ray_setup as rayenv, patients as records
from osteo_ray.config import validate
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.pipeline import screen
catalogue, table, bundle, out = sys.argv[1:5]
screen(catalogue, records.load(table), bundle, out, validate(ScreenConfig, eval(sys.argv[5])), quiet=True)
"""


@pytest.fixture(scope="module")
def table(cohort_run):
    return records.load(cohort_run.records)


@pytest.fixture(scope="module")
def whole(cohort_run, table, bundle_dir, tmp_path_factory):
    return screen(cohort_run.catalogue, table, bundle_dir, tmp_path_factory.mktemp("whole"), CFG, quiet=True)


def wait_for_a_part(out: Path, alive=lambda: True) -> None:
    while not list(out.glob("parts/*.parquet")) and not list(out.glob("shards/*.parquet")):
        assert alive(), "the run ended before it wrote anything"
        time.sleep(0.02)


def actors() -> list[psutil.Process]:
    """The scoring actors of this process's own Ray; another test may have some, too."""
    found = []
    for p in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if ACTOR in " ".join(p.cmdline()):
                found.append(p)
    return found


def rows_there(out: Path) -> int:
    return sum(pq.read_metadata(p).num_rows for p in out.glob("parts/*.parquet"))


def test_a_killed_driver_loses_nothing_that_was_written(cohort_run, table, bundle_dir, whole, ray_session, tmp_path):
    env = os.environ | {"RAY_ADDRESS": ray_session.get_runtime_context().gcs_address}
    args = [cohort_run.catalogue, cohort_run.records, bundle_dir, tmp_path, RAW]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *map(str, args)], env=env)
    wait_for_a_part(tmp_path, lambda: driver.poll() is None)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    written = rows_there(tmp_path)
    rest = screen(cohort_run.catalogue, table, bundle_dir, tmp_path, CFG, quiet=True)
    assert rest.reused >= written > 0
    assert rest.reused + rest.scored_now == whole.scored_now
    assert rest.digest == whole.digest
    assert rest.states == whole.states


def test_a_killed_actor_is_replaced_and_its_batch_done_again(cohort_run, table, bundle_dir, whole, tmp_path):
    before = {p.pid for p in actors()}  # of the run before, still ending
    killed: list[int] = []
    ended = threading.Event()

    def kill_one() -> None:
        wait_for_a_part(tmp_path, lambda: not ended.is_set())
        while not killed and not ended.is_set():
            for p in actors():
                if p.pid not in before and not killed:
                    p.kill()
                    killed.append(p.pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        got = screen(cohort_run.catalogue, table, bundle_dir, tmp_path, CFG, quiet=True)
    finally:
        ended.set()
        killer.join()
    assert killed, "the run ended before its actor was found"
    assert (got.digest, got.states) == (whole.digest, whole.states)
