"""NIfTI volumes as CT series: what their header says, their slices, and whether their values can be HU at all.

    volume = parse_volume(head)                      # the first bytes of a .nii or .nii.gz
    reader = VolumeReader(uri, read)                 # read(offset, length) -> bytes
    reader.stored(0)                                 # [rows, cols] as stored; HU are slope * stored + intercept

An affine takes voxel indices to millimetres; NIfTI's axes point right, anterior, up, DICOM's left, posterior, up.
Slices are the planes along the third voxel axis, as converters write them; where another axis is nearer to the
patient's long one and the pixels of its planes are square, along that one, since no voxel changes by it. A volume of
neither kind is a reformat and ends as NOT_AXIAL, as one in DICOM does.

Of an uncompressed file only the slices asked for are read. A .nii.gz is inflated as a whole, once a study.
"""

from __future__ import annotations

import gzip
import io
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from osteo_ray.dicom.containers import inflate_start
from osteo_ray.dicom.limits import Limits
from osteo_ray.outcomes import Phase, Rejected, State

NIFTI, NIFTI_GZIP = "nifti", "nifti+gzip"
TRANSFER_SYNTAXES = frozenset((NIFTI, NIFTI_GZIP))
"""What stands as transfer syntax in the catalogue: the kind of source of a series."""

Read = Callable[[int, int | None], bytes]  # (offset, length; None: to the end)
_HEAD = 544  # the longer header, NIfTI-2's, and four bytes of flags
_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_LABEL_INTENT = 1002
_APART = 0.1  # sform and qform; a gantry's tilt, which a qform can't hold, stays below it where it is accepted
_PROBED = 5  # slices whose values are looked at
_AIR_HU, _AIR_SHARE = -700.0, 0.001
_TISSUE_HU, _TISSUE_SHARE = (-200.0, 200.0), 0.01
_LEAST_VALUES = 64


