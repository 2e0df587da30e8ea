"""The few DICOM elements that matter, and a header's raw values by their names here."""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
GE_PRIVATE = "1.2.840.113619.5.2"  # implicit LE header, big-endian pixels

UNDEFINED = 0xFFFFFFFF
LONG_VR = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
SHORT_VR = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
)  # fmt: skip


def _t(group: int, element: int) -> int:
    """The tag as a little-endian 32-bit read sees it: element in the high half."""
    return element << 16 | group


# What is kept of a header, by the name that the rest of the package uses.
TAGS: dict[int, str] = {
    _t(0x0002, 0x0002): "media_class",
    _t(0x0002, 0x0010): "transfer_syntax",
    _t(0x0008, 0x0005): "character_set",
    _t(0x0008, 0x0008): "image_type",
    _t(0x0008, 0x0016): "sop_class",
    _t(0x0008, 0x0018): "sop_uid",
    _t(0x0008, 0x0017): "acquisition_uid",
    _t(0x0008, 0x0020): "study_date",
    _t(0x0008, 0x0021): "series_date",
    _t(0x0008, 0x0022): "acquisition_date",
    _t(0x0008, 0x0023): "content_date",
    _t(0x0008, 0x002A): "acquisition_datetime",
    _t(0x0008, 0x0032): "acquisition_time",
    _t(0x0008, 0x0060): "modality",
    _t(0x0008, 0x0070): "manufacturer",
    _t(0x0008, 0x1030): "study_description",
    _t(0x0008, 0x103E): "series_description",
    _t(0x0008, 0x1090): "model",
    _t(0x0008, 0x2111): "derivation",
    _t(0x0010, 0x0010): "patient_name",
    _t(0x0010, 0x0020): "patient_id",
    _t(0x0010, 0x0021): "issuer_of_patient_id",
    _t(0x0010, 0x0030): "birth_date",
    _t(0x0010, 0x0040): "sex",
    _t(0x0010, 0x1010): "age",
    _t(0x0010, 0x2201): "species",
    _t(0x0010, 0x2202): "species_sequence",
    _t(0x0010, 0x2203): "neutered",
    _t(0x0010, 0x2292): "breed",
    _t(0x0018, 0x0010): "contrast_agent",
    _t(0x0018, 0x0012): "agent_sequence",
    _t(0x0018, 0x0014): "route_sequence",
    _t(0x0018, 0x0015): "body_part",
    _t(0x0018, 0x0050): "slice_thickness",
    _t(0x0018, 0x0060): "kvp",
    _t(0x0018, 0x0088): "slice_spacing",
    _t(0x0018, 0x1030): "protocol",
    _t(0x0018, 0x1040): "contrast_route",
    _t(0x0018, 0x1041): "contrast_volume",
    _t(0x0018, 0x1042): "contrast_start",
    _t(0x0018, 0x1044): "contrast_dose",
    _t(0x0018, 0x1048): "contrast_ingredient",
    _t(0x0018, 0x1100): "recon_diameter",
    _t(0x0018, 0x1210): "kernel",
    _t(0x0020, 0x000D): "study_uid",
    _t(0x0020, 0x000E): "series_uid",
    _t(0x0020, 0x0011): "series_number",
    _t(0x0020, 0x0012): "acquisition_number",
    _t(0x0020, 0x0013): "instance_number",
    _t(0x0020, 0x0032): "ipp",
    _t(0x0020, 0x0037): "iop",
    _t(0x0020, 0x0052): "for_uid",
    _t(0x0028, 0x0002): "samples",
    _t(0x0028, 0x0004): "photometric",
    _t(0x0028, 0x0008): "frames",
    _t(0x0028, 0x0010): "rows",
    _t(0x0028, 0x0011): "cols",
    _t(0x0028, 0x0030): "pixel_spacing",
    _t(0x0028, 0x0100): "bits_allocated",
    _t(0x0028, 0x0101): "bits_stored",
    _t(0x0028, 0x0102): "high_bit",
    _t(0x0028, 0x0103): "signed",
    _t(0x0028, 0x0120): "padding",
    _t(0x0028, 0x0121): "padding_limit",
    _t(0x0028, 0x0300): "quality_control",
    _t(0x0028, 0x1052): "intercept",
    _t(0x0028, 0x1053): "slope",
    _t(0x0028, 0x1054): "rescale_type",
    _t(0x0028, 0x2110): "lossy",
    _t(0x5200, 0x9229): "shared_groups",
    _t(0x5200, 0x9230): "frame_groups",
    # inside sequences and functional groups of enhanced multi-frame CT
    _t(0x0008, 0x0100): "code_value",
    _t(0x0008, 0x0104): "code_meaning",
    _t(0x0008, 0x9007): "frame_type",
    _t(0x0008, 0x9207): "volume_technique",
    _t(0x0018, 0x9314): "reconstruction",
    _t(0x0018, 0x9325): "xray_details",
    _t(0x0018, 0x9329): "frame_type_group",
    _t(0x0018, 0x9341): "contrast_usage",
    _t(0x0018, 0x9342): "agent_administered",
    _t(0x0018, 0x9344): "agent_phase",
    _t(0x0020, 0x9111): "frame_content",
    _t(0x0020, 0x9113): "plane_position",
    _t(0x0020, 0x9116): "plane_orientation",
    _t(0x0020, 0x9128): "temporal_index",
    _t(0x0020, 0x9156): "frame_acquisition",
    _t(0x0020, 0x9170): "converted_shared",
    _t(0x0020, 0x9171): "converted_frame",
    _t(0x0028, 0x9110): "pixel_measures",
    _t(0x0028, 0x9145): "value_transformation",
}
FRAME_GROUPS = frozenset(("shared_groups", "frame_groups"))
_KEPT_SEQUENCES = FRAME_GROUPS | frozenset(
    (
        "agent_sequence",
        "route_sequence",
        "contrast_usage",
        "frame_type_group",
        "reconstruction",
        "xray_details",
        "frame_content",
        "plane_position",
        "plane_orientation",
        "pixel_measures",
        "value_transformation",
        "converted_shared",
        "converted_frame",
        "species_sequence",
    )
)
FREE_TEXT = frozenset(
    ("series_description", "study_description", "protocol", "derivation", "contrast_agent", "contrast_route", "species")
) | {"code_meaning"}
SEQUENCES = frozenset(t for t, name in TAGS.items() if name in _KEPT_SEQUENCES)
# Of every frame a converter leaves dozens of attributes here, and thousands of frames are sound: they don't count.
UNCOUNTED = frozenset(t for t, name in TAGS.items() if name in ("converted_shared", "converted_frame"))
# What is kept of a sequence's items: a person's name is read at the top level alone, as a digest.
IN_ITEMS = {t: name for t, name in TAGS.items() if name != "patient_name"}
PIXELS = frozenset((_t(0x7FE0, 0x0010), _t(0x7FE0, 0x0008), _t(0x7FE0, 0x0009)))
MODALITY = _t(0x0008, 0x0060)
# one look-up a VR (where its value begins) and one a tag (what to do with it): the parser's inner loop
VR_HEAD = dict.fromkeys(LONG_VR, 12) | dict.fromkeys(SHORT_VR, 8)
KEEP, SEQUENCE, PIXEL = 1, 2, 3
ACTS = dict.fromkeys(TAGS, KEEP) | dict.fromkeys(SEQUENCES, SEQUENCE) | dict.fromkeys(PIXELS, PIXEL)
ITEM, ITEM_END, SEQ_END = _t(0xFFFE, 0xE000), _t(0xFFFE, 0xE00D), _t(0xFFFE, 0xE0DD)


