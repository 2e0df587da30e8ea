"""Transfer syntaxes for synthetic files: stored pixels uint16 [rows, cols] to PixelData bytes."""

from __future__ import annotations

import struct

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

SYNTAXES: dict[str, UID] = {
    "explicit-le": ExplicitVRLittleEndian,
    "implicit-le": ImplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "j2k": JPEG2000Lossless,
    "htj2k": HTJ2KLossless,
}


def encode(pixels: np.ndarray, transfer: str) -> bytes:
    """PixelData of one frame of 12-bit values in uint16.

    Raises:
        ValueError: a transfer syntax that is not written here.
    """
    if transfer not in SYNTAXES:
        raise ValueError(f"transfer syntax {transfer!r}: one of {', '.join(SYNTAXES)}")
    if transfer in ("explicit-le", "implicit-le", "deflated"):
        return pixels.astype("<u2").tobytes()
    import imagecodecs

    if transfer == "jpeg-ls":
        frame = bytes(imagecodecs.jpegls_encode(pixels))
    elif transfer == "j2k":
        frame = bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k", bitspersample=12))
    elif transfer == "htj2k":
        frame = bytes(imagecodecs.htj2k_encode(pixels, reversible=True))
    else:
        frame = _rle(pixels)
    return encapsulate([frame])


def _rle(pixels: np.ndarray) -> bytes:
    """DICOM RLE (PS3.5 annex G): one PackBits segment a byte plane, high byte first, rows coded apart."""
    import imagecodecs

    planes = [(pixels >> 8).astype(np.uint8), (pixels & 255).astype(np.uint8)]
    segments = []
    for plane in planes:
        s = bytes(imagecodecs.packbits_encode(plane, axis=-1))
        segments.append(s + b"\x00" * (len(s) % 2))
    offsets, at = [], 64
    for s in segments:
        offsets.append(at)
        at += len(s)
    header = struct.pack("<16I", len(segments), *offsets, *([0] * (15 - len(offsets))))
    return header + b"".join(segments)
