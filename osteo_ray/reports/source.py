"""Whose study a report belongs to: what is copied from the source header, and the UIDs of what is made.

    source = read_source(catalogue_row, result_row, identifiers=False)
    source.evidence            # one small Dataset an image, with nothing in it but what a report may carry

Without `identifiers` a report carries the pseudonym as PatientID and no name, birth date, accession number or
physician, and says so (PatientIdentityRemoved). With them the Patient and Study modules' attributes that file an
object under its patient are copied from the source, and nothing else.
"""

from __future__ import annotations

import io
import re
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from pydicom import dcmread
from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian

from osteo_ray.catalogue.config import Limits
from osteo_ray.dicom import header as dicom_header
from osteo_ray.dicom.sources import read_uri
from osteo_ray.outcomes import InputError

REPORT_VERSION = "1"
"""Part of every UID made here: a report whose content changes its meaning is another object."""

IDENTIFIERS = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
PIXEL_DATA = 0x7FE00010
MOST_HEADER = 8 << 20
MOST_EVIDENCE = 64
ESCAPE = b"\x1b"


@dataclass(frozen=True)
class Source:
    """The study that a report is filed under."""

    evidence: tuple[Dataset, ...]  # the images looked at, in the order of the result's slices; at least one
    frames: tuple[int | None, ...]  # number of the frame from 1 on, of each evidence item; None: single-frame
    identified: bool
    key: str  # what its UIDs are made of
    procedures: tuple[tuple[str, str, str], ...] = ()  # of the study: code value, scheme, meaning

    @property
    def head(self) -> Dataset:
        return self.evidence[0]

    def uid(self, what: str) -> str:
        """The UID of one thing made of this row: the same for the same row, so that a re-send never doubles."""
        return derived_uid(self.key, what, "identified" if self.identified else "pseudonym")

    def after(self, sop_uid: str) -> Source:
        """The source of reports that replace an earlier one: other objects than the first of the same row."""
        return replace(self, key=f"{self.key}|after {sop_uid}")

    def local(self, created: datetime) -> datetime:
        """A time in the zone of the study, where its images name one: all times of an object share their zone."""
        offset = str(self.head.get("TimezoneOffsetFromUTC") or "")
        if created.tzinfo is None or not re.fullmatch(r"[+-][01]\d[0-5]\d", offset):
            return created
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        return created.astimezone(timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes)))


@dataclass(frozen=True)
class Identity:
    """Who a study is of, as people look for it; "" where its images do not say."""

    name: str
    number: str
    birth_date: str  # YYYYMMDD
    accession: str


def identity_of(header: Dataset, character_set: str | None = None) -> Identity:
    """The identity in a header.

    Raises:
        InputError: a name in no character set that anybody names (`text_of`).
    """
    names = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber")
    name, *others = (str(text_of(header, n, character_set) or "").strip() for n in names)
    return Identity(shown_name(name), *others)


def shown_name(name: str) -> str:
    """A person's name as people read it: `Wang^XiaoDong=王^小東` as "Wang, XiaoDong (王小東)"."""
    first, second = ([p.strip() for p in group.split("^")[:2] if p.strip()] for group in [*name.split("="), ""][:2])
    east_asian = any(ord(ch) >= 0x2E80 for part in first for ch in part)
    shown = "".join(first) if east_asian else ", ".join(first)
    native = "".join(second)
    return f"{shown} ({native})" if shown and native else shown or native


