"""Contrast agent of an image, from every place of a header that states it; the words are in contrast.yaml.

Three answers: given (arterial, portal, delayed, or "contrast" where no phase is stated), "none" where a header says so
in words or codes, "unknown" where it is silent or contradicts itself. An empty tag says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import yaml

from osteo_ray.catalogue.phrases import compiled, joined, tokens

NONE, UNKNOWN, GIVEN = "none", "unknown", "contrast"
PHASES = ("arterial", "portal", "delayed")

# DICOM PS3.3 C.7.6.4b, Contrast/Bolus Usage macro: Contrast/Bolus Agent Phase (0018,9344)
_AGENT_PHASE = {
    "ARTERIAL": "arterial",
    "VENOUS": "portal",
    "PORTAL_VENOUS": "portal",
    "DELAYED": "delayed",
    "STEADY_STATE": "delayed",
    "PRE_CONTRAST": NONE,
}


@dataclass(frozen=True)
class ContrastTags:
    """What one image states; None where a tag is absent or empty."""

    agent: str | None = None  # (0018,0010), or the code meanings of (0018,0012)
    route: str | None = None  # (0018,1040), or the code meanings of (0018,0014)
    volume_ml: float | None = None  # (0018,1041)
    dose_ml: float | None = None  # (0018,1044)
    start_time: str | None = None  # (0018,1042)
    ingredient: str | None = None  # (0018,1048)
    administered: str | None = None  # YES or NO: (0018,9342) of this frame
    phase: str | None = None  # (0018,9344) of this frame
    description: str | None = None  # SeriesDescription
    study: str | None = None  # StudyDescription
    protocol: str | None = None  # ProtocolName


@cache
def _words() -> dict[str, re.Pattern[str]]:
    data = yaml.safe_load(files("osteo_ray.catalogue").joinpath("contrast.yaml").read_text(encoding="utf-8"))
    flat = {k: [p for ps in v.values() for p in ps] if isinstance(v, dict) else v for k, v in data.items()}
    return {k: compiled(str(p) for p in v) for k, v in flat.items()}


@lru_cache(maxsize=4096)
def contrast_of(t: ContrastTags) -> str:
    """none | arterial | portal | delayed | contrast | unknown."""
    frame = _of_frame(t)
    if frame is not None:
        return frame
    by_tags = _of_tags(t)
    words = stated(signed_tokens(t.description))
    if by_tags == GIVEN:
        # the tags are those of the injection that was planned; a series described as native may still carry them
        return words if words in PHASES else GIVEN
    if by_tags == NONE:
        return NONE if words in (None, NONE) else UNKNOWN
    if by_tags == UNKNOWN or words == UNKNOWN:
        return UNKNOWN
    if words is not None:
        return words
    # of the whole examination: that agent was given, or not; a phase would be a guess
    whole = stated(joined(_spelled(t.study), _spelled(t.protocol)))
    return GIVEN if whole in PHASES else whole or UNKNOWN


def of_images(values: Iterable[str | None]) -> str:
    """One answer for the images of a volume, of their own: silent ones say nothing, given and denied contradict."""
    stating = {v for v in values if v not in (None, UNKNOWN)}
    if len(stating) < 2:
        return stating.pop() if stating else UNKNOWN
    return UNKNOWN if NONE in stating else GIVEN


def _of_frame(t: ContrastTags) -> str | None:
    phase = _AGENT_PHASE.get(t.phase or "")
    if t.administered == "NO":
        return NONE if phase in (None, NONE) else UNKNOWN
    if t.administered == "YES" or phase is not None:
        return phase or GIVEN
    return None


def _of_tags(t: ContrastTags) -> str | None:
    """GIVEN, NONE, UNKNOWN (contradiction) or None (silent) of agent, route, amounts and start time."""
    agent, route = _stating(t.agent), _stating(t.route)
    denied = _denies(agent)
    given = any(_in_vessels(part) for part in _SEVERAL.split(t.agent or ""))
    if given and _enteral_only(route) and not _words()["intravenous"].search(agent):
        given = False
    if route and not _denies(route) and not _enteral_only(route):
        given = True
    enteral = _enteral_only(agent) or _enteral_only(route)
    amount = any(v is not None and v > 0 for v in (t.volume_ml, t.dose_ml))
    begun = bool(t.start_time and t.start_time.strip("0.:"))  # midnight is how some writers leave it out
    if (amount or begun or _in_vessels(t.ingredient)) and not enteral:
        given = True
    if given:
        return UNKNOWN if denied else GIVEN
    return NONE if denied else None


_SEVERAL = re.compile(r"[&;,]|(?<=\w\w)/(?=\w\w\w)|\s(?:and|und|et|y)\s", re.IGNORECASE)
_AMOUNT = re.compile(r"(?<= )(\d\S*|ML|CC|MG|G|OF)(?= )")


def _stating(text: str | None) -> str:
    """Tokens of an agent or route tag, without values that say nothing."""
    found = _words()["silent"].sub(" ", signed_tokens(text)).split()
    return f" {' '.join(found)} " if found else ""


def _in_vessels(text: str | None) -> bool:
    """Whether text, one of several that a tag may name, is an agent that isn't denied and not for the bowel alone."""
    w = _words()
    found = _stating(text)
    if not found or _denies(found):
        return False
    rest = w["no_oral"].sub(" ", w["none"].sub(" ", found))
    return bool(_AMOUNT.sub(" ", rest).strip()) and not _enteral_only(rest)


