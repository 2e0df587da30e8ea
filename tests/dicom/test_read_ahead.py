"""Slices of stores and services are read side by side, once each, and come out as if they were not."""

import threading
import time

import imagecodecs
import numpy as np
import pytest
from ct_making import compressed, dataset, header_rows, pixels, to_bytes

from osteo_ray.dicom import read_ahead, sources, stack
from osteo_ray.dicom.read_ahead import ReadAhead
from osteo_ray.dicom.sources import beyond_network
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.outcomes import Phase, Rejected, State

HTJ2K = "1.2.840.10008.1.2.4.201"
DEFLATED = "1.2.840.10008.1.2.1.99"


class Service:
    """Objects by URI, as `read_uri` gives them; it counts, and can make readers wait for one another."""

    def __init__(self, objects):
        self.objects, self.asked, self.meet = objects, [], None

    def __call__(self, uri, offset=0, length=None):
        self.asked.append((uri, offset, length))
        if self.meet is not None:
            self.meet.wait(10)
        if uri not in self.objects:
            raise Rejected(State.ERROR, "UNREADABLE", Phase.DECODE, "gone")
        return self.objects[uri][offset : None if length is None else offset + length]


def opened(monkeypatch, slices, uri="s3://bucket/{i}", at_once=8):
    """A stack of slices that lie in a `Service`."""
    service = Service({uri.format(i=i): data for i, data in enumerate(slices)})
    for module in (stack, read_ahead):
        monkeypatch.setattr(module, "read_uri", service)
    rows = header_rows(slices)
    for i, r in enumerate(rows):
        r.update(uri=uri.format(i=i), z_mm=2.0 * i)
    shape = (rows[0]["rows"], rows[0]["cols"])
    axial = np.array([1.0, 0, 0, 0, 1, 0])
    return SliceStack(rows, shape, (0.8, 0.7), axial, reads=ReadAhead(at_once)), service


def in_syntax(syntax, n=4):
    out = []
    for i in range(n):
        px = pixels(i, 64, 64).astype(np.uint16)
        ds = dataset(i, px=px)
        if syntax == HTJ2K:
            out.append(compressed(ds, [bytes(imagecodecs.htj2k_encode(px))], syntax))
        else:
            out.append(to_bytes(ds, syntax))
    return out


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", DEFLATED, HTJ2K])
def test_each_slice_is_read_once_and_is_what_it_was(monkeypatch, syntax):
    data = in_syntax(syntax)
    plain, _ = opened(monkeypatch, data)
    want = [plain.axial(i) for i in range(4)]
    s, service = opened(monkeypatch, data)
    s.read_ahead([2, 0])
    s.read_ahead([0, 2, 3])
    got = [s.axial(i) for i in range(4)]
    assert all(np.array_equal(a, b) for a, b in zip(want, got, strict=True))
    assert len(service.asked) == len(set(service.asked)) == 4
    assert (s.bytes_read, s.decoded) == (plain.bytes_read, plain.decoded)


def test_reads_run_side_by_side(monkeypatch):
    s, service = opened(monkeypatch, in_syntax("1.2.840.10008.1.2.1"))
    service.meet = threading.Barrier(3)  # none of three ends before all have begun
    s.read_ahead([0, 1, 2])
    for i in range(3):
        s.axial(i)
    assert not service.meet.broken


def test_a_codestream_that_was_looked_at_coarsely_is_not_read_again(monkeypatch):
    s, service = opened(monkeypatch, in_syntax(HTJ2K, 1))
    s.read_ahead([0])
    s.coarse(0, 2.0)
    s.read_ahead([0])
    s.axial(0)
    assert len(service.asked) == 1


def test_what_fails_fails_when_the_slice_is_asked_for(monkeypatch):
    s, service = opened(monkeypatch, in_syntax("1.2.840.10008.1.2.1"))
    del service.objects["s3://bucket/1"]
    s.read_ahead([0, 1])
    s.axial(0)
    with pytest.raises(Rejected, match="gone"):
        s.axial(1)


def test_a_read_that_hangs_holds_up_no_other_study(monkeypatch):
    """The next study's reads take all turns and never end; this one's bytes are there."""
    s, service = opened(monkeypatch, in_syntax("1.2.840.10008.1.2.1"), at_once=1)
    hangs, begun = threading.Event(), threading.Event()

    def read(uri, offset=0, length=None):
        if uri.endswith("/3"):
            begun.set()
            hangs.wait(20)
        return service(uri, offset, length)

    for module in (stack, read_ahead):
        monkeypatch.setattr(module, "read_uri", read)
    s.read_ahead([3])
    assert begun.wait(10)
    s.read_ahead([0, 1])
    assert s.axial(0).shape == s.axial(1).shape
    assert not hangs.is_set()
    hangs.set()


def test_no_more_reads_at_once_than_asked_for(monkeypatch):
    s, service = opened(monkeypatch, in_syntax("1.2.840.10008.1.2.1"), at_once=2)
    now, most, lock = 0, 0, threading.Lock()

    def read(uri, offset=0, length=None):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return service(uri, offset, length)

    monkeypatch.setattr(read_ahead, "read_uri", read)
    s.read_ahead([0, 1, 2, 3])
    time.sleep(0.3)
    assert [s.axial(i).shape for i in range(4)] == [s.shape] * 4
    assert most == 2


def test_threads_that_want_one_archive_open_it_once(monkeypatch):
    opened_keys, all_ask = [], threading.Barrier(6)

    def open_slowly(key, follow_links=True):
        opened_keys.append(key)
        time.sleep(0.1)
        return object()

    def ask():
        all_ask.wait(10)
        sources.shared_of("zip://a.dcm::s3://bucket/a.zip")

    sources.shared.cache_clear()
    monkeypatch.setattr(sources, "open_source", open_slowly)
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    sources.shared.cache_clear()
    assert opened_keys == ["zip://::s3://bucket/a.zip"]


def test_local_files_are_not_read_ahead(monkeypatch):
    s, service = opened(monkeypatch, in_syntax("1.2.840.10008.1.2.1"), "file:///ct/{i}")
    s.read_ahead([0, 1, 2, 3])
    assert service.asked == []
    assert [beyond_network(u) for u in ("file:///a/b", "zip://a.dcm::file:///a.zip")] == [False, False]
    assert [beyond_network(u) for u in ("s3://b/k", "zip://a.dcm::s3://b/a.zip", "dicomweb+https://h/studies/1")] == [
        True,
        True,
        True,
    ]
