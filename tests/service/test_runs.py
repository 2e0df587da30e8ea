"""A screening's progress, told from its folder: parts as they come, shards as they are finished."""

import json
import secrets
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from osteo_ray.config import validate
from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.store import Store
from osteo_ray.io.uris import join
from osteo_ray.screening.schema import RESULTS
from osteo_ray.screening.shards import Counts
from osteo_ray.service import drivers
from osteo_ray.service.audit import Audit
from osteo_ray.service.config import ServeConfig, ServiceLimits
from osteo_ray.service.drive import check_again, drive
from osteo_ray.service.drivers import DriverState, DriverStatus
from osteo_ray.service.http.problems import Problem
from osteo_ray.service.runs import Phase, RunJob, Runs, RunState
from osteo_ray.service.screenings import Supervisor


def rows(keys: str, state: str) -> list[dict]:
    return [dict.fromkeys(RESULTS.names) | {"row_key": k, "state": state, "code": "x"} for k in keys]


def test_progress_and_rows_of_a_run_that_is_half_done(root):
    run = Runs(root).create(RunJob("archive", None, None, {}, "bundle", "me", time.time()))
    run.begin()
    out = Store(run.out)
    catalogue = pa.table({"state": pa.array(["EXCLUDED"] * 3 + [None] * 7, pa.string())})
    out.put_table("catalogue.parquet", catalogue)
    finished = pa.Table.from_pylist([*rows("abc", "EXCLUDED"), *rows("d", "SCORED")], schema=RESULTS)
    counts = Counts(4, {"EXCLUDED": 3, "SCORED": 1}, {"x": 4}, {"SCORED": 1}, 0)
    out.put_table("shards/000000-0.r1.parquet", finished.replace_schema_metadata(counts.footer()))
    out.put_table("parts/000001-0-0.parquet", pa.Table.from_pylist(rows("ef", "ABSTAINED"), schema=RESULTS))
    out.put_table("parts/000001-0-1.parquet", pa.Table.from_pylist(rows("g", "SCORED"), schema=RESULTS))
    p = run.progress()
    assert (p.phase, p.series, p.total, p.done) == (Phase.SCREENING, 10, 7, 4)
    assert p.counts == {"EXCLUDED": 3, "SCORED": 2, "ABSTAINED": 2}
    assert sorted(run.table(["row_key"])["row_key"].to_pylist()) == list("abcdefg")
    assert (run.row("e") or {})["state"] == "ABSTAINED"
    assert (run.row("d") or {})["state"] == "SCORED"
    assert run.row("z") is None
    assert p.eta_s is not None
    assert p.eta_s >= 0
    total, first = run.page(0, 5)
    assert (total, len(first)) == (7, 5)
    assert len(open_set(join(run.out, "catalogue.parquet"))) == 10


@pytest.fixture(params=["disk", "bucket"])
def root(request, tmp_path, s3) -> str:
    """Where screenings lie."""
    return str(tmp_path / "runs") if request.param == "disk" else f"{s3}/{secrets.token_hex(4)}"


def waiting(tmp_path, by="me"):
    return Runs(tmp_path).create(RunJob("archive", None, None, {}, "bundle", by, time.time()))


def test_restarts_and_drivers_that_got_ahead_are_no_stalls(root):
    run = waiting(root)
    assert run.stalls("a") == 0
    for cluster in "abcde":  # the machine was started again and again
        run.begin(cluster)
    assert run.stalls("f") == 0
    run.begin("f")
    run.begin("f")
    assert run.stalls("f") == 2, "two drivers died in one cluster, at the same place"
    Store(run.out).put("index/headers/1.parquet", b"1")
    assert run.stalls("f") == 0, "the second had got ahead"
    run.begin("f")
    assert run.stalls("f") == 1
    assert run.stalls("g") == 0
    assert run.saved.attempt == 8


