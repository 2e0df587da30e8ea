"""What is written in a cell, as a number or a code, and whether it is a patient's number. Nothing is guessed: other
ways of writing need a rule. Days are in `dates`.

    numbers(pd.Series(["5,2", "<3"]), missing, Numbers(decimal=","))     # [5.2, NaN], the second a bound

Each function looks at the different texts of a column only once, so that long columns cost little.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd

from osteo_ray.patients.mapping import Numbers
from osteo_ray.patients.units import unit_like

_BOUND = re.compile(r"([<>≤≥]=?|=[<>])\s*(?=[+-]?[\d.,])")
_TOP_CODED = re.compile(r"(\d+)\s*\+|(?:>=?|≥)\s*(\d+)")
_YEARS = "y|yr|yrs|years?|a|j|jahre?|ans?|años?|岁|歲|周岁|周歲|歳|才"
_AGE = re.compile(rf"(\d+(?:\.\d+)?)\s*({_YEARS}|m|mo|months?|w|weeks?|d|days?)\.?", re.I)
_IS_YEARS = re.compile(_YEARS, re.I)
_PER_YEAR = {"m": 12.0, "w": 365.25 / 7, "d": 365.25}
_FLAG = re.compile(r"(?<=[\d.,])(?:\s*(?:[HL]{1,2}|[(\[][HL]{1,2}[)\]]|[*↑↓!]+))+$|^[*↑↓!]+\s*(?=[\d.,])")
_LOST_DIGITS = re.compile(r"\d(?:[.,]\d+)?[eE]\+\d+|\d[.,]\d+[eE]\d+")
_MIDNIGHT = re.compile(r"\d{4}-\d\d-\d\d 00:00:00")
_EXACT = 2**53  # above, a float is not one whole number
_GUARDED = re.compile(r"=\"(.*)\"|'(.*?)'?")  # ="0012" and '0012 keep a spreadsheet from reading a number
_ERROR = re.compile(r"#(?:N/A|REF!|VALUE!|NAME\?|DIV/0!|NULL!|NUM!|NV|BEZUG!|WERT!|ZAHL!|####*)", re.I)
OK, MISSING, BOUND, BAD = 0, 1, 2, 3


@dataclass(frozen=True)
class Parsed:
    """Values of a column [n], and what each cell was: `state` is OK, MISSING, BOUND or BAD; `texts` as written."""

    values: np.ndarray
    state: np.ndarray
    texts: Callable[[Any], str]


def plain(value: Any) -> str:
    """A cell as text: full-width characters as plain ones, 1.0 as 1, ="007" as 007, blanks at the ends cut; '' where
    there is none."""
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value)) if abs(float(value)) < _EXACT else repr(float(value))
    text = str(value)
    text = (text if text.isascii() else unicodedata.normalize("NFKC", text)).strip()
    if text[:1] in ("=", "'") and len(text) > 1 and (m := _GUARDED.fullmatch(text)):
        text = (m[2] if m[1] is None else m[1]).strip()
    return text


def as_written(value: Any) -> str:
    """A cell as text with every character that it has (`plain` makes 10³ the number 103)."""
    return value.strip() if isinstance(value, str) else plain(value)


def texts_of(column: pd.Series, text_of: Callable[[Any], str] = plain) -> tuple[np.ndarray, list[str]]:
    """(which [n], texts): the cells of a column as texts, each different cell turned into one once."""
    which, uniques = pd.factorize(column.astype(object), use_na_sentinel=True)
    which[which < 0] = len(uniques)
    return which, [*(text_of(u) for u in uniques), ""]


def parse_each(column: pd.Series, parse: Callable[[Any], tuple[Any, int]], dtype: Any) -> Parsed:
    """Parse every different cell once; `parse` gives (value, state) of a cell, None where there is none."""
    codes, uniques = pd.factorize(column.astype(object), use_na_sentinel=True)
    cells = list(uniques)
    parsed = [parse(c) for c in cells] + [parse(None)]
    values = np.array([p[0] for p in parsed], dtype)
    state = np.array([p[1] for p in parsed], np.int8)
    return Parsed(values[codes], state[codes], lambda i: as_written(cells[codes[i]]) if codes[i] >= 0 else "")


def numbers(column: pd.Series, missing: frozenset[str], rule: Numbers) -> Parsed:
    """A column of numbers as float64, NaN where missing, bound (unless halved) or bad."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = column.to_numpy(np.float64, na_value=np.nan).copy()
        coded = [float(m) for m in missing if _is_plain_number(m)]
        empty = np.isnan(values) | np.isin(values, coded)
        bad = ~empty & ~np.isfinite(values)
        stated = values.copy()
        values[empty | bad] = np.nan
        state = np.where(bad, BAD, np.where(empty, MISSING, OK)).astype(np.int8)
        return Parsed(values, state, lambda i: plain(float(stated[i])))
    return parse_each(column, lambda cell: number(cell, missing, rule), np.float64)


