"""Typed config of reports."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
