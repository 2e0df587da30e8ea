import pytest

from osteo_ray.commands.train import TrainJob
from osteo_ray.config import ConfigError, Section, changed, dump, load
from osteo_ray.screening.config import ScreenJob


def test_yaml_overrides_and_given_in_that_order(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("out: a\nseed: 1\nsplit: {test: 0.3}\n")
    job = load(TrainJob, path, ["seed=2", "split.val=0.4"], {"out": "b"})
    assert (job.out, job.seed, job.split.test, job.split.val) == ("b", 2, 0.3, 0.4)


def test_written_config_reads_back_equal(tmp_path):
    job = load(TrainJob, None, ["selection.view.keep=5", "extra_slices=[x, y]"])
    dump(job, tmp_path / "c.yaml")
    assert load(TrainJob, tmp_path / "c.yaml") == job


def test_a_changed_config_keeps_the_rest_and_refuses_what_load_refuses():
    cfg = load(TrainJob, None, ["selection.view.keep=5", "seed=3"])
    other = changed(cfg, {"selection": {"view": {"coarse": 9}}})
    assert (other.selection.view.keep, other.selection.view.coarse, other.seed) == (5, 9, 3)
    with pytest.raises(ConfigError, match="no such key"):
        changed(cfg, {"selection": {"vew": {}}})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sed=1", ["sed", "no such key", "did you mean seed", "split"]),
        ("split.test=1.5", ["split.test", "less than 1", "1.5"]),
        ("selection.view.view=some", ["selection.view.view", "'all' or 'coarse'", "'some'"]),
        ("seed=x", ["seed", "integer", "'x'"]),
    ],
)
def test_a_bad_key_is_named_with_what_it_was_and_may_be(override, words):
    with pytest.raises(ConfigError) as e:
        load(TrainJob, None, [override])
    for w in words:
        assert w in str(e.value)


@pytest.mark.parametrize("override", ["seed", "=1", "split..test=1", "out.x=1"])
def test_malformed_overrides(override):
    with pytest.raises(ConfigError):
        load(TrainJob, None, ["out=a", override])


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(ScreenJob, tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load(ScreenJob, tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="top level"):
        load(ScreenJob, tmp_path / "list.yaml")


def test_every_shipped_config_loads():
    from pathlib import Path

    from osteo_ray.commands.cohort import CohortJob
    from osteo_ray.commands.evaluate import EvaluateJob
    from osteo_ray.commands.index import IndexJob

    jobs: dict[str, type[Section]] = {"cohort": CohortJob, "slices": CohortJob, "index": IndexJob, "train": TrainJob}
    jobs["screen"], jobs["evaluate"] = ScreenJob, EvaluateJob
    files = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
    assert files
    for f in files:
        if f.stem in jobs:
            load(jobs[f.stem], f)


def test_a_key_that_stands_twice_is_an_error(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: 1\nb: {c: 1}\na: 2\n")
    with pytest.raises(ConfigError, match=r"'a' stands twice"):
        load(Section, path)
    path.write_bytes("a: \xe9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not YAML"):
        load(Section, path)


def test_a_bad_key_inside_a_named_node_knows_the_keys_there():
    class Leaf(Section):
        column: str | None = None

    class Tree(Section):
        leaves: dict[str, Leaf] | None = None
        one: Leaf | None = None

    for given in ({"leaves": {"a": {"colum": "x"}}}, {"one": {"colum": "x"}}):
        with pytest.raises(ConfigError, match=r"colum: no such key; did you mean column\?"):
            load(Tree, None, (), given)


def test_a_text_that_yaml_reads_as_something_else_is_to_be_quoted():
    class Named(Section):
        name: str

    with pytest.raises(ConfigError, match=r"name: .*\(got False\); write it in quotes"):
        load(Named, None, ["name=No"])
