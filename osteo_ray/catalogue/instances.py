"""One header -> one row per frame: typed, pseudonymous, small. The rows of the header index.

No name, birth date or patient ID leaves this module: age, sex, a keyed pseudonym and two marks (people.py) are derived
here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import pyarrow as pa
from imagecodecs import deflate_crc32

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.contrast import ContrastTags, contrast_of
from osteo_ray.catalogue.people import birth_mark, name_mark
from osteo_ray.catalogue.pixel_meaning import Stated, line_of, meaning_of
from osteo_ray.catalogue.subject import SubjectTags, not_a_patient
from osteo_ray.dicom.sources import Entry
from osteo_ray.dicom.tags import Header, date_of, number_of, numbers_of, text_of, words_of
from osteo_ray.outcomes import Phase, Rejected, State
from osteo_ray.patients.identity import normalised, patient_key

_F3 = pa.list_(pa.float64(), 3)
INSTANCE = pa.schema(
    [
        ("uri", pa.string()),
        ("bytes", pa.int64()),
        ("frame", pa.int32()),
        ("digest", pa.int64()),  # CRC-32 of the first bytes
        ("study_uid", pa.string()),
        ("series_uid", pa.string()),
        ("sop_uid", pa.string()),
        ("sop_class", pa.string()),
        ("frame_of_reference_uid", pa.string()),
        ("transfer_syntax", pa.string()),
        ("big_endian", pa.bool_()),
        ("patient_key", pa.string()),
        ("site", pa.string()),
        ("age_y", pa.float64()),
        ("sex", pa.string()),
        ("name_mark", pa.int32()),  # marks of name and birth date: catalogue/people.py
        ("birth_mark", pa.int32()),
        ("not_a_patient", pa.string()),  # animal, test object, ...: catalogue/subject.py
        ("study_date", pa.string()),
        ("acquisition_date", pa.string()),  # held against the study's: Q_DATE
        ("modality", pa.string()),
        ("image_type", pa.string()),
        ("body_part", pa.string()),
        ("kvp", pa.float64()),
        ("convolution_kernel", pa.string()),
        ("slice_thickness_mm", pa.float64()),
        ("stated_spacing_mm", pa.float64()),  # SpacingBetweenSlices: nominal, and often absent or wrong
        ("acquisition_time", pa.string()),
        ("series_number", pa.int64()),
        ("acquisition_number", pa.int64()),
        ("acquisition_uid", pa.string()),
        ("instance_number", pa.int64()),
        ("temporal_index", pa.string()),
        ("contrast", pa.string()),
        ("special", pa.string()),
        ("rescale_type", pa.string()),
        ("recon_diameter_mm", pa.float64()),
        ("manufacturer", pa.string()),
        ("model", pa.string()),
        ("ipp", pa.list_(pa.float64())),
        ("iop", pa.list_(pa.float64())),
        ("pixel_spacing", pa.list_(pa.float64())),
        ("rows", pa.int32()),
        ("cols", pa.int32()),
        ("samples", pa.int32()),
        ("photometric", pa.string()),
        ("bits_allocated", pa.int32()),
        ("bits_stored", pa.int32()),
        ("high_bit", pa.int32()),
        ("signed", pa.bool_()),
        ("slope", pa.float64()),
        ("intercept", pa.float64()),
        ("padding", pa.int32()),
        ("padding_limit", pa.int32()),
        ("lossy", pa.bool_()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)
FILE = pa.schema(
    [
        ("uri", pa.string()),
        ("state", pa.string()),
        ("code", pa.string()),
        ("stage", pa.string()),
        ("message", pa.string()),
        ("bytes", pa.int64()),
    ]
)

_UID = re.compile(r"[0-9.]{1,64}")
_DICOMDIR = "1.2.840.10008.1.3.10"
LOSSY = frozenset(
    (
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.51",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.203",
    )
)


def file_row(entry: Entry, e: Rejected) -> dict[str, Any]:
    """A file that belongs to no series, as a row of files.parquet."""
    o = e.outcome
    return {
        "uri": entry.uri,
        "state": str(o.state),
        "code": o.code,
        "stage": str(o.stage),
        "message": o.message,
        "bytes": entry.bytes,
    }


def digest(head: bytes) -> int:
    """CRC-32, in half of zlib's time."""
    return deflate_crc32(head)


