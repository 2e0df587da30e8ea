"""The command line that is built from the configs: what it says of each key, what it takes, what it refuses."""

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import osteo_ray.commands
from osteo_ray import __version__
from osteo_ray.cli import main
from osteo_ray.commands import REGISTRY, load_command
from osteo_ray.commands.options import command_parser, given, keys
from osteo_ray.config import load

ROOT = Path(__file__).parents[2]
HEAVY = {"ray", "torch", "pandas", "pyarrow", "gymnasium", "sklearn", "scipy", "shap", "fastapi"}
NO_COMMANDS = {"first_look", "local_copies", "options", "preflight", "reference"}


def modules_after(argv, cwd=ROOT):
    """Exit code, stderr, and which heavy libraries were imported, of a command line in a process of its own."""
    code = (
        "import sys\nfrom osteo_ray.cli import main\n"
        f"try:\n    code = main({argv!r})\nexcept SystemExit as e:\n    code = e.code\n"
        "print()\nprint(code or 0, *sorted(m for m in sys.modules if '.' not in m))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, cwd=cwd)
    exit_code, *modules = done.stdout.splitlines()[-1].split()
    return int(exit_code), done.stderr, HEAVY & set(modules)


def test_every_command_module_is_in_the_registry():
    found = {m.name for m in pkgutil.iter_modules(osteo_ray.commands.__path__)} - NO_COMMANDS
    assert found == set(REGISTRY)


@pytest.mark.parametrize("argv", [["--help"], *([c, "--help"] for c in REGISTRY)], ids=" ".join)
def test_help_imports_no_heavy_library(argv):
    assert modules_after(argv) == (0, "", set())


@pytest.mark.parametrize("command", REGISTRY)
def test_every_option_shows_text_type_and_default(command):
    cmd = load_command(command)
    text = re.sub(r"\s+", " ", command_parser(command, cmd).format_help())
    for key in keys(cmd.job):
        option = "--" + key.path.replace("_", "-")
        if key.path == cmd.positional:
            option = key.path.upper()
        assert option in text, option
        assert key.default_text == "required" or re.sub(r"\s+", " ", f"default: {key.default_text}") in text, option
        for choice in key.choices:
            assert choice in text, (option, choice)


@pytest.mark.parametrize("command", REGISTRY)
def test_a_missing_yaml_is_reported_before_anything_heavy_is_imported(command, tmp_path):
    action = ["student"] if command == "tune" else []
    code, err, heavy = modules_after([command, *action, "--config", "absent.yaml"], cwd=tmp_path)
    assert code == 2
    assert "absent.yaml: No such file" in err
    assert not heavy


def values(command, *argv):
    cmd = load_command(command)
    got = given(command_parser(command, cmd), cmd, argv)
    return load(cmd.job, got.config, got.overrides, got.options), got.action


def test_yaml_then_set_then_options_by_name(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("out: a\nscoring: {shap: false}\npipeline: {actors: 2, shard_rows: 5}\ntimeline: {lab_days: 1}\n")
    job, _ = values("screen", "x", "y", "--config", str(path), "--set", "pipeline.actors=3", "timeline.lab_days=2")
    assert (job.archive, job.out, job.scoring.shap) == (("x", "y"), "a", False)
    assert (job.pipeline.actors, job.pipeline.shard_rows, job.timeline.lab_days) == (3, 5, 2)
    job, _ = values("screen", "--config", str(path), "--set", "pipeline.actors=3", "--pipeline.actors", "4", "--out=b")
    assert (job.pipeline.actors, job.pipeline.shard_rows, job.out) == (4, 5, "b")


def test_options_take_underscores_flags_lists_maps_and_null():
    job, _ = values("screen", "x", "--dry-run", "--no-scoring.shap", "--index.num_cpus", "3", "--pipeline.actors=5")
    assert (job.dry_run, job.scoring.shap, job.index.num_cpus, job.pipeline.actors) == (True, False, 3, 5)
    job, _ = values("retry", "--code", "TIMEOUT", "WORKER_DIED", "--state", "ERROR", "--out", "007")
    assert (job.code, job.state, job.out) == (("TIMEOUT", "WORKER_DIED"), ("ERROR",), "007")
    job, _ = values("train", "--records", "a,b.csv", "c.csv", "--kdamm.student.patience", "null")
    assert (job.records, job.kdamm.student.patience) == (("a,b.csv", "c.csv"), None)
    job, _ = values("cohort", "slices", "--scan.kvp", "{120: 1.0}", "--persons", "12")
    assert (job.scan.kvp, job.persons) == ({120: 1.0}, 12)
    job, _ = values("tune", "student", "--student", "{distill.hint: {kind: uniform, low: 0, high: 1}}")
    assert job.student["distill.hint"].high == 1
    job, _ = values("listen", "--destination.host", "pacs", "--destination.port", "104", "--destination.ae-title", "P")
    assert job.destination.port == 104


def test_actions():
    assert values("cohort")[1] == "write"
    assert values("cohort", "check")[1] == "check"
    assert values("serve", "token", "--tokens", "t.json")[1] == "token"
    for argv in (["tune"], ["tune", "everything"], ["cohort", "eat"]):
        with pytest.raises(SystemExit) as e:
            main(argv)
        assert e.value.code == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["screen", "x", "--pipeline.actors", "0"], ["pipeline.actors", "greater than or equal to 1", "'0'"]),
        (["screen", "x", "--scoring.device", "tpu"], ["scoring.device", "'cpu' or 'cuda'", "'tpu'"]),
        (["report", "x", "--formats", "docx"], ["formats", "'html'", "'docx'"]),
        (["train", "--timeline.lab-days", "soon"], ["timeline.lab_days", "integer", "'soon'"]),
    ],
)
def test_a_bad_value_is_named_with_what_it_was_and_may_be(argv, words, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    for w in words:
        assert w in err


def test_an_unknown_option_is_named_with_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as e:
        main(["screen", "x", "--scoring.shp", "1"])
    assert e.value.code == 2
    assert "--scoring.shp: no such option; did you mean --scoring.shap?" in capsys.readouterr().err


def test_version_and_completion(capsys):
    for argv, words in (
        (["--version"], [__version__]),
        (["--print-completion", "bash"], ["--pipeline.actors", "screen"]),
    ):
        with pytest.raises(SystemExit) as e:
            main(argv)
        assert e.value.code == 0
        out = capsys.readouterr().out
        assert all(w in out for w in words)


@pytest.mark.parametrize("script", sorted((ROOT / "jobs").glob("*.py")), ids=lambda p: p.stem)
def test_each_job_script_is_its_command(script, tmp_path):
    done = subprocess.run(
        [sys.executable, script, *(["student"] if script.stem == "tune" else []), "--config", "absent.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"osteo-ray {script.stem}: config file absent.yaml")


def test_a_dumped_job_reads_back_by_config(tmp_path):
    path = tmp_path / "job.yaml"
    job, _ = values("screen", "x", "--timeline.lab-days", "9")
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    assert values("screen", "--config", str(path))[0] == job