@dataclass(eq=False)
class Common:
    """What headers have in common that hold the same one: all kept values but those of `layouts.OF_SLICE`, and where
    values and pixels lie. `derived`: whatever the headers' reader made of these values."""

    derived: Any = None


@dataclass
class Header:
    """Raw values by name (bytes, padding kept; of the patient's name a digest), and where PixelData lies in the file.

    `pixel_offset` is -1 where there is no PixelData, or where the data set is deflated (then `inflated_offset` says
    where it is in the inflated data set); `pixel_length` is -1 for encapsulated (undefined length) pixels.
    """

    transfer_syntax: str = ""
    big_endian: bool = False
    deflated: bool = False
    values: dict[str, bytes] = field(default_factory=dict)
    groups: dict[str, list[dict]] = field(default_factory=dict)  # items of the sequences that are kept
    dataset_offset: int = 0  # of the data set, after the file meta group
    pixel_offset: int = -1
    inflated_offset: int = -1
    pixel_length: int = -1
    has_pixels: bool = False
    has_meta: bool = True
    truncated: bool = False  # an element claims more bytes than the file has left
    common: Common | None = field(default=None, compare=False, repr=False)

    def text(self, name: str) -> str | None:
        """The value as stripped text (Latin-1: never fails), or None where absent or empty."""
        return text_of(self.values.get(name))

    def words(self, name: str) -> str | None:
        """Free text, decoded by the character set that the file states."""
        v = self.values.get(name)
        return words_of(v, self.values.get("character_set")) if v else None

    def number(self, name: str) -> float | None:
        return number_of(self.values.get(name))

    def numbers(self, name: str, count: int) -> list[float] | None:
        return numbers_of(self.values.get(name), count)

    def ushort(self, name: str) -> int | None:
        """The value as an unsigned 16-bit integer in the file's byte order."""
        v = self.values.get(name)
        if v is None or len(v) < 2:
            return None
        return v[0] << 8 | v[1] if self.big_endian else v[1] << 8 | v[0]


