"""A NIfTI volume and its JSON sidecar -> header rows, one a slice, by the same rules as a multi-frame DICOM object.

The sidecar is a file of the volume's name that ends in .json (BIDS, dcm2niix). Its keys are DICOM's keywords; the few
names that dcm2niix has of its own are known. What neither it nor `nifti.tags` of the config states stays unknown: age
and sex are never guessed. The patient's number is the PatientID there, or what `nifti.patient_id` finds in the path;
where nothing describes the series, its file name does.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any
from urllib.parse import unquote

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.instances import digest, instance_rows
from osteo_ray.dicom.nifti import NIFTI, NIFTI_GZIP, VolumeReader, derived_uid
from osteo_ray.dicom.sources import Entry, Reader, sidecar_of
from osteo_ray.dicom.tags import SEQUENCES, TAGS, Header, name_digest
from osteo_ray.outcomes import Phase, Rejected, State

_MOST = 1 << 20  # bytes of a sidecar
_ALIASES = {"ManufacturersModelName": "ManufacturerModelName", "BodyPart": "BodyPartExamined"}  # dcm2niix's
_DATES = ("StudyDate", "AcquisitionDateTime", "AcquisitionDate", "SeriesDate")
_OF_PIXELS = frozenset(
    (
        *("rows", "cols", "samples", "photometric", "frames", "bits_allocated", "bits_stored", "high_bit", "signed"),
        *("slope", "intercept", "padding", "padding_limit", "ipp", "iop", "pixel_spacing", "sop_uid", "sop_class"),
        *("for_uid", "media_class", "transfer_syntax", "lossy"),
    )
)


@cache
def _names() -> dict[str, str]:
    """Names of header values by DICOM keyword."""
    from pydicom.datadict import keyword_for_tag

    found = {keyword_for_tag((t & 0xFFFF) << 16 | t >> 16): name for t, name in TAGS.items() if t not in SEQUENCES}
    return {k: name for k, name in found.items() if k and name not in _OF_PIXELS}


def volume_rows(entry: Entry, head: bytes, source: Reader, cfg: IndexConfig) -> list[dict[str, Any]]:
    """Header rows of one volume.

    Raises:
        Rejected: what dicom.nifti.parse_volume and instance_rows raise; NOT_HU, TRUNCATED, BAD_SIDECAR.
    """
    reader = VolumeReader(lambda offset, n: source.read(entry.uri, offset, n), cfg.limits, head)
    v = reader.volume
    if not v.packed and entry.bytes < v.offset + v.nbytes:
        raise Rejected(State.QUARANTINED, "TRUNCATED", Phase.HEADER, f"{entry.bytes} of {v.offset + v.nbytes} bytes")
    text = _sidecar(entry, source)
    stated = _stated(entry, text, cfg)
    if stated.setdefault("modality", b"CT") == b"CT":
        if why := reader.why_not_hu():
            raise Rejected(State.EXCLUDED, "NOT_HU", Phase.HEADER, f"not Hounsfield units: {why}")
        stated.setdefault("rescale_type", b"HU")  # the values say so; what the sidecar's words say comes first
    for name in ("study_uid", "series_uid"):
        stated.setdefault(name, derived_uid(entry.uri, name).encode())
    rows = instance_rows(entry, _header(entry, reader, stated), digest(head + text), cfg)
    return rows


def _sidecar(entry: Entry, source: Reader) -> bytes:
    at = sidecar_of(entry.uri)
    if at is None:
        return b""
    try:
        text = source.header(at, _MOST + 1)
    except FileNotFoundError:
        return b""
    if len(text) > _MOST:
        raise Rejected(State.QUARANTINED, "BAD_SIDECAR", Phase.HEADER, f"its sidecar is longer than {_MOST} bytes")
    return text


def _stated(entry: Entry, text: bytes, cfg: IndexConfig) -> dict[str, bytes]:
    """Header values by name, as DICOM would write them, from sidecar, config and path."""
    try:
        found = json.loads(text) if text else {}
    except ValueError as e:
        raise Rejected(State.QUARANTINED, "BAD_SIDECAR", Phase.HEADER, f"its sidecar is no JSON: {e}") from None
    if not isinstance(found, dict):
        raise Rejected(State.QUARANTINED, "BAD_SIDECAR", Phase.HEADER, "its sidecar holds no JSON object")
    found = {_ALIASES.get(k, k): v for k, v in found.items()}
    if not found.get("StudyDate"):
        found["StudyDate"] = next((found[k] for k in _DATES if found.get(k)), None)
    found["SpecificCharacterSet"] = "ISO_IR 192"  # JSON is UTF-8
    merged = {**cfg.nifti.tags, **{k: v for k, v in found.items() if v is not None}}
    out = {name: _value(k, merged[k]) for k, name in _names().items() if k in merged}
    if not out.get("patient_id") and cfg.nifti.patient_id:
        path = unquote(entry.uri.partition("::")[0])
        if m := re.search(cfg.nifti.patient_id, path):
            out["patient_id"] = (m.group(1) if m.re.groups else m.group(0)).encode()
    if not out.get("series_description"):  # what made it is often in its name alone: ..._vnc.nii, ..._portal.nii.gz
        out["series_description"] = _name(entry).encode()
    return {k: v for k, v in out.items() if v is not None}


def _name(entry: Entry) -> str:
    """The volume's file name without its endings."""
    path = unquote(entry.uri.partition("::")[0])
    if entry.uri.startswith("tar://"):
        path = path.rpartition("@")[0]
    return re.sub(r"\.nii(\.gz)?$", "", path.rpartition("/")[2], flags=re.IGNORECASE)


