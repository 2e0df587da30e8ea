"""Codes that reports carry: standard ones where they exist, the rest from a scheme of our own, told apart for certain.

No standard code says "calibrated probability of osteoporosis by opportunistic CT". Codes of DXA (LOINC 38267-1,
24966-4) and of FRAX mean other things and are never used for what this system computes.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

from pydicom.sr.codedict import codes

from osteo_ray.outcomes import State
from osteo_ray.reports.checks_view import NOT_KNOWN

SCHEME = "99OSTEORAY"
SCHEME_NAME = "osteo-ray"
SCHEME_UID = f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'codes.osteo-ray').int}"
FHIR_SYSTEM = f"urn:oid:{SCHEME_UID}"

STANDARD_SCHEMES = {
    "DCM": ("1.2.840.10008.2.16.4", "DICOM Controlled Terminology"),
    "SCT": ("2.16.840.1.113883.6.96", "SNOMED CT"),
    "LN": ("2.16.840.1.113883.6.1", "LOINC"),
    "UCUM": ("2.16.840.1.113883.6.8", "Unified Code for Units of Measure"),
}
"""UID and name (PS3.16 table 8-1) of the coding schemes that an SR uses besides its own."""

RISK = ("RISK", "Calibrated probability of osteoporosis, opportunistic CT")
RISK_LOW = ("RISK_LOW", "Lower bound of the interval of the calibrated probability")
RISK_HIGH = ("RISK_HIGH", "Upper bound of the interval of the calibrated probability")
THRESHOLD = ("THRESHOLD", "Operating point on the calibrated probability")
HU_120_KVP = ("HU_120_KVP", "Attenuation coefficient of trabecular bone, as at 120 kVp")
OUTCOME = ("OUTCOME", "Outcome of the series")
REASON = ("REASON", "Reason code of the outcome")
CLASS = ("CLASS", "Position relative to the operating point")
SCREENING = ("SCREENING", "Opportunistic CT screening for osteoporosis, research use")

OUTCOMES = {
    State.SCORED: "Scored",
    State.SCORED_WARN: "Scored, with a quality warning",
    State.ABSTAINED: "Abstained: no score is given",
    State.EXCLUDED: "Excluded: not scored",
    State.QUARANTINED: "Quarantined: not scored",
    State.ERROR: "Failed: not scored",
}
# "Below" is not "normal": nothing here rules anything out.
CLASSES = {"high": ("ABOVE", "At or above the operating point"), "low": ("BELOW", "Below the operating point")}
VERDICTS = {
    "pass": ("PASS", "Pass"),
    "warn": ("WARN", "Warning"),
    "fail": ("FAIL", "Fail"),
    NOT_KNOWN: ("NOT_KNOWN", "Not known: the check could not be made"),
}

OSTEOPOROSIS = ("64859006", "Osteoporosis")  # SNOMED CT
LUMBAR_SPINE = ("122496007", "Lumbar spine")  # SNOMED CT
ATTENUATION = ("112031", "Attenuation Coefficient")  # DICOM
HOUNSFIELD = ("[hnsf'U]", "Hounsfield unit")  # UCUM
CT_STUDY = ("25045-6", "CT unspecified body region")  # LOINC, DICOM CID 100


def vertebra(level: str) -> tuple[str, str]:
    """SNOMED CT code and meaning of a level (T1-L5); a sixth lumbar vertebra has none and is the lumbar spine."""
    code = getattr(codes.SCT, f"{level}Vertebra", None)
    return (code.value, code.meaning) if code is not None else LUMBAR_SPINE


def is_scored(row: Mapping[str, Any]) -> bool:
    """Whether a result row has a risk; no report states one otherwise, whatever a row's columns hold."""
    return row["state"] in (State.SCORED, State.SCORED_WARN) and row.get("risk_prob") is not None


def short(value: str, most: int = 16) -> str:
    """A code value that fits DICOM's SH: as it is, or cut with a hash, so that two long ones stay two."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "_" for c in value) or "_"
    return text if len(text) <= most else text[: most - 5] + "_" + hashlib.sha256(value.encode()).hexdigest()[:4]
