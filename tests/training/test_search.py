"""Searches over toy objectives: ASHA stops, a failure is a row, and a killed search goes on."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter

import pytest

from osteo_ray.config import ConfigError, Section, validate
from osteo_ray.io.trouble import StoreError
from osteo_ray.outcomes import InputError
from osteo_ray.training.search_space import Range, SearchConfig, Space

pytestmark = pytest.mark.ray
X = {"a.x": Range(kind="loguniform", low=0.01, high=10)}


def test_bad_trials_are_stopped_and_a_failed_one_is_a_row(ray_session, tmp_path):
    from osteo_ray.training.search import best, params_of, search

    def objective(params, data, report):
        for i in range(4):
            if params["a.n"] == 3:
                raise ValueError("three is bad")
            report((i + 1) / 4, -abs(params["a.x"] - data), step=i)

    space = X | {"a.n": Range(kind="int", low=1, high=3)}
    cfg = SearchConfig(trials=10, concurrent=1, grace=25, reduction=2, startup=4)
    table = search("toy", objective, 2.0, space, {"a.x": 0.5, "a.n": 2}, cfg, tmp_path, quiet=True)
    assert len(table) == 10
    assert (table["param:a.x"][0], table["param:a.n"][0]) == (0.5, 2), "the first trial has the config's own values"
    states = Counter(table["state"])
    assert set(states) == {"finished", "stopped", "failed"}
    assert (table["param:a.n"][table["state"] == "failed"] == 3).all()
    assert table["message"][table["state"] == "failed"].str.contains("three is bad").all()
    assert (table["done"][table["state"] == "stopped"] < 100).all()
    top = best(table)
    assert top["score"] == table["score"][table["state"] == "finished"].max()
    assert params_of(top) == {"a.x": top["param:a.x"], "a.n": top["param:a.n"]}
    assert isinstance(params_of(top)["a.n"], int)


def test_a_search_in_which_all_fail_says_why(ray_session, tmp_path):
    from osteo_ray.training.search import search

    def objective(params, data, report):
        raise ValueError("nothing to learn from")

    with pytest.raises(InputError, match="nothing to learn from"):
        search("toy", objective, None, X, {"a.x": 1.0}, SearchConfig(trials=2), tmp_path, quiet=True)


def test_a_trial_whose_process_is_lost_is_begun_again(ray_session, tmp_path):
    from osteo_ray.training.search import search

    def objective(params, data, report):
        import os
        import pathlib

        mark = pathlib.Path(data)
        report(0.5, 0.0)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), 9)
        report(1.0, 1.0)

    cfg, lost = SearchConfig(trials=1), str(tmp_path / "lost")
    table = search("toy", objective, lost, X, {"a.x": 1.0}, cfg, tmp_path, quiet=True)
    assert table["state"].tolist() == ["finished"]
    assert (tmp_path / "lost").exists()


def test_a_space_that_cannot_be_is_named():
    class Config(Section):
        student: Space

    for space, words in (
        ({"k": {"kind": "uniform", "low": 2, "high": 1}}, "less than high"),
        ({"k": {"kind": "loguniform", "low": 0, "high": 1}}, "above 0"),
        ({"k": {"kind": "int", "low": 0.5, "high": 2}}, "whole numbers"),
        ({"k": {"kind": "normal", "low": 0, "high": 1}}, "normal"),
        ({"k": {"kind": "choice", "values": [1]}}, "at least 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            validate(Config, {"student": space})


def test_a_search_goes_on_from_its_ended_trials(ray_session, tmp_path):
    """More trials, what failed before is tried anew, and ASHA's rungs hold what earlier trials reached."""
    from osteo_ray.training.search import search

    def objective(params, data, report):
        if params["a.x"] == 1.0 and not data:
            raise ValueError("no luck")
        for i in range(4):
            report((i + 1) / 4, params["a.x"] if data else 100.0)

    def run(trials, data):
        cfg = SearchConfig(trials=trials, concurrent=1, grace=25, reduction=2, startup=4, retries=0)
        return search("toy", objective, data, X, {"a.x": 1.0}, cfg, tmp_path, quiet=True)

    first = run(4, data=0)
    assert first["state"].tolist().count("failed") == 1
    kept = first[first["state"] == "finished"]
    assert len(kept) == 3
    table = run(6, data=1)
    assert len(table) == 6
    assert table["trial"].tolist()[:3] == kept["trial"].tolist()
    # Each that ran now scores less than the earlier ones did at the first rung.
    assert set(table["state"][3:]) == {"stopped"}
    assert (table["done"][3:] == 25).all()
    assert 1.0 in set(table["param:a.x"][3:]), "the config's own values, which failed before"
    assert table["param:a.x"].nunique() == 6
    again = run(6, data=1)
    assert again["trial"].tolist() == table["trial"].tolist(), "nothing is left to do"


@pytest.mark.parametrize("times", [1, 99])
def test_a_trial_that_cannot_be_written_down_is_begun_again_or_ends_the_search(
    ray_session, tmp_path, monkeypatch, times
):
    from osteo_ray.io.store import Store
    from osteo_ray.training.search import search

    put, left = Store.put, [times]

    def full(self, name, data):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device", name)
        put(self, name, data)

    def objective(params, data, report):
        report(1.0, params["a.x"])

    def run():
        return search("toy", objective, None, X, {"a.x": 1.0}, SearchConfig(trials=3, concurrent=1), tmp_path, True)

    monkeypatch.setattr(Store, "put", full)
    if times > 1:
        with pytest.raises(StoreError, match=r"ended/: No space left"):
            run()
        left[0] = 0
    assert run()["state"].tolist() == ["finished"] * 3


DRIVER = textwrap.dedent(
    """
    import json, sys, time
    from osteo_ray import ray_setup as rayenv
    rayenv.start(num_cpus=2, object_store_mb=128)
    from osteo_ray.training.search import search
    from osteo_ray.training.search_space import Range, SearchConfig

    def objective(params, data, report):
        def note(what):
            with open(data, "a") as f:
                f.write(f"{what} {params['x']!r}\\n")
        note("start")
        for i in range(4):
            time.sleep(0.25)
            report((i + 1) / 4, -params["x"])
            if i == 2:
                note("nearly")

    table = search("toy", objective, sys.argv[2], {"x": Range(kind="uniform", low=0, high=1)}, {"x": 0.5},
                   SearchConfig(trials=12, grace=100), sys.argv[1], quiet=True)
    json.dump(table.to_dict("list"), open(sys.argv[2] + ".json", "w"))
    """
)


def test_a_killed_search_keeps_its_finished_trials(tmp_path):
    """The driver is killed half-way; the same command again does what is missing and nothing else."""
    log = tmp_path / "log"
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, tmp_path / "driver.py", tmp_path / "ray", log]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}

    def logged(what):
        return [x.split()[1] for x in log.read_text().splitlines() if x.startswith(what)] if log.exists() else []

    first = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(900):
        if len(logged("nearly")) >= 6:
            break
        assert first.poll() is None, "the search ended before it could be killed"
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(2)  # its workers notice
    begun, whole = logged("start"), logged("nearly")
    ended = {f.stem for f in (tmp_path / "ray" / "toy" / "ended").iterdir()}
    assert 6 <= len(whole) < 12
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    table = json.loads((tmp_path / "log.json").read_text())
    assert len(table["trial"]) == 12
    assert set(table["state"]) == {"finished"}
    later = logged("start")[len(begun) :]
    assert len(ended) >= 4, "two at most were in flight"
    assert ended <= set(table["trial"])
    assert len(later) == 12 - len(ended), "what had ended is not done again, all else is"