def instance_rows(entry: Entry, h: Header, crc: int, cfg: IndexConfig) -> list[dict[str, Any]]:
    """Rows of one object: one, or one a frame for multi-frame images.

    Raises:
        Rejected: DICOMDIR, MISSING_UID, BAD_UID, MISSING_TAG, NO_PIXELS, TRUNCATED, BAD_FRAMES, VOXEL_CAP.
    """
    # a header that differs in its slice alone from one whose row is sound
    alike = h.common if not h.truncated else None
    if alike is not None and alike.derived is not None and alike.derived[0] is cfg:
        return [alike.derived[1] | _of_slice(entry, h, crc, _uid(h, "sop_uid"))]
    uids = _uids(h)
    modality = h.text("modality")
    base = _common(entry, h, crc, cfg, uids)
    if modality != "CT":
        return [base]
    frames = _check_pixels(entry, h, base, cfg)
    per_frame = h.groups.get("frame_groups")
    if not per_frame and frames == 1 and "shared_groups" not in h.groups:
        if alike is not None:
            alike.derived = (cfg, base.copy())
        return [base]
    shared = (h.groups.get("shared_groups") or [{}])[0]
    if per_frame and len(per_frame) != frames:
        raise _broken("BAD_FRAMES", f"{frames} frames, but {len(per_frame)} per-frame functional groups")
    rows = []
    last: dict[str, Any] = {}
    whole, common = h, base
    for i in range(frames):
        own = per_frame[i] if per_frame else {}
        found = _converted(shared, own)
        if found != last:  # most frames say what the one before says
            last, whole = found, _with_converted(h, found)
            common = _common(entry, whole, crc, cfg, uids) if found else base
        rows.append(_frame(common, i, shared, own, whole))
    return rows


_CONVERTED = frozenset(
    (
        *("slice_spacing", "acquisition_time"),
        *("kvp", "kernel", "slice_thickness", "recon_diameter", "acquisition_number", "acquisition_uid", "body_part"),
        *("contrast_agent", "contrast_route", "contrast_volume", "contrast_dose", "contrast_start"),
        *("contrast_ingredient", "agent_sequence", "route_sequence", "series_description", "protocol", "derivation"),
        *("rescale_type", "manufacturer", "model"),
    )
)


def _converted(shared: dict, own: dict) -> dict[str, Any]:
    """What the frame's own slice said, where the object was made of single slices (PS3.3 A.70).

    A converter leaves what has no functional group of its own (tube voltage, kernel, contrast agent) in sequences of
    "unassigned" attributes.
    """
    items = [*shared.get("converted_shared", ()), *own.get("converted_frame", ())]
    return {k: v for item in items for k, v in item.items() if k in _CONVERTED}


def _with_converted(h: Header, found: dict[str, Any]) -> Header:
    """The header as the frame's own slice had it."""
    values = {k: v for k, v in found.items() if isinstance(v, bytes)}
    groups = {k: v for k, v in found.items() if not isinstance(v, bytes)}
    return replace(h, values=h.values | values, groups=h.groups | groups)


def _broken(code: str, message: str, state: State = State.QUARANTINED) -> Rejected:
    return Rejected(state, code, Phase.HEADER, message)


def _uids(h: Header) -> tuple[str, str, str]:
    if _DICOMDIR in (h.text("media_class"), h.text("sop_class")):
        raise _broken("DICOMDIR", "a directory of files; the files are read themselves", State.EXCLUDED)
    return _uid(h, "study_uid"), _uid(h, "series_uid"), _uid(h, "sop_uid")


def _uid(h: Header, name: str) -> str:
    v = h.text(name)
    if v is None:
        if h.truncated:
            raise _broken("TRUNCATED_HEADER", f"the file ends inside its header, before {name}")
        raise _broken("MISSING_UID", f"no {name}")
    if not _UID.fullmatch(v):
        raise _broken("BAD_UID", f"{name} is not digits and dots, or longer than 64")
    return v


def _of_slice(entry: Entry, h: Header, crc: int, sop_uid: str) -> dict[str, Any]:
    """The columns that slices of one series differ in: all that depends on the entry or on `layouts.OF_SLICE`."""
    study, acquired = _days(h)
    return {
        "uri": entry.uri,
        "bytes": entry.bytes,
        "digest": crc,
        "sop_uid": sop_uid,
        "age_y": age_years(h.text("age"), h.text("birth_date"), study, acquired),
        "study_date": study,
        "acquisition_date": acquired,
        "acquisition_time": h.text("acquisition_time"),
        "acquisition_number": _whole(h.number("acquisition_number")),
        "instance_number": _whole(h.number("instance_number")),
        "ipp": h.numbers("ipp", 3),
    }


