"""Trabecular HU of one study as a reader needs them: by level, beside published values and an earlier study. Pure.

What is not known is said to be so; nothing is compared that can't be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osteo_ray.evaluation import reference_hu as ref
from osteo_ray.reports.background import Background, hu_change
from osteo_ray.reports.language import Words
from osteo_ray.reports.wording import NONE, date, number
from osteo_ray.screening.patients import Change

LUMBAR = ("L1", "L2", "L3", "L4")
CHART_HU = (0.0, 300.0)
"""HU at the bottom and the top of the chart."""


@dataclass(frozen=True)
class Level:
    """Trabecular HU of one vertebral level; `at` and `x` are places on the chart in percent, from below and left."""

    name: str
    hu: str
    hu_120_kvp: str
    range: str  # at 120 kVp, of 95 % of repeats
    before: str  # as scanned, in the earlier study
    slices: str
    spread: str
    at: float | None
    low_at: float | None
    high_at: float | None


@dataclass(frozen=True)
class Density:
    """Everything that a page says of HU."""

    levels: tuple[Level, ...]
    band_at: tuple[float, float] | None  # on the chart, in percent from below
    cuts: tuple[tuple[str, float], ...]  # HU, and place on the chart
    notes: tuple[str, ...]
    compared: tuple[tuple[str, tuple[str, ...]], ...]  # heading, sentences


def density(row: Mapping[str, Any], background: Background, words: Words) -> Density:
    """Lay out the HU of one result row."""
    found = list(row.get("hu_by_level") or ())
    band = ref.band(row.get("age_y"), row.get("sex"))
    cuts = ref.cut_offs()
    return Density(
        levels=_levels(found, background),
        band_at=None if band is None else (_place(band.low), _place(band.high)),
        cuts=tuple((f"{hu:g}", _place(hu)) for hu in (cuts.sensitive, cuts.specific)),
        notes=_notes(row, found, background, words),
        compared=_compared(row, found, background, words),
    )


def _place(hu: float) -> float:
    low, high = CHART_HU
    return min(100.0, max(0.0, 100 * (hu - low) / (high - low)))


def _levels(found: Sequence[Mapping[str, Any]], background: Background) -> tuple[Level, ...]:
    spread = 1.96 * background.people.hu_repeat_cv
    before = {v["level"]: v["hu"] for v in (background.prior or {}).get("hu_by_level") or ()}
    out = []
    for v in found:
        hu = v["hu_120_kvp"]
        low, high = (None, None) if hu is None else (hu - spread * abs(hu), hu + spread * abs(hu))
        out.append(
            Level(
                v["level"],
                number(v["hu"], 0),
                number(hu, 0),
                NONE if low is None else f"{number(low, 0)}–{number(high, 0)}",
                number(before.get(v["level"]), 0),
                str(v["slices"]),
                number(v["spread"], 0),
                *(None if x is None else _place(x) for x in (hu, low, high)),
            )
        )
    return tuple(out)


def _notes(
    row: Mapping[str, Any], found: Sequence[Mapping[str, Any]], background: Background, words: Words
) -> tuple[str, ...]:
    """What a reader of the HU has to know: tube voltage, contrast agent, and what published cut-offs are."""
    if not found:
        return ()
    kvp, contrast = row.get("kvp"), row.get("contrast")
    if kvp is None:
        voltage = words("density.kvp_unknown")
    elif kvp == 120:
        voltage = words("density.kvp_120")
    else:
        voltage = words("density.kvp_other", kvp=f"{kvp:g}")
    if contrast in (None, "unknown"):
        agent = words("density.agent_unknown")
    elif contrast == "none":
        agent = words("density.agent_none")
    else:
        agent = words("density.agent_given", phase=words.get(f"contrast.{contrast}", contrast))
    cuts = ref.cut_offs()
    published = words(
        "density.cut_offs", source=cuts.source, sensitive=f"{cuts.sensitive:g}", specific=f"{cuts.specific:g}"
    )
    repeats = words("density.repeats", cv=f"{100 * background.people.hu_repeat_cv:g}")
    return (f"{voltage} {agent}", repeats, published)


def _compared(
    row: Mapping[str, Any], found: Sequence[Mapping[str, Any]], background: Background, words: Words
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What the HU are seen against, under a heading each."""
    parts = [
        ("norms", _norms(row, found, words) if found else ()),
        ("prior", _prior(row, background, words) if found else ()),
        ("known", known_facts(background, words)),
        ("left_out", _left_out(row, found, words) if row.get("selected") else ()),
        ("hardware", _hardware(row, words)),
    ]
    return tuple((words(f"{name}.title"), lines) for name, lines in parts if lines)


