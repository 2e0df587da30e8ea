"""Typed config of reports."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from osteo_ray.config import Section

Format = Literal["html", "json", "sr", "sc", "fhir", "pdf"]


class PackageConfig(Section):
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
    character_set: str | None = Field(
        None,
        description="with `identifiers`: DICOM term of the character set of sources that declare none, e.g. GB18030; "
        "null: a name that is not ASCII there is a stated problem, and no report carries it",
    )

    @field_validator("character_set")
    @classmethod
    def _known(cls, term: str | None) -> str | None:
        from pydicom.charset import python_encoding

        if term is not None and term not in python_encoding:
            raise ValueError(f"DICOM has no character set {term!r}; e.g. GB18030, ISO_IR 100, ISO_IR 192")
        return term
