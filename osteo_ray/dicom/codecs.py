"""One compressed frame -> stored values, by the fastest trustworthy decoder for its transfer syntax.

Every codestream's own size must equal Rows x Columns before a decoder sees it: a lie there costs gigabytes.
Each syntax has a second decoder of another origin that gives the same values; it is used where the first one fails.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise

import numpy as np

from osteo_ray.dicom.nifti import TRANSFER_SYNTAXES
from osteo_ray.dicom.tags import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, GE_PRIVATE, IMPLICIT_LE
from osteo_ray.outcomes import Phase, Rejected, State

RLE = "1.2.840.10008.1.2.5"
AS_RETRIEVED = "as retrieved"  # a service that tells the syntax only with the object
NATIVE = frozenset((IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, GE_PRIVATE))
_J = "1.2.840.10008.1.2.4."
_JPEG, _JPEGLS, _J2K, _HTJ2K = "jpeg", "jpegls", "jpeg2k", "htj2k"
FAMILY = {
    _J + "50": _JPEG,
    _J + "51": _JPEG,
    _J + "57": _JPEG,
    _J + "70": _JPEG,
    _J + "80": _JPEGLS,
    _J + "81": _JPEGLS,
    _J + "90": _J2K,
    _J + "91": _J2K,
    _J + "201": _HTJ2K,
    _J + "202": _HTJ2K,
    _J + "203": _HTJ2K,
    RLE: "rle",
}
WAVELET = frozenset(ts for ts, family in FAMILY.items() if family in (_J2K, _HTJ2K))
log = logging.getLogger(__name__)
Decoder = Callable[[bytes, tuple[int, int], int], np.ndarray]  # data, (rows, cols), bits allocated -> [rows, cols]


def readable(transfer_syntax: str | None) -> bool:
    """Whether pixels of this syntax can be decoded here."""
    known = transfer_syntax in NATIVE or transfer_syntax in FAMILY or transfer_syntax == AS_RETRIEVED
    return known or transfer_syntax in TRANSFER_SYNTAXES


def decode_error(message: str, code: str = "DECODE_ERROR") -> Rejected:
    return Rejected(State.QUARANTINED, code, Phase.DECODE, message[:300])


def decode_frame(
    data: bytes, transfer_syntax: str, shape: tuple[int, int], bits_allocated: int, engine: int = -1, halvings: int = 0
) -> np.ndarray:
    """Decode one frame to the codec's own integers, [rows, cols]; sign and unused bits are the caller's.

    Args:
        engine: 0 the first decoder, 1 the second, -1 the second where the first fails.
        halvings: how often rows and columns are halved, rounded up, by leaving out the finest parts of a wavelet
            code: at most `lower_resolutions`, and for JPEG 2000 and HTJ2K alone.

    Raises:
        Rejected: DECODE_ERROR, SIZE_MISMATCH, NO_CODEC; stage DECODE.
    """
    family = FAMILY.get(transfer_syntax)
    if family is None:
        raise decode_error(f"transfer syntax {transfer_syntax} can't be decoded here", "NO_CODEC")
    if family == "rle":
        _check_rle(data, shape, bits_allocated)
    else:
        rows, cols, parts = codestream_size(data, family)
        if family != _HTJ2K and b"\xff\xd9" not in data.rstrip(b"\0")[-16:]:
            raise decode_error("the codestream has no end: it was cut")  # some decoders would fill it up silently
        if (rows, cols) != shape or parts != 1:
            raise decode_error(
                f"codestream is {rows} x {cols} x {parts}, the header says {shape[0]} x {shape[1]} x 1", "SIZE_MISMATCH"
            )
    if halvings:
        try:
            return _halved(REDUCED[family](data, halvings), shape, halvings)
        except Exception as e:  # each codec has its own error class; the whole picture does as well
            log.debug("reduced decoding: %s: %s", type(e).__name__, e)
    tries = DECODERS[family] if engine < 0 else DECODERS[family][engine : engine + 1]
    errors = []
    for name, fn in tries:
        try:
            a = fn(data, shape, bits_allocated)
        except Exception as e:  # each codec has its own error class
            errors.append(f"{name}: {type(e).__name__}: {e}")
            continue
        if a.shape != shape:
            errors.append(f"{name}: gave shape {a.shape}")
            continue
        return a
    raise decode_error("; ".join(errors))


def codestream_size(data: bytes, family: str) -> tuple[int, int, int]:
    """(rows, cols, components) that the codestream itself states."""
    try:
        return _jpeg_size(data) if family in (_JPEG, _JPEGLS) else _j2k_size(data)
    except (struct.error, IndexError):
        raise decode_error(f"{family} codestream ends inside its header") from None


def _jpeg_size(data: bytes) -> tuple[int, int, int]:
    if data[:2] != b"\xff\xd8":
        raise decode_error("no JPEG start of image")
    pos = 2
    for _ in range(1000):
        while data[pos] == 0xFF and data[pos + 1] == 0xFF:
            pos += 1
        if data[pos] != 0xFF:
            break
        marker = data[pos + 1]
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            _, rows, cols, parts = struct.unpack_from(">BHHB", data, pos + 4)
            return rows, cols, parts
        if marker in (0xD9, 0xDA):
            break
        pos += 2 + struct.unpack_from(">H", data, pos + 2)[0]
    raise decode_error("no frame header in the JPEG codestream")


def _j2k_size(data: bytes) -> tuple[int, int, int]:
    pos = 0
    if data[4:8] == b"jP  ":  # a JP2 file where only the codestream should be
        pos = data.find(b"\xff\x4f\xff\x51")
    if pos < 0 or data[pos : pos + 4] != b"\xff\x4f\xff\x51":
        raise decode_error("no JPEG 2000 start of codestream")
    x1, y1, x0, y0 = struct.unpack_from(">IIII", data, pos + 8)
    return y1 - y0, x1 - x0, struct.unpack_from(">H", data, pos + 40)[0]


def lower_resolutions(data: bytes, bits_stored: int, signed: bool) -> int:
    """How often a JPEG 2000 or HTJ2K codestream can be halved.

    0 where it can't be told, and where precision or sign are not what the header says: values that wrap around, or hold
    other bits, can't be averaged.
    """
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 43 or data[at + 42] != (bits_stored - 1) | (0x80 if signed else 0):
        return 0
    pos = at + 2
    while pos + 10 <= len(data) and data[pos] == 0xFF:
        if data[pos + 1] == 0x52:  # COD
            return data[pos + 9]
        pos += 2 + struct.unpack_from(">H", data, pos + 2)[0]
    return 0


def _halved(a: np.ndarray, shape: tuple[int, int], n: int) -> np.ndarray:
    expected = tuple(-(-length >> n) for length in shape)
    if a.shape != expected:
        raise ValueError(f"gave shape {a.shape}, not {expected}")
    return a


def _check_rle(data: bytes, shape: tuple[int, int], bits: int) -> None:
    if len(data) < 64:
        raise decode_error("RLE frame ends inside its header")
    n = struct.unpack_from("<I", data)[0]
    if n != (bits + 7) // 8:
        raise decode_error(f"RLE frame has {n} segments, {(bits + 7) // 8} are needed", "SIZE_MISMATCH")
    offsets = [*struct.unpack_from(f"<{n}I", data, 4), len(data)]
    if offsets[0] < 64 or any(a >= b for a, b in pairwise(offsets)):
        raise decode_error("RLE segment offsets are not in order")
    # a run of two bytes gives at most 128, so a shorter segment can't fill its plane; literal runs add 1 byte in 128
    for a, b in pairwise(offsets):
        if not shape[0] * shape[1] <= (b - a) * 64 <= 64 * (2 * shape[0] * shape[1] + 64):
            raise decode_error(f"RLE segment of {b - a} bytes can't be a plane of {shape[0]} x {shape[1]}")


def _imagecodecs(name: str) -> Decoder:
    def run(data: bytes, shape: tuple[int, int], bits: int) -> np.ndarray:
        import imagecodecs

        return getattr(imagecodecs, name)(data)

    return run


def _rle_fast(data: bytes, shape: tuple[int, int], bits: int) -> np.ndarray:
    import imagecodecs

    dtype = np.dtype(f"<u{bits // 8}")
    out = imagecodecs.dicomrle_decode(data, dtype, out=shape[0] * shape[1] * dtype.itemsize)
    return np.frombuffer(out, dtype).reshape(shape)


def _rle_planes(data: bytes, shape: tuple[int, int], bits: int) -> np.ndarray:
    """PackBits of each byte plane, most significant first."""
    import imagecodecs

    n = bits // 8
    size = shape[0] * shape[1]
    offsets = [*struct.unpack_from(f"<{n}I", data, 4), len(data)]
    out = np.empty((size, n), np.uint8)
    for i in range(n):
        plane = imagecodecs.packbits_decode(data[offsets[i] : offsets[i + 1]])
        if len(plane) < size:
            raise ValueError(f"byte plane {i} holds {len(plane)} of {size} values")
        out[:, n - 1 - i] = np.frombuffer(plane, np.uint8, size)
    return out.reshape(-1).view(f"<u{n}").reshape(shape)


def _charls(data: bytes, shape: tuple[int, int], bits: int) -> np.ndarray:
    import jpeg_ls

    return jpeg_ls.decode(np.frombuffer(data, np.uint8))


def _openjpeg(data: bytes, shape: tuple[int, int], bits: int) -> np.ndarray:
    import openjpeg

    return openjpeg.decode(data)


def _pillow_reduced(data: bytes, halvings: int) -> np.ndarray:
    """JPEG 2000 at a lower resolution; Pillow gives values shifted up to 8 or 16 bits, signed ones with an offset."""
    from PIL import Image

    at = data.find(b"\xff\x4f\xff\x51")
    precision = data[at + 42]
    signed, bits = bool(precision & 0x80), (precision & 0x7F) + 1
    if bits > 16:
        raise ValueError(f"{bits} bits")
    with Image.open(io.BytesIO(data)) as image:
        image.reduce = halvings  # type: ignore[method-assign, assignment]  # an attribute of Jpeg2KImageFile
        image.load()
        a = np.asarray(image)
    width = 8 * a.dtype.itemsize
    values = a.astype(np.int32) >> (width - bits)
    return (values - (1 << (bits - 1))).astype(np.int16) if signed else values.astype(np.uint16)


def _openjph_reduced(data: bytes, halvings: int) -> np.ndarray:
    import imagecodecs

    return imagecodecs.htj2k_decode(data, skipres=halvings)


REDUCED: dict[str, Callable[[bytes, int], np.ndarray]] = {_J2K: _pillow_reduced, _HTJ2K: _openjph_reduced}
DECODERS: dict[str, list[tuple[str, Decoder]]] = {
    _JPEG: [("libjpeg-turbo", _imagecodecs("jpeg8_decode")), ("jpegsof3", _imagecodecs("jpegsof3_decode"))],
    _JPEGLS: [("imagecodecs CharLS", _imagecodecs("jpegls_decode")), ("pyjpegls", _charls)],
    _J2K: [("imagecodecs OpenJPEG", _imagecodecs("jpeg2k_decode")), ("pylibjpeg-openjpeg", _openjpeg)],
    _HTJ2K: [("OpenJPH", _imagecodecs("htj2k_decode")), ("imagecodecs OpenJPEG", _imagecodecs("jpeg2k_decode"))],
    "rle": [("imagecodecs DICOM RLE", _rle_fast), ("PackBits planes", _rle_planes)],
}


def codecs_present() -> dict[str, str]:
    """Decoders by name -> version, or why they can't be used; for `osteo-ray doctor`."""
    out: dict[str, str] = {}
    try:
        ic = import_module("imagecodecs")
        for name in ("jpeg8", "jpegsof3", "jpegls", "jpeg2k", "htj2k", "dicomrle", "packbits"):
            ok = getattr(getattr(ic, name.upper(), None), "available", False)
            out[f"imagecodecs {name}"] = getattr(ic, f"{name}_version")() if ok else "not in this build"
    except ImportError as e:
        out["imagecodecs"] = f"missing: {e}"
    for module, name in (("jpeg_ls", "pyjpegls"), ("openjpeg", "pylibjpeg-openjpeg")):
        try:
            out[name] = str(getattr(import_module(module), "__version__", "present"))
        except ImportError:
            out[name] = "missing (optional, pip install osteo-ray[codecs])"
    return out


