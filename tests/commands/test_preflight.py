"""Paths of a job on a cluster; what nodes see of them: tests/io/test_every_node.py and tests/cluster."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from osteo_ray.cli import main
from osteo_ray.commands.preflight import _archive_of, _places
from osteo_ray.commands.train import TrainJob
from osteo_ray.dicom.sources import file_uri
from osteo_ray.screening.config import ScreenJob


@pytest.fixture
def submitted(monkeypatch):
    """This process is a submitted job."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        (["index", "ct", "--out", "/data/index"], "archive: ct"),
        (["index", "zip://a::ct.zip", "--out", "/data/index"], "archive: zip"),
        (["screen", "s3://b/index", "--out", "runs/screen"], "out: runs/screen"),
        (["screen", "s3://b/index", "--out", "s3://b/run", "--bundle", "b"], "bundle: b"),
        (["report", "runs/screen"], "results: runs/screen"),
        (["train", "--catalogue", "/data/c", "--out", "/data/t", "--publish", "b"], "publish: b"),
    ],
)
def test_a_submitted_job_names_whole_paths(submitted, argv, key, capsys):
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert f"{key} is relative" in said or f"{key}" in said.partition(" is relative")[0]
    assert "is relative" in said


def test_so_does_the_training_that_a_tuning_names(submitted, tmp_path, capsys):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"catalogue": "index/catalogue.parquet", "out": "/data/t"}))
    assert main(["tune", "teachers", "--train", str(tmp_path / "train.yaml"), "--out", "/data/x"]) == 2
    assert "train: catalogue: index/catalogue.parquet is relative" in capsys.readouterr().err


def test_on_this_machine_relative_paths_are_as_good_as_any(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["index", "ct", "--out", "index"]) == 3
    assert "archive: ct is not there" in capsys.readouterr().err


@pytest.fixture
def catalogue(tmp_path) -> str:
    """Four series; the third is closed and holds nothing."""
    uris = [file_uri(tmp_path / "c t" / "a.dcm"), f"zip://1::{file_uri(tmp_path / 'b.zip')}", None, "s3://b/k"]
    rows = [[] if u is None else [{"uri": u}] for u in uris]
    pq.write_table(pa.table({"instances": rows, "series_uid": list("abcd")}), tmp_path / "catalogue.parquet")
    return str(tmp_path / "catalogue.parquet")


def test_nodes_look_for_files_that_the_catalogue_names(catalogue, tmp_path):
    found = list(_archive_of(catalogue))
    assert [(p.key, p.uri) for p in found] == [
        ("archive", str(tmp_path / "c t" / "a.dcm")),
        ("archive", str(tmp_path / "b.zip")),
        ("archive", "s3://b/k"),
    ]
    assert all(p.workers for p in found)  # a head that computes nothing reads none of it


def test_what_tasks_read_is_looked_at_and_what_the_driver_reads_is_not(catalogue, bundle_dir, tmp_path):
    (tmp_path / "r.csv").write_text("patient_id\n")
    job = ScreenJob(archive=catalogue, records=str(tmp_path / "r.csv"), bundle=str(bundle_dir), out="/data/run")
    keys = [p.key for p in _places("screen", job)]
    assert keys == ["archive", "archive", "archive", "archive", "bundle"]
    bundle = list(_places("screen", job))[-1]
    assert {n for n, _ in bundle.files} >= {"bundle.json", "weights.safetensors", "SHA256SUMS"}
    train = TrainJob(catalogue=catalogue, extra_slices=(str(tmp_path),), out="/data/t")
    assert [p.key for p in _places("train", train)] == ["catalogue", "archive", "archive", "archive"]
