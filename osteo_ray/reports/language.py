"""Words for people in English, German and Chinese, from one catalogue: `messages/*.yaml`.

    words = words_in("de")
    words("risk.interval", low="51 %", high="75 %")        # 'Intervall 51 % bis 75 %'
    words.code("Q_KVP")                                     # 'Röhrenspannung'

Programs read codes (results, SR, FHIR, result.json), which are the same in every language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

LANGUAGES = {"en": "English", "de": "Deutsch", "zh": "中文"}
"""Tag (BCP 47) -> the language's own name."""
ENGLISH = "en"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Words:
    """The catalogue in one language."""

    language: str
    texts: Mapping[str, str]

    def __call__(self, key: str, **values: Any) -> str:
        """A text with its values filled in.

        Raises:
            KeyError: the catalogue has no such key, or a value is missing.
        """
        return self.texts[key].format_map(values) if values else self.texts[key]

    def get(self, key: str, default: str) -> str:
        """A text without values, or `default` where the catalogue has no such key."""
        return self.texts.get(key, default)

    def code(self, code: str | None) -> str:
        """What the code of an outcome, a check or a known fact means; one that has no words stands as it is."""
        for key in (f"code.{code}", f"known.{code}"):
            if key in self.texts:
                return self.texts[key]
        return code or ""


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """Key -> text by language, of all files.

    Raises:
        ValueError: two files hold the same key.
    """
    out: dict[str, dict[str, str]] = {}
    for path in sorted(files("osteo_ray.reports").joinpath("messages").iterdir(), key=lambda p: p.name):
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
        if twice := out.keys() & found.keys():
            raise ValueError(f"{path.name}: {', '.join(sorted(twice))} is in another file too")
        out |= found
    return out


@cache
def words_in(language: str = ENGLISH) -> Words:
    """The catalogue in a language of `LANGUAGES`.

    Raises:
        KeyError: another language.
    """
    if language not in LANGUAGES:
        raise KeyError(f"no language {language!r}; there are: {', '.join(LANGUAGES)}")
    return Words(language, {key: texts[language] for key, texts in catalogue().items()})


def preferred(accept: str | None) -> str:
    """The language that an Accept-Language header asks for first, of those there are; English where none is."""
    asked: list[tuple[float, int, str]] = []
    for i, part in enumerate((accept or "").split(",")):
        tag, _, weight = part.strip().partition(";q=")
        try:
            asked.append((-float(weight or 1), i, tag.strip().lower()))
        except ValueError:
            continue
    for _, _, tag in sorted(asked):
        if (base := tag.split("-")[0]) in LANGUAGES:
            return base
    return ENGLISH


DISCLAIMER = words_in()("notice")
"""What every output says, in English; pages say it in their own language."""