@dataclass(frozen=True)
class Volume:
    """Header of one volume. `affine`: float64 [4, 4], voxel indices (i, j, k) -> mm in DICOM's axes."""

    packed: bool
    dims: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    affine: np.ndarray
    axis: int  # voxel axis from slice to slice

    @property
    def in_plane(self) -> tuple[int, int]:
        """Voxel axes along which (column, row) indices grow."""
        a, b = (i for i in range(3) if i != self.axis)
        return a, b

    @property
    def n(self) -> int:
        return self.dims[self.axis]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of a slice."""
        a, b = self.in_plane
        return self.dims[b], self.dims[a]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.dims, dtype=np.int64)) * self.dtype.itemsize

    @property
    def orientation(self) -> np.ndarray:
        """[6], as ImageOrientationPatient."""
        return np.concatenate([self._direction(i) for i in self.in_plane])

    @property
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """(row, column)."""
        a, b = (float(np.linalg.norm(self.affine[:3, i])) for i in self.in_plane)
        return b, a

    def position(self, k: int) -> np.ndarray:
        """[3] mm, the centre of the first voxel of slice k."""
        return self.affine[:3, 3] + k * self.affine[:3, self.axis]

    def _direction(self, i: int) -> np.ndarray:
        v = self.affine[:3, i]
        return v / np.linalg.norm(v)


def is_nifti(head: bytes) -> bool:
    """Whether a file that begins so is a NIfTI volume, plain or in gzip."""
    start = inflate_start(head, _HEAD) if head[:2] == b"\x1f\x8b" else head
    return start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")


def parse_volume(head: bytes, limits: Limits | None = None) -> Volume:
    """The header in a file's first bytes (16 KB are plenty), checked.

    Raises:
        Rejected: NIFTI_PAIR, NOT_A_VOLUME, NOT_GREY, NOT_HU, NO_GEOMETRY, BAD_SPACING, BAD_RESCALE, VOXEL_CAP,
            BROKEN_NIFTI; stage HEADER.
    """
    # Imported where a volume is met: archives of DICOM alone need not wait for it.
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    packed = head[:2] == b"\x1f\x8b"
    start = inflate_start(head, _HEAD) if packed else head[:_HEAD]
    second = start[4:8] in (b"n+2\0", b"ni2\0")
    kind, size = (Nifti2Header, 540) if second else (Nifti1Header, 348)
    try:
        h = kind(start[:size], check=False)
        dims, dtype, offset = h.get_data_shape(), h.get_data_dtype(), int(h.get_data_offset())
        slope, intercept = h.get_slope_inter()
        sform, qform = h.get_sform(coded=True)[0], h.get_qform(coded=True)[0]
        unit = h.get_xyzt_units()[0]
        intent, magic = int(h["intent_code"]), bytes(h["magic"].item())
    except (HeaderDataError, ValueError, KeyError, OverflowError, TypeError) as e:
        raise _rejected("BROKEN_NIFTI", f"its header can't be read: {e}") from None
    if magic.startswith(b"ni"):
        raise _rejected("NIFTI_PAIR", "header and voxels in two files: convert it to one .nii", State.EXCLUDED)
    dims = tuple(int(d) for d in dims)
    if len(dims) < 3 or any(d != 1 for d in dims[3:]) or min(dims) < 1:
        raise _rejected("NOT_A_VOLUME", f"{len(dims)} dimensions, {dims}", State.EXCLUDED)
    if dtype.fields or dtype.kind not in "iuf":
        raise _rejected("NOT_GREY", f"voxels of type {dtype}", State.EXCLUDED)
    if dtype.itemsize == 1 or intent == _LABEL_INTENT:
        raise _rejected("NOT_HU", "a label map, or 8-bit values: no HU", State.EXCLUDED)
    if sform is not None and qform is not None and (apart := _apart(sform, qform)) > _APART:
        message = f"sform and qform differ by {apart:.0%} of a voxel axis: which one is right is not known"
        raise _rejected("NO_GEOMETRY", message)
    affine = qform if sform is None else sform
    if affine is None:
        raise _rejected("NO_GEOMETRY", "neither sform nor qform: which way the voxels lie is unknown")
    slope, intercept = (1.0, 0.0) if slope is None else (float(slope), float(intercept or 0.0))
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise _rejected("BAD_RESCALE", f"scl_slope {slope}, scl_inter {intercept}")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    affine[:3] *= _MM.get(unit, np.nan)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not (sizes > 0).all():
        raise _rejected("BAD_SPACING", f"voxel sizes {sizes.tolist()}, unit {unit}")
    lim = limits or Limits()
    volume = Volume(packed, dims[:3], dtype, offset, slope, intercept, affine, _slice_axis(affine, sizes))
    if max(dims) > max(lim.max_side, lim.max_frames) or max(volume.shape) > lim.max_side or volume.n > lim.max_frames:
        raise _rejected("VOXEL_CAP", f"{dims} voxels are more than a volume may have")
    if volume.nbytes > lim.max_instance_bytes or not 0 <= offset <= lim.max_header_bytes:
        raise _rejected("VOXEL_CAP", f"{volume.nbytes} bytes of voxels after {offset}")
    return volume


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """How far two affines differ in size or direction of an axis, as a share of its length; where they lie is left
    out."""
    a, b = a[:3, :3], b[:3, :3]
    return float((np.linalg.norm(a - b, axis=0) / np.maximum(np.linalg.norm(a, axis=0), 1e-9)).max())


def _slice_axis(affine: np.ndarray, sizes: np.ndarray) -> int:
    """See the module: the third axis, or the one along the patient where its planes have square pixels."""
    upward = np.abs(affine[2, :3] / sizes)
    best = int(np.argmax(upward))
    a, b = (sizes[i] for i in range(3) if i != best)
    return best if abs(a - b) <= 1e-3 * a else 2


def _rejected(code: str, message: str, state: State = State.QUARANTINED) -> Rejected:
    return Rejected(state, code, Phase.HEADER, message[:300])


class VolumeReader:
    """The slices of one volume."""

    def __init__(self, read: Read, limits: Limits | None = None, head: bytes | None = None):
        self._read = read
        self.volume = parse_volume(read(0, 16384) if head is None else head, limits)
        self.bytes_read = 0
        self._voxels: np.ndarray | None = None  # [k, j, i], where the file has to be read as a whole

    def stored(self, k: int) -> np.ndarray:
        """Slice k as stored, [rows, cols]; 64-bit integers as float64.

        Raises:
            Rejected: TRUNCATED, DECODE_ERROR; stage DECODE.
        """
        v = self.volume
        if self._voxels is None and not v.packed and v.axis == 2:
            size = v.nbytes // v.n
            data = self._read(v.offset + k * size, size)
            self.bytes_read += len(data)
            return _native(self._array(data, size).reshape(v.shape))
        if self._voxels is None:
            self._voxels = self._array(self._whole(), v.nbytes).reshape(v.dims[::-1])
        return _native(np.take(self._voxels, k, axis=2 - v.axis))

    def _whole(self) -> bytes:
        v = self.volume
        if not v.packed:
            data = self._read(v.offset, v.nbytes)
            self.bytes_read += len(data)
            return data
        packed = self._read(0, None)
        self.bytes_read += len(packed)
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(packed)) as f:
                return f.read(v.offset + v.nbytes)[v.offset :]  # never more than the header announced
        except (OSError, EOFError, zlib.error) as e:
            raise Rejected(State.QUARANTINED, "TRUNCATED", Phase.DECODE, f"gzip: {e}"[:300]) from None

    def _array(self, data: bytes, size: int) -> np.ndarray:
        if len(data) < size:
            raise Rejected(State.QUARANTINED, "TRUNCATED", Phase.DECODE, f"{len(data)} of {size} bytes of voxels")
        return np.frombuffer(data, self.volume.dtype, count=size // self.volume.dtype.itemsize)

    def why_not_hu(self) -> str | None:
        """What speaks against HU in a few slices; None where they can be. A NIfTI header says no modality.

        CT shows air and soft tissue in many grey values; a label map, a magnetic resonance image, stored values without
        their intercept, or HU cut to a window show no air.
        """
        v = self.volume
        slices = np.unique(np.linspace(0.1 * (v.n - 1), 0.9 * (v.n - 1), min(_PROBED, v.n)).astype(int))
        hu = np.stack([self.stored(int(k)) for k in slices]).astype(np.float32) * v.slope + v.intercept
        known = hu[np.isfinite(hu)]
        if not known.size:
            return "no finite value"
        air = np.count_nonzero(known < _AIR_HU) / known.size
        tissue = np.count_nonzero((known > _TISSUE_HU[0]) & (known < _TISSUE_HU[1])) / known.size
        if air < _AIR_SHARE:
            return f"no air: {air:.2%} of the voxels below {_AIR_HU:g}, the least {known.min():g}"
        if tissue < _TISSUE_SHARE:
            return f"no soft tissue: {tissue:.2%} of the voxels from {_TISSUE_HU[0]:g} to {_TISSUE_HU[1]:g}"
        if len(np.unique(known[:: max(1, known.size // 100_000)])) < _LEAST_VALUES:
            return f"fewer than {_LEAST_VALUES} grey values"
        return None


def _native(image: np.ndarray) -> np.ndarray:
    if image.dtype.kind in "iu" and image.dtype.itemsize == 8:
        return image.astype(np.float64)
    return image


def derived_uid(uri: str, what: str) -> str:
    """A UID under 2.25 for what a sidecar does not name: the same for the same file, and for no other."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'{uri}|{what}').int}"