def _value(keyword: str, v: Any) -> bytes | None:
    """A JSON value as DICOM writes it."""
    if isinstance(v, (list, tuple)):
        texts = [x for x in (_value(keyword, x) for x in v) if x is not None]
        return b"\\".join(texts)
    if isinstance(v, bool) or not isinstance(v, (str, int, float)):
        return None
    if keyword == "PatientAge" and not isinstance(v, str):
        return b"%03dY" % int(v) if 0 <= v < 1000 else None
    if isinstance(v, float) and v.is_integer():
        v = int(v)
    text = str(v).strip()
    if keyword.endswith("Date"):
        text = text[:10].replace("-", "")
    return name_digest(text.encode()) if keyword == "PatientName" else text.encode()


def _header(entry: Entry, reader: VolumeReader, stated: dict[str, bytes]) -> Header:
    """The volume as a multi-frame header."""
    v = reader.volume
    bits = min(v.dtype.itemsize * 8, 32)  # floats and long integers are read by the volume's own header
    rows, cols = v.shape
    values = stated | {
        "sop_uid": derived_uid(entry.uri, "instance").encode(),
        "for_uid": derived_uid(entry.uri, "frame of reference").encode(),
        "photometric": b"MONOCHROME2",
        "frames": str(v.n).encode(),
        "iop": _numbers(v.orientation),
        "pixel_spacing": _numbers(v.pixel_spacing_mm),
        "slope": repr(v.slope).encode(),
        "intercept": repr(v.intercept).encode(),
    }
    shorts = {"rows": rows, "cols": cols, "samples": 1, "bits_allocated": bits, "bits_stored": bits}
    shorts |= {"high_bit": bits - 1, "signed": int(v.dtype.kind != "u")}
    values |= {k: n.to_bytes(2, "little") for k, n in shorts.items()}
    h = Header(transfer_syntax=NIFTI_GZIP if v.packed else NIFTI, values=values, has_pixels=True)
    h.pixel_offset, h.pixel_length = v.offset, -1 if v.packed else v.nbytes
    h.groups["frame_groups"] = [{"plane_position": [{"ipp": _numbers(v.position(k))}]} for k in range(v.n)]
    return h


def _numbers(values: Any) -> bytes:
    return b"\\".join(repr(float(x)).encode() for x in values)
