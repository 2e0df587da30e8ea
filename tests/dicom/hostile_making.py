"""The adversarial corpus: broken and malicious DICOM made by code, each with the code it has to end in."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
from ct_making import compressed, dataset, file_bytes, pixels, to_bytes

from osteo_ray.catalogue.config import Limits
from osteo_ray.dicom.header import read_header

J = "1.2.840.10008.1.2.4."
EXPLICIT = "1.2.840.10008.1.2.1"


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    n = len(value) if length is None else length
    head = struct.pack("<HH", group, number) + vr
    long_form = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    return head + (struct.pack("<HI", 0, n) if long_form else struct.pack("<H", n)) + value


def before(data: bytes, tag: bytes, extra: bytes) -> bytes:
    """Put `extra` before the first element with this tag."""
    at = data.index(tag, 132)
    return data[:at] + extra + data[at:]


def retag(data: bytes, tag: bytes, value: bytes) -> bytes:
    """Overwrite the value of a short-form element, same length."""
    at = data.index(tag, 132)
    n = struct.unpack_from("<H", data, at + 6)[0]
    assert len(value) == n, (len(value), n)
    return data[: at + 8] + value + data[at + 8 + n :]


def nested(depth: int) -> bytes:
    """A sequence nested `depth` times, all of undefined length."""
    open_, close = b"", b""
    for _ in range(depth):
        open_ += b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        close += b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return open_ + close


def unassigned(items: int, elements: int, frames: int, known: bytes = b"") -> bytes:
    """Groups of some frames, each with items of unassigned attributes (0020,9171): so many unknown, and the known."""

    def item(inside: bytes) -> bytes:
        return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inside)) + inside

    attributes = known + element(0x20, 0x4000, b"LT", b"x ") * elements
    return element(0x5200, 0x9230, b"SQ", item(element(0x20, 0x9171, b"SQ", item(attributes) * items)) * frames)


def deflate_bomb(zeros: int) -> bytes:
    """A deflated data set whose private element inflates to `zeros` bytes before the pixels come."""
    whole = file_bytes(syntax="1.2.840.10008.1.2.1.99")
    meta_end = read_header(lambda n: whole[:n], len(whole), Limits()).dataset_offset
    plain = zlib.decompressobj(-15).decompress(whole[meta_end:])
    at = plain.index(b"\x28\x00\x10\x00")
    c = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [c.compress(plain[:at] + element(0x0009, 0x1010, b"OB", b"", zeros))]
    block = bytes(1 << 20)
    parts += [c.compress(block) for _ in range(zeros >> 20)]
    return whole[:meta_end] + b"".join(parts) + c.compress(plain[at:]) + c.flush()


def lying_j2k(side: int) -> bytes:
    data = bytearray(imagecodecs.jpeg2k_encode(pixels(0).view(np.uint16), codecformat="j2k", reversible=True, level=0))
    data[8:16] = struct.pack(">II", side, side)
    return bytes(data)


def lying_jpegls(side: int) -> bytes:
    data = bytearray(imagecodecs.jpegls_encode(pixels(0).view(np.uint16)))
    at = data.index(b"\xff\xf7")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def rle_frame(segments: list[bytes]) -> bytes:
    offsets = np.cumsum([64] + [len(s) for s in segments[:-1]])
    return struct.pack(f"<{1 + len(segments)}I", len(segments), *offsets).ljust(64, b"\0") + b"".join(segments)


def headers() -> dict[str, tuple[bytes, str]]:
    """name -> (file, code): what has to end when headers are read."""
    good = file_bytes()
    uid = b"\x20\x00\x0e\x00UI"
    frames = b"\x28\x00\x10\x00US"
    at_pixels = good.index(b"\xe0\x7f\x10\x00")
    return {
        "zero bytes": (b"", "NOT_DICOM"),
        "text": (b"not a dicom file\n" * 100, "NOT_DICOM"),
        "random": (np.random.default_rng(1).bytes(5000), "NOT_DICOM"),
        "random after DICM": (bytes(128) + b"DICM" + np.random.default_rng(2).bytes(5000), "NOT_DICOM"),
        "only DICM": (bytes(128) + b"DICM", "MISSING_UID"),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(500), "NOT_DICOM"),
        "truncated pixels": (good[:-100], "TRUNCATED"),
        "truncated header": (good[:600], "TRUNCATED_HEADER"),
        "truncated before pixels": (good[:at_pixels], "NO_PIXELS"),
        "no pixel data": (file_bytes(PixelData=None), "NO_PIXELS"),
        "frames 100000": (before(good, frames, element(0x28, 8, b"IS", b"100000")), "BAD_FRAMES"),
        "frames 0": (before(good, frames, element(0x28, 8, b"IS", b"0 ")), "BAD_FRAMES"),
        "frames 2^31": (before(good, frames, element(0x28, 8, b"IS", b"2147483648")), "BAD_FRAMES"),
        "frames text": (before(good, frames, element(0x28, 8, b"IS", b"many")), "BAD_FRAMES"),
        "frames more than the bytes": (before(good, frames, element(0x28, 8, b"IS", b"9000")), "TRUNCATED"),
        "rows 65535": (retag(retag(good, frames, b"\xff\xff"), b"\x28\x00\x11\x00US", b"\xff\xff"), "VOXEL_CAP"),
        "rows 0": (retag(good, frames, b"\0\0"), "MISSING_TAG"),
        "no rows": (file_bytes(Rows=None), "MISSING_TAG"),
        "pixels claim 4 GiB": (good[: at_pixels + 8] + b"\xfe\xff\xff\xff" + good[at_pixels + 12 :], "TRUNCATED"),
        "element claims 4 GiB": (
            before(good, b"\x20\x00\x0d\x00", element(9, 1, b"OB", b"", 0xFFFFFFFE)),
            "TRUNCATED_HEADER",
        ),
        "sequence nested 20000": (before(good, b"\x20\x00\x0d\x00", nested(20000)), "TOO_DEEP"),
        "sequence nested 500": (before(good, b"\x20\x00\x0d\x00", nested(500)), "TOO_DEEP"),
        "sequence that never ends": (
            before(good, b"\x20\x00\x0d\x00", b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"),
            "BROKEN_HEADER",
        ),
        "item longer than the file": (
            before(
                good, b"\x20\x00\x0d\x00", b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xf0\xff\xff\x7f"
            ),
            "TRUNCATED_HEADER",
        ),
        "61000 elements": (
            before(good, b"\x20\x00\x0d\x00", b"".join(element(9, i, b"SH", b"") for i in range(0x10, 61016))),
            "TOO_MANY_ELEMENTS",
        ),
        "header of 9 MB": (before(good, b"\x20\x00\x0d\x00", element(9, 1, b"OB", bytes(9 << 20))), "HEADER_TOO_LARGE"),
        "deflate bomb": (deflate_bomb(64 << 20), "DEFLATE_BOMB"),
        "broken deflate": (
            file_bytes(syntax="1.2.840.10008.1.2.1.99")[:340] + b"\xff" * 300,
            "BROKEN_HEADER",
        ),
        "no study uid": (file_bytes(StudyInstanceUID=None), "MISSING_UID"),
        "no series uid": (file_bytes(SeriesInstanceUID=None), "MISSING_UID"),
        "empty sop uid": (file_bytes(SOPInstanceUID=""), "MISSING_UID"),
        "path in a uid": (retag(good, uid, b"../../../etc/passwd".ljust(len(_value(good, uid)), b"x")), "BAD_UID"),
        "uid of 70 digits": (file_bytes(SeriesInstanceUID="1." * 35 + "1"), "BAD_UID"),
        "DICOMDIR": (_dicomdir(), "DICOMDIR"),
    }


def _value(data: bytes, tag: bytes) -> bytes:
    at = data.index(tag, 132)
    return data[at + 8 : at + 8 + struct.unpack_from("<H", data, at + 6)[0]]


def _dicomdir() -> bytes:
    ds = dataset()
    ds.SOPClassUID = "1.2.840.10008.1.3.10"
    return to_bytes(ds)


def series_tags() -> dict[str, tuple[dict, str]]:
    """name -> (tags of every slice of a series, code the series has to end in)."""
    return {
        "slope nan": ({"RescaleSlope": "nan"}, "BAD_RESCALE"),
        "slope 0": ({"RescaleSlope": 0}, "BAD_RESCALE"),
        "slope 1e999": ({"RescaleSlope": "1e999"}, "BAD_RESCALE"),
        "slope text": ({"RescaleSlope": "one"}, "NO_RESCALE"),
        "spacing 0": ({"PixelSpacing": [0, 0]}, "BAD_SPACING"),
        "spacing negative": ({"PixelSpacing": [-1, 1]}, "BAD_SPACING"),
        "spacing nan": ({"PixelSpacing": ["nan", "1"]}, "BAD_SPACING"),
        "bits stored 20": ({"BitsStored": 20}, "BAD_BITS"),
        "bits stored 0": ({"BitsStored": 0}, "MISSING_TAG"),
        "high bit 40": ({"HighBit": 40}, "BAD_BITS"),
        "bits allocated 12": ({"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, "BAD_BITS"),
        "position inf": ({"ImagePositionPatient": ["0", "0", "1e999"]}, "NO_GEOMETRY"),
        "position of two": ({"ImagePositionPatient": [0, 0]}, "NO_GEOMETRY"),
        "orientation zero": ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "BAD_ORIENTATION"),
        "orientation nan": ({"ImageOrientationPatient": ["nan"] * 6}, "BAD_ORIENTATION"),
        "three colours": ({"PhotometricInterpretation": "RGB"}, "NOT_GREY"),
        "all at one position": ({"ImagePositionPatient": [0, 0, 5]}, "TOO_FEW_SLICES"),
    }


def syntaxes() -> dict[str, tuple[str, str]]:
    return {
        "unknown syntax": ("1.2.3.4.5", "NO_CODEC"),
        "video syntax": ("1.2.840.10008.1.2.4.102", "NO_CODEC"),
        "jpip": ("1.2.840.10008.1.2.4.94", "NO_CODEC"),
    }


def codestreams(**tags: Any) -> dict[str, tuple[bytes, set[str]]]:
    """name -> (file, codes): what has to end when a slice is decoded.

    A lossless JPEG whose end was cut off and put back is not among them: its codestream has no lengths, and no decoder
    can tell (three were asked).
    """
    px = pixels(0).view(np.uint16)
    j2k = bytes(imagecodecs.jpeg2k_encode(px, codecformat="j2k", reversible=True, level=0))
    jls, sof3 = (
        bytes(imagecodecs.jpegls_encode(px)),
        bytes(imagecodecs.jpeg8_encode(px, lossless=True, bitspersample=16)),
    )
    two = np.stack([px, px, px], axis=2)

    def at(syntax: str, data: bytes) -> bytes:
        return compressed(dataset(0, **tags), [data], syntax)

    empty = dataset(0, **tags)
    empty.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return {
        "J2K says 60000^2": (at(J + "90", lying_j2k(60000)), {"SIZE_MISMATCH"}),
        "JPEG-LS says 65535^2": (at(J + "80", lying_jpegls(65535)), {"SIZE_MISMATCH"}),
        "J2K cut": (at(J + "90", j2k[: len(j2k) // 2]), {"DECODE_ERROR"}),
        "J2K cut in its header": (at(J + "90", j2k[:30]), {"DECODE_ERROR"}),
        "JPEG-LS cut": (at(J + "80", jls[: len(jls) // 2]), {"DECODE_ERROR"}),
        "JPEG lossless cut": (at(J + "70", sof3[: len(sof3) // 2]), {"DECODE_ERROR"}),
        "JPEG-LS cut, end put back": (at(J + "80", jls[: len(jls) // 2] + b"\xff\xd9"), {"DECODE_ERROR"}),
        "J2K cut, end put back": (at(J + "90", j2k[: len(j2k) // 2] + b"\xff\xd9"), {"DECODE_ERROR"}),
        "JPEG without frame": (at(J + "70", sof3[:2] + b"\xff\xd9"), {"DECODE_ERROR"}),
        "noise as J2K": (at(J + "90", np.random.default_rng(3).bytes(900)), {"DECODE_ERROR"}),
        "noise as JPEG-LS": (at(J + "80", np.random.default_rng(4).bytes(900)), {"DECODE_ERROR"}),
        "noise as RLE": (
            at("1.2.840.10008.1.2.5", np.random.default_rng(5).bytes(900)),
            {"SIZE_MISMATCH", "DECODE_ERROR"},
        ),
        "J2K in a JPEG-LS file": (at(J + "80", j2k), {"DECODE_ERROR"}),
        "colour J2K": (
            at(J + "90", bytes(imagecodecs.jpeg2k_encode(two, codecformat="j2k", reversible=True, level=0))),
            {"SIZE_MISMATCH"},
        ),
        "RLE of one plane": (at("1.2.840.10008.1.2.5", rle_frame([b"\x81\0" * 8])), {"SIZE_MISMATCH"}),
        "RLE bomb": (at("1.2.840.10008.1.2.5", rle_frame([b"\x81\0" * 50000, b"\x81\0" * 50000])), {"DECODE_ERROR"}),
        "RLE cut": (at("1.2.840.10008.1.2.5", rle_frame([b"\x81\0" * 2, b"\x81\0"])), {"DECODE_ERROR"}),
        "no fragments": (to_bytes(empty, J + "90"), {"NO_FRAGMENTS"}),
        "fragment longer than the file": (
            at(J + "90", j2k).replace(
                b"\xfe\xff\x00\xe0" + struct.pack("<I", len(j2k) + len(j2k) % 2), b"\xfe\xff\x00\xe0\xf0\xff\xff\x7f"
            ),
            {"TRUNCATED"},
        ),
    }
