"""SliceStack: the z-ordered slices of one catalogue row; HU on demand, and it counts what it decoded.

    with SliceStack.from_row(row) as stack:
        stack.n, stack.z_mm, stack.axial_spacing_mm
        hu = stack.axial(stack.n // 2)         # rows grow to posterior, columns to the patient's left

Opening touches no pixel. A slice that can't be read raises `Rejected` with stage DECODE and a code.
"""

from __future__ import annotations

import atexit
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache, partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from osteo_ray.dicom.codecs import (
    AS_RETRIEVED,
    NATIVE,
    WAVELET,
    codecs_present,
    decode_error,
    decode_frame,
    lower_resolutions,
    split_frames,
)
from osteo_ray.dicom.decode_guard import DecodeGuard
from osteo_ray.dicom.geometry import to_axial
from osteo_ray.dicom.header import read_header
from osteo_ray.dicom.limits import Limits
from osteo_ray.dicom.nifti import TRANSFER_SYNTAXES, VolumeReader
from osteo_ray.dicom.read_ahead import ReadAhead
from osteo_ray.dicom.sources import beyond_network, read_uri
from osteo_ray.dicom.tags import DEFLATED_LE, EXPLICIT_BE, GE_PRIVATE, Header
from osteo_ray.outcomes import Rejected

__all__ = ["PADDING_HU", "SliceStack", "Stack", "codecs_present", "stored_to_hu"]

PADDING_HU = -1024  # what a voxel outside the field of view is set to


@runtime_checkable
class Stack(Protocol):
    """What screening needs of a CT: archived slices and synthetic ones (cohort) both satisfy it."""

    @property
    def n(self) -> int: ...

    @property
    def z_mm(self) -> np.ndarray: ...  # float64 [n], ascending toward the head

    @property
    def axial_spacing_mm(self) -> tuple[float, float]: ...  # (row, column) of axial()

    @property
    def decoded(self) -> int: ...

    @property
    def bytes_read(self) -> int: ...

    def axial(self, i: int) -> np.ndarray: ...  # HU [rows, cols]


