"""How many records met a CT and how many CTs a record: said by `records`, `train` and `screen`, loudly near zero.

print("\\n".join(match(table, catalogue_keys).lines()))
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from osteo_ray.patients.config import DEFAULT_IDENTITY, IdentityConfig
from osteo_ray.patients.identity import normalised, patient_key
from osteo_ray.patients.table import RecordTable

_FEW = 0.05
_WIDTHS = range(4, 17)
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True)
class Match:
    """Patients on both sides, and how many met. `forms` are patterns of numbers that met no CT, with their counts;
    `would_meet` says how many more would under another rule."""

    record_patients: int
    records_met: int
    ct_patients: int
    cts_met: int
    forms: tuple[tuple[str, int], ...] = ()
    would_meet: tuple[tuple[str, int], ...] = ()

    def lines(self) -> list[str]:
        """What a command prints."""
        r, c = self.record_patients, self.ct_patients
        out = [
            f"match    {self.records_met} of {r} patients with records have a CT; "
            f"{self.cts_met} of {c} patients with CT have a record"
        ]
        if self.forms:
            shown = ", ".join(f"{f} x {n}" for f, n in self.forms[:8])
            out.append(f"         numbers that met no CT look like: {shown} (9 a digit, a and A letters)")
        out += [f"         {n} more would meet with {rule}" for rule, n in self.would_meet]
        if (
            r
            and c
            and min(self.records_met / r, self.cts_met / c) < _FEW
            and max(self.records_met / r, self.cts_met / c) < 0.5
        ):
            out.append(
                "WARNING  hardly any record meets a CT: are pseudonym_key, identity and site the same for the index "
                "and the records, and do both carry the same number?"
            )
        return out


@dataclass(frozen=True)
class RecordPatients:
    """The patients of records that are not in memory: keys, and numbers as written with their sites by key."""

    keys: frozenset[str]
    ids: Mapping[str, tuple[str, str | None]]


def match(
    table: RecordTable | RecordPatients,
    ct_keys: Iterable[str | None],
    pseudonym_key: str | None = None,
    identity: IdentityConfig = DEFAULT_IDENTITY,
) -> Match:
    """Hold the patients of records against those of CTs, both by key.

    Where the table still knows the numbers as written (`RecordTable.ids`), those that met nothing are shown as
    patterns, and looser rules are tried on them against the CTs' keys.
    """
    named = table.keys if isinstance(table, RecordPatients) else table.frame["patient_key"]
    records = {k for k in named if isinstance(k, str)}
    cts = {k for k in ct_keys if k}
    both = len(records & cts)
    lost = [written for key, written in table.ids.items() if key not in cts]
    forms = Counter(form_of(pid) for pid, _ in lost)
    would = _would_meet(lost, cts, pseudonym_key, identity)
    return Match(len(records), both, len(cts), both, tuple(forms.most_common()), would)


def announced(met: Match) -> list[str]:
    """The lines of a match; a warning is logged at once as well, before the hours of work that may follow it."""
    lines = met.lines()
    for line in lines:
        if line.startswith("WARNING"):
            logging.getLogger(__name__).warning(line)
    return lines


def match_catalogue(
    table: RecordTable | RecordPatients,
    catalogue: str,
    pseudonym_key: str | None = None,
    identity: IdentityConfig = DEFAULT_IDENTITY,
) -> Match:
    """The same against the patients of a catalogue (path or URI)."""
    from osteo_ray.io.parquet_set import open_set

    keys = open_set(catalogue).read(["patient_key"])["patient_key"].unique().to_pylist()
    return match(table, keys, pseudonym_key, identity)


def form_of(patient_id: str) -> str:
    """The pattern of a number, which names nobody: digits as 9, letters as a or A."""
    text = re.sub(r"\d", "9", patient_id)
    text = re.sub(r"[^\W\d_]", lambda m: "A" if m[0].isupper() else "a", text)
    return text if len(text) <= 24 else text[:21] + "..."


def _would_meet(
    lost: list[tuple[str, str | None]], cts: set[str], key: str | None, identity: IdentityConfig
) -> tuple[tuple[str, int], ...]:
    """Of numbers that met no CT, how many would if the rule were looser in one respect.

    The CTs' numbers are known by their keys alone, so a form of the CT's is tried as written: without zeros, padded
    with them, in upper and lower case, without blanks.
    """
    counts: Counter[str] = Counter()
    for pid, site in lost[:50_000]:
        text = normalised(pid, identity)
        bare = _BLANKS.sub("", text)
        tries = {
            "identity.leading_zeros: drop": [text.lstrip("0"), *(text.zfill(w) for w in _WIDTHS if text.isdigit())],
            "identity.case: upper": [text.upper(), text.lower()],
            "identity.blanks: remove": [bare],
            "several of these": [bare.lstrip("0").upper()],
        }
        keys = {rule: {patient_key(t, key, identity, site) for t in texts if t} for rule, texts in tries.items()}
        if site:
            keys["the site left out, as the index has none"] = {patient_key(text, key, identity)}
        hit = next((rule for rule, changed in keys.items() if changed & cts), None)
        if hit is not None:
            counts[hit] += 1
    return tuple(counts.most_common())