def test_time_left_is_told_from_the_beginning_by_the_screening_before(tmp_path):
    before, now = waiting(tmp_path, "a"), waiting(tmp_path, "b")
    for run, n in ((before, 4), (now, 10)):
        Store(run.out).put_table("catalogue.parquet", pa.table({"state": pa.array([None] * n, pa.string())}))
        run.begin()
    assert now.progress().eta_s is None, "nothing was ever screened here"
    before.end(RunState.DONE)
    state = json.loads((Path(before.uri) / "state.json").read_text())
    state |= {"started": 1000.0, "finished": 1020.0}
    (Path(before.uri) / "state.json").write_text(json.dumps(state))
    Store(before.out).put_table("results.parquet", pa.Table.from_pylist(rows("abcd", "SCORED"), schema=RESULTS))
    assert now.progress().eta_s == pytest.approx(10 * 20.0 / 4)
    Store(now.out).put_table(
        "parts/000000-0-0.parquet", pa.Table.from_pylist(rows("abcdefghij", "SCORED"), schema=RESULTS)
    )
    assert now.progress().eta_s == 0.0, "the reports alone are left"


def test_what_failed_can_be_resumed_and_what_is_done_can_not(root):
    run = waiting(root)
    run.begin("a")
    run.begin("a")
    run.end(RunState.FAILED, "twice")
    assert run.stalls("a") == 2
    run.resume()
    assert (run.saved.state, run.saved.error, run.stalls("a")) == (RunState.QUEUED, None, 0)
    assert [r.id for r in Runs(root).open()] == [run.id]
    run.end(RunState.DONE)
    assert Runs(root).open() == []
    run.resume()
    assert run.saved.state == RunState.DONE


def test_screenings_are_kept_as_long_as_the_config_says(root):
    runs = Runs(root)
    old, new, going = (waiting(root, by) for by in "abc")
    for run in (old, new):
        run.end(RunState.DONE)
    old.give_feedback("k1", None, "accept", "", "ada")
    state = json.loads(old.store.get("state.json"))
    old.store.put("state.json", json.dumps(state | {"finished": time.time() - 9000}).encode())
    assert runs.forget(3600) == [old.id]
    assert {r.id for r in runs.all()} == {new.id, going.id}
    assert set(runs.store.folders()) == {new.id, going.id, "open"}
    assert runs.store.tree(f"{old.id}/") == []


def test_a_torn_line_of_feedback_costs_itself_alone(tmp_path):
    run = waiting(tmp_path)
    run.give_feedback("k1", None, "accept", "", "ada")
    with (Path(run.uri) / "feedback.jsonl").open("ab") as f:
        f.write(b'{"time": "2024-01-01T0')  # the disk was full, or the power went
    run.give_feedback("k2", None, "reject", "", "ada")
    assert {k: [x["verdict"] for x in v] for k, v in run.feedback().items()} == {"k1": ["accept"], "k2": ["reject"]}


def test_feedback_and_audit_keep_their_order(root):
    run, audit = waiting(root), Audit(Store(root))
    for verdict in ("accept", "reject"):
        run.give_feedback("k1", "1.2.3", verdict, "", "ada")
        audit.write("ada", "feedback", verdict=verdict)
    assert [f["verdict"] for f in run.feedback()["k1"]] == ["reject"], "the last one counts"
    assert [line["verdict"] for line in audit.tail(10)] == ["accept", "reject"]
    assert [line["verdict"] for line in audit.tail(1)] == ["reject"]


def test_a_screening_whose_mark_was_lost_is_found_again(root):
    runs, run = Runs(root), waiting(root)
    runs.store.remove([f"open/{run.id}"])  # as by a crash, or in the folder of an earlier version
    assert runs.open() == []
    runs.mark_open()
    assert [r.id for r in runs.open()] == [run.id]