def _common(entry: Entry, h: Header, crc: int, cfg: IndexConfig, uids: tuple[str, str, str]) -> dict[str, Any]:
    text, ushort = h.text, h.ushort
    pid = text("patient_id")
    known = pid is not None and normalised(pid, cfg.identity) != ""
    site = cfg.site or (text("issuer_of_patient_id") if cfg.identity.issuer_as_site else None)
    image_type, kernel, rescale_type = text("image_type"), text("kernel"), text("rescale_type")
    kvp = _voltage(h.number("kvp"))
    signed = ushort("signed")
    sex = text("sex")
    spacing = h.numbers("pixel_spacing", 2)
    return {
        **_of_slice(entry, h, crc, uids[2]),
        "frame": 0,
        "study_uid": uids[0],
        "series_uid": uids[1],
        "sop_class": text("sop_class"),
        "frame_of_reference_uid": text("for_uid"),
        "transfer_syntax": h.transfer_syntax or None,
        "big_endian": h.big_endian,
        "patient_key": patient_key(pid, cfg.pseudonym_key, cfg.identity, site) if known else None,
        "site": site,
        "sex": _SEXES.get((sex or "").upper()),
        "name_mark": name_mark(h.values.get("patient_name"), cfg.pseudonym_key),
        "birth_mark": birth_mark(text("birth_date"), cfg.pseudonym_key),
        "not_a_patient": not_a_patient(SubjectTags.of(h)),
        "modality": text("modality"),
        "image_type": image_type,
        "body_part": text("body_part"),
        "kvp": kvp,
        "convolution_kernel": kernel,
        "slice_thickness_mm": _finite(h.number("slice_thickness")),
        "stated_spacing_mm": _finite(h.number("slice_spacing")),
        "series_number": _whole(h.number("series_number")),
        "acquisition_uid": text("acquisition_uid"),
        "temporal_index": None,
        "contrast": _contrast(h),
        "special": _special(*map(h.values.get, _STATED), kvp is not None) if text("modality") == "CT" else None,
        "rescale_type": rescale_type,
        "recon_diameter_mm": _finite(h.number("recon_diameter")),
        "manufacturer": text("manufacturer"),
        "model": text("model"),
        "iop": h.numbers("iop", 6),
        "pixel_spacing": spacing,
        "rows": ushort("rows"),
        "cols": ushort("cols"),
        "samples": ushort("samples"),
        "photometric": text("photometric"),
        "bits_allocated": ushort("bits_allocated"),
        "bits_stored": ushort("bits_stored"),
        "high_bit": ushort("high_bit"),
        "signed": None if signed is None else signed == 1,
        "slope": h.number("slope"),
        "intercept": h.number("intercept"),
        "padding": _stored(ushort("padding"), signed),
        "padding_limit": _stored(ushort("padding_limit"), signed),
        "lossy": h.transfer_syntax in LOSSY or text("lossy") == "01",
        "offset": h.pixel_offset,
        "length": h.pixel_length,
    }


_STATED = (
    *("character_set", "image_type", "series_description", "derivation", "protocol", "kernel", "rescale_type"),
    *("manufacturer", "model"),
)
_CONTRAST = (
    *("character_set", "contrast_agent", "contrast_route", "contrast_volume", "contrast_dose", "contrast_start"),
    *("contrast_ingredient", "series_description", "study_description", "protocol"),
)


@lru_cache(maxsize=4096)
def _special(*raw: Any) -> str | None:
    """The meaning of pixels by the raw values of `_STATED`, which repeat from slice to slice, and the known kVp."""
    h = Header(values={name: v for name, v in zip(_STATED, raw[:-1], strict=True) if v is not None})
    kvp = 1.0 if raw[-1] else None
    return meaning_of(_stated(h, h.text("image_type"), h.text("kernel"), h.text("rescale_type"), kvp))


def _contrast(h: Header) -> str:
    """Contrast agent of an image without frames; raw values repeat from slice to slice."""
    if "agent_sequence" in h.groups or "route_sequence" in h.groups:
        return contrast_of(_contrast_tags(h))
    return _contrast_of_raw(*map(h.values.get, _CONTRAST))


@lru_cache(maxsize=4096)
def _contrast_of_raw(*raw: bytes | None) -> str:
    h = Header(values={name: v for name, v in zip(_CONTRAST, raw, strict=True) if v is not None})
    return contrast_of(_contrast_tags(h))


