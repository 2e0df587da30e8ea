import json

import pytest

from osteo_ray.io.step_cache import StepCache, digest
from osteo_ray.io.store import Store
from osteo_ray.outcomes import InputError


def test_a_stage_runs_once_per_key(tmp_path):
    calls = []

    def work(folder):
        calls.append(sorted(p.name for p in folder.iterdir()))
        (folder / "result").write_text(str(len(calls)))

    for key in ("k1", "k1", "k2"):
        run = StepCache(tmp_path)
        folder = run.run("a", key, work)
    assert len(calls) == 2
    assert calls[1] == ["started.json"], "another key's leftovers are removed"
    assert (folder / "result").read_text() == "2"
    assert StepCache(tmp_path).run("a", "k2", work) == folder
    assert len(calls) == 2


def test_a_stage_cut_short_is_run_again_and_finds_what_it_left(tmp_path):
    def broken(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        StepCache(tmp_path).run("a", "k", broken)
    assert not (tmp_path / "a" / "done.json").exists()
    seen = []
    StepCache(tmp_path).run("a", "k", lambda f: seen.append((f / "half").exists()))
    assert seen == [True]
    assert json.loads((tmp_path / "a" / "done.json").read_text())["key"] == "k"


def test_a_strangers_folder_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="no step wrote"):
        StepCache(tmp_path).run("a", "k", lambda f: None)
    assert (tmp_path / "a" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "b").mkdir()
    assert StepCache(tmp_path).run("b", "k", lambda f: None).is_dir()


def test_digest_sees_values_files_and_folders(tmp_path):
    f = tmp_path / "f"
    f.write_text("1")
    before = digest({"a": 1}, f), digest(tmp_path)
    f.write_text("22")
    assert digest({"a": 1}, f) != before[0]
    assert digest(tmp_path) != before[1]
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_another_machine_goes_on_where_a_bucket_has_what_was_done(s3):
    out, calls = f"{s3}/steps", []

    def work(folder):
        calls.append("done before" if (folder / "half").exists() else "anew")
        (folder / "half").write_text("x")
        if len(calls) == 1:
            raise RuntimeError("the node was taken away")
        (folder / "deep").mkdir()
        (folder / "deep" / "result").write_text("y")

    with pytest.raises(RuntimeError):
        StepCache(out).run("a", "k1", work)
    first = StepCache(out)
    assert (first.run("a", "k1", work) / "deep" / "result").read_text() == "y"
    again = StepCache(out)
    assert again.out != first.out, "a folder of its own, as on another machine"
    assert (again.run("a", "k1", work) / "deep" / "result").read_text() == "y"
    assert again.reused == ["a"]
    assert calls == ["anew", "done before"]
    (first.out / "a" / "half").unlink()
    (first.out / "a" / "deep" / "result").write_text("changed")
    first.save("a")
    assert Store(out).tree("a/") == ["a/deep/result", "a/done.json", "a/started.json"], "what is gone is gone there too"
    assert Store(out).get("a/deep/result") == b"changed"

    def other(folder):
        (folder / "other").write_text("z")

    StepCache(out).run("a", "k2", other)
    assert Store(out).tree("a/") == ["a/done.json", "a/other", "a/started.json"], "another key's leftovers are removed"
