"""`osteo-ray tune`: trials as table and picture, and a best config that `osteo-ray train` takes as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from small_training import TRAIN

from osteo_ray.cli import main
from osteo_ray.commands.train import TrainJob
from osteo_ray.commands.tune import TuneJob
from osteo_ray.config import ConfigError, load, narrow, with_dotted
from osteo_ray.model.bundle import Bundle
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.objectives import with_params
from osteo_ray.training.tune import check_space
from osteo_ray.training.tune_config import TuneConfig

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]

TUNE = {
    "splits": 2,
    "confirm": 2,
    "report_every": 2,
    "search": {"trials": 4, "grace": 20, "startup": 2},
    "selection_search": {"trials": 2, "grace": 100, "startup": 1},
    "tabular": {"kdamm.tabular.epochs": {"kind": "int", "low": 1, "high": 5}},
    "image": {"kdamm.image.lr": {"kind": "loguniform", "low": 0.001, "high": 0.01}},
    "student": {
        "kdamm.student.lr": {"kind": "loguniform", "low": 0.001, "high": 0.01},
        "kdamm.distill.ct_repeat": {"kind": "int", "low": 1, "high": 5},
        "kdamm.distill.on": {"kind": "choice", "values": ["all", "complete"]},
    },
    "selection": {"selection.policy.lr": {"kind": "loguniform", "low": 0.0005, "high": 0.002}},
}


def run(capsys, *argv: object) -> str:
    assert main([str(a) for a in argv]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_each_target_from_space_to_config(ray_session, tmp_path, capsys):
    cohort_dir = tmp_path / "made"
    small = ["seed=6", "persons=330", "positions=16", "scan={size_512_share: 0, slice_max: 40}"]
    run(capsys, "cohort", "slices", "--out", cohort_dir, "--set", *small, "missing.complete_share=0.2")
    paths = {
        "records": f"{cohort_dir}/records.csv",
        "extra_slices": [f"{cohort_dir}/slices"],
        "out": str(tmp_path / "run"),
    }
    train, tune = tmp_path / "train.yaml", tmp_path / "tune.yaml"
    train.write_text(yaml.safe_dump(TRAIN | paths))
    tune.write_text(yaml.safe_dump(TUNE | {"train": str(train), "out": str(tmp_path / "tune")}))

    out = run(capsys, "tune", "student", "--config", tune)
    assert "4 trials" in out
    assert "2 fresh splits" in out
    folder = tmp_path / "tune" / "student"
    table = pd.read_parquet(folder / "trials.parquet")
    assert len(table) == 4
    assert np.isfinite(table["score"]).all()
    assert table["param:kdamm.distill.ct_repeat"][0] == TrainConfig().kdamm.distill.ct_repeat
    assert len((folder / "trials.md").read_text().splitlines()) == 6
    assert len(pd.read_csv(folder / "trials.csv")) == 4
    assert (folder / "parallel_coordinates.png").read_bytes()[:4] == b"\x89PNG"
    best = table[table["state"] == "finished"].sort_values("score").iloc[-1]
    found = yaml.safe_load((tmp_path / "tune" / "student.yaml").read_text())
    assert found["kdamm"]["student"]["lr"] == best["param:kdamm.student.lr"]
    assert found["kdamm"]["image"] == TRAIN["kdamm"]["image"], "what was not searched stays"

    # Done once: a second call only prints, and the splits are patients', none of whom is held out.
    again = run(capsys, "tune", "student", "--config", tune)
    assert again.splitlines()[:3] == out.splitlines()[:3]

    run(capsys, "tune", "teachers", "--config", tune)
    assert len(pd.read_parquet(tmp_path / "tune" / "tabular" / "trials.parquet")) == 4
    teachers = yaml.safe_load((tmp_path / "tune" / "teachers.yaml").read_text())["kdamm"]
    assert set(teachers["tabular"]) == {"epochs"}
    assert set(teachers["image"]) == {"epochs", "lr"}
    run(capsys, "tune", "selection", "--config", tune)
    policies = pd.read_parquet(tmp_path / "tune" / "selection" / "trials.parquet")
    assert np.isfinite(policies["val_return"]).all()
    assert (policies["val_decoded"] > 0).all()

    printed = run(capsys, "train", "--config", tmp_path / "tune" / "student.yaml")
    assert printed.count("(reused)") == 4  # encoder, embeddings, selection, picks
    bundle = Bundle.load(tmp_path / "run" / "bundle")
    assert bundle.calibrators
    assert not set(pq.read_table(tmp_path / "run" / "split.parquet")["part"].to_pylist()) & {"test"}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"kdamm.studnt.lr": {"kind": "uniform", "low": 0.001, "high": 0.01}}, "did you mean student"),
        ({"kdamm.student.epochs": {"kind": "int", "low": 0, "high": 9}}, "kdamm.student.epochs"),
        ({"kdamm.student.lr": {"kind": "uniform", "low": 0.1, "high": 0.2}}, "widen it"),
        ({}, "no space"),
    ],
)
def test_a_space_that_the_training_does_not_take_is_refused(space, words):
    cfg = TuneConfig.model_validate({"student": space})
    with pytest.raises(ConfigError, match=words):
        check_space("student", cfg.student, TrainConfig())


def test_settings_go_to_their_keys_and_nowhere_else():
    given: dict[str, Any] = {"kdamm": {"student": {"lr": 0.1, "epochs": 3}}, "out": "x"}
    assert with_dotted(given, {"kdamm.student.lr": 0.2, "seed": 4}) == {
        "kdamm": {"student": {"lr": 0.2, "epochs": 3}},
        "out": "x",
        "seed": 4,
    }
    assert given["kdamm"]["student"]["lr"] == 0.1
    cfg = with_params(TrainConfig(), {"kdamm.student.lr": 0.02})
    assert cfg.kdamm.student.lr == 0.02
    assert cfg.kdamm.image == TrainConfig().kdamm.image


def test_the_shipped_spaces_hold_the_shipped_defaults():
    job = load(TuneJob, ROOT / "configs" / "tune.yaml")
    for path in (ROOT / str(job.train), ROOT / "configs" / "reference.yaml"):
        cfg = narrow(load(TrainJob, path), TrainConfig)
        for name in ("tabular", "image", "student", "selection"):
            check_space(name, getattr(job, name), cfg)
