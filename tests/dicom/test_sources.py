"""Sources: local trees, zips and tars list everything once, read any range, and take no name at its word."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from ct_making import file_bytes, stack

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.indexing import index_entries
from osteo_ray.dicom.sources import file_path, file_uri, open_source, read_uri, roots, sniff_archive
from osteo_ray.outcomes import Rejected

CFG = IndexConfig()


def walk(archive):
    """(header rows, {uri: code}) of an archive."""
    rows, files = [], {}
    for source in roots(archive):
        for ok, r in index_entries(source.list(), CFG):
            if ok:
                rows.append(r)
            else:
                files[r["uri"]] = r["code"]
    return rows, files


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as z:
        for name, data in members.items():
            z.writestr(name, data)
    return path


def tarred(path: Path, members: dict[str, bytes], mode: str) -> Path:
    with tarfile.open(path, mode) as t:  # type: ignore[call-overload]  # the stubs want a literal mode
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return path


def build(kind: str, tmp_path: Path, members: dict[str, bytes]) -> Path:
    if kind == "tree":
        root = tmp_path / "tree"
        for name, data in members.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root
    if kind.startswith("zip"):
        method = {"zip": zipfile.ZIP_DEFLATED, "zip stored": zipfile.ZIP_STORED, "zip lzma": zipfile.ZIP_LZMA}[kind]
        return zipped(tmp_path / "a.bin", members, method)
    return tarred(
        tmp_path / "a.bin", members, {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz", "tar.bz2": "w:bz2"}[kind]
    )


KINDS = ["tree", "zip", "zip stored", "zip lzma", "tar", "tar.gz", "tar.xz", "tar.bz2"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_lists_and_reads_the_same(kind, tmp_path):
    members = {f"study/s {i}.weird": data for i, data in enumerate(stack(4))} | {"a/notes.dcm": b"hello"}
    path = build(kind, tmp_path, members)
    with open_source(path) as source:
        found = {e.uri: e for e in source.list()}
        assert sorted(e.bytes for e in found.values()) == sorted(map(len, members.values()))
        want = sorted(members.values())
        assert sorted(source.read(u) for u in found) == want
        assert sorted(read_uri(u) for u in found) == want
        for u, e in found.items():
            whole = source.read(u)
            assert source.header(u, 100) == whole[:100]
            assert source.read(u, 300, 50) == whole[300:350]
            assert source.read(u, e.bytes + 5, 10) == b""
    rows, files = walk(path)  # file names and extensions mean nothing
    assert (len(rows), list(files.values())) == (4, ["NOT_DICOM"])


def test_archives_inside_a_folder_are_walked(tmp_path):
    files = stack(6)
    zipped(tmp_path / "x.dat", {"1": files[0], "2": files[1]})
    tarred(tmp_path / "y.dat", {"1": files[2], "2": files[3]}, "w:gz")
    (tmp_path / "plain").write_bytes(files[4])
    inner = zipped(tmp_path / "inner", {"5": files[5]}).read_bytes()
    zipped(tmp_path / "outer", {"inner.zip": inner})
    (tmp_path / "inner").unlink()
    rows, other = walk(tmp_path)
    assert len({r["sop_uid"] for r in rows}) == 5
    assert list(other.values()) == ["NESTED_ARCHIVE"]


def test_a_dicom_preamble_may_look_like_an_archive():
    data = bytearray(file_bytes())
    data[:4] = b"PK\x03\x04"
    assert sniff_archive(bytes(data)) is None


@pytest.mark.parametrize(
    "name", ["plain", "sp ace", "per%cent", "a::b", "hash#q?x", "ümlaut", "new\nline", b"\xff\xfe-bytes"]
)
def test_any_file_name_survives_the_uri(tmp_path, name):
    path = os.fsencode(tmp_path) + b"/" + (name if isinstance(name, bytes) else os.fsencode(name))
    with open(path, "wb") as f:
        f.write(b"abc")
    uri = file_uri(os.fsdecode(path))
    assert uri.isascii()
    assert os.fsencode(file_path(uri)) == path
    assert read_uri(uri) == b"abc"


def test_path_tricks_in_member_names_touch_nothing(tmp_path):
    names = ["../../escape", "/etc/passwd", "a/../../b", "C:\\x", "dup"]
    path = zipped(tmp_path / "a.zip", dict(zip(names, stack(5), strict=True)))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as z:
        z.writestr("dup", file_bytes(77))
    before = sorted(p for p in tmp_path.rglob("*"))
    rows, files = walk(path)
    assert (len(rows), files) == (6, {})  # the same name twice: both
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_odd_things_in_a_folder_are_rows(tmp_path):
    (tmp_path / "ok").write_bytes(file_bytes())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    rows, files = walk(tmp_path)
    assert len(rows) == 1
    assert {Path(file_path(u)).name: c for u, c in files.items()} == {
        "pipe": "NOT_REGULAR",
        "broken": "UNREADABLE",
        "loop": "LINK_LOOP",
    }


def test_encrypted_and_broken_archives_are_rows(tmp_path):
    path = zipped(tmp_path / "enc.zip", {"a": file_bytes()}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    whole = zipped(tmp_path / "cut.zip", {str(i): f for i, f in enumerate(stack(4))}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    tar = tarred(tmp_path / "cut.tgz", {str(i): f for i, f in enumerate(stack(40))}, "w:gz").read_bytes()
    (tmp_path / "cut.tgz").write_bytes(tar[: len(tar) // 2])
    rows, files = walk(tmp_path)
    codes = {Path(file_path(u.rpartition("::")[2])).name: c for u, c in files.items()}
    assert codes == {"enc.zip": "ENCRYPTED", "cut.zip": "BROKEN_ARCHIVE", "cut.tgz": "BROKEN_ARCHIVE"}
    assert 0 < len(rows) < 40  # what lies before the break is kept


def test_a_damaged_member_is_a_row_and_the_others_are_read(tmp_path):
    path = zipped(tmp_path / "a.zip", {str(i): f for i, f in enumerate(stack(3))})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        at = z.infolist()[1].header_offset
    data[at + 31 : at + 60] = os.urandom(29)
    path.write_bytes(data)
    rows, files = walk(path)
    assert len(rows) == 2
    assert list(files.values()) == ["BROKEN_ARCHIVE"]


def test_a_compressed_tar_that_inflates_for_ever_is_cut(tmp_path, monkeypatch):
    from osteo_ray.dicom import containers

    monkeypatch.setattr(containers, "_SMALLEST_CAP", 1 << 20)
    path = tarred(tmp_path / "bomb", {"zeros": bytes(64 << 20), "after": file_bytes()}, "w:gz")
    rows, files = walk(path)
    assert rows == []
    assert "BROKEN_ARCHIVE" in files.values()


def test_what_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        roots([tmp_path, tmp_path / "nowhere"])
    with pytest.raises(Rejected, match="UNREADABLE"):
        read_uri(file_uri(tmp_path / "nowhere"))


def test_order_depends_on_names_only(tmp_path):
    for name in ("b", "a", "c/z", "c/y", "B"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listed = [file_path(e.uri) for e in open_source(tmp_path).list()]
    assert [os.path.relpath(p, tmp_path) for p in listed] == ["B", "a", "b", "c/y", "c/z"]


def test_a_zip_bomb_costs_one_header_read(tmp_path):
    """Members that inflate a thousandfold are inflated as far as a header reaches, no further."""
    import tracemalloc

    bomb = file_bytes()[:300] + bytes(64 << 20)
    path = zipped(tmp_path / "bomb.zip", {str(i): bomb for i in range(4)})
    del bomb
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    rows, files = walk(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == []
    assert len(files) == 4
    assert peak < 64 << 20


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (gzip.compress(file_bytes()), "gzip"),
        (bz2.compress(file_bytes()), "bzip2"),
        (lzma.compress(file_bytes()), "xz"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(400), "7z"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(400), "RAR"),
        (b"\x28\xb5\x2f\xfd" + bytes(400), "Zstandard"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_packed_in_a_form_that_is_not_read_says_so(tmp_path, data, kind):
    (tmp_path / "a").write_bytes(data)
    zipped(tmp_path / "b.zip", {"in": data})
    found = [(ok, r) for source in roots(tmp_path) for ok, r in index_entries(source.list(), IndexConfig())]
    assert [(ok, r["code"]) for ok, r in found] == [(False, "PACKED_FILE")] * 2
    assert all(kind in r["message"] and "unpack" in r["message"] for _, r in found)
