"""FHIR R4: NDJSON of a bulk export (Patient and Observation in one file or several) and Bundles, into record rows.

One row a person and day: all observations of that day together. Sex comes from Patient.gender; age from
Patient.birthDate and the day. Final, amended and corrected values come before preliminary ones; those that are
cancelled or entered in error do not count. Codes and resources that nothing uses are counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic_core import from_json

from osteo_ray.patients.dates import age_at, moment
from osteo_ray.patients.fhir_patients import Subjects, canonical
from osteo_ray.patients.findings import AGES_DIFFER, RecordsError
from osteo_ray.patients.long import TestNames
from osteo_ray.patients.mapping import Numbers, Test
from osteo_ray.patients.observations import NO_DAY, PRESENT, T_SCORE, VERSIONED, Observations
from osteo_ray.patients.readers.chunk import Chunk
from osteo_ray.patients.readers.compressed import open_bytes
from osteo_ray.patients.reading import Reading
from osteo_ray.patients.schema import NAMES, feature
from osteo_ray.patients.units import contradict

_LOINC = ("http://loinc.org", "https://loinc.org", "http://www.loinc.org", "urn:oid:2.16.840.1.113883.6.1", "loinc")
_UCUM = ("http://unitsofmeasure.org", "https://unitsofmeasure.org", "urn:oid:2.16.840.1.113883.6.8")
_WITHDRAWN = ("entered-in-error", "cancelled")
_AMENDED, _VERSION = 1 << 60, 33  # an observation's order: amended or not, then its version, then where it stands
_LAST_VERSION = (1 << (60 - _VERSION)) - 1
_FIRST_UPDATE, _UPDATE_S = datetime(2000, 1, 1), 10  # versions by their time count in steps of ten seconds
_EPOCH = date(1970, 1, 1).toordinal()
_NO_TEXT = frozenset({""})
_ALL_BITS = (1 << 64) - 1
_MARK = b"\xef\xbb\xbf"
_RANKS = {"final": 1, "amended": 1, "corrected": 1, "preliminary": 0, "registered": 0}
# Answers of "Tobacco smoking status", SNOMED CT and LOINC: every day, some days, heavy and light; former and never.
_SMOKES = (
    *("449868002", "428041000124106", "428071000124103", "428061000124105", "77176002", "65568007"),
    *("LA18976-3", "LA18977-1", "LA18981-3", "LA18982-1"),
)
_DOES_NOT = ("8517006", "266919005", "LA15920-4", "LA18978-9")
_SMOKER = dict.fromkeys(_SMOKES, 1.0) | dict.fromkeys(_DOES_NOT, 0.0)
_BATCH = 50_000


def read_fhir(paths: list[tuple[Path, str]], reading: Reading) -> Iterator[pd.DataFrame]:
    """Record rows of all files of one export together, with the features that it gives.

    Args:
        paths: files, and how each is called in errors.

    Raises:
        RecordsError: a file that is no NDJSON or Bundle.
    """
    m = reading.mapping
    # JSON has one way of writing numbers; a mapping says only what a bound is.
    plain_numbers = m.model_copy(update={"numbers": Numbers(bounds=m.numbers.bounds)})
    reading = Reading(plain_numbers, reading.pseudonym_key, reading.identity, reading.found)
    with Observations(dtype=VERSIONED) as store:
        export = _Export(reading, store)
        for path, name in paths:
            export.read(path, name)
        yield from export.records()


class _Export:
    """The files of one export while they are read."""

    def __init__(self, reading: Reading, store: Observations):
        self._reading, self._store = reading, store
        self._subjects = Subjects(reading)
        self._names = TestNames(reading.mapping)
        self._codes: dict[tuple[str, str], tuple[str, str, Test] | None] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._empty: list[tuple[int, int, int, int]] = []  # subject, day, order and source of what has no value
        self._withdrawn: set[int] = set()  # sources
        self._source = ""
        self._count = 0

    def read(self, path: Path, name: str) -> None:
        self._source = name
        given = False
        try:
            with open_bytes(path) as f:
                if path.name.lower().removesuffix(".gz").endswith(".json"):
                    text = f.read()
                    if not text.strip():
                        raise RecordsError([f"{name}: the file is empty"])
                    try:
                        whole = from_json(text.removeprefix(_MARK))
                    except ValueError as e:
                        raise RecordsError(
                            [f"{name}: not JSON ({e}); if it holds a resource a line, call it .ndjson"]
                        ) from None
                    if not isinstance(whole, dict) or "resourceType" not in whole:
                        raise RecordsError([f"{name}: no FHIR resource; a Bundle, Patient or Observation is wanted"])
                    self._resource(whole, 1, None)
                    given = True
                else:
                    for number, line in enumerate(f, 1):
                        if line.strip():
                            given = True
                            self._line(line, number)
        except (OSError, EOFError) as e:
            raise RecordsError([f"{name}: can't be read: {e}"]) from None
        if not given:
            raise RecordsError([f"{name}: the file is empty"])
        self._flush()

    def _line(self, line: bytes, number: int) -> None:
        found = self._reading.found
        try:
            r = from_json(line.removeprefix(_MARK))
        except ValueError as e:
            hint = "; one resource over several lines is a file to be called .json" if number == 1 else ""
            found.problem(f"{self._source}, line {number}: not JSON ({str(e).split(' at line')[0]}){hint}")
            return
        if not isinstance(r, dict):
            found.problem(f"{self._source}, line {number}: a {type(r).__name__}, not a FHIR resource")
            return
        self._resource(r, number, None)

    def _resource(self, r: dict[str, Any], number: int, full_url: str | None) -> None:
        kind = r.get("resourceType")
        where = f"{self._source}, {self._word(full_url)} {number}"
        try:
            if kind == "Patient":
                self._subjects.add(r, full_url, where)
            elif kind == "Observation":
                self._observation(r, number, full_url)
            elif kind == "Bundle":
                self._bundle(r, number)
            else:
                self._reading.found.dropped[str(kind)] += 1
        except RecordsError:
            raise
        except (AttributeError, TypeError, KeyError, ValueError) as e:
            self._reading.found.problem(f"{where}: a {kind} out of shape ({e})")

    def _word(self, full_url: str | None) -> str:
        return "line" if full_url is None else "entry"

    def _bundle(self, bundle: dict[str, Any], number: int) -> None:
        """All entries of a collection, search result, transaction or history; what asks to delete is passed over."""
        found = self._reading.found
        if any(isinstance(x, dict) and x.get("relation") == "next" for x in bundle.get("link") or ()):
            found.note(f"{self._source}: one page of a search; the pages after it are not here")
        entries = [*enumerate(bundle.get("entry") or (), 1)]
        for k, entry in reversed(entries) if bundle.get("type") == "history" else entries:  # the newest stands first
            request = entry.get("request") or {} if isinstance(entry, dict) else {}
            if request.get("method") == "DELETE":
                found.dropped["entries that delete"] += 1
                self._withdrawn |= {hash(str(u)) & _ALL_BITS for u in (request.get("url"), entry.get("fullUrl")) if u}
            elif not isinstance(entry, dict) or not isinstance(entry.get("resource"), dict):
                found.dropped["entries without a resource"] += 1
            else:
                url = entry.get("fullUrl")
                self._resource(entry["resource"], k, str(url) if url else None)

    def _observation(self, r: dict[str, Any], number: int, full_url: str | None) -> None:
        found = self._reading.found
        status = r.get("status")
        rank = _RANKS.get(str(status))
        source = _source_of(r, full_url)
        if status in _WITHDRAWN and source:
            self._withdrawn.add(source)
        if rank is None:
            found.dropped[f"Observation {status or 'without status'}"] += 1
            return
        parts = [r, *(c for c in r.get("component") or () if isinstance(c, dict))]
        uses = [
            (part, use) for part in parts if (use := self._use(part.get("code") or {}, part is r and len(parts) > 1))
        ]
        if not uses:
            return
        where = f"{self._source}, {self._word(full_url)} {number}"
        subject = self._subject(r, full_url, number)
        if subject is None:
            found.problem(f"{where}: Observation {uses[0][1][1]}: no patient as subject; it joins no one")
            return
        self._subjects.observed[subject] += 1
        text = _effective(r)
        when, _ = moment(text, _NO_TEXT, (), self._reading.mapping.timezone)
        if when is None:
            what = "no effective date" if not text else f"{text!r} names no day"
            found.problem(f"{where}: Observation {uses[0][1][1]}: {what}; it needs an effectiveDateTime with its day")
            return
        self._count += 1
        order = self._count + (_version(r) << _VERSION) + (_AMENDED if status in ("amended", "corrected") else 0)
        at, second = when.toordinal() - _EPOCH, when.hour * 3600 + when.minute * 60 + when.second
        for part, (name, code, test) in uses:
            value, unit = self._value(part, name, code, where)
            if value is not None:
                self._rows.append((name, code, test, subject, rank, at, second, order, value, unit, number, source))
            else:
                self._empty.append((subject, at, order, source))
        if len(self._rows) >= _BATCH:
            self._flush()

    def _use(self, concept: dict[str, Any], panel: bool) -> tuple[str, str, Test] | None:
        """(feature, code, how it is read) of a CodeableConcept; None, and counted, where nothing uses it."""
        shown: str | None = None
        uses: dict[str, tuple[str, str, Test]] = {}
        for c in concept.get("coding") or ():
            key = (str(c.get("system") or "").strip(), str(c.get("code") or "").strip())
            if key not in self._codes:
                self._codes[key] = self._look_up(*key)
            if (use := self._codes[key]) is not None:
                uses.setdefault(use[0], use)
            if shown is None or _is_loinc(key[0]):
                shown = f"{key[1]} ({c.get('display') or concept.get('text') or key[0]})"
        if len(uses) > 1:
            self._reading.found.unknown[f"codes of {' and '.join(uses)} at once"] += 1
            return None
        if uses:
            return next(iter(uses.values()))
        text = str(concept.get("text") or "")
        if text and (own := self._names.own(text)):
            return own[0], text, own[1]
        if not panel:
            self._reading.found.unknown[shown or text or "(no code)"] += 1
        return None

    def _look_up(self, system: str, code: str) -> tuple[str, str, Test] | None:
        own = self._names.own(f"{system}|{code}") or self._names.own(code)
        if own is None and _is_loinc(system):
            own = self._names.find(code)
        return None if own is None else (own[0], code, own[1])

    def _subject(self, r: dict[str, Any], full_url: str | None, number: int) -> int | None:
        subject = r.get("subject") or {}
        reference = canonical(str(subject.get("reference") or ""))
        if not reference:
            identifier = subject.get("identifier")
            where = f"{self._source}, {self._word(full_url)} {number}"
            return self._subjects.add_identified(identifier, where) if isinstance(identifier, dict) else None
        if reference.startswith("#"):
            inside = next((c for c in r.get("contained") or () if f"#{c.get('id')}" == reference), None)
            if inside is None or inside.get("resourceType") != "Patient":
                return None
            unique = f"urn:contained:{self._source}:{full_url}:{number}"
            self._subjects.add(inside, unique, f"{self._source}, {self._word(full_url)} {number}")
            return self._subjects.subject(unique)
        if not reference.startswith("urn:") and "Patient/" not in reference:
            return None
        if reference.startswith("Patient/") and full_url and full_url.startswith("http"):
            # Within a Bundle, a relative reference is relative to the server of its own entry.
            reference = f"{full_url.split('/Observation/')[0].rstrip('/')}/{reference}"
        return self._subjects.subject(reference)

    def _value(self, part: dict[str, Any], name: str, code: str, where: str) -> tuple[Any, str | None]:
        """(value as written, unit); (None, None) where there is none, which is counted or a problem."""
        found = self._reading.found
        if name == "smoker" and "valueCodeableConcept" in part:
            answers = [str(c.get("code")) for c in part["valueCodeableConcept"].get("coding") or ()]
            known = [_SMOKER[a] for a in answers if a in _SMOKER]
            if not known:
                found.unknown[f"{code} = {', '.join(answers) or 'text'}"] += 1
            return (known[0], None) if known else (None, None)
        q = part.get("valueQuantity")
        if isinstance(q, dict) and isinstance(q.get("value"), dict | list):
            raise TypeError(f"value {str(q['value'])[:40]!r} is no number")
        if isinstance(q, dict) and q.get("value") is not None:
            comparator = str(q.get("comparator") or "")
            value = q["value"] if not comparator else f"{'>' if comparator == 'ad' else comparator}{q['value']}"
            # A code of another system than UCUM is a word of the laboratory's; what it shows to people is the unit.
            system = str(q.get("system") or _UCUM[0]).rstrip("/")
            coded, shown = str(q.get("code") or ""), str(q.get("unit") or "")
            if coded and shown and system in _UCUM and name in NAMES and contradict(coded, shown, feature(name)):
                found.problem(
                    f"{where}: Observation {code} ({name}): {value} has the code {coded!r} and shows {shown!r}, which "
                    f"are two units; correct one"
                )
                found.values(name, np.array([np.nan]), 1)
                return None, None
            return value, (coded or shown) if system in _UCUM else (shown or coded)
        if isinstance(part.get("valueInteger"), int):
            return part["valueInteger"], ""
        if isinstance(part.get("valueString"), str):
            return part["valueString"], ""
        other = next((k for k in part if k.startswith("value") and k != "valueQuantity"), None)
        if other is not None:
            found.problem(f"{where}: Observation {code} ({name}): {other} {str(part[other])[:40]!r} is no quantity")
            found.values(name, np.array([np.nan]), 1)
        else:
            found.of(name).missing += 1  # dataAbsentReason: missing stays missing
        return None, None

    def _flush(self) -> None:
        """Turn the rows gathered so far into observations in the schema's units."""
        groups: dict[tuple[str, str], list[tuple[Any, ...]]] = defaultdict(list)
        for row in self._rows:
            groups[row[0], row[1]].append(row)
        self._rows = []
        for (name, code), rows in groups.items():
            _, _, tests, subject, rank, at, second, order, value, unit, number, source = zip(*rows, strict=True)
            frame = pd.DataFrame({"value": pd.Series(value, dtype=object), "unit": pd.Series(unit, dtype=object)})
            chunk = Chunk(self._source, frame, np.array(number), "line", cell="Observation")
            column = f"{code} ({name})"
            test: Test = tests[0]
            units = frame["unit"]
            if name == "t_score":
                of_t = units if test.unit is None else None
                values = self._reading.t_scores(frame["value"], chunk, column, code, of_t, test)
            elif name == "smoker":
                values = self._reading.quantity(name, Test(), frame["value"], None, chunk, column, code)
            else:
                values = self._reading.quantity(name, test, frame["value"], units, chunk, column, code)
            keep = ~np.isnan(values)
            self._reading.found.days(np.array(at, np.int64).astype("datetime64[D]"), self._source)
            block = np.zeros(len(rows), VERSIONED)
            block["patient"], block["rank"], block["day"], block["order"] = subject, rank, at, order
            block["source"], block["second"] = source, second
            block["what"] = T_SCORE if name == "t_score" else NAMES.index(name)
            block["site"] = -1 if self._reading.mapping.site is None else 0
            block["value"] = values
            self._store.add(block[keep])
            self._empty += block[["patient", "day", "order", "source"]][~keep].tolist()
        # A day without a known value is still a record: of sex and age, and of the fact that there is nothing.
        self._store.add(self._present(self._empty))
        self._empty = []

    def _present(self, without: list[tuple[int, int, int, int]]) -> np.ndarray:
        block = np.zeros(len(without), VERSIONED)
        if without:
            block["patient"], block["day"], block["order"], block["source"] = zip(*without, strict=True)
        block["what"] = PRESENT
        block["site"] = -1 if self._reading.mapping.site is None else 0
        return block

    def records(self) -> Iterator[pd.DataFrame]:
        """The record rows, partition by partition."""
        found, m = self._reading.found, self._reading.mapping
        patient, keys = self._subjects.resolve()
        seen = np.array(self._subjects.observed, np.int64)
        alone = np.flatnonzero((patient >= 0) & (seen == 0))
        alone = alone[~np.isin(keys[alone], keys[(seen > 0) & (patient >= 0)])]
        self._store.add(self._present([(int(k), NO_DAY, 0, 0) for k in alone]))
        sex, born = self._subjects.facts()
        order = np.argsort(keys, kind="stable")
        sorted_keys, sorted_patient = keys[order], patient[order]

        def known_alone(block: np.ndarray) -> np.ndarray:
            block = self._current(block)
            patient_index = patient[block["patient"].astype(np.int64)]
            block = block[patient_index >= 0]
            block["patient"] = keys[block["patient"].astype(np.int64)]
            return block

        for frame in self._store.records([m.site] if m.site else [], known_alone):
            number = np.array([int(k, 16) for k in frame["patient_key"]], np.uint64)
            p = sorted_patient[np.searchsorted(sorted_keys, number)]
            found.rows += len(frame)
            yield self._with_facts(frame, sex[p], born[p], p)

    def _current(self, block: np.ndarray) -> np.ndarray:
        """Without what was withdrawn, and of a resource that stands several times the last version alone. Who is left
        without anything is still a record."""
        source = block["source"]
        gone = np.isin(source, np.fromiter(self._withdrawn, np.uint64))
        which, number = np.unique(source, return_inverse=True)
        age = block["order"] & (_AMENDED - 1)
        newest = np.zeros(len(which), np.int64)
        np.maximum.at(newest, number, age)
        old = (source != 0) & (age < newest[number])
        if not (old | gone).any():
            return block
        rest = block[~old & ~gone]
        bare = np.setdiff1d(block["patient"][gone], rest["patient"]).tolist()
        return np.concatenate([rest, self._present([(k, NO_DAY, 0, 0) for k in bare])])

    def _with_facts(self, frame: pd.DataFrame, sex: np.ndarray, born: np.ndarray, patient: np.ndarray) -> pd.DataFrame:
        """Sex and age of a patient (by number, as the facts [n]) beside what was observed of them."""
        found = self._reading.found
        f = feature("age_y")
        age = age_at(born, frame["record_date"].to_numpy("datetime64[D]"))
        outside = (age < f.low) | (age > f.high)
        for k in np.flatnonzero(outside):
            where = self._subjects.place(patient[k])
            found.problem(
                f"{where}: birthDate: an age of {age[k]:g} at an observation is outside {f.low:g} to {f.high:g} a; "
                f"correct it, or leave the Patient and its Observations out"
            )
        age[outside] = np.nan
        for name, values, source in (("sex_male", sex, "Patient.gender"), ("age_y", age, "Patient.birthDate")):
            found.values(name, values, int(outside.sum()) if name == "age_y" else 0)
            found.source(name, source)
            if name == "age_y" and name in frame:
                found.other_ages += int((np.abs(frame[name] - values) > AGES_DIFFER).sum())
            frame[name] = values if name not in frame else np.where(np.isnan(frame[name]), values, frame[name])
        frame["birth_month"] = born.astype("datetime64[M]").astype("datetime64[s]")
        found.births += int((~np.isnat(born)).sum())
        return frame