class KilledDrivers:
    """`Drivers` of this machine: each does a little more of the index and is killed; the eleventh ends the work."""

    def __init__(self, progress: bool):
        self.progress, self.started = progress, 0

    def look(self, run):
        return DriverStatus(DriverState.ENDED if self.started else DriverState.NONE, "killed by signal 9")

    def start(self, run):
        self.started += 1
        if self.started > 10:
            run.end(RunState.DONE)
            return
        headers = Path(run.store.path("out/index/headers"))
        headers.mkdir(parents=True, exist_ok=True)
        name = str(headers / f"{self.started if self.progress else 0}.parquet")
        work = "import os, sys; open(sys.argv[1], 'w').close(); os.kill(os.getpid(), 9)"
        assert subprocess.run([sys.executable, "-S", "-c", work, name]).returncode == -9

    def stop(self, run): ...


@pytest.mark.parametrize(
    ("progress", "ends", "attempts"), [(True, RunState.DONE, 11), (False, RunState.FAILED, 4)], ids=["ahead", "stalls"]
)
def test_ten_drivers_lost_with_progress_end_done_and_three_without_end_failed(
    ray_session, tmp_path, progress, ends, attempts
):
    runs, run = Runs(tmp_path), waiting(tmp_path)
    supervisor = Supervisor(runs, ServeConfig(limits=ServiceLimits(attempts=3)), KilledDrivers(progress))
    for _ in range(12):
        supervisor.keep()
    assert (run.saved.state, run.saved.attempt) == (ends, attempts)
    if not progress:
        assert "died 3 times without progress; the cluster's logs say why: killed by signal 9" in str(run.saved.error)


def test_a_run_s_files_are_the_owner_s_alone(tmp_path):
    run = waiting(tmp_path / "runs")
    run.give_feedback("k1", None, "accept", "", "ada")
    root = tmp_path / "runs"
    modes = {p.is_dir(): p.stat().st_mode & 0o777 for p in [root, *root.rglob("*")]}
    assert modes == {True: 0o700, False: 0o600}


def test_what_was_allowed_is_looked_at_again_when_the_work_begins(tmp_path):
    """Between submission and driver a folder is swapped for a link, taken off the list, or removed."""
    (tmp_path / "ct" / "a").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    cfg = validate(ServeConfig, {"runs": str(tmp_path / "runs"), "archives": {"roots": [str(tmp_path / "ct")]}})
    job = RunJob(str(tmp_path / "ct" / "a"), None, None, {}, "bundle", "me", 0.0)
    check_again(job, cfg)
    (tmp_path / "ct" / "a" / "catalogue.parquet").touch()  # `screen` would read what it names
    with pytest.raises(Problem, match="addresses of its own"):
        check_again(job, cfg)
    (tmp_path / "ct" / "a" / "catalogue.parquet").unlink()
    (tmp_path / "ct" / "a").rmdir()
    for target in (tmp_path / "secret", tmp_path / "ct" / "b"):
        (tmp_path / "ct" / "b").mkdir(exist_ok=True)
        (tmp_path / "ct" / "a").symlink_to(target)
        run = Runs(tmp_path / "runs").create(job)
        drive(run, cfg)
        assert run.saved.state == RunState.FAILED
        assert (run.saved.error or "").startswith("NOT_ALLOWED")
        assert not Path(run.out).exists()
        (tmp_path / "ct" / "a").unlink()
    with pytest.raises(Problem):
        check_again(job, validate(ServeConfig, {"archives": {"roots": [str(tmp_path / "secret")]}}))


def test_a_screening_names_the_working_directory_that_ray_unpacked_by_its_path(tmp_path, monkeypatch):
    def of(working_dir):
        env = {"working_dir": working_dir, "env_vars": {"A": "1"}, "_ray_commit": "x"}
        monkeypatch.setattr(drivers.ray, "get_runtime_context", lambda: SimpleNamespace(runtime_env=env))
        return drivers.own_environment()

    here = tmp_path / "_ray_pkg_0a1b"
    here.mkdir()
    monkeypatch.chdir(here)
    assert of("gcs://_ray_pkg_0a1b.zip") == {"working_dir": str(here), "env_vars": {"A": "1"}}
    assert of("s3://site/configs.zip")["working_dir"] == "s3://site/configs.zip"
    monkeypatch.setattr(drivers.ray, "get_runtime_context", lambda: SimpleNamespace(runtime_env={}))
    assert drivers.own_environment() == {}
