"""Files of a run, on a disk and in an object store (moto's S3 server on loopback)."""

import time

import pyarrow as pa
import pytest

from osteo_ray.io.store import Store, local_file, local_folder, open_parquet, read_table, watched
from osteo_ray.io.trouble import StoreError, retry_for


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path):
    if request.param == "disk":
        return Store(tmp_path / "run")
    return Store(request.getfixturevalue("s3") + f"/{tmp_path.name}")


def test_files_are_put_listed_read_and_removed(store):
    assert store.names("parts/") == []
    for n in ("parts/b.1", "parts/a.1", "parts/a.2", "other/a"):
        store.put(n, n.encode())
    assert store.names("parts/") == ["parts/a.1", "parts/a.2", "parts/b.1"]
    assert store.names("parts/", "a") == ["parts/a.1", "parts/a.2"]
    assert store.those_there(["parts/a.2", "parts/a.3", "parts/b.1"]) == {"parts/a.2", "parts/b.1"}
    assert store.those_there(["parts/a.12"]) == store.those_there([]) == set()
    assert store.get("parts/a.2") == b"parts/a.2"
    store.put("parts/a.2", b"new")
    assert store.get("parts/a.2") == b"new"
    store.remove(["parts/a.1", "parts/never"])
    assert not store.exists("parts/a.1")
    assert store.exists("parts/a.2")
    assert local_of(store, "parts/a.2") == b"new"


def local_of(store, name):
    with local_file(store.path(name)) as p:
        return p.read_bytes()


def test_folders_times_and_whole_folders_that_go(store):
    begun = time.time() - 2  # object stores tell whole seconds
    assert (store.folders(), store.written("a/"), store.written_at("a/1")) == ([], {}, None)
    store.put("a/1", b"one")
    store.put("a/b/2", b"two")
    store.put("c/.hidden", b"")
    assert store.folders() == ["a", "c"]
    assert list(store.written("a/")) == ["a/1"]
    assert store.written("c/") == {}
    assert store.written_at("a") is None, "a folder"
    assert begun <= (store.written_at("a/1") or 0) / 1e9 <= time.time() + 2
    assert b"".join(store.bytes_of("a/b/2", 2)) == b"two"
    store.remove_tree("a")
    store.remove_tree("a")
    assert store.tree("a/") == []


def test_private_files_are_the_owner_s_alone(tmp_path):
    store = Store(tmp_path / "x", private=True)
    store.put("a/b/c", b"1")
    with store.file_to_be("a/d") as tmp:
        tmp.write_bytes(b"2")
    modes = {p.is_dir(): p.stat().st_mode & 0o777 for p in [tmp_path / "x", *(tmp_path / "x").rglob("*")]}
    assert modes == {True: 0o700, False: 0o600}


def test_tables_and_a_file_that_was_not_finished(store):
    t = pa.table({"a": [1, 2, 3]})
    store.put_table("t.parquet", t)
    assert read_table(store.path("t.parquet")).equals(t)
    assert store.table("t.parquet").equals(t)
    with open_parquet(store.path("t.parquet")) as f:
        assert f.metadata.num_rows == 3
    with store.parquet_writer("w.parquet", t.schema) as w:
        w.write_table(t)
    assert read_table(store.path("w.parquet"), columns=["a"]).equals(t)
    with pytest.raises(ValueError, match="schema"), store.parquet_writer("cut.parquet", t.schema) as w:
        w.write_table(pa.table({"other": ["x"]}))
    assert not store.exists("cut.parquet")


def test_a_run_as_a_local_folder(store):
    store.put("results", b"1")
    store.put("summary", b"2")
    with store.folder(read=["results", "summary"]) as folder:
        assert (folder / "results").read_bytes() == b"1"
        (folder / "summary").write_bytes(b"changed")
        (folder / "worklist").write_bytes(b"3")
    assert [store.get(n) for n in ("results", "summary", "worklist")] == [b"1", b"changed", b"3"]


def test_a_folder_by_uri(store):
    store.put("bundle/a", b"1")
    with local_folder(store.path("bundle"), ("a", "absent")) as folder:
        assert (folder / "a").read_bytes() == b"1"
        assert not (folder / "absent").exists()


def test_what_is_not_there_is_named(store):
    with pytest.raises(FileNotFoundError), open_parquet(store.path("nowhere.parquet")):
        pass


def test_patience():
    tried = []

    def work():
        tried.append(1)
        if len(tried) < 3:
            raise OSError(28, "No space left on device")
        return "done"

    assert retry_for(work, "out", 60) == "done"
    with pytest.raises(StoreError, match=r"out: No space left on device \(tried for 0 s\)"):
        retry_for(lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")), "out", 0)
    with pytest.raises(KeyError):  # a mistake of the caller's: trying again mends nothing
        retry_for(lambda: dict[str, str]()["x"], "out", 60)


def test_a_password_in_the_uri_is_refused():
    with pytest.raises(ValueError, match="password"):
        Store("s3://user:secret@bucket/run")


def test_a_folder_is_looked_at_before_it_is_written(tmp_path):
    Store(tmp_path / "not" / "there" / "yet").check_writable()
    assert list(tmp_path.iterdir()) == [], "nothing is left behind, and nothing made"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file/x can't be written: Not a directory"):
        Store(tmp_path / "file" / "x").check_writable()


def test_a_remote_store_is_looked_at_too():
    import fsspec

    store = Store("memory://looked-at/run")
    store.check_writable()
    assert fsspec.filesystem("memory").find("/looked-at") == []


def test_while_others_write_somebody_says_that_nothing_can_be_written(tmp_path, capsys):
    out = tmp_path / "out"
    out.write_text("in the way")
    with watched(str(out), 300, every_s=0.02):
        wait_for(capsys, "cannot write: ", "trying again for 300 s")
        out.unlink()
        wait_for(capsys, "can be written again")
    with watched(str(out), 300, every_s=0.02):
        pass
    assert capsys.readouterr().err == ""


def wait_for(capsys, *words):
    """Until all of these have been printed; a minute at most."""
    printed, end = "", time.monotonic() + 60
    while not all(w in printed for w in words):
        assert time.monotonic() < end, printed
        printed += capsys.readouterr().err
        time.sleep(0.02)
