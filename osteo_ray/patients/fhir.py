"""FHIR R4 NDJSON (bulk export): Observation and Patient resources, one a line, into record rows.

One row a person and day: all observations of that day together. Sex comes from Patient.gender; age from
Patient.birthDate and the day. Observations with an unknown LOINC code are passed over; those that are cancelled or
entered in error, too.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd

from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.schema import BY_LOINC, T_SCORE_LOINC, T_SCORE_RANGE
from osteo_ray.patients.units import UnitError, factor

_LOINC = "http://loinc.org"
_USABLE = {"final", "amended", "corrected", "preliminary", "registered"}
# LOINC answers of "Tobacco smoking status": every day, some days, heavy and light; former and never.
_SMOKER = {"449868002": 1.0, "428041000124106": 1.0, "428071000124103": 1.0, "428061000124105": 1.0}
_SMOKER |= {"8517006": 0.0, "266919005": 0.0}


def read_ndjson(path: Path, pseudonym_key: str | None) -> tuple[pd.DataFrame, list[str]]:
    """(frame in schema units, problems). A problem names line, code, value and unit."""
    problems: list[str] = []
    people: dict[str, dict] = {}
    rows: dict[tuple[str, dt.date], dict[str, object]] = {}
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                r = json.loads(line)
            except json.JSONDecodeError as e:
                problems.append(f"line {number}: not JSON ({e.msg})")
                continue
            if not isinstance(r, dict):
                problems.append(f"line {number}: a {type(r).__name__}, not a FHIR resource")
            elif r.get("resourceType") == "Patient":
                people[str(r.get("id", ""))] = r
            elif r.get("resourceType") == "Observation":
                problem = _observation(r, rows)
                if problem:
                    problems.append(f"line {number}: {problem}")
    out = []
    for (person, day), values in sorted(rows.items()):
        p = people.get(person, {})
        ids = [i.get("value") for i in p.get("identifier", []) if i.get("value")]
        row: dict[str, object] = {"patient_key": patient_key(str(ids[0]) if ids else person, pseudonym_key)}
        row["record_date"] = pd.Timestamp(day)
        sex = {"male": 1.0, "female": 0.0}.get(str(p.get("gender")))
        row |= {} if sex is None else {"sex_male": sex}
        born = _date(p.get("birthDate"))
        if born is not None:
            row["age_y"] = round((day - born).days / 365.25, 1)
        out.append(row | values)
    frame = pd.DataFrame(out, columns=None if out else ["patient_key", "record_date"])
    return frame, problems


def _date(text: object) -> dt.date | None:
    try:
        return dt.date.fromisoformat(str(text)[:10])
    except ValueError:
        return None


def _observation(r: dict, rows: dict[tuple[str, dt.date], dict[str, object]]) -> str | None:
    """Add one Observation to its row; the text of what is wrong with it, if anything is."""
    if r.get("status") not in _USABLE:
        return None
    person = str(r.get("subject", {}).get("reference", "")).rsplit("/", 1)[-1]
    codes = [c.get("code") for c in r.get("code", {}).get("coding", []) if c.get("system") == _LOINC]
    known = [c for c in codes if c in BY_LOINC or c == T_SCORE_LOINC]
    if not known:
        return None
    code = str(known[0])
    if not person:
        return f"Observation {code}: no subject; it joins no one"
    day = _date(r.get("effectiveDateTime") or r.get("effectivePeriod", {}).get("start"))
    if day is None:
        return f"Observation {code} of {person}: no effective date; write effectiveDateTime"
    row = rows.setdefault((person, day), {})
    if code == T_SCORE_LOINC:
        value = r.get("valueQuantity", {}).get("value")
        low, high = T_SCORE_RANGE
        if not isinstance(value, int | float) or not low <= value <= high:
            return f"Observation {code}: T-score {value!r} is not a number from {low:g} to {high:g}"
        row["t_score"], row["dxa_date"] = float(value), pd.Timestamp(day)
        return None
    f = BY_LOINC[code]
    if f.name == "smoker":
        answers = [c.get("code") for c in r.get("valueCodeableConcept", {}).get("coding", [])]
        known_answers = [_SMOKER[a] for a in answers if a in _SMOKER]
        if known_answers:
            row["smoker"] = known_answers[0]
        return None
    q = r.get("valueQuantity")
    if not isinstance(q, dict) or "value" not in q:
        return None  # dataAbsentReason: missing stays missing
    unit = q.get("code") or q.get("unit")
    if unit is None:
        return f"Observation {code} ({f.name}): {q['value']!r} has no unit"
    try:
        value = float(q["value"]) * factor(str(unit), f.unit, f.molar_mass)
    except (TypeError, ValueError) as e:
        reason = str(e) if isinstance(e, UnitError) else "not a number"
        return f"Observation {code} ({f.name}): {q['value']!r} {unit}: {reason}"
    if not f.low <= value <= f.high or not np.isfinite(value):
        return (
            f"Observation {code} ({f.name}): {q['value']!r} {unit} = {value:g} {f.unit} is outside "
            f"{f.low:g} to {f.high:g} {f.unit}"
        )
    row[f.name] = value
    return None
