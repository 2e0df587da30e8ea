"""The wheel, installed into an environment of its own, has everything that the commands and the bundle need."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import osteo_ray
from osteo_ray.config import validate
from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.write import write_patient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NOT_CODE = {".py", ".pyc"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from what git tracks: a clean checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: what a clean one holds is not known")
    for name in filter(None, listed.stdout.split("\0")):
        if name.startswith("osteo_ray/") or name in ("pyproject.toml", "README.md", "LICENSE"):
            if not (ROOT / name).exists():
                continue
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    # The build's own requirements are those of this environment: nothing is fetched.
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel; its dependencies are read from this one."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel],
        check=True,
    )
    site = Path(sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})["purelib"])
    # Behind the wheel's own folder, and a .pth there is not read: an editable install of this project stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home


def run(home, *argv, cwd):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([home / "bin" / argv[0], *argv[1:]], capture_output=True, text=True, env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as z:
        packed = set(z.namelist())
    tracked = subprocess.run(["git", "ls-files", "osteo_ray"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = {f for f in tracked.stdout.split() if (ROOT / f).exists()}
    assert {Path(f).suffix for f in files} >= {".py", ".yaml", ".j2", ".json", ".safetensors", ".js", ".css", ".typed"}
    assert files - packed == set()
    assert any(n.endswith("licenses/LICENSE") for n in packed)


def test_the_command_runs_from_the_wheel(installed, tmp_path):
    version = run(installed, "osteo-ray", "--version", cwd=tmp_path).split()[-1]
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()
    assert "screen" in run(installed, "osteo-ray", "--help", cwd=tmp_path)
    assert "codec" in run(installed, "osteo-ray", "doctor", cwd=tmp_path)


def test_the_reference_bundle_loads_from_the_wheel(installed, tmp_path):
    code = (
        "import osteo_ray, osteo_ray.model.reference as r\n"
        "from osteo_ray.model.bundle import Bundle\n"
        "print(osteo_ray.__file__)\nprint(Bundle.load(r.bundle()).name)"
    )
    where, name = run(installed, "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(installed)
    assert name == "osteo-ray reference"


def test_the_lines_of_the_readme_score_a_study(installed, tmp_path):
    cfg = validate(CohortConfig, {"seed": 5, "persons": 60, "scan": {"size_512_share": 0, "protocols": {"abdomen": 1}}})
    person = next(p for p in fast.people(cfg) if p.has_ct and p.age_y > 45)
    write_patient(person, cfg, tmp_path / "archive")
    study = next(p for p in (tmp_path / "archive").rglob("2.25.*") if p.is_dir())
    study.rename(tmp_path / "study_folder")
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    record = {"age_y": int(person.age_y), "sex": "M" if person.male else "F"}
    lines, given = re.subn(r"record=\{.*?\}", f"record={record}", lines)
    assert given == 1
    out = run(installed, "python", "-c", lines, cwd=tmp_path)
    assert re.match(r"(SCORED|SCORED_WARN) 0\.\d+ \{", out), out


def test_one_version():
    (cited,) = re.findall(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.M)
    (project,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert cited == project
    assert osteo_ray.__version__ in (project, "0+uninstalled")
