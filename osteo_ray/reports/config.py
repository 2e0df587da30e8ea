"""Typed config of reports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from osteo_ray.config import Section
from osteo_ray.screening.config import PatientConfig, ReportText


def _known(term: str | None) -> str | None:
    from pydicom.charset import python_encoding

    if term is not None and term not in python_encoding:
        raise ValueError(f"DICOM has no character set {term!r}; e.g. GB18030, ISO_IR 100, ISO_IR 192")
    return term


CharacterSet = Annotated[str | None, AfterValidator(_known)]
"""DICOM's term of a character set, or None."""
URI = r"^[A-Za-z][A-Za-z0-9+.-]*:\S+$"
Format = Literal["html", "json", "sr", "sc", "fhir", "pdf"]


class FhirSystems(Section):
    """Identifier systems as the receiving FHIR server knows them: URIs, e.g. urn:oid:1.2.276.0.76.4.8."""

    patient: str | None = Field(
        None, pattern=URI, description="of PatientID, with `identifiers`; null: the number stands without a system"
    )
    accession: str | None = Field(None, pattern=URI, description="of accession numbers, with `identifiers`")
    pseudonym: str | None = Field(None, pattern=URI, description="of the pseudonym; null: this project's own")


NO_SYSTEMS = FhirSystems()


class PackageConfig(ReportText):
    """What is written for each result, and about whom."""

    formats: tuple[Format, ...] = Field(
        ("html", "json", "sr", "sc", "fhir", "pdf"),
        min_length=1,
        description="what is written for each result: page, data, DICOM structured report, secondary "
        "capture, FHIR bundle, PDF",
    )
    identifiers: bool = Field(
        False, description="SR, SC and FHIR carry the source's patient; false: the pseudonym, no name"
    )
    fhir: FhirSystems = FhirSystems()
    people: PatientConfig = PatientConfig()
    character_set: CharacterSet = Field(
        None,
        description="with `identifiers`: DICOM term of the character set of sources that declare none, e.g. GB18030; "
        "null: a name that is not ASCII there is a stated problem, and no report carries it",
    )
