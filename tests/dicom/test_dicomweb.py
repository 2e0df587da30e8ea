"""DICOMweb against a real Orthanc on loopback, with a password: same catalogue and HU as from files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ct_making import ROOT, compressed, dataset, pixels, stack
from hostile_making import J
from orthanc_running import installed, running, store

from osteo_ray.catalogue.assembly import assemble
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.indexing import index_entries
from osteo_ray.dicom import sources
from osteo_ray.dicom.dicomweb import first_part, header_of_json
from osteo_ray.dicom.sources import open_source
from osteo_ray.dicom.stack import SliceStack, same_pixels


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """(base URL, authenticated session) of an empty Orthanc."""
    if not installed():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb orthanc-gdcm)")
    with pytest.MonkeyPatch.context() as m, running(tmp_path_factory.mktemp("orthanc")) as (base, session, netrc):
        m.setenv("NETRC", str(netrc))
        m.setenv("NO_PROXY", "127.0.0.1")
        yield base, session
    sources.shared.cache_clear()


def indexed(uri):
    rows: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    with open_source(uri) as source:
        for ok, r in index_entries(source.list(), IndexConfig(pseudonym_key="k")):
            (rows if ok else files).append(r)
    return rows, files


@pytest.fixture(scope="module")
def filled(orthanc):
    base, session = orthanc
    px = [pixels(200 + i, 40, 48) for i in range(3)]
    import imagecodecs

    jls = [
        compressed(
            dataset(200 + i, px=p, SeriesInstanceUID=f"{ROOT}.77"),
            [bytes(imagecodecs.jpegls_encode(p.view(np.uint16)))],
            J + "80",
        )
        for i, p in enumerate(px)
    ]
    store(session, base, stack(90) + jls)
    return base


def test_the_catalogue_row_equals_that_of_the_files(filled):
    from ct_making import header_rows

    rows, other = indexed(f"dicomweb+{filled}")
    assert other == []
    assert len(rows) == 93
    series = assemble([r for r in rows if r["series_uid"] == f"{ROOT}.2"], IndexConfig(), same_pixels)[0][0]
    want = assemble(header_rows(stack(90), IndexConfig(pseudonym_key="k")), IndexConfig(), same_pixels)[0][0]
    differs = {k for k in want if k != "instances" and series[k] != want[k]}
    assert differs == {"bytes", "content_hash", "transfer_syntax"}  # what only the objects themselves tell
    for a, b in zip(series["instances"], want["instances"], strict=True):
        keys = ("z_mm", "sop_uid", "position", "slope", "intercept", "bits_stored", "signed", "padding")
        assert [a[k] for k in keys] == [b[k] for k in keys]
    with SliceStack.from_row(series) as s:
        for i in (0, 44, 89):
            np.testing.assert_array_equal(s.hu(i), pixels(i) - 1024)
        assert s.decoded == 3


def test_compressed_instances_are_decoded_here(filled):
    rows, _ = indexed(f"dicomweb+{filled}")
    got = {r["sop_uid"]: r for r in rows if r["series_uid"] == f"{ROOT}.77"}
    for i in range(3):
        item = dict(got[f"{ROOT}.3.{201 + i}"], z_mm=0.0)
        s = SliceStack([item], (40, 48), (1.0, 1.0), np.array([1.0, 0, 0, 0, 1, 0]))
        np.testing.assert_array_equal(s.hu(0), pixels(200 + i, 40, 48) - 1024)


def test_entries_are_series_stamped_by_their_size(filled):
    with open_source(f"dicomweb+{filled}") as source:
        entries = {e.uri.rsplit("/", 1)[1]: e.stamp for e in source.list()}
    assert entries == {f"{ROOT}.2": "90", f"{ROOT}.77": "3"}


def test_a_wrong_password_is_an_outcome_not_a_crash(filled, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login reader password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with open_source(f"dicomweb+{filled}") as source, pytest.raises(OSError, match="401"):
        list(source.list())
    entry = sources.Entry(f"dicomweb+{filled}/studies/{ROOT}.1/series/{ROOT}.2", 0, "90")
    (ok, row), *rest = index_entries([entry], IndexConfig())
    assert (ok, row["code"], rest) == (False, "UNREADABLE", [])
    assert "401" in row["message"]


def test_multipart_answers():
    body = b"--b1\r\nContent-Type: application/dicom\r\n\r\nDATA\r\n--x\r\n--b1--"
    assert first_part(body, 'multipart/related; type="application/dicom"; boundary=b1') == b"DATA\r\n--x"
    assert first_part(body, 'multipart/related; boundary="b1"; type=x') == b"DATA\r\n--x"
    assert first_part(b"DATA", "application/dicom") == b"DATA"
    with pytest.raises(OSError, match="no part"):
        first_part(b"", "multipart/related; boundary=b1")


def test_json_of_an_enhanced_image_has_its_groups():
    item = {
        "00280010": {"vr": "US", "Value": [512]},
        "00280120": {"vr": "SS", "Value": [-2000]},
        "00200032": {"vr": "DS", "Value": [1, -2.5, 1e-05]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
        "52009229": {
            "vr": "SQ",
            "Value": [{"00289110": {"vr": "SQ", "Value": [{"00280030": {"vr": "DS", "Value": [0.5, 0.4]}}]}}],
        },
    }
    h = header_of_json(item)
    assert (h.ushort("rows"), h.ushort("padding")) == (512, 63536)
    assert h.numbers("ipp", 3) == [1.0, -2.5, 1e-05]
    assert h.groups["shared_groups"][0]["pixel_measures"][0]["pixel_spacing"] == b"0.5\\0.4"
    assert "Doe" not in repr(h.values)
