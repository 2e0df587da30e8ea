"""One file or a folder of them: rows have the same numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from osteo_ray.io.parquet_set import (
    KEY_BITS,
    MANIFEST,
    SetPart,
    is_finished,
    key_hash,
    open_set,
    write_manifest,
)
from osteo_ray.io.store import Store
from osteo_ray.outcomes import InputError

KEYS = sorted((f"1.2.{i}" for i in range(40)), key=key_hash)
TABLE = pa.table({"uid": KEYS, "n": range(40)})


def write_set(folder, bits: int = 2):
    parts = []
    for i in range(1 << bits):
        rows = TABLE.filter(pa.array([key_hash(k) >> (KEY_BITS - bits) == i for k in KEYS]))
        name = f"{i:02d}-x.parquet"
        Store(folder).put_table(name, rows, row_group_size=3)
        with pq.ParquetFile(folder / name) as f:
            parts.append(SetPart(name, tuple(f.metadata.row_group(g).num_rows for g in range(f.num_row_groups))))
    write_manifest(Store(folder), parts, "uid", bits)
    return folder


@pytest.fixture(params=["file", "folder", "s3"])
def uri(request, tmp_path):
    if request.param == "file":
        pq.write_table(TABLE, tmp_path / "t.parquet", row_group_size=7)
        return str(tmp_path / "t.parquet")
    folder = write_set(tmp_path / "t.parquet")
    if request.param == "folder":
        return str(folder)
    bucket = Store(f"{request.getfixturevalue('s3')}/{tmp_path.name}/t.parquet")
    for p in sorted(folder.iterdir()):
        bucket.put(p.name, p.read_bytes())
    return bucket.uri


def test_rows_are_numbered_through(uri):
    s = open_set(uri)
    assert len(s) == 40
    assert s.read().equals(TABLE)
    assert s.rows(5, 29).equals(TABLE.slice(5, 24))
    assert s.rows(4, 4, ["n"]).schema.names == ["n"]
    batches = list(s.batches(["n"], 4))
    assert [x for b in batches for x in b.column(0).to_pylist()] == list(range(40))
    assert max(b.num_rows for b in batches) <= 4
    wanted = np.array([0, 3, 17, 18, 39])
    found = s.locate(wanted)
    got = {int(a): n for r in found for a, n in zip(r.at, r.read(["n"])["n"].to_pylist(), strict=True)}
    assert [got[i] for i in range(5)] == wanted.tolist()
    assert s.of_key(KEYS[7:9], pc.field("uid").isin(KEYS[7:9]))["n"].to_pylist() == [7, 8]
    assert s.read(["uid"], pc.field("n") > 37)["uid"].to_pylist() == KEYS[38:]
    assert is_finished(uri)
    assert open_set(uri).fingerprint() == s.fingerprint()


def test_a_key_is_looked_for_in_its_part_alone(tmp_path):
    folder = write_set(tmp_path / "t.parquet")
    part = key_hash(KEYS[0]) >> (KEY_BITS - 2)
    for p in folder.glob("*.parquet"):
        if not p.name.startswith(f"{part:02d}"):
            p.unlink()
    assert open_set(folder).of_key([KEYS[0]], pc.field("uid") == KEYS[0])["n"].to_pylist() == [0]


def test_a_folder_without_its_manifest_is_not_finished(tmp_path):
    folder = write_set(tmp_path / "t.parquet")
    assert (folder / MANIFEST).exists()
    (folder / MANIFEST).unlink()
    assert not is_finished(folder)
    with pytest.raises(InputError, match="not finished"):
        open_set(folder)
    with pytest.raises(FileNotFoundError, match="is not there"):
        open_set(tmp_path / "nothing.parquet")


def test_what_the_manifest_does_not_name_goes(tmp_path):
    folder = write_set(tmp_path / "t.parquet")
    (folder / "99-old.parquet").write_bytes(b"PAR1")
    before = open_set(folder)
    write_manifest(Store(folder), before.parts, "uid", 2)
    assert not (folder / "99-old.parquet").exists()
    assert pq.read_table(folder).equals(TABLE)  # as any reader sees it
