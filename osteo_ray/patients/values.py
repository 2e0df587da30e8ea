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
from numbers import Number
from typing import Any
from zoneinfo import ZoneInfo

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


def _each(column: pd.Series, parse: Callable[[Any], tuple[Any, int]], dtype: Any) -> Parsed:
    """Parse every different cell once."""
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
    return _each(column, lambda cell: number(cell, missing, rule), np.float64)


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

    return _each(column, parse, np.float64)


_NAT = np.datetime64("NaT", "D")
_HALVES = "上午|下午|午前|午後|오전|오후"
_AFTERNOON = ("下午", "午後", "오후")
_HALF = rf"(?P<half>[AaPp]\.?\s?[Mm]\.?|{_HALVES})"
_CLOCK = (
    rf"(?P<before>{_HALVES})?\s*(?P<h>\d{{1,2}})[:.时時]?(?P<min>\d{{2}})"
    rf"(?:[:.分]?(?P<s>\d{{2}})秒?(?:[.,:]\d+)?)?分?(?:\s*{_HALF})?"
)
_OFFSET = r"(?P<zone>Z|(?:UTC|GMT)(?:[+-]\d{1,2}(?::?\d{2})?)?|[+-]\d{2}(?::?\d{2})?)"
_OFFSET_BY = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?")
_AT = r"(?i:(?:à|às|a las|at|um|kl\.?|alle|ore|om|в)\s+)?"
_TIME_WORDS = rf"\s*(?i:Uhr|hrs?\.?|hs\.?|h|uur)?(?:\s*(?:{_OFFSET}|[A-Z]{{1,4}}T|MES?Z|MSK))?"
_AFTER_DATE = re.compile(rf"[T ]\s*{_AT}(?:{_CLOCK}|\d{{1,2}}(?:[.h]\d{{2}})?){_TIME_WORDS}")
_DAY_AND_MONTH = re.compile(r"%[dm].*%[dm].*%[yY]")
_BY_CHANCE, _TEXTS = 0.01, 2
_ISO = re.compile(rf"(\d{{4}})([-/.])(\d{{1,2}})\2(\d{{1,2}})(?:[T ]\s*{_AT}{_CLOCK}{_TIME_WORDS})?")
_COMPACT = re.compile(
    rf"(\d{{4}})()(\d{{2}})(\d{{2}})(?:T?(?P<h>\d{{2}})(?P<min>\d{{2}})(?P<s>\d{{2}})?(?P<before>)(?P<half>)(?:\.\d+)?{_OFFSET}?)?"
)
_CHINESE = re.compile(rf"(\d{{4}})()年(\d{{1,2}})月(\d{{1,2}})[日号](?:\s*{_CLOCK}(?P<zone>))?")
_AMBIGUOUS = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{2}|\d{4})(?:[ T].*)?")
_MONTH_NAME = re.compile(r"\d{1,2}([-/. ]+)[^\W\d_]{3,}\.?([-/. ]+)(\d{4}|\d{2})(?:[ T].*)?")
_YEAR_OR_MONTH = re.compile(r"(\d{4})(?:[-/](\d{2}))?")
_SERIAL = re.compile(r"[2-6]\d{4}(?:\.\d+)?")  # days since 1900 of 1954 to 2091


def days(column: pd.Series, missing: frozenset[str], formats: tuple[str, ...] = (), zone: str | None = None) -> Parsed:
    """A column of dates as datetime64[D]: the local day as it is written, whatever its offset says.

    Args:
        formats: ways of writing (strptime), tried first; ISO dates need none.
        zone: where given, times with an offset are turned into this zone first.
    """
    return moments(column, missing, formats, zone)[0]


def moments(
    column: pd.Series, missing: frozenset[str], formats: tuple[str, ...] = (), zone: str | None = None
) -> tuple[Parsed, np.ndarray]:
    """The same, and seconds of the local day, int32 [n]; 0 where no time is written."""
    if pd.api.types.is_datetime64_any_dtype(column):
        if getattr(column.dt, "tz", None) is not None:
            column = (column.dt.tz_convert(zone) if zone else column).dt.tz_localize(None)
        at = column.to_numpy("datetime64[s]")
        values = at.astype("datetime64[D]")
        bad = ~np.isnat(values) & ((values < np.datetime64("1850-01-01")) | (values >= np.datetime64("2200-01-01")))
        state = np.where(np.isnat(values), MISSING, np.where(bad, BAD, OK)).astype(np.int8)
        second = np.where(np.isnat(at), 0, (at - values).astype("int64")).astype(np.int32)
        return Parsed(np.where(bad, _NAT, values), state, lambda i: str(column.iloc[i])), second
    codes, uniques = pd.factorize(column.astype(object), use_na_sentinel=True)
    cells = list(uniques)
    parsed = [moment(c, missing, formats, zone) for c in cells] + [(None, MISSING)]
    each = np.array([at for at, _ in parsed], "datetime64[s]")
    days_, state = each.astype("datetime64[D]"), np.array([x for _, x in parsed], np.int8)
    second = np.where(np.isnat(each), 0, (each - days_).astype("int64")).astype(np.int32)
    texts = lambda i: plain(cells[codes[i]]) if codes[i] >= 0 else ""  # noqa: E731
    return Parsed(days_[codes], state[codes], texts), second[codes]


