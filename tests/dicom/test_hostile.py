"""Each adversarial input ends in its stated code, cheaply; none stops a run."""

from __future__ import annotations

import signal
import tracemalloc
from collections import Counter

import hostile_making as hostile
import numpy as np
import pyarrow.parquet as pq
import pytest
from ct_making import ROOT, dataset, file_bytes, header_rows, pixels, series_of, stack, to_bytes

from osteo_ray.catalogue.build import build
from osteo_ray.catalogue.config import IndexConfig, Limits
from osteo_ray.dicom.decode_guard import DecodeGuard
from osteo_ray.dicom.header import read_header
from osteo_ray.dicom.sources import file_uri
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.outcomes import Rejected

MEMORY = 48 << 20  # bytes beyond the file itself that one header may cost
SECONDS = 10  # a hang, not a slow machine


@pytest.fixture(autouse=True)
def no_hang():
    def over(*_):
        raise AssertionError(f"still running after {SECONDS} s")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


def code_of(data: bytes) -> str:
    with pytest.raises(Rejected) as e:
        header_rows([data])
    return e.value.outcome.code


HEADERS = hostile.headers()


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers(name):
    data, code = HEADERS[name]
    tracemalloc.start()
    got = code_of(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got == code
    assert peak < MEMORY


@pytest.mark.parametrize("name", hostile.series_tags())
def test_hostile_tags(name):
    tags, code = hostile.series_tags()[name]
    files = []
    for i in range(5):
        ds = dataset(i)
        for k, v in tags.items():
            if isinstance(v, str) or (isinstance(v, list) and isinstance(v[0], str)):
                ds.add_new(ds[k].tag, "LO", v)  # the wrong VR, too: the tag alone says what a value is
            else:
                setattr(ds, k, v)
        files.append(to_bytes(ds))
    try:
        rows = series_of(files, same=lambda a, b: False)
    except Rejected as r:
        got = {r.outcome.code}
    else:
        got = {r["code"] for r in rows}
    assert got == {code}


@pytest.mark.parametrize("name", hostile.syntaxes())
def test_syntaxes_without_a_codec(name):
    syntax, code = hostile.syntaxes()[name]
    plain = [to_bytes(dataset(i)) for i in range(5)]
    old = b"1.2.840.10008.1.2.1\0"
    assert plain[0].count(old) == 1
    # the meta group's length is not trusted, so the new UID may be longer
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    files = [d.replace(len(old).to_bytes(2, "little") + old, len(new).to_bytes(2, "little") + new) for d in plain]
    rows = series_of(files)
    assert {(r["state"], r["code"]) for r in rows} == {("QUARANTINED", code)}


def test_meta_group_without_a_syntax_is_refused():
    data = to_bytes(dataset(0))
    at = data.index(b"\x02\x00\x10\x00UI")
    n = int.from_bytes(data[at + 6 : at + 8], "little")
    rows = series_of([data[:at] + data[at + 8 + n :]])
    assert [r["code"] for r in rows] == ["NO_CODEC"]


def test_trailing_garbage_harms_nothing(tmp_path):
    data = to_bytes(dataset(0)) + b"\xde\xad" * 500
    np.testing.assert_array_equal(stack_of(tmp_path, data).hu(0), pixels(0) - 1024)


def stack_of(tmp_path, data: bytes, guard=None, limits=None) -> SliceStack:
    path = tmp_path / "slice"
    path.write_bytes(data)
    row = header_rows([data])[0] | {"uri": file_uri(path), "z_mm": 0.0}
    return SliceStack([row], (16, 16), (1.0, 1.0), np.array([1.0, 0, 0, 0, 1, 0]), limits, guard)


CODESTREAMS = hostile.codestreams()


@pytest.fixture(scope="module")
def guard():
    with DecodeGuard() as g:
        yield g


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("name", CODESTREAMS)
def test_hostile_codestreams(name, guarded, guard, tmp_path):
    data, codes = CODESTREAMS[name]
    s = stack_of(tmp_path, data, guard if guarded else None)
    with pytest.raises(Rejected) as e:
        s.hu(0)
    assert e.value.outcome.code in codes
    assert e.value.outcome.stage == "decode"
    assert s.decoded == 0


def crash_with(monkeypatch, body: str) -> None:
    """Make the guarded child run `body` instead of decoding."""
    from osteo_ray.io import child_process

    start = child_process.subprocess.Popen

    def popen(args, **kw):
        code = f"import osteo_ray.dicom.decode_guard as g; {body}; " + args[2]
        return start([*args[:2], code, *args[3:]], **kw)

    monkeypatch.setattr(child_process.subprocess, "Popen", popen)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("import os; g.decode_frame = lambda *a: os.kill(os.getpid(), 11)", "DECODER_DIED", "signal 11"),
        ("import os; g.decode_frame = lambda *a: os._exit(3)", "DECODER_DIED", "exit 3"),
        ("import time; g.decode_frame = lambda *a: time.sleep(60)", "DECODER_TIMEOUT", "within 5 s"),
        ("g.decode_frame = lambda *a: bytearray(3 << 30)", "DECODE_ERROR", "more than 512 MB"),
    ],
    ids=["segfault", "exit", "hang", "memory"],
)
def test_a_decoder_that_dies_is_an_outcome_and_the_next_frame_is_read(body, code, message, tmp_path, monkeypatch):
    name = "J2K cut"  # any compressed file will do: the child's decoder is replaced
    data = CODESTREAMS[name][0]
    limits = Limits(decode_timeout_s=5.0, decode_memory_mb=512)
    with DecodeGuard(limits) as g:
        with monkeypatch.context() as m:
            crash_with(m, body)
            with pytest.raises(Rejected) as e:
                stack_of(tmp_path, data, g).hu(0)
            assert e.value.outcome.code == code
            assert message in e.value.outcome.message
            g.close()
        with pytest.raises(Rejected, match="DECODE_ERROR"):  # a fresh child, the real decoder
            stack_of(tmp_path, data, g).hu(0)


