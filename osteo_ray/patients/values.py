"""What is written in a cell, as a number, a code or a day. Nothing is guessed: other ways of writing need a rule.

    numbers(pd.Series(["5,2", "<3"]), missing, Numbers(decimal=","))     # [5.2, NaN], the second a bound

Each function looks at the different texts of a column only once, so that long columns cost little.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from osteo_ray.patients.mapping import Numbers

_BOUND = re.compile(r"([<>≤≥]=?|=[<>])\s*(?=[+-]?[\d.,])")
_TOP_CODED = re.compile(r"(\d+)\s*\+")
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(y|yr|yrs|years?|a|j|岁|歲|m|mo|months?|w|weeks?|d|days?)\.?", re.I)
_PER_YEAR = {"m": 12.0, "w": 365.25 / 7, "d": 365.25}
_FLAG = re.compile(r"(?<=[\d.,])\s*(?:[HL]{1,2}|[*↑↓!]+)$|^[*↑↓!]+\s*(?=[\d.,])")
_LOST_DIGITS = re.compile(r"\d(?:[.,]\d+)?[eE]\+\d+")
OK, MISSING, BOUND, BAD = 0, 1, 2, 3


@dataclass(frozen=True)
class Parsed:
    """Values of a column [n], and what each cell was: `state` is OK, MISSING, BOUND or BAD; `texts` as written."""

    values: np.ndarray
    state: np.ndarray
    texts: Callable[[Any], str]


def plain(value: Any) -> str:
    """A cell as text: full-width characters as plain ones, 1.0 as 1, blanks at the ends cut; '' where there is none."""
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = str(value)
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).strip()


def texts_of(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """(which [n], texts): the cells of a column as texts, each different cell turned into one once."""
    which, uniques = pd.factorize(column.astype(object), use_na_sentinel=True)
    which[which < 0] = len(uniques)
    return which, [*(plain(u) for u in uniques), ""]


def _each(column: pd.Series, parse: Callable[[Any], tuple[Any, int]], dtype: Any) -> Parsed:
    """Parse every different cell once."""
    codes, uniques = pd.factorize(column.astype(object), use_na_sentinel=True)
    cells = list(uniques)
    parsed = [parse(c) for c in cells] + [parse(None)]
    values = np.array([p[0] for p in parsed], dtype)
    state = np.array([p[1] for p in parsed], np.int8)
    return Parsed(values[codes], state[codes], lambda i: plain(cells[codes[i]]) if codes[i] >= 0 else "")


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
    return _each(column, lambda cell: number(cell, missing, rule), np.float64)


def _is_plain_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d*)?", text) is not None


def number(cell: Any, missing: frozenset[str], rule: Numbers) -> tuple[float, int]:
    """(value, state) of one cell."""
    text = plain(cell).replace("\u2212", "-")
    if text.casefold() in missing:
        return np.nan, MISSING
    if isinstance(cell, bool | np.bool_):
        return np.nan, BAD
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
        return value, OK
    if "top_coded" in rule.rules and (m := _TOP_CODED.fullmatch(text)):
        return float(m[1]), OK
    if "age_units" in rule.rules and (m := _AGE.fullmatch(text)):
        return round(float(m[1]) / _PER_YEAR.get(m[2][0].lower(), 1.0), 2), OK
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


def number_hint(text: str, rule: Numbers, codes: str | None = None) -> str:
    """What would mend a cell that is no number: the key of the mapping, where there is one."""
    if codes:
        return f"; say what each text means: `codes: {codes}`"
    if re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        return "; `numbers: {thousands: ','}` if the comma groups digits, `numbers: {decimal: ','}` if it is the point"
    if rule.decimal == "." and re.fullmatch(r"[+-]?\d*,\d+", text):
        return "; if the comma is the decimal point: `numbers: {decimal: ','}`"
    if rule.decimal == "," and re.fullmatch(r"[+-]?\d*\.\d+", text):
        return "; the mapping's decimal sign is ',': give this column `numbers: {decimal: '.'}`"
    for name, found in (("top_coded", _TOP_CODED), ("age_units", _AGE)):
        if found.fullmatch(text):
            return f"; `numbers: {{rules: [{name}]}}` reads it"
    if _FLAG.search(text):
        return "; `numbers: {rules: [flags]}` reads it"
    if not re.search(r"\d", text):
        return "; if it means missing, add it to `missing:`"
    return ""


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

    return _each(column, parse, np.float64)


_CLOCK = re.compile(r"[T ](\d{1,2}):?(\d{2})(?::?(\d{2}))?")
_NAT = np.datetime64("NaT", "D")
_TIME = r"(?:[T ]\s*(\d{1,2}:?\d{2}(?::?\d{2}(?:[.,]\d+)?)?)\s*(Z|UTC|[+-]\d{2}(?::?\d{2})?)?)?"
_ISO = re.compile(rf"(\d{{4}})([-/.])(\d{{1,2}})\2(\d{{1,2}}){_TIME}")
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(?:T?\d{4,6}(?:\.\d+)?(?:Z|[+-]\d{4})?)?")
_CHINESE = re.compile(r"(\d{4})年(\d{1,2})月(\d{1,2})[日号](?:\s*\d{1,2}[:时].*)?")
_AMBIGUOUS = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{2}|\d{4})(?:[ T].*)?")


def days(column: pd.Series, missing: frozenset[str], formats: tuple[str, ...] = (), zone: str | None = None) -> Parsed:
    """A column of dates as datetime64[D]: the local day as it is written, whatever its offset says.

    Args:
        formats: ways of writing (strptime), tried first; ISO dates need none.
        zone: where given, times with an offset are turned into this zone first.
    """
    if pd.api.types.is_datetime64_any_dtype(column):
        if getattr(column.dt, "tz", None) is not None:
            column = (column.dt.tz_convert(zone) if zone else column).dt.tz_localize(None)
        values = column.to_numpy("datetime64[s]").astype("datetime64[D]")
        bad = ~np.isnat(values) & ((values < np.datetime64("1850-01-01")) | (values >= np.datetime64("2200-01-01")))
        state = np.where(np.isnat(values), MISSING, np.where(bad, BAD, OK)).astype(np.int8)
        return Parsed(np.where(bad, _NAT, values), state, lambda i: str(column.iloc[i]))
    return _each(column, lambda cell: day(cell, missing, formats, zone), "datetime64[D]")


def day(
    cell: Any, missing: frozenset[str], formats: tuple[str, ...] = (), zone: str | None = None
) -> tuple[np.datetime64, int]:
    """(local day, state) of one cell."""
    if isinstance(cell, dt.datetime) and cell is not pd.NaT:
        cell = cell.astimezone(ZoneInfo(zone)) if zone and cell.tzinfo else cell
        return _in_range(cell.date())
    if isinstance(cell, dt.date):
        return _in_range(cell)
    text = plain(cell)
    if text.casefold() in missing or not text:
        return _NAT, MISSING
    for form in formats:
        for part in (text, text.split()[0], text.split("T")[0]):
            try:
                return _in_range(dt.datetime.strptime(part, form).date())
            except ValueError:
                continue
    if m := _ISO.fullmatch(text):
        if zone and m[6]:
            moment = dt.datetime.fromisoformat(text.replace(" ", "T", 1).replace("UTC", "Z").replace(" ", ""))
            return _in_range(moment.astimezone(ZoneInfo(zone)).date())
        return _date(m[1], m[3], m[4])
    if m := _COMPACT.fullmatch(text) or _CHINESE.fullmatch(text):
        return _date(m[1], m[2], m[3])
    return _NAT, BAD


def _date(year: str, month: str, of_month: str) -> tuple[np.datetime64, int]:
    try:
        return _in_range(dt.date(int(year), int(month), int(of_month)))
    except ValueError:
        return _NAT, BAD


def _in_range(d: dt.date) -> tuple[np.datetime64, int]:
    return (np.datetime64(d), OK) if 1850 <= d.year < 2200 else (_NAT, BAD)


def seconds(column: pd.Series) -> np.ndarray:
    """Seconds of the day, int32 [n]; 0 where no time is written."""
    if pd.api.types.is_datetime64_any_dtype(column):
        local = column.dt.tz_localize(None) if getattr(column.dt, "tz", None) is not None else column
        at = local.to_numpy("datetime64[s]")
        out = (at - at.astype("datetime64[D]")).astype("int64")
        return np.where(np.isnat(at), 0, out).astype(np.int32)
    which, texts = texts_of(column)
    found = (_CLOCK.search(t) for t in texts)
    each = [int(m[1]) * 3600 + int(m[2]) * 60 + int(m[3] or 0) if m else 0 for m in found]
    return np.array(each, np.int32)[which]


def date_hint(text: str) -> str:
    """What would mend a cell that is no date."""
    m = _AMBIGUOUS.fullmatch(text)
    if m is None:
        return "; write YYYY-MM-DD, or name the form: `date_format: '%d %b %Y'`"
    sep, year = m[2], "%Y" if len(m[4]) == 4 else "%y"
    forms = [f"%d{sep}%m{sep}{year}", f"%m{sep}%d{sep}{year}"]
    if int(m[1]) > 12:
        return f"; name the form: `date_format: '{forms[0]}'`"
    if int(m[3]) > 12:
        return f"; name the form: `date_format: '{forms[1]}'`"
    return f"; day or month first? name the form: `date_format: '{forms[0]}'` or '{forms[1]}'"


def lost_digits(text: str) -> bool:
    """Whether a number was rounded by a spreadsheet ('1.23457E+11')."""
    return _LOST_DIGITS.fullmatch(text) is not None


def age_at(birth: np.ndarray, day_: np.ndarray) -> np.ndarray:
    """Ages in years at days (both datetime64[D] [n]); NaN where either is missing."""
    out = (day_ - birth).astype("timedelta64[D]").astype(np.float64)
    out[np.isnat(birth) | np.isnat(day_)] = np.nan
    return np.round(out / 365.25, 1)