def _norms(row: Mapping[str, Any], found: Sequence[Mapping[str, Any]], words: Words) -> tuple[str, ...]:
    band = ref.band(row.get("age_y"), row.get("sex"))
    if band is None:
        return (words("norms.no_age"),)
    mean, sd = f"{band.mean:.0f}", f"{band.sd:.0f}"
    group = words({"F": "norms.women", "M": "norms.men"}[band.sex] if band.last_y is not None else "norms.adults")
    if band.line_to_y is not None:
        said = words(
            "norms.line",
            ages=words("ages.one", age=f"{row['age_y']:.0f}"),
            mean=mean,
            sd=sd,
            from_ages=words("ages.span", first=band.first_y, last=band.last_y),
            to_ages=words("ages.from", first=band.line_to_y),
            source=band.source,
        )
    else:
        if band.last_y is None:
            ages = words("ages.from", first=band.first_y)
        elif band.first_y <= 18:
            ages = words("ages.below", last=band.last_y + 1)
        else:
            ages = words("ages.span", first=band.first_y, last=band.last_y)
        said = words("norms.band", group=group, ages=ages, mean=mean, sd=sd, source=band.source)
    at_120 = [v for v in found if v["hu_120_kvp"] is not None]
    if not at_120:
        return (words("norms.no_hu"), said)
    # L1 is what the band is of; another level stands in for it where it was not measured.
    nearest = min(at_120, key=lambda v: LUMBAR.index(v["level"]) if v["level"] in LUMBAR else len(LUMBAR))
    z = (nearest["hu_120_kvp"] - band.mean) / band.sd
    place = words(
        "norms.below" if z < 0 else "norms.above",
        level=nearest["level"],
        hu=number(nearest["hu_120_kvp"], 0),
        sd=f"{abs(z):.1f}",
    )
    levels = words("norms.levels", levels=f"{ref.level_difference():g}", source=ref.short_source("levels"))
    low, high = ref.population_difference()
    people = words("norms.population", low=f"{low:g}", high=f"{high:g}", source=ref.short_source("population"))
    return (place, said, levels, people)


def _prior(row: Mapping[str, Any], background: Background, words: Words) -> tuple[str, ...]:
    if not background.looked:
        return (words("prior.not_looked"),)
    if background.prior is None:
        return (words("prior.none" if row.get("study_date") else "prior.no_date"),)
    day = date(background.prior["study_date"])
    change = hu_change(row, background)
    if change.verdict == Change.NOT_COMPARABLE:
        return (words("prior.no_level" if change.alike else "prior.not_comparable", date=day),)
    return (
        words(
            f"prior.{change.verdict}",
            date=day,
            levels=", ".join(change.levels),
            then=number(change.then, 0),
            now=number(change.now, 0),
            change=f"{change.now - change.then:+.0f}".replace("-", "−"),
            noise=number(change.noise, 0),
        ),
    )


def known_facts(background: Background, words: Words) -> tuple[str, ...]:
    """DXA and treatment on record, in sentences."""
    known = background.known
    if known is None:
        return (words("known.not_looked"),)
    out = []
    if known.get("dxa_date") is not None:
        out.append(words("known.dxa", date=known["dxa_date"], t=number(known.get("dxa_t_score"))))
    if known.get("treatment_date") is not None:
        out.append(words("known.treatment", date=known["treatment_date"]))
    if known.get("known") in ("DXA_UNDATED", "TREATMENT_UNDATED"):
        out.append(words(f"known.{known['known']}"))
    return tuple(out) or (words("known.nothing"),)


def _left_out(row: Mapping[str, Any], found: Sequence[Mapping[str, Any]], words: Words) -> tuple[str, ...]:
    measured = {v["level"] for v in found}
    seen = {s.get("level") for s in row.get("selected") or ()}
    endplate = [level for level in LUMBAR if level not in measured and level in seen]
    nowhere = [level for level in LUMBAR if level not in measured and level not in seen]
    out = []
    if endplate:
        out.append(words("left_out.endplate", levels=", ".join(endplate)))
    if nowhere:
        out.append(words("left_out.no_slice", levels=", ".join(nowhere)))
    return tuple(out) or (words("left_out.none"),)


def _hardware(row: Mapping[str, Any], words: Words) -> tuple[str, ...]:
    """Metal, by the check of the slices looked at; nothing where it was not checked."""
    for g in row.get("gates") or ():
        if g["gate"] == "Q_METAL" and g["value"] != "absent":
            if g["verdict"] == "pass":
                return (words("hardware.none"),)
            try:
                share = f"{100 * float(g['value']):.2g}"
            except ValueError:
                share = g["value"]
            return (words("hardware.seen", share=share),)
    return ()