def derived_uid(*names: str) -> str:
    """A UID under 2.25 made of names: deterministic, and without a registered root."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '|'.join(('osteo-ray', REPORT_VERSION, *names))).int}"


def read_source(
    catalogue_row: Mapping[str, Any],
    row: Mapping[str, Any],
    identifiers: bool = False,
    fallback: Dataset | None = None,
    character_set: str | None = None,
) -> Source:
    """The identity and the images of a result row.

    Args:
        catalogue_row: the row's series in the catalogue, with its instances.
        identifiers: copy the source's identifiers instead of the pseudonym.
        fallback: a header read already; None: the first image's header is read from the archive.
        character_set: defined term of what is not ASCII in a source that declares no character set, e.g. GB18030.

    Raises:
        InputError: the row has no row_key, the series has no image, its header can't be read any more, or an
            identifier is in a character set that nobody names.
    """
    if not row.get("row_key"):
        raise InputError("the result row has no row_key; a report's UIDs are made of it")
    instances = catalogue_row.get("instances") or []
    if not instances:
        raise InputError(f"series {row.get('series_uid')} lists no image, so that a report has no evidence")
    looked = [s["index"] for s in row.get("selected") or () if 0 <= s["index"] < len(instances)]
    used = [instances[i] for i in looked[:MOST_EVIDENCE]] or [instances[0]]
    header = fallback if fallback is not None else read_header(used[0])
    multi = int(header.get("NumberOfFrames") or 1) > 1
    head = _subject(header, row, identifiers, character_set)
    evidence = tuple(_evidence(head, header, catalogue_row, i["sop_uid"]) for i in used)
    frames = tuple(int(i["frame"]) + 1 if multi else None for i in used)
    # One row key can end in several ways: not asked for in one run, scored in the next.
    key = "|".join(str(row.get(k)) for k in ("row_key", "state", "code"))
    return Source(evidence, frames, identifiers, key, procedures_of(header, identifiers, character_set))


def read_header(instance: Mapping[str, Any]) -> Dataset:
    """The data set of a catalogue's instance up to its pixels, bounded in bytes.

    Raises:
        InputError: it is not there any more, or no DICOM.
    """
    length = instance.get("offset") or -1
    try:
        data = read_uri(instance["uri"], 0, min(length, MOST_HEADER) if length > 0 else MOST_HEADER)
        return parse_header(data, instance.get("transfer_syntax") or "")
    except Exception as e:  # stores and parsers raise their own kinds; the URI may name a patient and is left out
        why = getattr(e, "strerror", None) or type(e).__name__
        raise InputError(f"image {instance.get('sop_uid')} can't be read from the archive: {why}") from None


def parse_header(data: bytes, transfer_syntax: str = "") -> Dataset:
    """The beginning of a DICOM file -> data set without pixels; a deflated one is inflated no further than 8 MiB."""
    if transfer_syntax != DeflatedExplicitVRLittleEndian:
        return dcmread(io.BytesIO(data), stop_before_pixels=True)
    start = dicom_header.read_header(lambda n: data[:n], len(data), Limits()).dataset_offset
    flat = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:], MOST_HEADER)
    return read_dataset(io.BytesIO(flat), False, True, stop_when=lambda tag, vr, n: tag == PIXEL_DATA)


def _subject(header: Dataset, row: Mapping[str, Any], identifiers: bool, character_set: str | None) -> Dataset:
    """Patient and Study attributes of the report, each of type 2 present, empty where nothing may or can be said."""
    ds = Dataset()
    ds.StudyInstanceUID = str(row["study_uid"])
    for name in IDENTIFIERS:
        setattr(ds, name, text_of(header, name, character_set) if identifiers else "")
    if header.get("TimezoneOffsetFromUTC"):
        ds.TimezoneOffsetFromUTC = header.TimezoneOffsetFromUTC
    ds.StudyDate = row.get("study_date") or ""
    if not ds.IssuerOfPatientID:
        del ds.IssuerOfPatientID
    if not identifiers:
        ds.PatientID = row.get("patient_key") or ""
        ds.PatientSex = header.get("PatientSex") or ""  # the images' own: the report belongs beside them
        ds.PatientIdentityRemoved = "YES"
        ds.DeidentificationMethod = "keyed pseudonym; name, birth date, accession, physician removed"
    if ds.PatientSex not in ("M", "F", "O"):
        ds.PatientSex = ""
    return ds


def text_of(header: Dataset, name: str, character_set: str | None = None, around: Dataset | None = None) -> Any:
    """One element of a header as text; "" where it is not there.

    Args:
        character_set: defined term of what is not ASCII where the header declares none, or one that does not exist.
        around: the header that `header` is an item of; its character set holds there too.

    Raises:
        InputError: it is not ASCII and in no character set that anybody names, or not in the one that is named. A
            garbled name in a report that is filed under a patient is worse than no report.
    """
    raw = header.get_item(name) if name in header else None
    if raw is None:
        return ""
    data = raw.value if isinstance(raw.value, bytes) else None
    if data is None or (data.isascii() and ESCAPE not in data):
        return header.get(name, "")
    holders = [header] if around is None else [header, around]
    declared = next((h.SpecificCharacterSet for h in holders if h.get("SpecificCharacterSet")), ())
    terms = [declared] if isinstance(declared, str) else list(declared)
    if not any(terms) or not all(t in python_encoding for t in terms):
        if character_set is None:
            why = "unknown" if any(terms) else "not declared"
            raise InputError(
                f"{name} of the source is not ASCII, and its character set is {why}: set character_set to the one that "
                "the scanner writes, e.g. GB18030"
            )
        terms = [character_set]
        try:
            return data.decode(python_encoding[character_set]).rstrip(" \0")
        except UnicodeDecodeError:
            text = ESCAPE.decode()
    else:
        text = str(header.get(name, ""))
        if "ISO 2022 IR 58" in terms:  # pydicom decodes it, and leaves the escape sequence
            text = text.replace("\x1b$)A", "")
    if ESCAPE.decode() in text or "\ufffd" in text:
        raise InputError(f"{name} of the source is not in the character set {terms[-1]} that is named for it")
    return text


PUBLIC_SCHEMES = frozenset({"SCT", "SRT", "SNM3", "99SDM", "LN", "RADLEX", "DCM", "C4", "I10P", "NCIt"})
"""Coding schemes whose meanings a standard states; the meaning of a site's own code may hold anything."""


def procedures_of(
    header: Dataset, identifiers: bool, character_set: str | None = None
) -> tuple[tuple[str, str, str], ...]:
    """Procedure codes of the study (0008,1032); a site's own codes only in a report that carries identifiers.

    Codes that are not whole, or not readable, are left out: the SR then says "CT" in general.
    """
    out = []
    for item in header.get("ProcedureCodeSequence") or ():
        try:
            value, scheme, meaning = (
                str(text_of(item, name, character_set, header) or "").strip()
                for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
            )
        except InputError:
            continue
        if value and scheme and meaning and len(meaning) <= 64 and (identifiers or scheme in PUBLIC_SCHEMES):
            out.append((value, scheme, meaning))
    return tuple(out)


def _evidence(head: Dataset, header: Dataset, catalogue_row: Mapping[str, Any], sop_uid: str) -> Dataset:
    ds = Dataset()
    ds.update(head)
    ds.SOPClassUID = header.get("SOPClassUID") or CTImageStorage
    ds.SOPInstanceUID = sop_uid
    ds.SeriesInstanceUID = str(catalogue_row["series_uid"])
    ds.Modality = catalogue_row.get("modality") or "CT"
    ds.Rows, ds.Columns = int(catalogue_row["rows"]), int(catalogue_row["cols"])
    if int(header.get("NumberOfFrames") or 1) > 1:
        ds.NumberOfFrames = int(header.NumberOfFrames)
    return ds


def unique(evidence: Sequence[Dataset]) -> list[Dataset]:
    """Evidence with each SOP instance once: frames of one object are one instance."""
    return list({d.SOPInstanceUID: d for d in evidence}.values())