def split_frames(element: bytes, n_frames: int) -> list[bytes]:
    """Frames of an encapsulated PixelData value (offset table item, fragments, delimiter).

    Raises:
        Rejected: NO_FRAGMENTS, TRUNCATED, BAD_FRAMES.
    """
    table, fragments = _fragments(element)
    if not fragments:
        raise decode_error("encapsulated pixel data without a fragment", "NO_FRAGMENTS")
    if n_frames == 1:
        return [fragments[0][1] if len(fragments) == 1 else b"".join(f for _, f in fragments)]
    if len(fragments) == n_frames:
        return [f for _, f in fragments]
    starts = list(table)
    if len(starts) != n_frames:  # no usable table: a frame begins where a codestream does
        starts = [at for at, f in fragments if f[:4] == b"\xff\x4f\xff\x51" or f[:3] == b"\xff\xd8\xff"]
    if len(starts) != n_frames or len(fragments) < n_frames:
        raise decode_error(f"{len(fragments)} fragments can't be told into {n_frames} frames", "BAD_FRAMES")
    ends = [*starts[1:], 1 << 62]
    out = [b"".join(f for at, f in fragments if a <= at < b) for a, b in zip(starts, ends, strict=True)]
    if not all(out):
        raise decode_error("the offset table points between the fragments", "BAD_FRAMES")
    return out


def _fragments(element: bytes) -> tuple[tuple[int, ...], list[tuple[int, bytes]]]:
    pos, out, table, first = 0, [], (), -1
    n = len(element)
    while pos + 8 <= n:
        group, el, ln = struct.unpack_from("<HHI", element, pos)
        pos += 8
        if (group, el) == (0xFFFE, 0xE0DD):
            break
        if (group, el) != (0xFFFE, 0xE000):
            raise decode_error(f"expected a fragment, found ({group:04X},{el:04X})")
        if pos + ln > n:
            raise decode_error(f"a fragment claims {ln} bytes, {n - pos} are left", "TRUNCATED")
        if first < 0:
            first = pos + ln
            table = struct.unpack_from(f"<{ln // 4}I", element, pos)
        else:
            out.append((pos - 8 - first, element[pos : pos + ln]))
        pos += ln
    return table, out
