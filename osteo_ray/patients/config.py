"""Typed configs of the records, and of joining them to scans by date; costs nothing to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteo_ray.config import Section


class IdentityConfig(Section):
    """When two ways of writing a patient's number are one patient. The same rule holds for CT and records.

    Always: full-width characters are read as plain ones, control characters are dropped, blanks at both ends are cut.
    The defaults join only what can hardly be two patients (docs/decisions/identity.md).
    """

    decimal_tail: Literal["drop", "keep"] = Field(
        "drop", description="drop: '123.0', as spreadsheets and data frames write the number 123, is '123'"
    )
    leading_zeros: Literal["keep", "drop"] = Field("keep", description="drop: '00123' is '123'")
    case: Literal["keep", "upper"] = Field("keep", description="upper: 'p1' is 'P1'")
    blanks: Literal["trim", "remove"] = Field("trim", description="remove: blanks inside count for nothing, too")
    site_in_key: bool = Field(
        True, description="where a site is given, equal numbers of two sites are two patients; false: one patient"
    )
    issuer_as_site: bool = Field(
        False, description="a CT's IssuerOfPatientID (0010,0021) is its site, where none is configured"
    )


DEFAULT_IDENTITY = IdentityConfig()


class WindowConfig(Section):
    """Which records count for a CT: the nearest values within these days, none from after it."""

    days: int = Field(90, ge=0, description="days between a lab value and the scan, at most")
    days_demographics: int = Field(
        365, ge=0, description="days between age, height, weight or smoking and the scan, at most; sex has no window"
    )
    after: bool = Field(False, description="also take values dated after the CT")
    undated: bool = Field(True, description="take values of records without a date where no dated one fits")
