"""Tables with a row a test: patient, time, test, value, unit. As most laboratory systems export."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from numbers import Number

import numpy as np
import pandas as pd

from osteo_ray.patients.mapping import Column, Mapping, Test
from osteo_ray.patients.observations import BIRTH, BLOCK, NO_DAY, PRESENT, T_SCORE
from osteo_ray.patients.readers.chunk import Chunk
from osteo_ray.patients.reading import Reading
from osteo_ray.patients.schema import BY_LOINC, NAMES, T_SCORE_LOINCS, molar_mass_of
from osteo_ray.patients.values import BAD, plain, texts_of
from osteo_ray.patients.wide import ages, birth_dates, moments_of


class TestNames:
    """Which test gives which feature: a mapping's names first, then the LOINC codes that are known."""

    __test__ = False

    def __init__(self, m: Mapping):
        self._own: dict[str, tuple[str, Test]] = {}
        for name, test in m.tests.items():
            for text in test.names:
                self._own[plain(text).casefold()] = (name, test)
        self._tests = m.tests

    def own(self, text: str) -> tuple[str, Test] | None:
        """What the mapping itself says of a test."""
        return self._own.get(plain(text).casefold())

    def find(self, text: str) -> tuple[str, Test] | None:
        """(feature or t_score, how it is read); None for a test that nothing uses."""
        own = self.own(text)
        if own is not None:
            return own
        if text in T_SCORE_LOINCS:
            return "t_score", self._tests.get("t_score", Test())
        if text in BY_LOINC:
            name = BY_LOINC[text].name
            test = self._tests.get(name, Test())
            analyte = test.analyte or (
                "urea_nitrogen" if molar_mass_of(name, None, text) != molar_mass_of(name) else None
            )
            return name, test.model_copy(update={"analyte": analyte})
        return None


def map_chunk(chunk: Chunk, reading: Reading, names: TestNames, sites: dict[str, int], start: int) -> np.ndarray:
    """Rows as delivered, as observations (dtype BLOCK). `start` counts the rows before, for the order among equals."""
    m, raw, found = reading.mapping, chunk.frame, reading.found
    assert m.patient_id is not None
    assert m.test is not None
    found.rows += len(raw)
    site_texts = raw[m.site_column] if m.site_column and m.site_column in raw else None
    base = np.zeros(len(raw), BLOCK)
    keys = reading.keys(raw[m.patient_id], site_texts, chunk, m.patient_id)
    codes, uniques = pd.factorize(keys)
    as_numbers = np.array([int(u, 16) for u in uniques] + [0], np.uint64)
    base["patient"] = as_numbers[codes]
    base["site"] = _site_numbers(raw, site_texts, m, sites)
    base["rank"] = 1
    base["order"] = np.arange(start, start + len(raw))
    base["day"], base["second"], placed = _times(chunk, reading)
    usable = (codes >= 0) & placed
    out = []
    tests, test_texts = texts_of(raw[m.test])
    counts = np.bincount(tests, minlength=len(test_texts))
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    how: dict[tuple[str, str], Test] = {}
    for k, text in enumerate(test_texts):
        use = names.find(text)
        if use is None:
            if counts[k]:
                found.unknown[text or "(no test named)"] += int(counts[k])
            continue
        groups[use[0], text].append(k)
        how[use[0], text] = use[1]
    for (name, text), which in groups.items():
        rows = np.flatnonzero(np.isin(tests, which))
        part = _with_signs(
            Chunk(chunk.source, raw.iloc[rows].reset_index(drop=True), chunk.numbers[rows], chunk.word),
            m,
            (how[name, text].numbers or m.numbers).decimal,
        )
        values = _values(name, text, how[name, text], part, reading)
        block = base[rows]
        known = ~np.isnan(values)
        # A day without a known value is still a record.
        block["what"] = np.where(known, T_SCORE if name == "t_score" else NAMES.index(name), PRESENT)
        block["value"] = np.where(known, values, 0)
        out.append(block[usable[rows]])
    stated = {name: _column(name, c, chunk, reading) for name, c in m.features.items() if c.column in raw}
    if m.birth_date and m.birth_date in raw:
        born = birth_dates(chunk, m.birth_date, reading)
        stated["age_y"] = _ages(born, base["day"], stated.get("age_y"), chunk, reading)
        months = born.astype("datetime64[M]")
        numbers = np.where(np.isnat(months), np.nan, months.astype("int64").astype(float))
        out.append(_column_block(base, usable, BIRTH, numbers))
    out += [_column_block(base, usable, NAMES.index(name), values) for name, values in stated.items()]
    return np.concatenate(out) if out else base[:0]