@lru_cache(maxsize=8192)  # most values repeat from slice to slice
def text_of(v: bytes | None) -> str | None:
    if not v:
        return None
    return v.decode("latin-1").strip(" \x00\t\r\n") or None


@lru_cache(maxsize=4096)
def words_of(v: bytes, character_set: bytes | None) -> str | None:
    """Free text in its character set; what can't be decoded is read as Latin-1, so that text never fails a file."""
    if v.isascii() and (not character_set or b"\x1b" not in v):
        return text_of(v)
    if not character_set or character_set.strip(b" \x00") in (b"ISO_IR 6", b"ISO_IR 100"):
        try:  # UTF-8 written without saying so; other text is hardly ever valid in it
            return v.decode("utf-8").strip(" \x00\t\r\n") or None
        except UnicodeDecodeError:
            return " ".join([text_of(v) or "", *_east_asian(v)]).strip() or None
    from pydicom.charset import convert_encodings, decode_bytes

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            named = [c.strip() for c in character_set.decode("latin-1").strip(" \x00").split("\\")]
            return decode_bytes(v, convert_encodings(named), set()).strip(" \x00\t\r\n") or None
    except (LookupError, ValueError):
        return text_of(v)


_UNSTATED = ("gb18030", "shift_jis", "euc_kr", "big5")
_IDEOGRAPHS = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2,}")


def _east_asian(v: bytes) -> list[str]:
    """Chinese, Japanese or Korean words in text that does not state its character set, as many systems write it.

    In which of the sets it was written is not known: the words of each in which it is valid. Of Western text, too,
    ideographs may be made (an accented letter and the letter after it, as in "général"), but not those of a phrase that
    is looked for; and what is looked for in the text as it stands is found there, whatever follows it.
    """
    found = []
    for codec in _UNSTATED:
        try:
            found += _IDEOGRAPHS.findall(v.decode(codec))
        except UnicodeDecodeError:
            continue
    return found


_NO_LETTER = re.compile(rb"[\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]+")


@lru_cache(maxsize=4096)
def name_digest(name: bytes) -> bytes:
    """What a header keeps of a person's name: enough to see whether two are one, and no name.

    Family and given name count; middle name, titles, case, signs and the name's other spellings (ideographic, phonetic)
    don't, for not every system writes them. b"" where nothing is left.
    """
    family_and_given = b"".join(name.split(b"=")[0].split(b"^")[:2])
    plain = _NO_LETTER.sub(b"", family_and_given.upper())
    return hashlib.blake2b(plain, digest_size=8).hexdigest().encode() if plain else b""


_DATE = re.compile(r"(\d{4})(\.?)(\d\d)\2(\d\d)")
_FIRST_YEAR = 1850  # of a living person's birth; earlier dates (00010101) are placeholders
_PLACEHOLDERS = frozenset((date(1900, 1, 1), date(1899, 12, 30), date(1899, 12, 31)))  # a system's, a spreadsheet's 0


@lru_cache(maxsize=4096)
def date_of(text: str | None) -> date | None:
    """A DA in its present form or in that of ACR-NEMA (1950.01.01); None for what is no date, or stands for none."""
    m = _DATE.fullmatch(text.strip()) if text else None
    if m is None or int(m[1]) < _FIRST_YEAR:
        return None
    try:
        day = date(int(m[1]), int(m[3]), int(m[4]))
    except ValueError:
        return None
    return None if day in _PLACEHOLDERS else day


@lru_cache(maxsize=8192)
def number_of(v: bytes | None) -> float | None:
    """The first value of a DS or IS; None where absent or not a number (inf and nan pass: callers judge them)."""
    if not v:
        return None
    try:
        return float(v.split(b"\\", 1)[0].strip(b" \x00"))
    except ValueError:
        return None


def numbers_of(v: bytes | None, count: int) -> list[float] | None:
    if not v:
        return None
    parts = v.strip(b" \x00").split(b"\\")
    if len(parts) != count:
        return None
    try:
        return [float(p) for p in parts]
    except ValueError:
        return None
