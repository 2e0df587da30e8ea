"""Names in the character sets that hospitals have, and times in the study's zone."""

import io
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from osteo_ray.config import ConfigError, validate
from osteo_ray.outcomes import InputError
from osteo_ray.reports.config import PackageConfig
from osteo_ray.reports.source import Source, shown_name, text_of

ESC_GB = b"\x1b$)A"


def header(terms, name: bytes) -> Dataset:
    """A header read from a file with these bytes as PatientName, whatever they are."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, "1.2"
    if terms is not None:
        ds.SpecificCharacterSet = terms
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    name += b" " * (len(name) % 2)
    return dcmread(io.BytesIO(out.getvalue() + b"\x10\x00\x10\x00PN" + len(name).to_bytes(2, "little") + name))


@pytest.mark.parametrize(
    ("terms", "name", "text"),
    [
        pytest.param(
            ["", "ISO 2022 IR 58"],
            b"Zhang^XiaoDong=" + ESC_GB + "张".encode("gb2312") + b"^" + ESC_GB + "小东".encode("gb2312") + b"=",
            "Zhang^XiaoDong=张^小东",
            id="PS3.5 annex K.2",
        ),
        pytest.param(
            "GB18030", "Wang^XiaoDong=王^小东=".encode("gb18030"), "Wang^XiaoDong=王^小东", id="PS3.5 annex J.3"
        ),
        pytest.param(
            ["", "ISO 2022 IR 149"],
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
            id="PS3.5 annex I.2",
        ),
        pytest.param("ISO_IR 100", b"M\xfcller^J\xf6rg", "Müller^Jörg", id="Latin-1"),
        pytest.param("ISO_IR 192", "王^小东".encode(), "王^小东", id="UTF-8"),
        pytest.param(None, b"Smith^Ann", "Smith^Ann", id="ASCII, undeclared"),
    ],
)
def test_declared_names_come_out_as_they_are(terms, name, text):
    assert str(text_of(header(terms, name), "PatientName")) == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Zhang^XiaoDong=张^小东", "Zhang, XiaoDong (张小东)"),
        ("王^小东", "王小东"),
        ("Hong^Gildong=洪^吉洞=홍^길동", "Hong, Gildong (洪吉洞)"),
        ("Müller^Jörg^^Dr", "Müller, Jörg"),
        ("Smith", "Smith"),
        ("=王^小东", "王小东"),
        ("", ""),
    ],
)
def test_a_name_is_shown_as_people_read_it(name, shown):
    assert shown_name(name) == shown


@pytest.mark.parametrize("terms", [None, "ISO_IR 999"])
def test_a_name_in_no_named_character_set_is_a_problem_and_never_garbled(terms):
    ds = header(terms, "王^小东".encode("gbk"))
    with pytest.raises(InputError, match="character_set"):
        text_of(ds, "PatientName")
    assert text_of(ds, "PatientName", "GB18030") == "王^小东"
    with pytest.raises(InputError, match="ISO_IR 192"):
        text_of(ds, "PatientName", "ISO_IR 192")
    assert text_of(ds, "AccessionNumber", None) == ""


def test_the_fallback_is_a_term_that_dicom_has():
    assert validate(PackageConfig, {"character_set": "GB18030"}).character_set == "GB18030"
    with pytest.raises(ConfigError, match="CP936"):
        validate(PackageConfig, {"character_set": "CP936"})


@pytest.mark.parametrize(
    ("offset", "hour"),
    [("+0800", 18), ("-0330", 6), ("", 10), ("nonsense", 10)],
    ids=["China", "Newfoundland", "none", "odd"],
)
def test_times_are_in_the_zone_of_the_study(offset, hour):
    head = Dataset()
    head.TimezoneOffsetFromUTC = offset
    source = Source((head,), (None,), True, "key")
    created = datetime(2031, 4, 2, 10, 11, 12, tzinfo=UTC)
    assert source.local(created) == created
    assert source.local(created).hour == hour
    assert source.local(created.replace(tzinfo=None)).tzinfo is None
    if offset == "-0330":
        assert source.local(created).tzinfo == timezone(-timedelta(hours=3, minutes=30))