def _stated(
    h: Header, image_type: str | None, kernel: str | None, rescale_type: str | None, kvp: float | None
) -> Stated:
    """What the header states of its pixels' meaning; the arguments are a frame's own where it has them."""
    return Stated(
        image_type=image_type,
        description=h.words("series_description"),
        derivation=h.words("derivation"),
        protocol=h.words("protocol"),
        kernel=kernel,
        rescale_type=rescale_type,
        manufacturer=h.text("manufacturer"),
        model=h.text("model"),
        kvp=kvp is not None,
    )


def _contrast_tags(h: Header, usage: dict[str, Any] | None = None) -> ContrastTags:
    """What the header states of contrast agent; `usage`: an item of a frame's Contrast/Bolus Usage Sequence."""
    usage = usage or {}
    agents = h.groups.get("agent_sequence", [])
    routes = [*h.groups.get("route_sequence", []), *(r for a in agents for r in a.get("route_sequence", ()))]
    return ContrastTags(
        agent=h.words("contrast_agent") or _meanings(h, agents),
        route=h.words("contrast_route") or _meanings(h, routes),
        volume_ml=h.number("contrast_volume"),
        dose_ml=h.number("contrast_dose"),
        start_time=h.text("contrast_start"),
        ingredient=h.text("contrast_ingredient"),
        administered=text_of(usage.get("agent_administered")),
        phase=text_of(usage.get("agent_phase")),
        description=h.words("series_description"),
        study=h.words("study_description"),
        protocol=h.words("protocol"),
    )


def _meanings(h: Header, items: Iterable[dict[str, Any]]) -> str | None:
    """The code meanings of a sequence's items, "coded" for a code without one; None where no item holds a code."""
    out = []
    for item in items:
        meaning = item.get("code_meaning")
        words = words_of(meaning, h.values.get("character_set")) if meaning else None
        if words or item.get("code_value"):
            out.append(words or "coded")
    return ", ".join(out) or None


