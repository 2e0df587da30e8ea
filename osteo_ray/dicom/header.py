"""Header bytes -> the few tags that matter; no pixel data is touched.

    h = read_header(lambda n: data[:n], len(data), Limits())     # Header, or raises Rejected

A small parser for explicit and implicit VR, little and big endian, with or without preamble, plain or deflated.
It bounds what hostile input can cost (elements, depth, lengths against what is left of the file), never decodes a
person's name, and knows where PixelData begins, so that a slice is later read by one positioned read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from osteo_ray.dicom.layouts import Layouts
from osteo_ray.dicom.limits import Limits
from osteo_ray.dicom.tags import (
    ACTS,
    DEFLATED_LE,
    EXPLICIT_BE,
    EXPLICIT_LE,
    FRAME_GROUPS,
    IMPLICIT_LE,
    IN_ITEMS,
    ITEM,
    ITEM_END,
    LONG_VR,
    MODALITY,
    PIXEL,
    SEQ_END,
    SEQUENCE,
    SEQUENCES,
    SHORT_VR,
    TAGS,
    UNCOUNTED,
    UNDEFINED,
    VR_HEAD,
    Header,
    name_digest,
)
from osteo_ray.outcomes import Phase, Rejected, State


class _NeedMore(Exception):
    """The parser ran past the bytes given; the argument is how many it needs."""


def read_header(read: Callable[[int], bytes], total: int, limits: Limits, head: bytes | None = None) -> Header:
    """Walk one file's header.

    Args:
        read: gives the first n bytes of the file (fewer at its end).
        total: the file's size in bytes.
        head: the first bytes, where they are known.

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
            return _without_name(_parse(data, total, limits))
        except _NeedMore as e:
            if len(data) >= total or len(data) < size:
                raise _bad("TRUNCATED_HEADER", f"the file ends at byte {len(data)} inside its header") from None
            if size >= limits.max_header_bytes:
                raise _bad("HEADER_TOO_LARGE", f"no pixel data within {limits.max_header_bytes} bytes") from None
            size = min(max(size * 8, int(e.args[0])), limits.max_header_bytes)
            data = read(size)


_LAYOUTS = Layouts()


def _without_name(h: Header) -> Header:
    name = h.values.get("patient_name")
    if name is not None:
        h.values["patient_name"] = name_digest(name)
    return h


def _bad(code: str, message: str) -> Rejected:
    return Rejected(State.QUARANTINED, code, Phase.HEADER, message)


def not_dicom(message: str) -> Rejected:
    return Rejected(State.EXCLUDED, "NOT_DICOM", Phase.HEADER, message)


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
    return data[4:6] in SHORT_VR or data[4:6] in LONG_VR or struct.unpack_from(order + "I", data, 4)[0] <= 256


def _encoding(data: bytes, pos: int, h: Header) -> tuple[bool, bool]:
    """(explicit VR, big endian) of the data set: what the syntax says, unless the first element says otherwise."""
    ts = h.transfer_syntax
    if ts == DEFLATED_LE:
        return True, False
    big = ts == EXPLICIT_BE or (not h.has_meta and data[pos : pos + 2] == b"\x00\x08")
    if len(data) < pos + 6:
        return ts != IMPLICIT_LE, big
    vr = data[pos + 4 : pos + 6]
    return vr in SHORT_VR or vr in LONG_VR, big


def _inflate(raw: bytes, cap: int) -> tuple[bytes, bool]:
    """Inflate at most `cap` bytes; the flag says that the stream ended within them."""
    d = zlib.decompressobj(-15)
    try:
        out = d.decompress(raw, cap)
    except zlib.error as e:
        raise _bad("BROKEN_HEADER", f"deflated data set: {e}") from None
    return out, d.eof


def _nothing(_: object) -> None:
    """In place of what notes an element's head, where none is needed."""


