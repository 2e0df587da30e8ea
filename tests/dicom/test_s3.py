"""s3:// over HTTP, against moto's server: the same catalogue and the same HU as from files."""

from __future__ import annotations

import io
import socket
import zipfile
from typing import Any

import numpy as np
import pytest
from ct_making import pixels, stack

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.indexing import index_entries
from osteo_ray.dicom import sources
from osteo_ray.dicom.containers import ZipSource
from osteo_ray.dicom.remote import FsspecSource
from osteo_ray.dicom.s3_ranges import GIVEN_UP, S3Ranges
from osteo_ray.dicom.sources import open_source, read_uri, roots
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.outcomes import Rejected

pytest.importorskip("s3fs")
server_module = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def bucket():
    """A bucket on a loopback S3 server; yields (s3 filesystem, count of bytes sent by range)."""
    import fsspec

    with pytest.MonkeyPatch.context() as m, socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        s.close()
        m.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        m.setenv("AWS_ACCESS_KEY_ID", "test")
        m.setenv("AWS_SECRET_ACCESS_KEY", "test")
        m.setenv("AWS_DEFAULT_REGION", "us-east-1")
        m.setenv("NO_PROXY", "127.0.0.1")
        server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        fsspec.filesystem("s3", skip_instance_cache=True)
        fs = fsspec.filesystem("s3")
        fs.mkdir("cts")
        yield fs
        server.stop()
        fs.clear_instance_cache()
        sources.shared.cache_clear()


def indexed(uri):
    rows: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    for source in roots(uri):
        for ok, r in index_entries(source.list(), IndexConfig()):
            (rows if ok else files).append(r)
    return rows, files


def test_index_and_read_objects(bucket):
    files = stack(12)
    for i, data in enumerate(files):
        bucket.pipe(f"cts/a/{i:02d} x", data)
    bucket.pipe("cts/a/notes", b"hello")
    bucket.pipe("cts/a/empty", b"")
    rows, other = indexed("s3://cts/a")
    assert len(rows) == 12
    assert sorted(f["code"] for f in other) == ["NOT_DICOM", "NOT_DICOM"]
    r = rows[3]
    assert r["uri"] == "s3://cts/a/03 x"
    assert read_uri(r["uri"], 10, 20) == files[3][10:30]
    item = dict(r, z_mm=0.0)
    with SliceStack([item], (16, 16), (1.0, 1.0), np.array([1.0, 0, 0, 0, 1, 0])) as s:
        np.testing.assert_array_equal(s.hu(0), pixels(3) - 1024)
        assert s.bytes_read == 512  # the pixels alone


def test_a_zip_in_a_bucket_is_walked_without_being_downloaded(bucket):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for i, data in enumerate(stack(5)):
            z.writestr(f"{i}", data)
    bucket.pipe("cts/z/study", buffer.getvalue())
    rows, other = indexed("s3://cts/z")
    assert (len(rows), other) == (5, [])
    item = dict(rows[2], z_mm=0.0)
    with SliceStack([item], (16, 16), (1.0, 1.0), np.array([1.0, 0, 0, 0, 1, 0])) as s:
        np.testing.assert_array_equal(s.hu(0), pixels(2) - 1024)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_part_of_a_member_is_one_request_where_it_begins_near_its_start(bucket, method, monkeypatch):
    data = np.random.default_rng(0).integers(0, 16, 600_000, np.uint8).tobytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as z:
        for name in ("first", "second"):
            info = zipfile.ZipInfo(name)
            info.extra = b"\x55\x54\x05\x00" + bytes(5)  # a time, as zip programs write it
            info.compress_type = method
            z.writestr(info, data)
    bucket.pipe("cts/parts.zip", buffer.getvalue())
    source = open_source("zip://::s3://cts/parts.zip")
    assert isinstance(source, ZipSource)
    asked: list[tuple[str, int, int]] = []
    store, read = source._c._store, source._c._store.read

    def counted(*where):
        asked.append(where)
        return read(*where)

    monkeypatch.setattr(store, "read", counted)
    for offset, length in ((0, 16_384), (0, None), (3000, 500_000), (599_990, 100), (400_000, 1000), (600_000, 10)):
        found = source.read("zip://second::s3://cts/parts.zip", offset, length)
        assert found == data[offset : None if length is None else offset + length]
        if (offset, length) == (0, 16_384) or (method == zipfile.ZIP_STORED and offset == 3000):
            assert len(asked) == 1
            assert asked[0][2] < (length or 0) + offset + 200
        asked.clear()


