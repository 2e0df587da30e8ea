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
    placeholders: Literal["drop", "keep"] = Field(
        "drop", description="drop: 'ANONYMOUS', 'UNKNOWN' and the like are no number, but the want of one"
    )
    site_in_key: bool = Field(
        True, description="where a site is given, equal numbers of two sites are two patients; false: one patient"
    )
    issuer_as_site: bool = Field(
        False, description="a CT's IssuerOfPatientID (0010,0021) is its site, where none is configured"
    )


DEFAULT_IDENTITY = IdentityConfig()


class PseudonymConfig(Section):
    """The secret of the patient keys."""

    pseudonym_key: str | None = Field(
        None,
        description="secret that keys patient pseudonyms: the same for index, records and cohort; null: "
        "no key, so that pseudonyms can be recomputed from patient numbers",
    )


class PatientKeys(PseudonymConfig):
    """How a patient's number becomes the key by which CTs, records and labels meet: the same for all of them."""

    identity: IdentityConfig = Field(
        IdentityConfig(), description="when two patient numbers are one patient; the same for index and records"
    )


class SitePatientKeys(PatientKeys):
    """The same, of numbers that one hospital gave."""

    site: str | None = Field(
        None,
        description="hospital that gave the patient numbers; part of each patient's key. Of a table whose mapping or "
        "rows name one, theirs counts",
    )


class RecordMapping(Section):
    """How a table's columns become the schema's."""

    mapping: str | None = Field(
        None,
        description="shipped name (default, nhanes), or path to a YAML, of how the records' columns map "
        "to the schema; null: default",
    )


class RecordsOfCt(RecordMapping):
    """What is known of the patients beside their CT."""

    records: tuple[str, ...] | str | None = Field(
        None,
        description="demographics and labs: files, URIs or folders of tables, or the folder of a record set; "
        "null: CT alone",
    )


class TimelineConfig(Section):
    """Which facts of a patient belong to a CT. One set of rules for training, screening, evaluation and monitoring."""

    lab_days: int = Field(90, ge=0, description="labs dated up to this many days before the CT count (days)")
    demographics_days: int = Field(
        365,
        ge=0,
        description="age, height, weight, BMI and smoking dated up to this many days before the CT count (days); "
        "sex has no window",
    )
    after_days: int = Field(
        0, ge=0, description="labs and demographics dated up to this many days after the CT count too (days)"
    )
    dxa_days: int = Field(
        365,
        ge=0,
        description="a DXA up to this many days before or after the CT is its label; the nearest counts (days)",
    )
    dxa_from_record: bool = Field(
        True,
        description="a T-score without a DXA date is dated by its own record; false: it is undated. The worklist's "
        "known DXA always needs a DXA date",
    )
    undated: Literal["use", "ignore"] = Field(
        "use",
        description="values, T-scores and treatments without a date: use where no dated one fits and they agree among "
        "themselves; a T-score only for a patient without any dated DXA",
    )
    undated_ct: Literal["undated", "latest"] = Field(
        "undated",
        description="a CT without a date meets undated facts alone, or (latest) stands at the patient's latest dated "
        "fact; the latter for archives whose dates were removed",
    )
    treated: Literal["exclude", "keep"] = Field(
        "exclude",
        description="a CT whose patient was last recorded as treated for osteoporosis, up to the later of CT and DXA: "
        "exclude takes its label away, in training, calibration and evaluation; keep keeps it",
    )
    without_ct_days: int = Field(
        1095,
        ge=0,
        description="patients without a CT: values up to this many days before or after the DXA, or the last record, "
        "are one training example (days)",
    )


class LabelRecords(RecordMapping):
    """What results are judged by."""

    labels: str | None = Field(
        None,
        description="records with the DXA T-score: a file, a folder of tables or of a record set; or a table of "
        "patient_key and label, which needs no mapping",
    )
    timeline: TimelineConfig = TimelineConfig()