class SliceStack:
    """Slices of one series, ordered along the slice normal (for axial ones: toward the head)."""

    def __init__(
        self,
        instances: Sequence[Mapping[str, Any]],
        shape: tuple[int, int],
        pixel_spacing_mm: tuple[float, float],
        orientation: np.ndarray,
        limits: Limits | None = None,
        guard: DecodeGuard | None = None,
        reads: ReadAhead | None = None,
    ):
        self._items = instances
        self._limits = limits or Limits()
        self._decode = decode_frame if guard is None else guard.decode
        self.shape = shape
        self.pixel_spacing_mm = pixel_spacing_mm  # (row, column)
        self.orientation = orientation  # [6]
        self.z_mm = np.array([i["z_mm"] for i in instances], dtype=np.float64)
        self.sop_uids = [i["sop_uid"] for i in instances]
        self._axial = to_axial(orientation)
        r, c = pixel_spacing_mm
        self.axial_spacing_mm = (c, r) if self._axial.transpose else (r, c)
        self.bytes_read = 0
        self._looked_at: set[int] = set()
        self._coarse: dict[int, bytes] = {}  # codestreams of slices that were decoded coarsely
        self._frames: tuple[str, list[bytes]] | None = None  # of the multi-frame file read last
        self._volume: tuple[str, VolumeReader] | None = None  # the NIfTI file read last
        self._reads = reads
        self._ahead: dict[tuple[str, int, int | None], Future[bytes]] = {}  # reads under way

    @classmethod
    def from_row(
        cls,
        row: Mapping[str, Any],
        limits: Limits | None = None,
        guard: DecodeGuard | None = None,
        geometry: bool = True,
        reads: ReadAhead | None = None,
    ) -> SliceStack:
        """Open a catalogue row (a mapping as `Table.to_pylist()` gives it). No pixel is touched.

        With `guard`, compressed frames are decoded in its child process, bounded in memory and time.

        Args:
            reads: what `read_ahead` reads with; None: nothing is read before it is asked for.
            geometry: False also opens a series whose headers give no positions or spacing; these are NaN then, and
                `axial` is not known.

        Raises:
            ValueError: the row has no usable geometry (it ended in assembly; see its code), or no slices at all.
        """
        items = list(row["instances"] or ())
        need = ("orientation", "pixel_spacing_row_mm", "pixel_spacing_col_mm", "rows", "cols")
        absent = [k for k in need if row[k] is None]
        if items and not geometry and row["rows"] and row["cols"]:
            items = [{**i, "z_mm": np.nan if i["z_mm"] is None else i["z_mm"]} for i in items]
            spacings = [np.nan if row[k] is None else float(row[k]) for k in need[1:3]]
            turn = np.full(6, np.nan) if row["orientation"] is None else np.array(row["orientation"], float)
            shape = (int(row["rows"]), int(row["cols"]))
            return cls(items, shape, (spacings[0], spacings[1]), turn, limits, guard, reads)
        if absent or not items or any(i["z_mm"] is None for i in items):
            what = ", ".join(absent) or ("slice positions" if items else "instances")
            raise ValueError(f"series {row['series_uid']} can't be opened: no {what} (code {row.get('code')})")
        spacing = (float(row["pixel_spacing_row_mm"]), float(row["pixel_spacing_col_mm"]))
        orientation = np.array(row["orientation"], dtype=float)
        return cls(items, (int(row["rows"]), int(row["cols"])), spacing, orientation, limits, guard, reads)

    @property
    def n(self) -> int:
        """How many slices there are."""
        return len(self._items)

    @property
    def decoded(self) -> int:
        """How many slices were decoded, finely or coarsely."""
        return len(self._looked_at)

    def read_ahead(self, slices: Iterable[int]) -> None:
        """Begin to read slices that will be asked for, side by side, where each read waits for a network.

        What is read, and what `bytes_read` counts, stays what it would be without.
        """
        if self._reads is None:
            return
        for i in slices:
            item = self._items[i]
            here = i in self._coarse or (self._frames is not None and self._frames[0] == item["uri"])
            if here or item["transfer_syntax"] in TRANSFER_SYNTAXES or not beyond_network(item["uri"]):
                continue
            key = (item["uri"], *self._place(item))
            if key not in self._ahead:
                self._ahead[key] = self._reads.begin(*key)

    def axial(self, i: int) -> np.ndarray:
        """HU of slice i as [rows, cols] with rows growing to the patient's posterior and columns to the left.

        Raises:
            ValueError: the orientation is not known.
        """
        return self._turned(self.hu(i))

    def coarse(self, i: int, pitch_mm: float) -> tuple[np.ndarray, tuple[float, float]]:
        """`axial` at the lowest resolution at which pixels are at most `pitch_mm` wide, and their (row, column) pitch.

        Wavelet codes (JPEG 2000, HTJ2K) hold lower resolutions, which take a fraction of the time; for all else this
        is `axial`. Values are the wavelet's low pass: near to averages, and not for measuring.

        Raises:
            ValueError: the orientation is not known.
        """
        halvings = int(np.log2(max(pitch_mm / max(self.pixel_spacing_mm), 1.0)))  # 0 for a pitch of 0
        if not halvings or self._items[i]["transfer_syntax"] not in WAVELET:
            return self.axial(i), self.axial_spacing_mm
        hu = self._turned(self.hu(i, halvings))
        rows, cols = self.shape[::-1] if self._axial.transpose else self.shape
        times = round(rows / hu.shape[0]), round(cols / hu.shape[1])
        return hu, (self.axial_spacing_mm[0] * times[0], self.axial_spacing_mm[1] * times[1])

    def _turned(self, hu: np.ndarray) -> np.ndarray:
        if not np.isfinite(self.orientation).all():
            raise ValueError("the headers give no orientation: which way the slices lie is not known")
        return np.ascontiguousarray(self._axial(hu))

    def hu(self, i: int, halvings: int = 0) -> np.ndarray:
        """HU of slice i as stored, [rows, cols]: int16 where slope is 1 and all values fit, else float32.

        Padding (PixelPaddingValue, with its range limit) becomes -1024. MONOCHROME1 changes nothing: HU are HU.

        Args:
            halvings: of the resolution, as far as the code can (`codecs.decode_frame`).

        Raises:
            Rejected: UNREADABLE, TRUNCATED, DECODE_ERROR, SIZE_MISMATCH, NO_FRAGMENTS, BAD_FRAMES, NO_CODEC.
        """
        if not -self.n <= i < self.n:
            raise IndexError(f"slice {i} is not one of the {self.n} slices of this stack")
        item = self._items[i]
        stored = self._stored(i % self.n, halvings)
        self._looked_at.add(i % self.n)
        return stored_to_hu(stored, item)

    def _stored(self, i: int, halvings: int) -> np.ndarray:
        """Stored values [rows, cols], raw integers of bits_allocated (sign and unused bits as they came)."""
        item = self._items[i]
        ts, offset = item["transfer_syntax"], item["offset"]
        if ts in TRANSFER_SYNTAXES:
            return self._of_volume(item)
        read = partial(self._read, item["uri"])
        if ts == AS_RETRIEVED:  # only the object itself says what it is and where its pixels are
            data = read()
            h = self._header(data)
            ts, offset = h.transfer_syntax, h.pixel_offset
            read = partial(_part, data)
        if ts not in NATIVE:
            stream = self._coarse.pop(i, None) or self._codestream(item, read, offset)
            if halvings:
                self._coarse[i] = stream  # it may be wanted in full later
                plain = item["high_bit"] in (None, item["bits_stored"] - 1)
                most = lower_resolutions(stream, item["bits_stored"], bool(item["signed"])) if plain else 0
                halvings = min(halvings, most)
            return self._decode(stream, ts, self.shape, item["bits_allocated"], halvings=halvings)
        size = self._frame_bytes(item)
        skip = item["frame"] * size
        data = self._inflated(read(), skip, size) if ts == DEFLATED_LE else read(offset + skip, size)
        self.bytes_read += len(data)
        if len(data) < size:
            raise decode_error(f"{len(data)} of {size} bytes of pixels", "TRUNCATED")
        order = ">" if ts in (EXPLICIT_BE, GE_PRIVATE) else "<"
        return np.frombuffer(data, f"{order}u{item['bits_allocated'] // 8}").reshape(self.shape)

    def _read(self, uri: str, offset: int = 0, length: int | None = None) -> bytes:
        begun = self._ahead.pop((uri, offset, length), None)
        # One that still waits for its turn waits for reads that may hang, perhaps another study's.
        return read_uri(uri, offset, length) if begun is None or begun.cancel() else begun.result()

    def _place(self, item: Mapping[str, Any]) -> tuple[int, int | None]:
        """Offset and length of what `_stored` reads of a slice's object first."""
        ts, offset = item["transfer_syntax"], item["offset"]
        if ts in (AS_RETRIEVED, DEFLATED_LE):
            return 0, None
        if ts not in NATIVE:
            return offset, None
        size = self._frame_bytes(item)
        return offset + item["frame"] * size, size

    def _frame_bytes(self, item: Mapping[str, Any]) -> int:
        return self.shape[0] * self.shape[1] * (item["bits_allocated"] // 8)

    def _of_volume(self, item: Mapping[str, Any]) -> np.ndarray:
        """A slice of a NIfTI volume."""
        uri = item["uri"]
        if self._volume is None or self._volume[0] != uri:
            self._volume = uri, VolumeReader(partial(read_uri, uri), self._limits)
        reader = self._volume[1]
        if reader.volume.shape != self.shape:
            raise decode_error(f"slices of {reader.volume.shape}, the index saw {self.shape}", "SIZE_MISMATCH")
        before = reader.bytes_read
        stored = reader.stored(item["frame"])
        self.bytes_read += reader.bytes_read - before
        return stored

    def _codestream(self, item: Mapping[str, Any], read: Callable[..., bytes], offset: int) -> bytes:
        uri, frame = item["uri"], item["frame"]
        if self._frames is not None and self._frames[0] == uri:
            return self._frames[1][frame]
        element = read(offset)
        self.bytes_read += len(element)
        total = 1 + max(i["frame"] for i in self._items if i["uri"] == uri)
        frames = split_frames(element, total)
        if total > 1:
            self._frames = (uri, frames)
        return frames[frame]

    def _header(self, data: bytes) -> Header:
        h = read_header(lambda n: data[:n], len(data), self._limits)
        if not h.has_pixels:
            raise decode_error("no pixel data", "NO_PIXELS")
        return h

    def _inflated(self, data: bytes, skip: int, size: int) -> bytes:
        """Pixels of a deflated data set: inflated no further than they reach."""
        h = self._header(data)
        at = h.inflated_offset + skip
        try:
            flat = zlib.decompressobj(-15).decompress(data[h.dataset_offset :], at + size)
        except zlib.error as e:
            raise decode_error(f"deflated data set: {e}") from None
        return flat[at : at + size]

    def close(self) -> None:
        """Let go of decoded frames and of what was read ahead; the stack can still be read."""
        for read in self._ahead.values():
            read.cancel()
        self._ahead.clear()
        self._frames = self._volume = None
        self._coarse.clear()

    def __enter__(self) -> SliceStack:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _part(data: bytes, offset: int = 0, length: int | None = None) -> bytes:
    return data[offset : None if length is None else offset + length]


def stored_to_hu(raw: np.ndarray, item: Mapping[str, Any]) -> np.ndarray:
    """Raw pixels of one slice -> HU: mask to the stored bits, extend the sign, rescale, replace padding.

    `item`: bits_stored, high_bit, signed, slope, intercept, padding, padding_limit. Floats (NIfTI) are rescaled
    alone; a value that is not finite is padding.
    """
    if raw.dtype.kind == "f":
        rescaled = raw.astype(np.float64) * float(item["slope"]) + float(item["intercept"])
        return np.where(np.isfinite(rescaled), rescaled, PADDING_HU).astype(np.float32)
    stored = _integers(raw, item)
    slope, intercept = float(item["slope"]), float(item["intercept"])
    bits, signed = int(item["bits_stored"]), bool(item["signed"])
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if slope == 1 and intercept == int(intercept):
        off = int(intercept)
        if low + off < -32768 or high + off > 32767:  # by the type it might not fit: ask the data
            low, high = int(stored.min()), int(stored.max())
        if low + off >= -32768 and high + off <= 32767:
            # modulo 2^16, so 16-bit arithmetic is exact whenever the result fits
            hu = stored.astype(np.int16, copy=False) + np.int16(((off + 32768) & 0xFFFF) - 32768)
        else:
            hu = (stored.astype(np.float64) + off).astype(np.float32)
    else:
        hu = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    mask = padding_mask(stored, item)
    if mask is not None and mask.any():
        hu[mask] = PADDING_HU
    return hu


def _integers(raw: np.ndarray, item: Mapping[str, Any]) -> np.ndarray:
    """Stored values with their sign; bits above high_bit (old overlays) and below the stored ones are cut."""
    alloc, bits, signed = int(item["bits_allocated"]), int(item["bits_stored"]), bool(item["signed"])
    width = raw.dtype.itemsize * 8
    if raw.dtype.kind == "i":
        raw = raw.view(f"{raw.dtype.byteorder}u{width // 8}" if width > 8 else "u1")
    if not raw.dtype.isnative:
        raw = raw.astype(raw.dtype.newbyteorder("="))
    if width < alloc:
        raw = raw.astype(f"u{alloc // 8}")
        width = alloc
    high = bits - 1 if item["high_bit"] is None else int(item["high_bit"])
    shift = max(high - bits + 1, 0)
    if shift:
        raw = raw >> raw.dtype.type(shift)
    if bits == width:
        return raw.view(f"i{width // 8}") if signed else raw
    raw = raw & raw.dtype.type((1 << bits) - 1)
    if not signed:
        return raw
    up = raw.dtype.type(width - bits)
    return (raw << up).view(f"i{width // 8}") >> up.astype(f"i{width // 8}")


def padding_mask(stored: np.ndarray, item: Mapping[str, Any]) -> np.ndarray | None:
    """True where a stored value is padding: equal to PixelPaddingValue, or between it and its range limit."""
    value, limit = item.get("padding"), item.get("padding_limit")
    if value is None:
        return None
    if limit is None or limit == value:
        return stored == value
    low, high = min(value, limit), max(value, limit)
    return (stored >= low) & (stored <= high)


def same_pixels(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two header rows of one SOP instance UID hold the same HU; False where either can't be read.

    Asked for duplicates only, which are rare: the one place where indexing reads pixels.
    """
    if (a["rows"], a["cols"], a["slope"], a["intercept"]) != (b["rows"], b["cols"], b["slope"], b["intercept"]):
        return False
    try:
        return bool(np.array_equal(_hu_of(a), _hu_of(b)))
    except (Rejected, ValueError, TypeError):
        return False


@cache
def _guard() -> DecodeGuard:
    guard = DecodeGuard()
    atexit.register(guard.close)
    return guard


def _hu_of(r: Mapping[str, Any]) -> np.ndarray:
    item = dict(r, z_mm=0.0)
    axial = np.array([1.0, 0, 0, 0, 1, 0])
    return SliceStack([item], (r["rows"], r["cols"]), (1.0, 1.0), axial, guard=_guard()).hu(0)