def test_listing_is_in_order_and_stamped(bucket):
    for name in ("b/2", "b/1", "b/c/0"):
        bucket.pipe(f"cts/{name}", b"x")
    entries = list(open_source("s3://cts/b").list())
    assert [e.uri for e in entries] == ["s3://cts/b/1", "s3://cts/b/2", "s3://cts/b/c/0"]
    before = {e.uri: e.stamp for e in entries}
    bucket.pipe("cts/b/1", b"y")
    bucket.invalidate_cache()
    after = {e.uri: e.stamp for e in open_source("s3://cts/b").list()}
    assert before["s3://cts/b/1"] != after["s3://cts/b/1"]
    assert before["s3://cts/b/2"] == after["s3://cts/b/2"]


def test_an_object_that_went_away_is_an_outcome(bucket):
    with pytest.raises(Rejected, match="UNREADABLE"):
        read_uri("s3://cts/nowhere")


def test_a_password_in_a_uri_is_refused():
    with pytest.raises(ValueError, match="password"):
        open_source("s3://user:secret@bucket/x")
    with pytest.raises(ValueError, match="password"):
        open_source("dicomweb+http://user:secret@host/dicom-web")


@pytest.fixture
def objects(bucket):
    """Three objects, one of them empty: path -> content."""
    put = {"cts/ranges/a": b"abcdef" * 1000, "cts/ranges/b": b"xyz", "cts/ranges/none": b""}
    for path, data in put.items():
        bucket.pipe_file(path, data)
    return put


@pytest.mark.parametrize(("offset", "length"), [(0, 4), (2, 9000), (5998, 10)])
def test_parts_of_objects_are_those_that_s3fs_reads(bucket, objects, offset, length):
    of_s3fs = bucket.cat_file("cts/ranges/a", start=offset, end=offset + length)
    assert S3Ranges(bucket).read("cts/ranges/a", offset, length) == of_s3fs
    with open_source("s3://cts/ranges/a") as source:
        assert source.read("s3://cts/ranges/a", offset, length) == of_s3fs
    assert of_s3fs == objects["cts/ranges/a"][offset : offset + length]


def test_what_obstore_cannot_read_s3fs_answers(bucket, objects):
    """Headers of short, empty and missing objects, each in its place."""
    source = FsspecSource("s3://cts/ranges")
    short, nothing, missing = source.headers(["s3://cts/ranges/b", "s3://cts/ranges/none", "s3://cts/ranges/gone"], 16)
    assert short == b"xyz"
    assert isinstance(nothing, OSError)  # an empty object has no such range
    assert isinstance(missing, FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        source.read("s3://cts/ranges/gone", 0, 4)


def test_a_client_that_never_gets_through_is_given_up(bucket, objects, monkeypatch):
    """Whatever keeps obstore out of a bucket (certificates, a proxy, its region), s3fs reads; after three attempts it
    alone is asked, for that bucket.
    """
    ranges = S3Ranges(bucket)
    assert ranges.read("cts/ranges/b", 0, 2) == b"xy"
    tries = []

    async def refuses(name):
        tries.append(name)
        raise OSError("certificate")

    monkeypatch.setattr(ranges, "_store", refuses)
    assert [ranges.read("elsewhere/a", 0, 4) for _ in range(5)] == [None] * 5
    assert tries == ["elsewhere"] * GIVEN_UP
    assert ranges.read("cts/ranges/b", 0, 2) == b"xy"


def test_settings_of_s3fs_that_obstore_lacks_are_kept_to(bucket, objects):
    assert S3Ranges(bucket).read("cts/ranges/b", 0, 2) == b"xy"
    payer = type(bucket)(requester_pays=True, skip_instance_cache=True)
    assert S3Ranges(payer).read("cts/ranges/b", 0, 2) is None
    with open_source("s3://cts/ranges/b") as source:
        assert source.read("s3://cts/ranges/b", 0, 2) == b"xy"
