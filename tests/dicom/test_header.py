"""The header parser against pydicom, and what it refuses."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pydicom
import pytest
from ct_making import ROOT, dataset, file_bytes, header_rows, pixels, to_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from osteo_ray.catalogue.config import IndexConfig, Limits
from osteo_ray.catalogue.instances import age_years
from osteo_ray.dicom import header as headers
from osteo_ray.dicom.header import read_header
from osteo_ray.dicom.layouts import Layouts
from osteo_ray.dicom.tags import words_of
from osteo_ray.outcomes import Rejected
from osteo_ray.patients.config import IdentityConfig
from osteo_ray.patients.identity import patient_key

IMPLICIT, EXPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)


def walk(data: bytes, limits: Limits | None = None):
    return read_header(lambda n: data[:n], len(data), limits or Limits())


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED])
@pytest.mark.parametrize("preamble", [True, False])
def test_the_walker_reads_what_pydicom_reads(syntax, preamble):
    px = pixels(0)
    ds = dataset(px=px, PatientID="X 1 ", SeriesDescription="Thorax", PixelPaddingValue=-2000)
    if syntax == BIG:
        ds.PixelData = px.astype(">i2").tobytes()
    ds.add_new(0x00091001, "UN", b"\1\2\3")  # private
    ds.ReferencedImageSequence = Sequence([Dataset(), Dataset()])
    ds.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    ds["ReferencedImageSequence"].is_undefined_length = True
    data = to_bytes(ds, syntax)
    if not preamble:
        data = data[132:]
    h = walk(data)
    assert h.transfer_syntax == syntax
    ref = pydicom.dcmread(io.BytesIO(data), force=True)
    assert h.text("sop_uid") == ref.SOPInstanceUID
    assert h.text("patient_id") == ref.PatientID
    assert h.text("series_description") == "Thorax"
    assert h.ushort("rows") == ref.Rows
    assert h.numbers("pixel_spacing", 2) == [float(v) for v in ref.PixelSpacing]
    assert h.numbers("ipp", 3) == [float(v) for v in ref.ImagePositionPatient]
    assert h.number("slope") == 1
    assert h.has_pixels
    if syntax != DEFLATED:
        assert data[h.pixel_offset :] == ref.PixelData
        assert h.pixel_length == len(ref.PixelData)


def test_a_file_without_meta_group_is_sniffed():
    ds = dataset()
    for implicit in (True, False):
        out = io.BytesIO()
        pydicom.dcmwrite(out, Dataset(ds), implicit_vr=implicit, little_endian=True)
        data = out.getvalue()
        h = walk(data[132:] if data[128:132] == b"DICM" else data)
        assert (h.text("modality"), h.transfer_syntax) == ("CT", IMPLICIT if implicit else EXPLICIT)


def test_a_header_longer_than_the_first_read_is_read_on():
    ds = dataset()
    ds.add_new(0x00091010, "OB", bytes(200_000))
    asked = []
    data = to_bytes(ds)

    def read(n):
        asked.append(n)
        return data[:n]

    h = read_header(read, len(data), Limits())
    assert h.text("modality") == "CT"
    assert asked[0] == 16384
    assert len(asked) <= 3


def test_only_the_first_kilobytes_are_asked_for():
    data = file_bytes(px=np.zeros((256, 256), np.int16))
    asked = []

    def read(n: int) -> bytes:
        asked.append(n)
        return data[:n]

    read_header(read, len(data), Limits())
    assert asked == [16384]


@pytest.mark.parametrize(
    ("age", "birth", "study", "want"),
    [
        ("064Y", None, None, 64.0),
        ("018M", None, None, 1.5),
        ("064y", None, None, 64.0),
        (None, "19500101", "20200101", 70.0),
        ("", "19500101", "20200101", 70.0),
        ("64", None, None, None),
        ("garbage", "19500101", None, None),
        ("000Y", "19500101", "20200101", 70.0),  # what a console leaves where nobody enters an age
        ("000Y", "20191201", "20200101", 0.0),
        ("000Y", None, "20200101", 0.0),
        (None, "19000101", "20150101", None),
        (None, "20300101", "20200101", None),
        (None, "18500101", "20200101", None),
        (None, "19501301", "20200101", None),
        (None, None, None, None),
    ],
)
def test_age_is_stated_or_computed_never_made_up(age, birth, study, want):
    got = age_years(age or None, birth, study)
    assert got == (want if want is None else pytest.approx(want, abs=0.01))


def test_no_identity_leaves_a_header():
    files = [
        file_bytes(
            PatientName="Doe^Jane",
            PatientID="MRN-4711",
            PatientBirthDate="19551224",
            SeriesDescription="Doe Jane portal",
            ContrastBolusAgent=None,
        )
    ]
    row = header_rows(files, IndexConfig(pseudonym_key="k"))[0]
    text = repr(row)
    assert not any(s in text for s in ("Doe", "Jane", "4711", "19551224"))
    assert row["patient_key"] == patient_key("MRN-4711", "k")
    assert row["contrast"] == "portal"


def test_patient_key_is_stable_keyed_and_indifferent_to_padding():
    a = patient_key("MRN-4711", "secret")
    assert a == patient_key(" MRN-4711 \x00", "secret")
    assert len(a) == 16
    assert a != patient_key("MRN-4711", "other")
    assert a != patient_key("MRN-4711", None)
    assert patient_key("a", "x" * 200) != patient_key("a", "x" * 201)
    with pytest.raises(ValueError, match="empty"):
        patient_key("  ", "secret")


def test_sex_and_patient_without_a_value_stay_null():
    row = header_rows([file_bytes(PatientSex="O", PatientID="", PatientAge=None)])[0]
    assert (row["sex"], row["patient_key"], row["age_y"]) == (None, None, None)


def _element(number: int, text: str) -> bytes:
    value = text.encode() + b" " * (len(text) % 2)
    return b"\x08\x00" + number.to_bytes(2, "little") + b"CS" + len(value).to_bytes(2, "little") + value


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO 2022 IR 87", "NO_SUCH", "GB18030"])
def test_names_never_fail_a_file(charset):
    data = to_bytes(dataset()).replace(b"Doe^Jane", b"\xff\xfe\x00\x1b$B\x80\x81")
    data = data.replace(b"\x08\x00\x16\x00UI", _element(0x0005, charset) + b"\x08\x00\x16\x00UI")
    assert header_rows([data])[0]["sop_uid"] == f"{ROOT}.3.1"


@pytest.mark.parametrize("charset", [None, b"ISO_IR 100"])
@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("虚拟平扫 3mm", "gb18030"),
        ("腹部增强", "gbk"),
        ("腹部造影", "shift_jis"),
        ("가상 비조영", "euc_kr"),
        ("動脈期", "big5"),
        ("venös", "utf-8"),
        ("venös Spätphase", "latin-1"),
    ],
)
def test_words_in_a_character_set_that_is_not_stated(text, codec, charset):
    found = words_of(text.encode(codec), charset) or ""
    assert all(word in found for word in re.findall(r"\w+", text))
    if codec in ("utf-8", "latin-1"):
        assert found == text


WHOLE = file_bytes(SeriesDescription="x" * 40)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(cut=st.integers(0, len(WHOLE)), at=st.integers(0, len(WHOLE) - 600), junk=st.binary(max_size=8))
def test_a_damaged_header_is_read_or_refused_never_more(cut, at, junk):
    data = (WHOLE[:at] + junk + WHOLE[at + len(junk) :])[:cut]
    try:
        rows = header_rows([data])
    except Rejected:
        return
    assert len(rows) == 1


def outcome(data: bytes):
    """What the walker makes of a file: all of the header, or the code."""
    try:
        h = walk(data, DEFAULT)
    except Rejected as r:
        return r.outcome.code
    return h


DEFAULT = Limits()
OTHERS = [file_bytes(i, ImageComments="x" * i, PatientWeight="70" * i) for i in range(1, 4)]


@settings(max_examples=400)
@given(
    which=st.integers(0, 3),
    edits=st.lists(st.tuples(st.integers(132, len(WHOLE) - 520), st.binary(min_size=1, max_size=6)), max_size=3),
    cut=st.one_of(st.none(), st.integers(140, len(WHOLE))),
)
def test_a_known_layout_gives_what_the_walk_gives(which, edits, cut):
    """Mutated headers, read with layouts of intact ones known and without: always the same."""
    data = [WHOLE, *OTHERS][which]
    for at, junk in edits:
        data = data[:at] + junk + data[at + len(junk) :]
    data = data[:cut]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(headers, "_LAYOUTS", Layouts())
        plain = outcome(data)
        m.setattr(headers, "_LAYOUTS", Layouts())
        for other in [WHOLE, *OTHERS]:
            walk(other, DEFAULT)
        assert outcome(data) == plain


def test_neighbouring_slices_share_a_layout(monkeypatch):
    monkeypatch.setattr(headers, "_LAYOUTS", Layouts())
    limits = Limits()
    for i in range(1, 6):
        walk(file_bytes(i, 2.0 * i), limits)
    walked = []
    monkeypatch.setattr(headers, "_parse", lambda *a: walked.append(a))
    h = walk(file_bytes(7, 14.0 - 5), limits)
    assert walked == []
    assert (h.text("sop_uid"), h.numbers("ipp", 3)) == (f"{ROOT}.3.8", [-100.0, -120.0, 9.0])


def test_the_site_and_the_identity_rule_of_the_index_are_those_of_the_records():
    files = [file_bytes(PatientID="00123", IssuerOfPatientID="north")]
    loose = IdentityConfig(leading_zeros="drop", issuer_as_site=True)
    keys = [
        header_rows(files, IndexConfig(pseudonym_key="k", **kw))[0]["patient_key"]
        for kw in ({}, {"site": "south"}, {"identity": loose})
    ]
    assert keys == [
        patient_key("00123", "k"),
        patient_key("00123", "k", site="south"),
        patient_key("123", "k", site="north"),
    ]


def test_rows_of_neighbours_are_those_of_headers_that_are_alone(monkeypatch):
    """A series' values are decoded once: whichever of them changes midway, the rows are the same."""
    changing: dict[str, list[Any]] = {
        "KVP": ["120", "100"],
        "PatientID": ["A", "B"],
        "PatientName": ["A^B", "C^D"],
        "SOPInstanceUID": [f"{ROOT}.3.101", "no.uid"],
        "InstanceNumber": ["17", ""],
        "ImagePositionPatient": [[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]],
        "WindowCenter": ["40", "50"],
        "SeriesInstanceUID": [f"{ROOT}.2.8", f"{ROOT}.2.9"],
    }
    files = [file_bytes(i, 2.0 * i) for i in range(3)]
    for name, values in changing.items():
        files += [file_bytes(10 + i, 20.0 + i, **{name: v}) for i, v in enumerate([*values, *values])]
    files += [files[1][:-100]]  # its pixels end early

    def rows(data: bytes):
        try:
            return header_rows([data], CFG)
        except Rejected as r:
            return r.outcome.code

    alone = []
    for data in files:
        monkeypatch.setattr(headers, "_LAYOUTS", Layouts())
        alone.append(rows(data))
    monkeypatch.setattr(headers, "_LAYOUTS", Layouts())
    assert [rows(data) for data in files] == alone
    assert {"BAD_UID", "TRUNCATED"} <= {r for r in alone if isinstance(r, str)}


CFG = IndexConfig()