def raised(cell: Any) -> bool:
    """Whether a text holds digits that are no part of a number: raised ones (the mark of a footnote), circled ones,
    fractions. `plain` would make 801 of 80¹. Numerals that are letters (三, 千, Ⅳ) stand in names and ids, and stay."""
    return isinstance(cell, str) and not cell.isascii() and any(unicodedata.category(c) == "No" for c in cell)


def _is_plain_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d*)?", text) is not None


def number(cell: Any, missing: frozenset[str], rule: Numbers) -> tuple[float, int]:
    """(value, state) of one cell. A cell that is a number already has no decimal sign."""
    text = plain(cell).replace("\u2212", "-").replace("\u2019", "'")
    if text.casefold() in missing:
        return np.nan, MISSING
    if isinstance(cell, bool | np.bool_) or raised(cell):
        return np.nan, BAD
    if isinstance(cell, Number):
        stated = float(cell)  # type: ignore[arg-type]
        if f"{stated:g}" in missing:
            return np.nan, MISSING
        return (stated, OK) if np.isfinite(stated) else (np.nan, BAD)
    if "top_coded" in rule.rules and (m := _TOP_CODED.fullmatch(text)):
        return float(m[1] or m[2]), OK
    if "flags" in rule.rules:
        text = _FLAG.sub("", text)
    bound = _BOUND.match(text)
    if bound:
        limit = _digits(text[bound.end() :], rule)
        if limit is None:
            return np.nan, BAD
        low = "<" in bound[1] or "≤" in bound[1]
        return (limit / 2 if low and rule.bounds == "half" else np.nan), BOUND
    value = _digits(text, rule)
    if value is not None:
        return (np.nan, MISSING) if f"{value:g}" in missing else (value, OK)
    if "age_units" in rule.rules and (m := _AGE.fullmatch(text)):
        per_year = 1.0 if _IS_YEARS.fullmatch(m[2]) else _PER_YEAR[m[2][0].lower()]
        return round(float(m[1]) / per_year, 2), OK
    return np.nan, BAD


def _digits(text: str, rule: Numbers) -> float | None:
    d = re.escape(rule.decimal)
    if rule.thousands and rule.thousands != rule.decimal:
        sign = re.escape(rule.thousands) if rule.thousands != " " else r"\s"
        if re.fullmatch(rf"[+-]?\d{{1,3}}(?:{sign}\d{{3}})+(?:{d}\d+)?", text):
            text = re.sub(sign, "", text)
    if not re.fullmatch(rf"[+-]?(?:\d+(?:{d}\d*)?|{d}\d+)(?:[eE][+-]?\d+)?", text):
        return None
    return float(text.replace(rule.decimal, "."))


