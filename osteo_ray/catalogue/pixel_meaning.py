"""What the pixels of a series mean: plain HU, or something that must not be scored as HU (table: not_hu.yaml).

special = meaning_of(Stated(image_type="DERIVED\\\\PRIMARY\\\\AXIAL\\\\VMI", kvp=True))    # "virtual mono-energetic"
explanation(special)                                                                 # the sentence for a person
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import yaml

from osteo_ray.catalogue.phrases import compiled, joined, tokens

OTHER_UNITS, UNKNOWN_UNITS, PROJECTION = "other units", "unknown units", "intensity projection"
_PLAIN_UNITS = re.compile(r" (HU|H U|HOUNSFIELD( UNITS?)?|HOUNSFIELDUNITS?) ")
_PLACES = ("image_type", "text", "scan", "kernel", "rescale_type", "device")
_UNNAMED = re.compile(r" (UNKNOWN|UNDEFINED|NONE|ANONYMI[SZ]ED|REMOVED|N A)( \S+)* ")


@dataclass(frozen=True)
class Stated:
    """What one image's header states that its pixels' meaning is read from; None where it is silent."""

    image_type: str | None = None  # of the frame, where frames have their own
    description: str | None = None
    derivation: str | None = None
    protocol: str | None = None
    kernel: str | None = None
    rescale_type: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    kvp: bool = False  # whether a tube voltage is stated


@dataclass(frozen=True)
class Kind:
    """A meaning other than plain HU."""

    name: str
    near_hu: bool  # the values look like HU, but can't be compared with those of a plain scan
    text: str


@dataclass(frozen=True)
class Line:
    """A phrase that names a kind."""

    kind: str
    place: str  # one of _PLACES
    phrase: str
    source: str
    found: re.Pattern[str]
    unless: re.Pattern[str] | None


@dataclass(frozen=True)
class Table:
    """The whole of not_hu.yaml."""

    kinds: dict[str, Kind]
    lines: tuple[Line, ...]
    sources: dict[str, str]


@cache
def table() -> Table:
    """The package's table, read once.

    Raises:
        ValueError: a line whose kind, place or source is not defined.
    """
    data = yaml.safe_load(files("osteo_ray.catalogue").joinpath("not_hu.yaml").read_text(encoding="utf-8"))
    kinds = {name: Kind(name, bool(k["near_hu"]), k["text"]) for name, k in data["kinds"].items()}
    lines = []
    for x in data["lines"]:
        if x["kind"] not in kinds or x["in"] not in _PLACES or x["source"] not in data["sources"]:
            raise ValueError(f"not_hu.yaml: {x} names no kind, place or source of the table")
        unless = compiled([x["not"]]) if "not" in x else None
        lines.append(Line(x["kind"], x["in"], x["phrase"], x["source"], compiled([x["phrase"]]), unless))
    return Table(kinds, tuple(lines), dict(data["sources"]))


def line_of(s: Stated) -> Line | None:
    """The first line of the table that the header's words match."""
    text = joined(s.image_type, s.description, s.derivation)
    places = {
        "image_type": tokens(s.image_type),
        "text": text,
        "scan": "|".join(t for t in (text, tokens(s.protocol)) if t),
        "kernel": tokens(s.kernel),
        "rescale_type": tokens(s.rescale_type),
        "device": joined(s.manufacturer, s.model),
    }
    for line in table().lines:
        words = places[line.place]
        if words and line.found.search(line.unless.sub(" ", words) if line.unless else words):
            return line
    return None


@lru_cache(maxsize=4096)
def meaning_of(s: Stated) -> str | None:
    """The kind of pixels, a name of the table; None where they are the plain HU of a CT scan.

    A unit other than HU is never plain. Where no unit is stated, the tube voltage, the kernel or a named device
    has to speak for a CT scanner.
    """
    line = line_of(s)
    if line is not None:
        return line.kind
    if s.rescale_type:
        return None if plain_units(s.rescale_type) else OTHER_UNITS
    device = joined(s.manufacturer, s.model)
    named = bool(device) and not _UNNAMED.fullmatch(device)
    return None if s.kvp or s.kernel or named else UNKNOWN_UNITS


def plain_units(rescale_type: str) -> bool:
    """Whether a RescaleType says HU and no more: the asterisk of "HU*" marks values that are not plain."""
    return bool(_PLAIN_UNITS.fullmatch(tokens(rescale_type))) and "*" not in rescale_type


def explanation(kind: str, rescale_type: str | None = None) -> str:
    """The sentence for a series of this kind."""
    k = table().kinds[kind]
    unit = f" (rescale type {rescale_type})" if rescale_type and not plain_units(rescale_type) else ""
    near = "near HU, but not comparable with a plain scan" if k.near_hu else "not HU"
    return f"{kind} images{unit}: {k.text}; {near}"