def _is_loinc(system: str) -> bool:
    return system.rstrip("/").lower() in _LOINC


def _source_of(r: dict[str, Any], full_url: str | None) -> int:
    """A number for a resource by which its later versions are known; 0 where it has no id."""
    if full_url is not None and full_url.startswith("http"):
        return hash(full_url) & _ALL_BITS
    return hash(f"Observation/{r['id']}") & _ALL_BITS if r.get("id") else 0


def _version(r: dict[str, Any]) -> int:
    """meta.versionId where it is a number, else the time of meta.lastUpdated; else 0."""
    meta = r.get("meta") or {}
    text = str(meta.get("versionId") or "")
    if text.isdecimal():
        return min(int(text), _LAST_VERSION)
    at, _ = moment(str(meta.get("lastUpdated") or ""), _NO_TEXT, (), "UTC")
    steps = 0 if at is None else int((at - _FIRST_UPDATE).total_seconds()) // _UPDATE_S
    return min(max(steps, 0), _LAST_VERSION)


def _effective(r: dict[str, Any]) -> str:
    """When an observation holds: effective[x], else when it was issued."""
    period = r.get("effectivePeriod") or {}
    events = (r.get("effectiveTiming") or {}).get("event") or [None]
    for text in (
        r.get("effectiveDateTime"),
        r.get("effectiveInstant"),
        period.get("start"),
        period.get("end"),
        events[0],
        r.get("issued"),
    ):
        if text:
            return str(text)
    return ""