@pytest.mark.ray
def test_the_whole_corpus_indexes_beside_a_good_study(tmp_path, ray_session):
    """Hostile files between the slices of a good series: the series is found whole, every file has its code."""
    signal.alarm(120)
    root = tmp_path / "archive"
    root.mkdir()
    for i, data in enumerate(stack(90)):
        (root / f"good{i}").write_bytes(data)
    for i, (data, _) in enumerate(HEADERS.values()):
        (root / f"bad{i}").write_bytes(data)
    for i, (data, _) in enumerate(hostile.codestreams(SeriesInstanceUID=f"{ROOT}.6").values()):
        (root / f"codestream{i}").write_bytes(data)
    (root / "sub").mkdir()
    (root / "sub" / "loop").symlink_to(root)
    s = build(root, tmp_path / "out", IndexConfig())
    files = Counter(r["code"] for r in pq.read_table(tmp_path / "out" / "files.parquet").to_pylist())
    want = Counter(code for _, code in HEADERS.values()) + Counter(["LINK_LOOP"])
    assert {k: files[k] for k in want} == want
    good = [
        r for r in pq.read_table(tmp_path / "out" / "catalogue.parquet").to_pylist() if r["series_uid"] == f"{ROOT}.2"
    ]
    assert [(r["n_slices"], r["state"]) for r in good] == [(90, None)]
    assert s.n_open == 1
    assert s.series["QUARANTINED SOP_UID_CLASH"] == 1  # the codestreams: one UID, none of them readable


def test_a_series_survives_one_broken_slice():
    """The truncated file is a row of its own; the series goes on with a gap, as the gate says."""
    files = stack(120)
    with pytest.raises(Rejected, match="TRUNCATED"):
        header_rows([files[110][:-30]])
    rows = series_of(files[:110] + files[111:])
    assert rows[0]["n_missing_slices"] == 1
    assert rows[0]["state"] is None


def test_what_a_converter_leaves_of_a_thousand_frames_is_no_flood():
    """52 unassigned attributes a frame, two of them known here, and a name, which is never kept of an item."""
    name = hostile.element(0x10, 0x10, b"PN", b"Roe^Jane")
    kvp = hostile.element(0x18, 0x60, b"DS", b"80")
    many = hostile.before(file_bytes(), b"\xe0\x7f\x10\x00", hostile.unassigned(1, 50, 1000, name + kvp))
    groups = read_header(lambda n: many[:n], len(many), Limits()).groups["frame_groups"]
    assert groups == [{"converted_frame": [{"kvp": b"80"}]}] * 1000


def test_tiny_limits_are_honoured():
    with pytest.raises(Rejected, match="VOXEL_CAP"):
        header_rows([file_bytes()], IndexConfig(limits=Limits(max_side=8)))
    pixels_begin = b"\xe0\x7f\x10\x00"
    few = Limits(max_elements=100)
    for items, code in ((1, "BAD_FRAMES"), (90, "TOO_MANY_ELEMENTS")):  # one frame with groups of two, or a flood
        flood = hostile.before(file_bytes(), pixels_begin, hostile.unassigned(items, 150, 2))
        with pytest.raises(Rejected, match=code):
            header_rows([flood], IndexConfig(limits=few))
    private = b"".join(hostile.element(9, 0x10 + k, b"SH", b"") for k in range(150))
    many = hostile.before(file_bytes(), b"\x20\x00\x0d\x00", private)
    with pytest.raises(Rejected, match="TOO_MANY_ELEMENTS"):
        header_rows([many], IndexConfig(limits=few))