def _denies(text: str) -> bool:
    """Whether an agent or route tag says that there was none in the vessels."""
    w = _words()
    if not text or w["agent_none"].search(text):
        return bool(text)
    rest = w["none"].sub(" ", text)
    return rest != text and (not rest.strip() or _enteral_only(rest))


def _enteral_only(text: str) -> bool:
    w = _words()
    return bool(text and w["oral"].search(text)) and not w["intravenous"].search(text)


_SIGNS = (
    (re.compile(r"(?<![^\W_])(C|CM|KM|IVC?|APC) ?\(?-\)?(?![^\s/,;_)])", re.IGNORECASE), r"\1 MINUS "),
    (re.compile(r"(?<![^\W_])(CE)\(?-\)?(?![^\s/,;_)])", re.IGNORECASE), r"\1 MINUS "),  # "CE - 3 mm" is a dash
    (re.compile(r"(?<![^\W_])C ?\(\+\)", re.IGNORECASE), "C+ "),
    (re.compile(r"(?<![^\s/(])\+ ?C(?![^\W_])", re.IGNORECASE), " PLUS C "),
    (re.compile(r"(?<![^\s/(])-(C|CM|KM|IVC?)(?![^\s/,;_)])", re.IGNORECASE), r" MINUS \1 "),
)


def _spelled(text: str | None) -> str | None:
    """The signs of "C-", "C(+)" and "+C" as words: tokens hold no signs."""
    for sign, word in _SIGNS if text else ():
        text = sign.sub(word, text or "")
    return text


def signed_tokens(text: str | None) -> str:
    """`tokens`, with the signs behind and before "C" as words."""
    return tokens(_spelled(text))


def stated(text: str) -> str | None:
    """What words say: none, a phase, contrast, unknown (with and without), or None.

    Args:
        text: as `signed_tokens` gives it.
    """
    if not text:
        return None
    w = _words()
    if w["both"].search(text):
        return UNKNOWN
    rest = w["none"].sub(" ", text)
    denied = rest != text
    rest = w["no_oral"].sub(" ", rest)
    phase = next((p for p in PHASES if w[p].search(rest)), None)
    if phase is None and w["given"].search(w["oral"].sub(" ", rest)) and not _oral_contrast(rest):
        phase = GIVEN
    if denied:
        return NONE if phase is None else UNKNOWN
    return phase


def _oral_contrast(text: str) -> bool:
    return bool(_words()["oral"].search(text)) and not _words()["intravenous"].search(text)