def day(
    cell: Any, missing: frozenset[str], formats: tuple[str, ...] = (), zone: str | None = None
) -> tuple[np.datetime64, int]:
    """(local day, state) of one cell."""
    at, state = moment(cell, missing, formats, zone)
    return (_NAT if at is None else np.datetime64(at.date())), state


def moment(
    cell: Any, missing: frozenset[str], formats: tuple[str, ...] = (), zone: str | None = None
) -> tuple[dt.datetime | None, int]:
    """(local time, None where there is none; state) of one cell. Where two named forms fit, and give different days,
    none is right: BAD."""
    if isinstance(cell, dt.datetime) and cell is not pd.NaT:
        return _in_range(cell.astimezone(ZoneInfo(zone)) if zone and cell.tzinfo else cell)
    if isinstance(cell, dt.date):
        return _in_range(dt.datetime(cell.year, cell.month, cell.day))
    text = plain(cell)
    if text.casefold() in missing or not text:
        return None, MISSING
    fits = _by_formats(text, formats, zone)
    if fits:
        return _in_range(fits[0]) if len({f.date() for f in fits}) == 1 else (None, BAD)
    m = _ISO.fullmatch(text) or _COMPACT.fullmatch(text) or _CHINESE.fullmatch(text)
    if m is None:
        return None, BAD
    try:
        at = dt.datetime(int(m[1]), int(m[3]), int(m[4])) + _clock(m)
        if zone and m["zone"]:
            at = at.replace(tzinfo=_offset(m["zone"])).astimezone(ZoneInfo(zone))
    except (ValueError, OverflowError):
        return None, BAD
    return _in_range(at)


def _by_formats(text: str, formats: tuple[str, ...], zone: str | None = None) -> list[dt.datetime]:
    """What each of the named forms makes of a text, or of its date where nothing but a time of day follows it."""
    out = []
    for form in formats:
        for part in dict.fromkeys((text, text.split()[0], text.split("T")[0])):
            m = _AFTER_DATE.fullmatch(text, len(part))
            if part != text and m is None:  # words, or another date: of a range, no day is the day
                continue
            if m and _dotted_date(m[0].strip(), formats):
                continue
            try:
                at = dt.datetime.strptime(part, form) + (_clock(m) if m else dt.timedelta())
                if zone and m and m["zone"]:
                    at = at.replace(tzinfo=_offset(m["zone"])).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
            except (ValueError, OverflowError):
                continue
            out.append(at)
            break
    return out


def _dotted_date(text: str, formats: tuple[str, ...]) -> bool:
    """Whether a text that reads as a time with dots (12.04.24) is a date of a named form, too: the end of a range."""
    if ":" in text:
        return False
    for form in (f for f in formats if "." in f):
        try:
            dt.datetime.strptime(text, form)
        except ValueError:
            continue
        return True
    return False


def _clock(m: re.Match[str]) -> dt.timedelta:
    """The time of day that a date is written with.

    Raises:
        ValueError: no time of a day.
    """
    if m["h"] is None:
        return dt.timedelta()
    hour, minute, second = int(m["h"]), int(m["min"]), int(m["s"] or 0)
    if half := m["before"] or m["half"]:
        hour = hour % 12 + 12 * (half in _AFTERNOON or half[0] in "pP")
    if hour * 3600 + minute * 60 + second > 86400 or minute > 59 or second > 60:
        raise ValueError("no time of day")
    # Midnight at a day's end is written as 24:00 of that day.
    return dt.timedelta(seconds=min(hour * 3600 + minute * 60 + second, 86399))


def _offset(text: str) -> dt.timezone:
    m = _OFFSET_BY.fullmatch(text)
    if m is None:
        return dt.UTC
    by = dt.timedelta(hours=int(m[2]), minutes=int(m[3] or 0))
    return dt.timezone(by if m[1] == "+" else -by)


def _in_range(at: dt.datetime) -> tuple[dt.datetime | None, int]:
    return (at.replace(tzinfo=None), OK) if 1850 <= at.year < 2200 else (None, BAD)


def date_hint(text: str, formats: tuple[str, ...] = ()) -> str:
    """What would mend a cell that is no date."""
    if len(_by_formats(text, formats)) > 1:
        return "; two of the forms that date_format names fit, with different days: name one"
    if text.split() and _by_formats(text.split()[0], formats):
        return f"; behind {text.split()[0]!r} only a time of day may stand"
    if _SERIAL.fullmatch(text):
        return "; a spreadsheet's number of a day: format the column as a date there, and save it again"
    forms = date_forms(text)
    if not forms:
        return "; write YYYY-MM-DD, or name the form, as in `date_format: '%d %b %Y'`"
    months = " (English months)" if "%b" in forms[0] else ""
    if len(forms) == 1:
        return f"; name the form: `date_format: '{forms[0]}'`{months}"
    others = " or ".join(f"'{f}'" for f in forms[1:])
    return f"; {which_first(forms)} name the form: `date_format: '{forms[0]}'` or {others}"


