"""Quality checks and outcomes in words: "tube voltage 100 kVp, model corrected" for Q_KVP. Pure.

A check that could not be made (its value is absent) is "not known", never passed: `verdict_of` is the one rule, for
page, sheet, SR and FHIR. A value or threshold of an unforeseen form stands as the program wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osteo_ray.outcomes import State
from osteo_ray.reports.language import Words
from osteo_ray.reports.wording import NONE, text

NOT_KNOWN = "unknown"
TONES = {"pass": ("✓", "ok"), "warn": ("!", "warn"), "fail": ("✕", "bad"), NOT_KNOWN: ("?", "quiet")}
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_IDENTITY = re.compile(r"(age|sex) (\S+) in the header, (\S+) in the record")


@dataclass(frozen=True)
class Check:
    """One quality check as a reader meets it."""

    mark: str
    verdict: str
    tone: str
    name: str
    found: str
    allowed: str
    code: str


def verdict_of(gate: Mapping[str, Any]) -> str:
    """pass | warn | fail | unknown: one that had nothing to look at has not been passed."""
    if gate["verdict"] == "pass" and gate["value"] in (None, "absent", "unknown"):
        return NOT_KNOWN
    return str(gate["verdict"])


def check(gate: Mapping[str, Any], words: Words) -> Check:
    """A row of the results' `gates` in words."""
    code, verdict = text(gate["gate"]), verdict_of(gate)
    mark, tone = TONES.get(verdict, ("?", "quiet"))
    return Check(
        mark,
        words.get(f"verdict.{verdict}", verdict),
        tone,
        words.get(f"check.{code}", code),
        found(gate, words),
        allowed(gate, words),
        code,
    )


def found(gate: Mapping[str, Any], words: Words) -> str:
    """What a check found."""
    code, value, verdict = text(gate["gate"]), gate["value"], str(gate["verdict"])
    if value in (None, "absent", "unknown"):
        key = f"found.{code}.unknown"
        silent = f"found.{code}" if code == "Q_CONTRAST_UNKNOWN" else "found.absent"
        return words.get(key, words(silent))
    if code == "Q_IDENTITY" and verdict != "pass":
        parts = [
            words(f"found.Q_IDENTITY.{kind}", header=_person(a, words), record=_person(b, words))
            for kind, a, b in _IDENTITY.findall(value)
        ]
        return "; ".join(parts) or value
    if code == "Q_MODALITY_MISSING" and verdict != "pass":
        value = ", ".join(words.get(f"short.{m}", m) for m in value.split(","))
    elif code == "Q_CONTRAST":
        value = words.get(f"contrast.{value}", value)
    elif code not in ("Q_MODALITY", "Q_LOCALIZER", "Q_KERNEL_SHARP", "Q_IDENTITY", "Q_LOSSY") and not _NUMBER.fullmatch(
        value
    ):
        own = f"found.{code}.{verdict}"
        return words(own) if own in words.texts and "{" not in words.texts[own] else value
    percent = f"{100 * float(value):.2g}" if _NUMBER.fullmatch(value) else value
    for key in (f"found.{code}.{verdict}", f"found.{code}"):
        if key in words.texts:
            return words(key, value=value, percent=percent)
    return value


def allowed(gate: Mapping[str, Any], words: Words) -> str:
    """What a check allows."""
    code, threshold = text(gate["gate"]), text(gate["threshold"])
    key = f"allowed.{code}"
    if key not in words.texts:
        return threshold
    wanted = set(re.findall(r"\{(\w)", words.texts[key]))
    numbers = _NUMBER.findall(threshold.replace("+-", " "))
    if len(numbers) < len(wanted):
        return threshold
    values = dict(zip("ab", numbers, strict=False))
    values |= {f"{k}_percent": f"{100 * float(v):g}" for k, v in values.items()}
    return words(key, **values)


def _person(value: str, words: Words) -> str:
    return words.get(f"sex.{value}", value)


def reason(row: Mapping[str, Any], words: Words) -> tuple[str, str]:
    """(why a series ended as it did, in words; what the program wrote besides, or "")."""
    code, message = row.get("code"), row.get("message") or ""
    gates: Sequence[Mapping[str, Any]] = row.get("gates") or ()
    fired = [g for g in gates if g["verdict"] == ("warn" if code == "GATE_WARN" else "fail")]
    if code == "GATE_WARN":
        return warned(message, row, words, gates), ""
    if row["state"] == State.ABSTAINED and fired and str(code).startswith("Q_"):
        return "; ".join(_named(g, words) for g in fired), ""
    meaning = "" if code in (None, "OK") else words.code(code)
    return meaning, message


def warned(message: str | None, row: Mapping[str, Any], words: Words, gates: Sequence[Mapping[str, Any]] = ()) -> str:
    """The checks that a warning's message names, in words; with what they found as far as `gates` or the row say."""
    by_code = {g["gate"]: g for g in gates}
    out = []
    for code in filter(None, (c.strip() for c in (message or "").split(","))):
        if code in by_code:
            out.append(_named(by_code[code], words))
        elif code == "Q_KVP":
            kvp = row.get("kvp")
            value = "absent" if kvp is None else f"{kvp:g}"
            out.append(_named({"gate": code, "verdict": "warn", "value": value}, words))
        elif code == "Q_CONTRAST" and row.get("contrast"):
            out.append(_named({"gate": code, "verdict": "warn", "value": row["contrast"]}, words))
        else:
            out.append(words.code(code))
    return "; ".join(out)


def _named(gate: Mapping[str, Any], words: Words) -> str:
    code = text(gate["gate"])
    what = found(gate, words)
    name = words.get(f"check.{code}", code)
    return name if what in ("", NONE) else f"{name}: {what}"