def _with_signs(part: Chunk, m: Mapping, decimal: str) -> Chunk:
    """The chunk with the signs of bounds before their values, where they stand in a column of their own.

    Args:
        decimal: how the values' texts write it: a cell that is a number has none, and becomes such a text here.
    """
    if m.comparator is None or m.comparator not in part.frame or m.value not in part.frame:
        return part
    signs = part.frame[m.comparator].map(plain)
    values = part.frame[m.value].astype(object)
    apart = (~signs.str.casefold().isin(m.missing_texts | {"", "="}) & (values.map(plain) != "")).to_numpy(bool)
    texts = values[apart].map(lambda v: plain(v).replace(".", decimal) if isinstance(v, Number) else plain(v))
    values[apart] = signs[apart] + texts
    frame = part.frame.copy()
    frame[m.value] = values
    return replace(part, frame=frame)


def _values(name: str, text: str, test: Test, part: Chunk, reading: Reading) -> np.ndarray:
    m = reading.mapping
    assert m.value is not None
    if name == "t_score":
        stated = part.frame[m.unit] if m.unit and test.unit is None else None
        return reading.t_scores(part.frame[m.value], part, m.value, text, stated, test)
    units = part.frame[m.unit] if m.unit and test.codes is None else None
    if units is None and test.unit is None and test.codes is None:
        units = pd.Series([""] * len(part.frame), dtype=object)  # no unit is no unit
    return reading.quantity(name, test, part.frame[m.value], units, part, m.value, text)


def _column(name: str, c: Column, chunk: Chunk, reading: Reading) -> np.ndarray:
    """Values [n] of a feature that has a column of its own (sex, age) in every row."""
    units = chunk.frame[c.unit_column] if c.unit_column else None
    return reading.quantity(name, c, chunk.frame[c.column], units, chunk, c.column)


def _column_block(base: np.ndarray, usable: np.ndarray, what: int, values: np.ndarray) -> np.ndarray:
    keep = ~np.isnan(values) & usable
    block = base[keep]
    block["what"], block["value"] = what, values[keep]
    return block


def _ages(born: np.ndarray, days: np.ndarray, stated: np.ndarray | None, chunk: Chunk, reading: Reading) -> np.ndarray:
    """Ages [n] at days since 1970 (NO_DAY: undated): those that the rows state, else by the birth date."""
    column = reading.mapping.birth_date
    assert column is not None
    at = days.astype("int64").astype("datetime64[D]")
    at[days == NO_DAY] = np.datetime64("NaT")
    return ages(born, at, stated, chunk, column, reading)


def _site_numbers(raw: pd.DataFrame, texts: pd.Series | None, m: Mapping, sites: dict[str, int]) -> np.ndarray:
    if texts is None:
        return np.full(len(raw), -1 if m.site is None else sites.setdefault(m.site, len(sites)), np.int16)
    codes, uniques = texts_of(texts)
    named = [u if u and u.casefold() not in m.missing_texts else m.site for u in uniques]
    numbers = [-1 if u is None else sites.setdefault(u, len(sites)) for u in named]
    return np.array(numbers, np.int16)[codes]


def _times(chunk: Chunk, reading: Reading) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(days since 1970 or NO_DAY, seconds of the day, whether no date was refused) of each row."""
    m, n = reading.mapping, len(chunk.frame)
    if not m.date or m.date not in chunk.frame:
        return np.full(n, NO_DAY, np.int32), np.zeros(n, np.int32), np.ones(n, bool)
    parsed, second = moments_of(chunk, m.date, reading)
    day = parsed.values.astype("datetime64[D]").astype("int64")
    day[np.isnat(parsed.values)] = NO_DAY
    return day.astype(np.int32), second, parsed.state != BAD