class _Walk:
    """One pass over one header; counts elements over all levels.

    Inside a frame's unassigned attributes only kept sequences count: the length of a header bounds the others.
    """

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
            if vr in LONG_VR:
                if pos + 12 > n:
                    break
                ln, val = struct.unpack_from("<I", buf, pos + 8)[0], pos + 12
            elif vr not in SHORT_VR:
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
        values, tags, size_of, acts = h.values, TAGS, VR_HEAD.get, ACTS.get
        span = self.spans.extend
        stop_group = 0xFFFF  # read up to; lowered where the object is no CT image
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
            if act == PIXEL:
                self._pixels(h, val, ln, total)
                break
            if ln == UNDEFINED or act == SEQUENCE:
                self.left = left
                keep = act == SEQUENCE
                items, pos = self.items(buf, val, ln, explicit and vr != b"UN", big, 1, keep, total)
                if keep and tags[tag] not in FRAME_GROUPS:
                    span((val, pos))  # short, and the same in all slices: a layout compares it byte by byte
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
            if tag == MODALITY and buf[val:pos].strip(b" \x00") != b"CT":
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
        if pos + 8 > n or buf[pos + 4 : pos + 6] in LONG_VR:
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
        self,
        buf: bytes,
        pos: int,
        length: int,
        explicit: bool,
        big: bool,
        depth: int,
        keep: bool,
        total: int,
        counted: bool = True,
    ) -> tuple[list[dict], int]:
        """Items of one sequence, kept as nested dicts or only passed over; returns them and the position after.

        Args:
            counted: whether the elements of the items count. An item that is kept always does: it costs memory.
        """
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
            if counted or keep:
                self._count()
                self.spans += (pos, pos + 8)
            self._need(buf, pos + 8)
            group, element, ln = head(buf, pos)
            tag = element << 16 | group
            pos += 8
            if tag == SEQ_END:
                break
            if tag != ITEM:
                raise _bad("BROKEN_HEADER", f"expected an item at byte {pos - 8}, found ({group:04X},{element:04X})")
            if ln != UNDEFINED and not keep:
                pos += ln
                if pos > total:
                    raise _bad("TRUNCATED_HEADER", f"an item before byte {pos} runs past the end of the file")
                continue
            item, pos = self.item(buf, pos, ln, explicit, big, depth, keep, total, counted)
            if keep:
                out.append(item)
        return out, pos

    def item(
        self,
        buf: bytes,
        pos: int,
        length: int,
        explicit: bool,
        big: bool,
        depth: int,
        keep: bool,
        total: int,
        counted: bool,
    ) -> tuple[dict, int]:
        """One item, as its kept elements by name, and the position after it."""
        end = 1 << 62 if length == UNDEFINED else pos + length
        if length != UNDEFINED and end > total:
            raise _bad("TRUNCATED_HEADER", f"an item at byte {pos} claims {length} bytes, past the end of the file")
        order = ">" if big else "<"
        out: dict = {}
        span = self.spans.extend if counted else _nothing  # a layout is never learned of an object with frames
        while pos < end:
            if counted:
                self._count()
            self._need(buf, pos + 8)
            group, element = struct.unpack_from(order + "HH", buf, pos)
            tag = element << 16 | group
            vr = buf[pos + 4 : pos + 6]
            if tag == ITEM_END:
                span((pos, pos + 8))
                return out, pos + 8
            if explicit and vr in LONG_VR:
                self._need(buf, pos + 12)
                ln, val = struct.unpack_from(order + "I", buf, pos + 8)[0], pos + 12
            elif explicit and group != 0xFFFE:
                ln, val = struct.unpack_from(order + "H", buf, pos + 6)[0], pos + 8
            else:
                ln, val = struct.unpack_from(order + "I", buf, pos + 4)[0], pos + 8
            span((pos, val))
            if ln == UNDEFINED or (keep and tag in SEQUENCES):
                wanted = keep and tag in SEQUENCES
                count = counted and tag not in UNCOUNTED
                items, pos = self.items(buf, val, ln, explicit and vr != b"UN", big, depth + 1, wanted, total, count)
                if wanted:
                    out[TAGS[tag]] = items
                continue
            if val + ln > total:
                raise _bad("TRUNCATED_HEADER", f"element ({group:04X},{element:04X}) claims {ln} bytes, past the end")
            if keep and tag in IN_ITEMS:
                self._need(buf, val + ln)
                out[IN_ITEMS[tag]] = buf[val : val + ln]
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
