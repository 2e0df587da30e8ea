"""How values are written on a page: a dash for the unknown, percents that never claim certainty, real minus signs."""

from __future__ import annotations

import math

NONE = "–"
SPACE = "\u202f"  # narrow and unbreakable: a number stays with its percent sign


def text(value: object) -> str:
    return NONE if value is None or value == "" else str(value)


def percent(p: float | None) -> str:
    """Risk for a person: whole percent, but never 0 % or 100 %, which no model can know."""
    if p is None or math.isnan(p):
        return NONE
    if 0 < p < 0.01:
        return f"<{SPACE}1{SPACE}%"
    if 0.99 < p < 1:
        return f">{SPACE}99{SPACE}%"
    return f"{100 * p:.0f}{SPACE}%"


def signed(x: float | None) -> str:
    return NONE if x is None or math.isnan(x) else f"{x:+.2f}".replace("-", "−")


def number(x: float | None, digits: int = 1) -> str:
    return NONE if x is None or math.isnan(x) else f"{x:.{digits}f}".replace("-", "−")


def plain(x: float | None) -> str:
    """A measured value in at most four significant digits, without an exponent."""
    if x is None or math.isnan(x):
        return NONE
    return (f"{x:.0f}" if abs(x) >= 1000 else f"{x:.4g}").replace("-", "−")


def tail(uid: object, keep: int = 12) -> str:
    """The end of a UID, which is what tells two apart."""
    s = text(uid)
    return s if len(s) <= keep + 1 else "…" + s[-keep:].lstrip(".")


def shorten(s: str, most: int = 60) -> str:
    return s if len(s) <= most else s[: most - 1] + "…"


def size(n: int | None) -> str:
    if n is None:
        return NONE
    value = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def date(dicom: str | None) -> str | None:
    """DICOM's 20310402 as 2031-04-02; anything else as it stands."""
    if dicom and len(dicom) == 8 and dicom.isdigit():
        return f"{dicom[:4]}-{dicom[4:6]}-{dicom[6:]}"
    return dicom


def seconds(s: float | None) -> str:
    return NONE if s is None else f"{s:.2f} s"


def duration(s: float) -> str:
    if s < 60:
        return f"{s:.1f} s"
    minutes, rest = divmod(round(s), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
