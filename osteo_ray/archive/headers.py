"""Header bytes -> the few tags that matter; no pixel data is touched.

    h = read_header(lambda n: data[:n], len(data), Limits())     # Header, or raises Rejected

A small walker for explicit and implicit VR, little and big endian, with or without preamble, plain or deflated.
It bounds what hostile input can cost (elements, depth, lengths against what is left of the file), never decodes a
person's name, and knows where PixelData begins, so that a slice is later read by one positioned read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from osteo_ray.archive.config import Limits
from osteo_ray.archive.layouts import Layouts
from osteo_ray.outcomes import Rejected, Stage, State

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
GE_PRIVATE = "1.2.840.113619.5.2"  # implicit LE header, big-endian pixels

UNDEFINED = 0xFFFFFFFF
_LONG_VR = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT_VR = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
)  # fmt: skip


def _t(group: int, element: int) -> int:
    """The tag as a little-endian 32-bit read sees it: element in the high half."""
    return element << 16 | group


# What is kept of a header, by the name that the rest of the package uses.
TAGS: dict[int, str] = {
    _t(0x0002, 0x0002): "media_class",
    _t(0x0002, 0x0010): "transfer_syntax",
    _t(0x0008, 0x0005): "charset",
    _t(0x0008, 0x0008): "image_type",
    _t(0x0008, 0x0016): "sop_class",
    _t(0x0008, 0x0018): "sop_uid",
    _t(0x0008, 0x0020): "study_date",
    _t(0x0008, 0x0060): "modality",
    _t(0x0008, 0x0070): "manufacturer",
    _t(0x0008, 0x103E): "series_description",
    _t(0x0008, 0x1090): "model",
    _t(0x0010, 0x0020): "patient_id",
    _t(0x0010, 0x0030): "birth_date",
    _t(0x0010, 0x0040): "sex",
    _t(0x0010, 0x1010): "age",
    _t(0x0018, 0x0010): "contrast_agent",
    _t(0x0018, 0x0015): "body_part",
    _t(0x0018, 0x0050): "slice_thickness",
    _t(0x0018, 0x0060): "kvp",
    _t(0x0018, 0x1210): "kernel",
    _t(0x0020, 0x000D): "study_uid",
    _t(0x0020, 0x000E): "series_uid",
    _t(0x0020, 0x0011): "series_number",
    _t(0x0020, 0x0012): "acquisition_number",
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
    _t(0x0028, 0x1052): "intercept",
    _t(0x0028, 0x1053): "slope",
    _t(0x0028, 0x2110): "lossy",
    _t(0x5200, 0x9229): "shared_groups",
    _t(0x5200, 0x9230): "frame_groups",
    # inside functional groups of enhanced multi-frame CT
    _t(0x0008, 0x9007): "frame_type",
    _t(0x0018, 0x9314): "reconstruction",
    _t(0x0018, 0x9325): "xray_details",
    _t(0x0018, 0x9329): "frame_type_group",
    _t(0x0020, 0x9056): "stack_id",
    _t(0x0020, 0x9111): "frame_content",
    _t(0x0020, 0x9113): "plane_position",
    _t(0x0020, 0x9116): "plane_orientation",
    _t(0x0020, 0x9128): "temporal_index",
    _t(0x0028, 0x9110): "pixel_measures",
    _t(0x0028, 0x9145): "value_transformation",
}
_FUNCTIONAL_GROUPS = frozenset(
    (
        "shared_groups",
        "frame_groups",
        "frame_type_group",
        "reconstruction",
        "xray_details",
        "frame_content",
        "plane_position",
        "plane_orientation",
        "pixel_measures",
        "value_transformation",
    )
)
_SEQUENCES = frozenset(t for t, name in TAGS.items() if name in _FUNCTIONAL_GROUPS)
_TS = _t(0x0002, 0x0010)
_PIXELS = frozenset((_t(0x7FE0, 0x0010), _t(0x7FE0, 0x0008), _t(0x7FE0, 0x0009)))
_MODALITY = _t(0x0008, 0x0060)
# one look-up a VR (where its value begins) and one a tag (what to do with it): the walk's inner loop
_VR_HEAD = dict.fromkeys(_LONG_VR, 12) | dict.fromkeys(_SHORT_VR, 8)
_KEEP, _SEQUENCE, _PIXEL = 1, 2, 3
_ACTS = dict.fromkeys(TAGS, _KEEP) | dict.fromkeys(_SEQUENCES, _SEQUENCE) | dict.fromkeys(_PIXELS, _PIXEL)
_ITEM, _ITEM_END, _SEQ_END = _t(0xFFFE, 0xE000), _t(0xFFFE, 0xE00D), _t(0xFFFE, 0xE0DD)


class _NeedMore(Exception):
    """The walk ran past the bytes at hand; the argument is how many it needs."""


@dataclass
class Header:
    """Raw values by name (bytes, padding kept), and where PixelData lies in the file.

    `pixel_offset` is -1 where there is no PixelData, or where the data set is deflated (then `inflated_offset` says
    where it is in the inflated data set); `pixel_length` is -1 for encapsulated (undefined length) pixels.
    """

    transfer_syntax: str = ""
    big_endian: bool = False
    deflated: bool = False
    values: dict[str, bytes] = field(default_factory=dict)
    groups: dict[str, list[dict]] = field(default_factory=dict)  # functional groups of multi-frame images
    dataset_offset: int = 0  # of the data set, after the file meta group
    pixel_offset: int = -1
    inflated_offset: int = -1
    pixel_length: int = -1
    has_pixels: bool = False
    has_meta: bool = True
    truncated: bool = False  # an element claims more bytes than the file has left

    def text(self, name: str) -> str | None:
        """The value as stripped text (Latin-1: never fails), or None where absent or empty."""
        return text_of(self.values.get(name))

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


def read_header(read: Callable[[int], bytes], total: int, limits: Limits, head: bytes | None = None) -> Header:
    """Walk one file's header.

    Args:
        read: gives the first n bytes of the file (fewer at its end).
        total: the file's size in bytes.
        head: the first bytes, where they are at hand.

    Raises:
        Rejected: NOT_DICOM, TRUNCATED_HEADER, BROKEN_HEADER, HEADER_TOO_LARGE, TOO_MANY_ELEMENTS, TOO_DEEP,
            DEFLATE_BOMB.
    """
    size = limits.header_read_bytes
    data = read(size) if head is None else head
    known = _LAYOUTS.read(data, total, limits)
    if known is not None:
        return known
    while True:
        try:
            return _parse(data, total, limits)
        except _NeedMore as e:
            if len(data) >= total or len(data) < size:
                raise _bad("TRUNCATED_HEADER", f"the file ends at byte {len(data)} inside its header") from None
            if size >= limits.max_header_bytes:
                raise _bad("HEADER_TOO_LARGE", f"no pixel data within {limits.max_header_bytes} bytes") from None
            size = min(max(size * 8, int(e.args[0])), limits.max_header_bytes)
            data = read(size)


_LAYOUTS = Layouts()


def _bad(code: str, message: str) -> Rejected:
    return Rejected(State.QUARANTINED, code, Stage.HEADER, message)


def not_dicom(message: str) -> Rejected:
    return Rejected(State.EXCLUDED, "NOT_DICOM", Stage.HEADER, message)


def _parse(data: bytes, total: int, limits: Limits) -> Header:
    h = Header()
    pos = _start(data)
    complete = len(data) >= total
    walk = _Walk(limits, complete)
    if data[pos : pos + 2] == b"\x02\x00":
        pos = walk.meta(data, pos, h)
        h.transfer_syntax = h.text("transfer_syntax") or ""
    else:
        h.has_meta = False
    h.dataset_offset = pos
    explicit, big = _encoding(data, pos, h)
    h.big_endian = big
    if not h.has_meta:
        h.transfer_syntax = (EXPLICIT_BE if big else EXPLICIT_LE) if explicit else IMPLICIT_LE
    if h.transfer_syntax == DEFLATED_LE:
        h.deflated = True
        data, ended = _inflate(data[pos:], limits.max_header_bytes)
        walk.complete = complete and ended
        try:
            walk.dataset(data, 0, h, True, False, len(data) if walk.complete else 1 << 62)
        except _NeedMore:
            if len(data) >= limits.max_header_bytes:
                raise _bad("DEFLATE_BOMB", f"no pixel data within {len(data)} inflated bytes") from None
            raise
    else:
        walk.dataset(data, pos, h, explicit, big, total)
        _LAYOUTS.learn(data, h, walk.spans, walk.places, limits)
    return h


def _start(data: bytes) -> int:
    """Where the data elements begin: after a preamble, or at 0 where the file has none."""
    if data[128:132] == b"DICM":
        if len(data) >= 140 and not _plausible(data[132:], "<") and not _plausible(data[132:], ">"):
            raise not_dicom("a DICM mark with noise behind it")
        return 132
    if len(data) >= 8:
        group, element = struct.unpack_from("<HH", data)
        if group in (0x0002, 0x0008) and element <= 0x0100 and _plausible(data, "<"):
            return 0
        if group == 0x0800 and struct.unpack_from(">H", data, 2)[0] <= 0x0100 and _plausible(data, ">"):
            return 0
    raise not_dicom("empty file" if not data else "no DICM mark, and no data element at the start")


def _plausible(data: bytes, order: str) -> bool:
    return data[4:6] in _SHORT_VR or data[4:6] in _LONG_VR or struct.unpack_from(order + "I", data, 4)[0] <= 256


def _encoding(data: bytes, pos: int, h: Header) -> tuple[bool, bool]:
    """(explicit VR, big endian) of the data set: what the syntax says, unless the first element says otherwise."""
    ts = h.transfer_syntax
    if ts == DEFLATED_LE:
        return True, False
    big = ts == EXPLICIT_BE or (not h.has_meta and data[pos : pos + 2] == b"\x00\x08")
    if len(data) < pos + 6:
        return ts != IMPLICIT_LE, big
    vr = data[pos + 4 : pos + 6]
    return vr in _SHORT_VR or vr in _LONG_VR, big


def _inflate(raw: bytes, cap: int) -> tuple[bytes, bool]:
    """Inflate at most `cap` bytes; the flag says that the stream ended within them."""
    d = zlib.decompressobj(-15)
    try:
        out = d.decompress(raw, cap)
    except zlib.error as e:
        raise _bad("BROKEN_HEADER", f"deflated data set: {e}") from None
    return out, d.eof


class _Walk:
    """One walk over one header; counts elements over all levels."""

    def __init__(self, limits: Limits, complete: bool):
        self.left = limits.max_elements
        self.max_elements = limits.max_elements
        self.max_depth = limits.max_depth
        self.complete = complete
        self.spans: list[int] = []  # start and end of every element's head
        self.places: dict[str, tuple[int, int]] = {}  # of the values that are kept

    def meta(self, buf: bytes, pos: int, h: Header) -> int:
        """File meta group: explicit little endian by definition; its group length is not trusted."""
        n = len(buf)
        while pos + 8 <= n and buf[pos : pos + 2] == b"\x02\x00":
            tag, vr, ln = struct.unpack_from("<I2sH", buf, pos)
            val = pos + 8
            if vr in _LONG_VR:
                if pos + 12 > n:
                    break
                ln, val = struct.unpack_from("<I", buf, pos + 8)[0], pos + 12
            elif vr not in _SHORT_VR:
                raise _bad("BROKEN_HEADER", "file meta group is not explicit VR")
            if val + ln > n:
                raise _NeedMore(val + ln)
            self.spans += (pos, val)
            name = TAGS.get(tag)
            if name:
                h.values[name] = buf[val : val + ln]
                self.places[name] = (val, val + ln)
            pos = val + ln
        self.spans += (pos, pos + 2)  # the group that ended the meta elements
        return pos

    def dataset(self, buf: bytes, pos: int, h: Header, explicit: bool, big: bool, total: int) -> None:
        """Top level of the data set, up to PixelData. Stops early where the object is no CT image."""
        n = len(buf)
        order = ">" if big else "<"
        head = struct.Struct(order + ("I2sH" if explicit else "II")).unpack_from
        u32 = struct.Struct(order + "I").unpack_from
        values, tags, size_of, acts = h.values, TAGS, _VR_HEAD.get, _ACTS.get
        span = self.spans.extend
        stop_group = 0xFFFF  # walked up to; lowered where the object is no CT image
        for left in range(self.left, -1, -1):
            if pos + 12 > n and not self._short_end(buf, pos, h):
                break
            vr = b""
            if explicit:
                tag, vr, ln = head(buf, pos)
                val = pos + size_of(vr, 0)
                if val == pos + 12:
                    ln = u32(buf, pos + 8)[0]
                elif val == pos:  # no known VR: a new one of two letters, or an implicit element in an explicit file
                    val = pos + 8
                    if not (65 <= vr[0] <= 90 and 65 <= vr[1] <= 90):
                        ln, vr = u32(buf, pos + 4)[0], b""
            else:
                tag, ln = head(buf, pos)
                val = pos + 8
            if big:
                tag = (tag & 0xFFFF) << 16 | tag >> 16
            span((pos, val))
            act = acts(tag, 0)
            if act == 0 and ln != UNDEFINED:  # most elements: not ours
                pos = val + ln
                if tag & 0xFFFF > stop_group:
                    break
                continue
            if act == _PIXEL:
                self._pixels(h, val, ln, total)
                break
            if ln == UNDEFINED or act == _SEQUENCE:
                self.left = left
                keep = act == _SEQUENCE
                items, pos = self.items(buf, val, ln, explicit and vr != b"UN", big, 1, keep, total)
                if items:
                    h.groups[tags[tag]] = items
                continue
            pos = val + ln
            if pos > n:
                if pos <= total and not self.complete:
                    raise _NeedMore(pos)
                break
            values[tags[tag]] = buf[val:pos]
            self.places[tags[tag]] = (val, pos)
            if tag == _MODALITY and buf[val:pos].strip(b" \x00") != b"CT":
                stop_group = 0x0028
        else:
            raise _bad("TOO_MANY_ELEMENTS", f"more than {self.max_elements} elements")
        if pos > total:
            h.truncated = True

    def _short_end(self, buf: bytes, pos: int, h: Header) -> bool:
        """Fewer than 12 bytes are left in `buf`: ask for more, or say whether one short element may still follow."""
        n = len(buf)
        if not self.complete:
            raise _NeedMore(pos + 12)
        if pos >= n:
            return False
        if pos + 8 > n or buf[pos + 4 : pos + 6] in _LONG_VR:
            h.truncated = True
            return False
        return True

    @staticmethod
    def _pixels(h: Header, val: int, ln: int, total: int) -> None:
        h.has_pixels = True
        if h.deflated:
            h.inflated_offset = val
        else:
            h.pixel_offset = val
        h.pixel_length = -1 if ln == UNDEFINED else ln
        h.truncated = ln != UNDEFINED and val + ln > total

    def items(
        self, buf: bytes, pos: int, length: int, explicit: bool, big: bool, depth: int, keep: bool, total: int
    ) -> tuple[list[dict], int]:
        """Items of one sequence, kept as nested dicts or only walked over; returns them and the position after."""
        if depth > self.max_depth:
            raise _bad("TOO_DEEP", f"sequences nested deeper than {self.max_depth}")
        if length != UNDEFINED and (not keep or pos + length > total):
            if pos + length > total:
                raise _bad(
                    "TRUNCATED_HEADER", f"a sequence at byte {pos} claims {length} bytes, past the end of the file"
                )
            return [], pos + length
        end = 1 << 62 if length == UNDEFINED else pos + length
        if big and buf[pos : pos + 4] == b"\xfe\xff\x00\xe0":  # of unknown VR: copied in from a little-endian file
            explicit, big = False, False
        out: list[dict] = []
        head = struct.Struct(">HHI" if big else "<HHI").unpack_from
        while pos < end:
            self._count()
            self._need(buf, pos + 8)
            group, element, ln = head(buf, pos)
            tag = element << 16 | group
            self.spans += (pos, pos + 8)
            pos += 8
            if tag == _SEQ_END:
                break
            if tag != _ITEM:
                raise _bad("BROKEN_HEADER", f"expected an item at byte {pos - 8}, found ({group:04X},{element:04X})")
            if ln != UNDEFINED and not keep:
                pos += ln
                if pos > total:
                    raise _bad("TRUNCATED_HEADER", f"an item before byte {pos} runs past the end of the file")
                continue
            item, pos = self.item(buf, pos, ln, explicit, big, depth, keep, total)
            if keep:
                out.append(item)
        return out, pos

    def item(
        self, buf: bytes, pos: int, length: int, explicit: bool, big: bool, depth: int, keep: bool, total: int
    ) -> tuple[dict, int]:
        end = 1 << 62 if length == UNDEFINED else pos + length
        if length != UNDEFINED and end > total:
            raise _bad("TRUNCATED_HEADER", f"an item at byte {pos} claims {length} bytes, past the end of the file")
        order = ">" if big else "<"
        out: dict = {}
        while pos < end:
            self._count()
            self._need(buf, pos + 8)
            group, element = struct.unpack_from(order + "HH", buf, pos)
            tag = element << 16 | group
            vr = buf[pos + 4 : pos + 6]
            if tag == _ITEM_END:
                self.spans += (pos, pos + 8)
                return out, pos + 8
            if explicit and vr in _LONG_VR:
                self._need(buf, pos + 12)
                ln, val = struct.unpack_from(order + "I", buf, pos + 8)[0], pos + 12
            elif explicit and group != 0xFFFE:
                ln, val = struct.unpack_from(order + "H", buf, pos + 6)[0], pos + 8
            else:
                ln, val = struct.unpack_from(order + "I", buf, pos + 4)[0], pos + 8
            self.spans += (pos, val)
            if ln == UNDEFINED or (keep and tag in _SEQUENCES):
                wanted = keep and tag in _SEQUENCES
                items, pos = self.items(buf, val, ln, explicit and vr != b"UN", big, depth + 1, wanted, total)
                if wanted:
                    out[TAGS[tag]] = items
                continue
            if val + ln > total:
                raise _bad("TRUNCATED_HEADER", f"element ({group:04X},{element:04X}) claims {ln} bytes, past the end")
            if keep and tag in TAGS:
                self._need(buf, val + ln)
                out[TAGS[tag]] = buf[val : val + ln]
            pos = val + ln
        return out, pos

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _bad("TOO_MANY_ELEMENTS", f"more than {self.max_elements} elements")

    def _need(self, buf: bytes, n: int) -> None:
        if n > len(buf):
            if self.complete:
                raise _bad("TRUNCATED_HEADER", f"the file ends at byte {len(buf)} inside a sequence")
            raise _NeedMore(n)
