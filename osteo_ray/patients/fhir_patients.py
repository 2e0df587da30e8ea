"""FHIR Patients: which of their identifiers is the number that the CTs carry, and whom a reference means."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from osteo_ray.patients.dates import birth
from osteo_ray.patients.identity import says_none
from osteo_ray.patients.mapping import Fhir
from osteo_ray.patients.reading import Reading
from osteo_ray.patients.values import OK, no_id

_HISTORY = re.compile(r"/_history/[^/]+$")
_TAIL = re.compile(r"(?:^|/)(Patient/[^/]+)$")
_NO_BIRTH = np.iinfo(np.int32).min
_AMBIGUOUS = -2
_NO_TEXT = frozenset({""})


def canonical(reference: str) -> str:
    """A reference without the version that it names."""
    return _HISTORY.sub("", reference.strip())


def identifier_of(identifiers: Any, rule: Fhir) -> tuple[str | None, str]:
    """(the patient's number, its system or what is wrong): of the configured system, else of the configured type; never
    the first.

    Identifiers of `use: old` do not count; temporary ones, and those whose period has an end, only where there is no
    other.
    """
    usable = [
        i
        for i in identifiers or ()
        if isinstance(i, dict) and i.get("use") != "old" and str(i.get("value") or "").strip()
    ]
    if rule.identifier_system is not None:
        fits = [i for i in usable if i.get("system") == rule.identifier_system]
        wanted = f"of system {rule.identifier_system}"
    else:
        fits = [i for i in usable if rule.identifier_type in _types(i)]
        wanted = f"of type {rule.identifier_type}"
    lasting = [i for i in fits if i.get("use") != "temp" and not (i.get("period") or {}).get("end")]
    values = {str(i["value"]).strip() for i in lasting or fits}
    if len(values) == 1:
        return values.pop(), str((lasting or fits)[0].get("system") or "")
    systems = ", ".join(sorted({str(i.get("system") or "none") for i in (fits or usable)})) or "none at all"
    if values and len({i.get("system") for i in lasting or fits}) == 1:
        return None, f"several numbers {wanted}, all of system {systems}; mark those that hold no more as `use: old`"
    if values:
        return None, f"several identifiers {wanted}; name one system: `fhir: {{identifier_system: ...}}` ({systems})"
    return None, f"no identifier {wanted}; name its system: `fhir: {{identifier_system: ...}}` (there: {systems})"


def _types(identifier: dict[str, Any]) -> set[str]:
    kind = identifier.get("type") or {}
    return {str(c.get("code")) for c in kind.get("coding") or () if isinstance(c, dict)}


class Subjects:
    """Everybody whom a Patient resource describes or an Observation refers to, by number."""

    def __init__(self, reading: Reading):
        self._reading = reading
        self._number: dict[str, int] = {}  # reference -> subject
        self._names: list[str] = []
        self.observed = array("q")  # observations of each subject
        self._patient_of: dict[str, int] = {}  # reference -> patient
        self._by_tail: dict[str, int] = {}  # Patient/id -> patient, where one alone has it
        self._keys = array("Q")
        self._known = array("b")
        self._sex = array("d")
        self._born = array("i")
        self._files: dict[str, int] = {}
        self._file_of, self._line_of = array("l"), array("q")  # where each patient stands
        self._system = array("h")  # of the number, -1 not stated
        self._systems: dict[str, int] = {}
        self._why: dict[int, str] = {}
        self._replaced: dict[int, str] = {}
        self._replaces: list[tuple[str, str]] = []  # the reference that was replaced, and by which

    def subject(self, reference: str) -> int:
        """The number of whom a reference means."""
        k = self._number.get(reference)
        if k is None:
            k = self._number[reference] = len(self._names)
            self._names.append(reference)
            self.observed.append(0)
        return k

    def _number_of(self, identifiers: Any) -> tuple[str | None, str]:
        """As `identifier_of`; a number that a spreadsheet has spoilt, or a word for no number, is none."""
        pid, why = identifier_of(identifiers, self._reading.mapping.fhir)
        if pid is None:
            return None, why
        if says_none(pid, self._reading.identity):
            return None, f"its identifier {pid!r} is no number"
        spoilt = no_id(pid)
        return (pid, why) if spoilt is None else (None, spoilt)

    def place(self, patient: int) -> str:
        """Where a patient stands in the files ('export.ndjson, line 3'): an id or a number would name a person."""
        return f"{list(self._files)[self._file_of[patient]]} {self._line_of[patient]}"

    def add_identified(self, identifier: dict[str, Any], where: str) -> int | None:
        """A subject that is given by an identifier instead of a reference; None where it is not the one that counts."""
        pid, system = self._number_of([identifier])
        if pid is None:
            return None
        reference = f"identifier {pid}"
        if reference not in self._patient_of:
            self._patient_of[reference] = self._append(pid, np.nan, _NO_BIRTH, system, where)
        return self.subject(reference)

    def add(self, resource: dict[str, Any], full_url: str | None, where: str) -> None:
        """A Patient resource; `full_url` is its entry's in a Bundle."""
        pid, why = self._number_of(resource.get("identifier"))
        gender = str(resource.get("gender") or "unknown")
        sex = {"male": 1.0, "female": 0.0}.get(gender, np.nan)
        if np.isnan(sex) and gender not in ("other", "unknown"):
            self._reading.found.unknown[f"Patient.gender = {gender}"] += 1
        born = _birth(resource.get("birthDate"))
        if born == _NO_BIRTH and resource.get("birthDate"):
            text = str(resource["birthDate"])[:40]
            self._reading.found.problem(f"{where}: birthDate {text!r} is no date; write YYYY-MM-DD")
        tail = f"Patient/{resource.get('id')}" if resource.get("id") else None
        based = full_url is not None and not full_url.startswith("urn:")
        reference = canonical(full_url) if full_url else tail
        if reference is None:
            self._reading.found.problem(f"{where}: a Patient without id; nothing can refer to it")
            return
        known = self._patient_of.get(reference)
        self.subject(reference)  # who is observed by nobody is a record, too
        k = self._append(pid, sex, born, why, where)
        if known is not None and self._known[known] and self._known[k] and self._keys[known] != self._keys[k]:
            self._reading.found.problem(
                f"{where}: {reference} stands twice with different numbers; read each site's export by itself"
            )
        self._patient_of[reference] = k
        if tail is not None:
            other = self._by_tail.get(tail, k)
            self._by_tail[tail] = k if other == k or not based or known == other else _AMBIGUOUS
            if not based:
                self._patient_of.setdefault(tail, k)
        for link in resource.get("link") or ():
            target = ((link or {}).get("other") or {}).get("reference")
            if isinstance(link, dict) and link.get("type") == "replaced-by" and target:
                self._replaced[k] = canonical(str(target))
            elif isinstance(link, dict) and link.get("type") == "replaces" and target:
                self._replaces.append((canonical(str(target)), reference))

    def _append(self, pid: str | None, sex: float, born: int, why: str, where: str) -> int:
        k = len(self._keys)
        m = self._reading.mapping
        self._keys.append(0 if pid is None else int(self._reading.key(pid, m.site), 16))
        self._known.append(pid is not None)
        self._sex.append(sex)
        self._born.append(born)
        file, _, line = where.rpartition(" ")
        self._file_of.append(self._files.setdefault(file, len(self._files)))
        self._line_of.append(int(line))
        if pid is None:
            self._why[k] = why
        self._system.append(-1 if pid is None or not why else self._systems.setdefault(why, len(self._systems)))
        return k

    def _find(self, reference: str) -> int | None:
        found = self._patient_of.get(reference)
        if found is None and (m := _TAIL.search(reference)):
            found = self._by_tail.get(m[1])
            absolute = m[1] != reference
            if found is not None and found >= 0 and absolute and self._patient_of.get(m[1]) != found:
                return None  # of another server
        return None if found == _AMBIGUOUS else found

    def resolve(self) -> tuple[np.ndarray, np.ndarray]:
        """(patient [n subjects], -1 where nobody is known; key uint64 [n]); what can't be joined becomes problems."""
        patient = np.full(len(self._names), -1, np.int64)
        keys = np.zeros(len(self._names), np.uint64)
        self._part_systems()
        for old, new in self._replaces:
            if (before := self._find(old)) is not None:
                self._replaced.setdefault(before, new)
        lost, lost_observations, first = 0, 0, ""
        reasons: Counter[str] = Counter()
        gone: set[int] = set()
        for k, reference in enumerate(self._names):
            p = self._find(reference)
            for _ in range(10):  # a patient whose record was merged into another's
                if p is None or p not in self._replaced:
                    break
                after = self._find(self._replaced[p])
                if after is None:
                    gone.add(p)
                if after is None or after == p:
                    break
                p = after
            if p is None:
                if self.observed[k]:
                    lost, lost_observations, first = lost + 1, lost_observations + self.observed[k], first or reference
            elif not self._known[p] and self.observed[k]:
                reasons[self._why[p]] += 1
            elif not self._known[p]:
                self._reading.found.dropped[f"Patient without observations: {self._why[p]}"] += 1
            else:
                patient[k], keys[k] = p, self._keys[p]
        if lost:
            self._reading.found.problem(
                f"{lost_observations} Observations of {lost} patients whose Patient is in none of the files (the "
                f"first: {first}): nobody's number is known; give the Patient file (of a bulk export: its folder) too"
            )
        if gone:
            self._reading.found.note(
                f"{len(gone)} patients were merged into others that are in none of the files; their own numbers count"
            )
        for why, n in reasons.most_common():
            self._reading.found.problem(f"{n} patients: {why}")
        return patient, keys

    def _part_systems(self) -> None:
        """Equal numbers of two systems are two people's, until somebody says otherwise: neither joins anyone."""
        stated = np.array(self._system, np.int64)
        facts = pd.DataFrame({"key": np.array(self._keys, np.uint64), "system": stated})[stated >= 0]
        twice = facts[facts.groupby("key")["system"].transform("nunique") > 1]
        names = ", ".join(s for s, k in self._systems.items() if k in set(twice["system"]))
        for k in twice.index:
            self._known[k] = 0
            self._why[k] = (
                f"their number stands under several systems ({names}); name the one that the CTs carry, "
                f"`fhir: {{identifier_system: ...}}`, or read each hospital's export by itself with its `site`"
            )

    def facts(self) -> tuple[np.ndarray, np.ndarray]:
        """(sex 1 male, 0 female, NaN; birth date datetime64[D] or NaT) of each patient. Where Patients of one number
        contradict each other, neither is used, and a note says so."""
        born = np.array(self._born, np.float64)
        born[born == _NO_BIRTH] = np.nan
        # Those without a number are each for themselves.
        keys, alone = np.array(self._keys, np.uint64), np.arange(len(born), dtype=np.uint64)
        who = np.where(np.array(self._known, bool), keys, alone)
        facts = pd.DataFrame({"sex": np.array(self._sex), "born": born}).groupby(who)
        several = facts.transform("nunique") > 1
        for column, what in (("sex", "sexes"), ("born", "birth dates")):
            if n := len(np.unique(who[several[column]])):
                self._reading.found.note(f"{n} numbers of Patients with two {what}: two people? Neither is used")
        agreed = facts.transform("first").mask(several)
        dates = agreed["born"].fillna(_NO_BIRTH).to_numpy().astype(np.int64).astype("datetime64[D]")
        dates[agreed["born"].isna()] = np.datetime64("NaT")
        return agreed["sex"].to_numpy(), dates

    def __len__(self) -> int:
        return len(self._keys)


def _birth(text: Any) -> int:
    """Days since 1970."""
    date, state = birth(text, _NO_TEXT)
    return int(date.astype("int64")) if state == OK else _NO_BIRTH
