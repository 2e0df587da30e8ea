import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from osteo_ray import cli
from osteo_ray.cli import main
from osteo_ray.commands import TRAINING_PACKAGES, Command
from osteo_ray.commands.doctor import DoctorJob

ROOT = Path(__file__).parents[1]


def test_doctor_names_versions_cores_and_codecs(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("python", "ray", "torch", "cores", "GPUs", "codec"):
        assert re.search(rf"^{word}", out, re.M), word


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["screen", "x", "--set", "scoring.shp=1"], 2, "did you mean shap"),
        (["screen", "x", "--bundle", "y"], 2, "out: not given"),
        (["index", "{tmp}/absent", "--out", "{tmp}/o"], 3, "absent"),
        (["screen", "{tmp}/c.parquet", "--bundle", "{tmp}", "--out", "{tmp}/o"], 3, "no bundle"),
        (["records", "{tmp}/bad.csv", "--out", "{tmp}/o.parquet"], 3, "age_y"),
    ],
)
def test_errors_name_the_thing_and_have_their_exit_code(argv, code, words, tmp_path, capsys):
    (tmp_path / "bad.csv").write_text("patient_id,age_y,sex\nA,512,F\n")
    (tmp_path / "c.parquet").write_text("a catalogue that is not read before the bundle")
    assert main([a.format(tmp=tmp_path) for a in argv]) == code
    assert words in capsys.readouterr().err


def test_where_only_screening_is_installed_training_says_what_it_takes(monkeypatch, capsys):
    def run(job):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, "load_command", lambda name: Command(DoctorJob, run))
    assert main(["doctor"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "osteo-ray doctor: torch is missing; pip install 'osteo-ray[train]' brings it"


def test_what_the_extra_brings_is_known_by_name():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    names = {re.split(r"[\[>=<]", r)[0].replace("-", "_") for r in extra} - {"ray"}
    assert names <= set(TRAINING_PACKAGES)


@pytest.fixture
def interruptible():
    """SIGINT as it was, whatever a command leaves of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("then", [KeyboardInterrupt(), ImportError("half a module"), BrokenPipeError(), SystemExit(1)])
def test_ctrl_c_is_one_line_and_130_whatever_a_library_makes_of_it(then, interruptible, monkeypatch, capsys):
    def run(job):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise then

    monkeypatch.setattr(cli, "load_command", lambda name: Command(DoctorJob, run))
    assert main(["doctor"]) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("osteo-ray doctor: stopped; ")


def test_an_error_nobody_foresaw_is_raised_where_nobody_stopped_it(interruptible, monkeypatch):
    def run(job):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "load_command", lambda name: Command(DoctorJob, run))
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.ray
def test_ctrl_c_ends_a_screening_in_one_line_and_the_same_command_goes_on(cohort_run, bundle_dir, tmp_path):
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "osteo_ray.cli", "screen", str(cohort_run.catalogue), "--out", str(out)]
    argv += ["--bundle", str(bundle_dir), "--set", "pipeline.actors=1", "pipeline.series_per_task=1"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k == "RAY_worker_niceness"}
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("parts/*.parquet")) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert said.rstrip().splitlines()[-1] == "osteo-ray screen: stopped; the same command goes on"
    assert "Traceback" not in said
    assert not (out / "results.parquet").exists()


def test_usage_errors_exit_with_2():
    with pytest.raises(SystemExit) as e:
        main(["sreen"])
    assert e.value.code == 2


def test_records_command_writes_the_schema(tmp_path, capsys):
    (tmp_path / "r.csv").write_text("patient_id,age_y,sex,height_cm,weight_kg,t_score\nA,61,F,160,60,-2.7\nB,70,M,,,\n")
    assert main(["records", str(tmp_path / "r.csv"), "--out", str(tmp_path / "r.parquet")]) == 0
    out = capsys.readouterr().out
    assert "2 records" in out
    assert "osteoporosis 1" in out
    from osteo_ray import patients as records

    back = records.load(tmp_path / "r.parquet")
    assert back.frame["bmi"].iloc[0] == pytest.approx(60 / 1.6**2)


def test_refused_values_can_be_made_missing_and_are_listed(tmp_path, capsys):
    (tmp_path / "r.csv").write_text("patient_id,age_y,sex\nA,61,F\nB,612,M\n")
    args = ["records", str(tmp_path / "r.csv"), "--out", str(tmp_path / "r.parquet"), "--on-bad", "missing"]
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "612" in out
    assert "line 3" in out


def test_several_archives_are_one_index(cohort_run, tmp_path, capsys):
    import pyarrow.parquet as pq

    folders = sorted(str(p) for p in cohort_run.archive.iterdir())
    assert main(["index", *folders, "--out", str(tmp_path)]) == 0
    one, whole = (
        pq.read_table(p)["series_uid"].to_pylist() for p in (tmp_path / "catalogue.parquet", cohort_run.catalogue)
    )
    assert sorted(one) == sorted(whole)


def test_help_is_quick_and_imports_no_heavy_library():
    code = (
        "import sys\nfrom osteo_ray.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'ray', 'torch', 'pandas', 'shap'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_no_identifier_reaches_outputs_or_logs(cohort_run, bundle_dir, tmp_path, capfd):
    """Patient IDs and names of the archive are in no byte that screening writes or prints."""
    ids = {p.name for p in cohort_run.archive.iterdir()}
    assert ids
    job = {
        "archive": str(cohort_run.catalogue),
        "records": str(cohort_run.records),
        "bundle": str(bundle_dir),
        "out": str(tmp_path),
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert main(["screen", "--config", str(tmp_path / "job.yaml")]) == 0
    printed = capfd.readouterr()
    written = [f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and f.suffix in (".csv", ".html", ".json")]
    assert len(written) >= 3
    everything = b"".join(written) + (printed.out + printed.err).encode()
    import pyarrow.parquet as pq

    everything += str(pq.read_table(tmp_path / "results.parquet").to_pylist()).encode()
    for identifier in ids:
        assert identifier.encode() not in everything
        assert b"MADE^" not in everything
