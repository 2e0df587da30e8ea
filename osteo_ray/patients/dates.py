"""What is written in a cell, as a day or a moment, and ages by birth dates. Nothing is guessed: where day and month are
in doubt, the form has to be named.

    days(pd.Series(["2024-03-10", "11.03.2024"]), missing, ("%d.%m.%Y",))     # both; without the form, the first alone

As in `values`, each different text of a column is looked at once.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from osteo_ray.patients.values import BAD, MISSING, OK, Parsed, parse_each, plain

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


def births(column: pd.Series, missing: frozenset[str], formats: tuple[str, ...] = ()) -> Parsed:
    """A column of birth dates as datetime64[D]; see `birth`."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return days(column, missing, formats)
    return parse_each(column, lambda cell: birth(cell, missing, formats), "datetime64[D]")


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
