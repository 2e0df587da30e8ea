"""Phrases in free text of headers, matched on whole tokens: `MAR` is in "L-SPINE MAR", not in "MARROW".

A pattern is a regular expression over tokens that one space parts: "(IODINE|IOD) MAP", "^ IODINE $" (the whole text),
"\\d+ ?KEV". It begins and ends where a token does.
Patterns of Chinese, Japanese and Korean words, which are written without spaces, are looked for anywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_TOKEN = re.compile(r"\d+[.,]\d+|[^\W_]+\+*")
_RUN_ON = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def tokens(text: str | None) -> str:
    """Upper-case tokens without accents, one space before, between and after; "" where there are none.

    Decimal numbers stay whole, an underscore or any other sign ends a token, a plus sign belongs to what it follows.
    """
    if not text:
        return ""
    found = _TOKEN.findall(_plain(text).upper())
    return f" {' '.join(found)} " if found else ""


def joined(*texts: str | None) -> str:
    """Tokens of several texts, with a bar between that no phrase crosses; `^` and `$` are each text's ends."""
    return "|".join(t for t in map(tokens, texts) if t)


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def compiled(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression that finds any of `patterns` in what `tokens` gives.

    Raises:
        ValueError: an empty list or pattern; words with and without spaces between them in one pattern.
        re.error: a pattern that is no regular expression.
    """
    parts = [_one(p) for p in patterns]
    if not parts:
        raise ValueError("no patterns")
    return re.compile("|".join(parts))


def _one(pattern: str) -> str:
    p = _plain(pattern).strip()
    if not p:
        raise ValueError("an empty pattern")
    if _RUN_ON.search(p):
        if re.search("[A-Z]{2}", p.replace("CT", "")):
            raise ValueError(f"{pattern!r}: whole tokens, and words looked for anywhere, need a pattern each")
        return f"(?:{p})"
    start, end = "(?<= )", "(?= )"
    if p.startswith("^ "):
        start, p = r"(?:^|(?<=\|)) ", p[2:]
    if p.endswith(" $"):
        end, p = r" (?:$|(?=\|))", p[:-2]
    return f"{start}(?:{p}){end}"
