import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from osteo_ray.io import database as db_module
from osteo_ray.io.database import database
from osteo_ray.io.trouble import StoreError
from osteo_ray.outcomes import InputError

SCHEMA = pa.schema([("key", pa.string()), ("n", pa.int64()), ("later", pa.string()), ("list", pa.list_(pa.string()))])


@pytest.mark.parametrize("folder", ["plain", "a[1] *?'x"])
def test_a_column_that_a_file_does_not_have_is_null(tmp_path, folder):
    file = tmp_path / folder / "old.parquet"
    file.parent.mkdir()
    pq.write_table(pa.table({"key": ["b", "a"], "n": [1, 2]}), file)
    with database(old=(file, SCHEMA), new=(pa.table({"key": ["a"]}), SCHEMA)) as db:
        rows = db.sql("SELECT key, n, later = 'x' AS x, list FROM old ORDER BY key").fetchall()
        assert rows == [("a", 2, None, None), ("b", 1, None, None)]
        assert db.sql("SELECT n FROM old JOIN new USING (key)").fetchall() == [(2,)]
    assert [f.name for f in file.parent.iterdir()] == ["old.parquet"], "nothing is left beside it"


def test_what_does_not_fit_into_memory_is_sorted_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(db_module, "MEMORY", "48MB")
    file = tmp_path / "t.parquet"
    n = 1_000_000
    keys = [f"{i * 7919 % n:064d}" for i in range(n)]
    pq.write_table(pa.table({"key": keys, "n": range(n)}), file, row_group_size=20_000)
    with database(t=(file, SCHEMA)) as db:
        reader = db.sql("SELECT key FROM t ORDER BY key").to_arrow_reader(50_000)
        first = reader.read_next_batch()["key"].to_pylist()
        assert list(tmp_path.glob(".sort-*/*")), "the test fits into memory: it says nothing"
        assert first == sorted(keys)[:50_000]
        assert sum(len(b) for b in reader) == n - 50_000


def sorted_keys(file, limit=None):
    with database(t=(file, SCHEMA)) as db:
        if limit:
            db.execute(f"SET max_temp_directory_size = '{limit}'")
        return sum(len(b) for b in db.sql("SELECT key FROM t ORDER BY key").to_arrow_reader(50_000))


def test_a_full_disk_and_a_damaged_file_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(db_module, "MEMORY", "32MB")
    file = tmp_path / "t.parquet"
    n = 1_000_000
    pq.write_table(pa.table({"key": [f"{i * 7919 % n:064d}" for i in range(n)], "n": range(n)}), file)
    with pytest.raises(StoreError, match=r"is the disk full") as e:
        sorted_keys(file, limit="1MB")
    assert str(e.value).startswith(str(tmp_path))
    assert [f.name for f in tmp_path.iterdir()] == ["t.parquet"]
    whole = file.read_bytes()
    for damaged in (whole[:-100], whole[:1000], b"", whole[:4] + bytes(5_000_000) + whole[5_000_004:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"t\.parquet"):
            sorted_keys(file)
