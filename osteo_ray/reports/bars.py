"""SHAP values as bars by modality: what moved a score, on one scale. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osteo_ray.patients.schema import FEATURES
from osteo_ray.reports.language import Words
from osteo_ray.reports.wording import plain, signed

MOST_BARS = 8  # per group
GROUPS = ("demographics", "labs", "ct")
FEATURE = {f.name: f for f in FEATURES}


@dataclass(frozen=True)
class Bar:
    """One SHAP bar: `left` and `width` in percent of a track whose middle is 0."""

    label: str
    value: str
    shap: str
    raises: bool
    left: float
    width: float
    measured: bool = True


@dataclass(frozen=True)
class BarGroup:
    title: str
    total: Bar
    bars: tuple[Bar, ...]


def bar_groups(shap: Sequence[Mapping[str, Any]], words: Words) -> tuple[BarGroup, ...]:
    """Bars by modality, the longest first; all share one scale, and each group has its sum.

    What was not measured is one bar: that it is missing counts in the score, but each absence is no finding. Beyond
    `MOST_BARS` a group's smallest features are summed in one bar, so that the bars still add up.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for s in shap:
        groups.setdefault(s["group"], []).append(s)
    lines: dict[str, list[tuple[str, str, float, bool]]] = {}
    for g, features in groups.items():
        absent = [s for s in features if s["value"] is None and s["group"] != "ct"]
        features = sorted((s for s in features if s not in absent), key=lambda s: -abs(s["shap"]))
        cut = MOST_BARS - 1 if len(features) > MOST_BARS else len(features)
        lines[g] = [(feature_label(s["feature"], words), _measured(s, words), s["shap"], True) for s in features[:cut]]
        if features[cut:]:
            others = words("shap.others", n=len(features) - cut)
            lines[g].append((others, "", sum(s["shap"] for s in features[cut:]), True))
        if absent:
            total = sum(s["shap"] for s in absent)
            lines[g].append((_absent_label(absent, words), words("shap.not_measured"), total, False))
    totals = {g: sum(x[2] for x in items) for g, items in lines.items()}
    scale = max((abs(x) for g, items in lines.items() for x in (totals[g], *(i[2] for i in items))), default=0.0)
    order = [g for g in GROUPS if g in totals] + sorted(set(totals) - set(GROUPS))
    return tuple(
        BarGroup(
            words.get(f"group.{g}", g),
            _bar(words.get(f"group.{g}", g), "", totals[g], scale),
            tuple(_bar(label, value, x, scale, measured) for label, value, x, measured in lines[g]),
        )
        for g in order
    )


def _absent_label(absent: Sequence[Mapping[str, Any]], words: Words) -> str:
    if len(absent) == 1:
        return feature_label(absent[0]["feature"], words)
    return words("shap.values", n=len(absent))


def _bar(label: str, value: str, shap: float, scale: float, measured: bool = True) -> Bar:
    width = 50 * abs(shap) / scale if scale else 0.0
    return Bar(label, value, signed(shap), shap >= 0, 50.0 if shap >= 0 else 50 - width, width, measured)


def _measured(s: Mapping[str, Any], words: Words) -> str:
    if s["value"] is None:
        return ""
    if s["feature"] == "sex_male":
        return words("sex.M" if s["value"] >= 0.5 else "sex.F")
    known = FEATURE.get(s["feature"])
    if known is not None and known.kind == "binary":
        return words("yes" if s["value"] >= 0.5 else "no")
    if s["unit"] == "a":
        return words("years", n=plain(s["value"]))
    unit = "" if s["unit"] in ("1", None) else s["unit"]
    return f"{plain(s['value'])} {unit}".strip()


def feature_label(name: str, words: Words) -> str:
    """Words for a feature; a name that the catalogue doesn't know stands as it is."""
    return words.get(f"feature.{name}", name)
