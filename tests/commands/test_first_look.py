"""Before any work: what a command would read and write is looked at, within seconds, and refused with a code."""

import json
import socket
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from osteo_ray import index_archive
from osteo_ray.catalogue.schema import CATALOGUE
from osteo_ray.cli import main
from osteo_ray.commands import REGISTRY, load_command
from osteo_ray.commands.first_look import NEED_OUT, READ, named_paths
from osteo_ray.config import ConfigError
from osteo_ray.io.trouble import StoreError
from osteo_ray.outcomes import EXIT_CODES, InputError
from osteo_ray.reports.run import catalogue_of, claim_folder
from osteo_ray.screening.config import ScreenJob
from osteo_ray.service.built_in_study import write_study


@pytest.fixture
def places(tmp_path):
    """An archive with something in it, an empty folder, and a file in the way of a folder."""
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "a.dcm").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    (tmp_path / "r.csv").write_text("patient_id,age_y,sex\nA,61,F\n")
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["index", "{p}/archive", "--out", "{p}/file/x"], 5, "can't be written"),
        (["screen", "{p}/archive", "--out", "{p}/file/x"], 5, "can't be written"),
        (["records", "{p}/r.csv", "--out", "{p}/file/x.parquet"], 5, "can't be written"),
        (["records", "{p}/r.csv", "--out", "{p}/folder"], 2, "name the file"),
        (["evaluate", "{p}/archive", "--labels", "{p}/r.csv", "--out", "{p}/file/x"], 5, "can't be written"),
        (["cohort", "--out", "{p}/file/x"], 5, "can't be written"),
        (["index", "{p}/nowhere", "--out", "{p}/o"], 3, "mounted"),
        (["index", "{p}/empty", "--out", "{p}/o"], 3, "mounted"),
        (["screen", "{p}/empty", "--out", "{p}/o"], 3, "mounted"),
        (["screen", "{p}/archive", "--out", "{p}/o", "--records", "{p}/no.csv"], 3, "records"),
        (["screen", "{p}/archive", "--out", "{p}/o", "--mapping", "nope"], 2, "nope"),
        (["screen", "{p}/archive", "--out", "{p}/o", "--bundle", "{p}/folder"], 3, "no bundle"),
        (["screen", "{p}/archive"], 2, "out"),
        (["train", "--catalogue", "{p}/nowhere.parquet", "--out", "{p}/o"], 3, "catalogue"),
        (["serve", "--runs", "{p}/file/x"], 5, "can't be written"),
        (["serve", "--runs", "{p}/s", "--bundle", "{p}/folder", "--port", "0"], 3, "no bundle"),
        (["serve", "--runs", "{p}/s", "--port", "{port}"], 2, "can't listen at 127.0.0.1"),
        (["listen", "--spool", "{p}/file/x"], 5, "can't be written"),
        (["listen", "--spool", "{p}/s", "--callers", "PACS", "--port", "{port}"], 2, "can't listen at 127.0.0.1"),
        (["drift", "--results", "{p}/nowhere", "--bundle", "{p}/folder"], 3, "results"),
    ],
)
def test_what_cannot_work_ends_before_any_work(places, argv, code, words, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([a.format(p=places, port=port) for a in argv]) == code
    assert words in capsys.readouterr().err
    assert not (places / "o").exists()
    assert code in EXIT_CODES


def test_an_archive_that_was_unmounted_since_its_index_ends_before_any_work(places, bundle_dir, capsys):
    write_study(places / "archive" / "s.zip")
    catalogue, out = places / "catalogue.parquet", places / "o"
    pq.write_table(pa.Table.from_pylist(index_archive(places / "archive").series, schema=CATALOGUE), catalogue)
    (places / "archive").rename(places / "elsewhere")
    command = ["screen", str(catalogue), "--out", str(out), "--bundle", str(bundle_dir)]
    for argv in ([*command, "--dry-run"], command):
        assert main(argv) == 3
        said = capsys.readouterr().err
        assert "volume mounted" in said
        assert str(places / "archive") not in said, "folders may be named after patients"
    assert not (out / "results.parquet").exists()


def test_a_disk_that_is_full_or_read_only_is_code_5(places, tmp_path, capsys):
    """A file system of its own, too small for anything."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", small], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        (small / "filler").write_bytes(bytes(4096))
        assert main(["index", str(places / "archive"), "--out", str(small / "x")]) == 5
        assert "No space left" in capsys.readouterr().err
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        assert main(["records", str(places / "r.csv"), "--out", str(small / "x.parquet")]) == 5
        assert "Read-only" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", small], check=True)


def test_every_command_that_needs_out_says_so():
    from osteo_ray.commands.first_look import look_first

    for name in NEED_OUT:
        with pytest.raises(ConfigError, match="out"):
            look_first(name, load_command(name).job())


def test_the_folder_of_another_run_is_refused(places, bundle_dir, tmp_path_factory):
    """Another archive or bundle: refused. The same: goes on. `overwrite`: taken over."""
    from synthetic_bundle import synthetic_bundle

    other = tmp_path_factory.mktemp("other")
    synthetic_bundle(seed=1).save(other)
    job = ScreenJob(archive=str(places / "archive"), bundle=str(bundle_dir), out=str(places / "run"))
    claim_folder(job)
    claim_folder(job.model_copy(update={"records": "another.csv"}))
    with pytest.raises(InputError, match=r"another archive.*--overwrite"):
        claim_folder(job.model_copy(update={"archive": str(places / "folder")}))
    with pytest.raises(InputError, match="another bundle"):
        claim_folder(job.model_copy(update={"bundle": str(other)}))
    claim_folder(job.model_copy(update={"archive": str(places / "folder"), "overwrite": True}))
    with pytest.raises(InputError, match="another archive"):
        claim_folder(job)


def test_a_run_of_an_earlier_version_is_known_by_its_summary(places, bundle_dir):
    run = places / "run"
    run.mkdir()
    (run / "summary.json").write_text(json.dumps({"catalogue": "/x/catalogue.parquet", "model_sha256": "1"}))
    job = ScreenJob(archive=str(places / "archive"), bundle=str(bundle_dir), out=str(run))
    with pytest.raises(InputError, match=r"another archive .*another bundle"):
        claim_folder(job)


def test_the_folder_of_an_index_stands_for_its_catalogue(places):
    assert catalogue_of(str(places / "archive")) is None
    (places / "archive" / "catalogue.parquet").mkdir()
    assert catalogue_of(str(places / "archive")) == str(places / "archive" / "catalogue.parquet")
    assert str(catalogue_of("x/catalogue.parquet")).endswith("/x/catalogue.parquet")
    assert catalogue_of("dicomweb+https://pacs/dicom-web") is None


def test_storage_trouble_has_one_code_however_deep_it_lies():
    import errno

    from osteo_ray.io.trouble import is_storage_trouble

    assert is_storage_trouble(OSError(errno.ENOSPC, "full"))
    assert is_storage_trouble(StoreError("away"))
    wrapped = RuntimeError("a task failed")
    wrapped.__cause__ = OSError(errno.EROFS, "read-only")
    assert is_storage_trouble(wrapped)
    assert not is_storage_trouble(OSError(errno.ENOENT, "not there"))
    assert not is_storage_trouble(ValueError("bad"))


def test_only_paths_are_looked_at():
    """A job may have a section or a number under a name that is a path elsewhere (`split` of a training)."""
    for name in REGISTRY:
        assert all(isinstance(path, str) for _, path in named_paths(load_command(name).job(), READ)), name