def number_hint(text: str, rule: Numbers, codes: str | None = None, age: bool = False) -> str:
    """What would mend a cell that is no number: the key of the mapping, where there is one."""
    if codes:
        return f"; say what each text means: `codes: {codes}`"
    if raised(text):
        return "; a raised or circled digit (a footnote's mark?) is no part of the number: take it out"
    text = plain(text)
    if _ERROR.fullmatch(text):
        return "; a spreadsheet's error: if it means missing, add it, in quotes, to `missing:`"
    grouped = re.fullmatch(r"[+-]?\d{1,3}(?:([. ’'])\d{3})+(,\d+)?", text)
    if grouped and (grouped[2] or grouped[1] != "."):
        decimal = "decimal: ',', " if grouped[2] else ""
        sign = grouped[1].replace("’", "'")
        return f"; if '{sign}' groups digits: `numbers: {{{decimal}thousands: {sign!r}}}`"
    if re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        return "; `numbers: {thousands: ','}` if the comma groups digits, `numbers: {decimal: ','}` if it is the point"
    if rule.decimal == "." and re.fullmatch(r"[+-]?\d*,\d+", text):
        return "; if the comma is the decimal point: `numbers: {decimal: ','}`"
    if rule.decimal == "," and re.fullmatch(r"[+-]?\d*\.\d+", text):
        return "; the mapping's decimal sign is ',': give this column `numbers: {decimal: '.'}`"
    if age:
        for name, found in (("top_coded", _TOP_CODED), ("age_units", _AGE)):
            if found.fullmatch(text):
                return f"; `numbers: {{rules: [{name}]}}` reads it"
    if _digits(_FLAG.sub("", text), rule) is not None:
        return "; `numbers: {rules: [flags]}` reads it"
    if (m := re.fullmatch(r"[<>≤≥]?=?\s*[+-]?\d[\d.,]*\s*([^\d\s].*)", text)) and unit_like(m[1]):
        return f"; take {m[1]!r} out: a unit belongs in a column of its own or in the mapping"
    if not re.search(r"\d", text):
        return "; if it means missing, add it to `missing:`"
    return "; correct it, or add it to `missing:` if it means missing"


def coded(column: pd.Series, missing: frozenset[str], codes: Mapping[str, float | None]) -> Parsed:
    """A column of codes as their numbers."""
    known = {plain(k).casefold(): np.nan if v is None else float(v) for k, v in codes.items()}

    def parse(cell: Any) -> tuple[float, int]:
        text = plain(cell).casefold()
        if text not in known and re.fullmatch(r"\d+\.0+", text):
            text = text.split(".")[0]
        if text in known:
            return known[text], MISSING if np.isnan(known[text]) else OK
        return np.nan, MISSING if text in missing else BAD

    return parse_each(column, parse, np.float64)


def is_error(text: str) -> bool:
    """Whether a text is what a spreadsheet shows where a formula failed ('#REF!')."""
    return _ERROR.fullmatch(text) is not None


def no_id(cell: Any) -> str | None:
    """Why a cell is no patient's number: what a spreadsheet or a data frame made of one; None where it may be one."""
    text = plain(cell)
    if is_error(text):
        return f"{text!r} is a spreadsheet's error, not a patient id"
    if isinstance(cell, dt.date) or _MIDNIGHT.fullmatch(text):
        return f"{text!r} is a date, as a spreadsheet makes of 3-12, not a patient id; export the numbers as text"
    if isinstance(cell, float | np.floating) and not float(cell).is_integer():
        return f"{text!r} has digits behind the point, as no patient id has; export the numbers as text"
    if raised(cell):
        return f"{as_written(cell)!r} has a raised or circled digit (a footnote's mark?); take it out"
    if lost_digits(text):
        return f"{text!r} has lost its last digits where it was kept as a number; export the numbers as text"
    return None


def lost_digits(text: str) -> bool:
    """Whether a number was rounded by a spreadsheet ('1.23457E+11')."""
    return _LOST_DIGITS.fullmatch(text) is not None