def _check_pixels(entry: Entry, h: Header, r: dict[str, Any], cfg: IndexConfig) -> int:
    """The number of frames, after everything that size fields may lie about was checked."""
    lim = cfg.limits
    if not h.has_pixels:
        if h.truncated:
            raise _broken("TRUNCATED_HEADER", "the file ends inside its header")
        raise _broken("NO_PIXELS", "a CT object without pixel data")
    rows, cols, alloc = r["rows"], r["cols"], r["bits_allocated"]
    missing = [n for n in ("rows", "cols", "bits_allocated", "bits_stored") if not r[n]]
    if missing or r["signed"] is None:
        raise _broken("MISSING_TAG", f"no {', '.join(missing or ['pixel representation'])}")
    raw = h.number("frames")
    if "frames" in h.values and (raw is None or raw != raw or raw < 1 or raw > lim.max_frames or raw != int(raw)):
        raise _broken("BAD_FRAMES", f"NumberOfFrames is not between 1 and {lim.max_frames}")
    frames = int(raw) if raw else 1
    size = rows * cols * (r["samples"] or 1) * ((alloc + 7) // 8)
    if rows > lim.max_side or cols > lim.max_side or size * frames > lim.max_instance_bytes:
        raise _broken("VOXEL_CAP", f"{frames} x {rows} x {cols} voxels are more than an instance may have")
    if h.truncated:
        raise _broken("TRUNCATED", "the pixel data claims more bytes than the file has")
    if h.pixel_length >= 0 and h.pixel_length < size * frames and not h.deflated:
        raise _broken("TRUNCATED", f"{h.pixel_length} bytes of pixels, {size * frames} are needed")
    if h.pixel_length < 0 and not h.deflated and entry.bytes and frames > entry.bytes:
        raise _broken("BAD_FRAMES", f"{frames} frames in a file of {entry.bytes} bytes")
    return frames


def _frame(base: dict[str, Any], i: int, shared: dict, own: dict, h: Header) -> dict[str, Any]:
    """One frame of an enhanced image: the per-frame groups override the shared ones, both the plain tags."""

    def group(name: str) -> dict:
        g = own.get(name) or shared.get(name)
        return g[0] if g else {}

    r = dict(base, frame=i)
    measures, value = group("pixel_measures"), group("value_transformation")
    for key, got in (
        ("ipp", numbers_of(group("plane_position").get("ipp"), 3)),
        ("iop", numbers_of(group("plane_orientation").get("iop"), 6)),
        ("pixel_spacing", numbers_of(measures.get("pixel_spacing"), 2)),
        ("slice_thickness_mm", number_of(measures.get("slice_thickness"))),
        ("stated_spacing_mm", _finite(number_of(measures.get("slice_spacing")))),
        ("slope", number_of(value.get("slope"))),
        ("intercept", number_of(value.get("intercept"))),
        ("convolution_kernel", text_of(group("reconstruction").get("kernel"))),
        ("kvp", _voltage(number_of(group("xray_details").get("kvp")))),
        ("image_type", _frame_type(group("frame_type_group"), base["image_type"], h.text("volume_technique"))),
    ):
        if got is not None:
            r[key] = got
    r["rescale_type"] = text_of(value.get("rescale_type")) or r["rescale_type"]
    r["recon_diameter_mm"] = _finite(number_of(group("reconstruction").get("recon_diameter"))) or r["recon_diameter_mm"]
    content = group("frame_content")
    order: Literal["big", "little"] = "big" if h.big_endian else "little"
    temporal, acquisition = content.get("temporal_index"), content.get("frame_acquisition")
    if temporal:
        r["temporal_index"] = str(int.from_bytes(temporal[:4], order))
    if acquisition:
        r["acquisition_number"] = int.from_bytes(acquisition[:2], order)
    r["special"] = meaning_of(_stated(h, r["image_type"], r["convolution_kernel"], r["rescale_type"], r["kvp"]))
    if r["special"] is None and (line := line_of(Stated(image_type=base["image_type"]))):
        r["special"] = line.kind  # of the whole object, where its frames say less
    usage = own.get("contrast_usage") or shared.get("contrast_usage")
    if usage:
        # of several agents, one that was given counts
        given = [u for u in usage if text_of(u.get("agent_administered")) != "NO"]
        r["contrast"] = contrast_of(_contrast_tags(h, (given or usage)[0]))
    return r


def _frame_type(items: dict[str, Any], whole: str | None, technique: str | None) -> str | None:
    """ImageType of a frame, with the technique by which its volume was computed as one more value.

    Args:
        whole, technique: what the object states of all its frames.
    """
    frame_type, technique = text_of(items.get("frame_type")), text_of(items.get("volume_technique")) or technique
    if technique in (None, "NONE", "MIXED"):
        return frame_type
    return "\\".join(v for v in (frame_type or whole, technique) if v)


def _days(h: Header) -> tuple[str | None, str | None]:
    """(day of the study, day of the acquisition) as YYYYMMDD; None where none is stated.

    A study whose own date is absent, or a placeholder, is of the day on which its images were acquired, or made.
    """
    acquired = date_of(h.text("acquisition_date")) or date_of((h.text("acquisition_datetime") or "")[:8])
    study = date_of(h.text("study_date")) or acquired
    study = study or date_of(h.text("series_date")) or date_of(h.text("content_date"))
    return (study.strftime("%Y%m%d") if study else None), (acquired.strftime("%Y%m%d") if acquired else None)


def _finite(v: float | None) -> float | None:
    return v if v is not None and v == v and abs(v) != float("inf") else None


def _voltage(v: float | None) -> float | None:
    """kVp; 0 and less are how some writers leave it out."""
    return v if (_finite(v) or 0.0) > 0 else None


def _whole(v: float | None) -> int | None:
    return int(v) if v is not None and abs(v) < 2**53 else None


def _stored(v: int | None, signed: int | None) -> int | None:
    """PixelPaddingValue has the sign of the pixels, whatever VR it was written with."""
    return v - 65536 if v is not None and signed == 1 and v > 32767 else v


_OLDEST_Y = 130
_SEXES = {"M": "M", "F": "F", "MALE": "M", "FEMALE": "F"}
_NO_AGE_DAYS = 365  # between study and acquisition: an age by either date would be off by more than ages are rounded
_AGE_UNITS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


@lru_cache(maxsize=4096)
def age_years(age: str | None, birth: str | None, study: str | None, acquired: str | None = None) -> float | None:
    """Age in years: PatientAge (nnnD/W/M/Y), else study minus birth date, else None.

    A PatientAge of 0 is what consoles leave where nobody enters one: the dates are believed where they say more. Where
    study and acquisition are a year apart the dates say nothing.
    """
    b, s, a = date_of(birth), date_of(study), date_of(acquired)
    years = (s - b).days / 365.25 if b and s and (a is None or abs((s - a).days) <= _NO_AGE_DAYS) else -1.0
    computed = round(years, 4) if 0 <= years <= _OLDEST_Y else None  # a placeholder date is no age
    if age and re.fullmatch(r"\d{1,3}[DWMY]", age.upper()):
        stated = round(int(age[:-1]) * _AGE_UNITS[age[-1].upper()], 4)
        if stated <= _OLDEST_Y and not (stated == 0 and computed is not None and computed >= 1):
            return stated
    return computed