def which_first(forms: list[str]) -> str:
    """What has to be asked of a date that may be of several forms."""
    return "day, month or year first?" if any(f.startswith("%y") for f in forms) else "day or month first?"


def date_forms(text: str) -> list[str]:
    """Ways of writing dates (strptime) of which a text may be one; several where it is in doubt what stands first."""
    m = _AMBIGUOUS.fullmatch(text)
    if m is None:
        m = _MONTH_NAME.fullmatch(text)
        return [f"%d{m[1]}%b{m[2]}{'%Y' if len(m[3]) == 4 else '%y'}"] if m else []
    sep, year = m[2], "%Y" if len(m[4]) == 4 else "%y"
    first, second, last = int(m[1]), int(m[3]), int(m[4])
    forms = [(f"%d{sep}%m{sep}{year}", first, second), (f"%m{sep}%d{sep}{year}", second, first)]
    if year == "%y" and len(m[1]) == 2:
        forms.append((f"%y{sep}%m{sep}%d", last, second))
    return [form for form, day_, month in forms if 1 <= day_ <= 31 and 1 <= month <= 12]


def exchanged(
    column: pd.Series, missing: frozenset[str], formats: tuple[str, ...]
) -> tuple[np.ndarray, str, str, bool] | None:
    """(rows [n], the first of them, a text beside them, whether it can hardly be chance) of dates of which a
    spreadsheet may have exchanged day and month; None where nothing speaks for it.

    A spreadsheet makes dates of those texts that it can read in its own locale, the month first, and leaves the others
    texts. Then each date has a day up to 12, and each text, of a named form, a later one.
    """
    loose = tuple(f for f in formats if _DAY_AND_MONTH.search(f))
    if not loose or pd.api.types.is_datetime64_any_dtype(column):
        return None
    codes, uniques = pd.factorize(column.astype(object), use_na_sentinel=True)
    dates: list[int] = []
    texts: list[int] = []
    for k, cell in enumerate(uniques):
        text = "" if isinstance(cell, dt.date) else plain(cell)
        fits = _by_formats(text, loose) if text and text.casefold() not in missing else []
        at, state = (fits[0], OK) if fits else moment(cell, missing, formats)
        if at is None or state != OK:
            continue
        if (at.day <= 12) == bool(fits):
            return None
        (texts if fits else dates).append(k)
    if not dates or not texts:
        return None
    # 12 days of a month's 30 are days up to 12. Only a spreadsheet's own dates are sure to be of its making: ISO texts
    # may have been written so.
    made = [k for k in dates if isinstance(uniques[k], dt.date)]
    sure = bool(made) and len(texts) >= _TEXTS and 0.4 ** len(made) * 0.6 ** len(texts) < _BY_CHANCE
    dates = made if sure else dates
    return np.isin(codes, dates), plain(uniques[dates[0]]), plain(uniques[texts[0]]), sure


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


def births(column: pd.Series, missing: frozenset[str], formats: tuple[str, ...] = ()) -> Parsed:
    """A column of birth dates as datetime64[D]; see `birth`."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return days(column, missing, formats)
    return _each(column, lambda cell: birth(cell, missing, formats), "datetime64[D]")


def birth(cell: Any, missing: frozenset[str], formats: tuple[str, ...] = ()) -> tuple[np.datetime64, int]:
    """(birth date, state) of one cell; a year or a month alone is taken by its middle."""
    date, state = day(cell, missing, formats)
    m = _YEAR_OR_MONTH.fullmatch(plain(cell)) if state == BAD else None
    return day(f"{m[1]}-{m[2] or '07'}-{'15' if m[2] else '01'}", missing) if m else (date, state)


def century_before(born: np.ndarray, formats: tuple[str, ...], today: dt.date | None = None) -> np.ndarray:
    """Birth dates (datetime64[s] [n]) of which a form names the year by two digits: nobody is born in the future, so
    one that would be is of the century before."""
    if not any("%y" in f for f in formats):
        return born
    ahead = born.astype("datetime64[D]") > np.datetime64(today or dt.date.today())
    month = born.astype("datetime64[M]")
    moved = (month - 1200).astype("datetime64[s]") + (born - month.astype("datetime64[s]"))
    return np.where(ahead, moved, born)


def age_at(birth: np.ndarray, day_: np.ndarray) -> np.ndarray:
    """Ages in years at days (both datetime64[D] [n]); NaN where either is missing."""
    out = (day_ - birth).astype("timedelta64[D]").astype(np.float64)
    out[np.isnat(birth) | np.isnat(day_)] = np.nan
    return np.round(out / 365.25, 1)
