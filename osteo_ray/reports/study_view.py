"""One result row -> what the study page shows: numbers formatted, positions in percent, groups summed. Pure.

The templates only lay out; every choice of wording, scale and order is made here, so that it can be tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from osteo_ray.outcomes import State
from osteo_ray.reports.background import NOTHING_LOOKED_AT, Background, suppressing
from osteo_ray.reports.bars import GROUPS, BarGroup, bar_groups
from osteo_ray.reports.checks_view import Check, check, reason
from osteo_ray.reports.density_view import Density, density
from osteo_ray.reports.language import Words, words_in
from osteo_ray.reports.pictures import Overview, Picture, Thumbnail, close_up, picture
from osteo_ray.reports.wording import NONE, date, number, percent, shorten, signed, size, tail, text
from osteo_ray.screening.config import IN_ENGLISH, NextStep, ReportText

TONE = {
    State.SCORED: "ok",
    State.SCORED_WARN: "warn",
    State.ABSTAINED: "warn",
    State.EXCLUDED: "quiet",
    State.QUARANTINED: "bad",
    State.ERROR: "bad",
}


@dataclass(frozen=True)
class StudyView:
    """A row of the results with its pictures, and what else is known of the patient."""

    row: Mapping[str, Any]
    thumbnails: Sequence[Thumbnail] = ()
    overview: Overview | None = None
    background: Background = NOTHING_LOOKED_AT


@dataclass(frozen=True)
class Risk:
    """The score; `at`, `low_at`, `high_at`, `threshold_at` are positions on a 0-100 scale, None where absent."""

    value: str
    interval: str
    at: float
    low_at: float | None
    high_at: float | None
    threshold: str
    cut: str
    threshold_at: float | None
    high: bool | None
    verdict: str
    operating_point: str
    classes: tuple[tuple[str, str, float], ...]  # name, percent, width
    spoken: str  # all of it in a sentence, for who does not see the scale


@dataclass(frozen=True)
class Slice:
    """One chosen slice: number from head to foot, and `at`, its place from the top of the scan in percent."""

    number: int
    mark: str  # number and level, as on the overview
    picture: Picture | None
    z: str
    weight: str
    weight_at: float
    p_lumbar: str
    level: str
    uid: str
    uid_tail: str
    place: str
    at: float | None
    label_at: float | None
    hu: str
    close: Picture | None
    circle: tuple[float, float, float] | None  # on the close-up: x, y, radius in percent of its width


@dataclass(frozen=True)
class Page:
    """Everything the study template prints."""

    anchor: str
    patient: str
    facts: tuple[tuple[str, str], ...]
    state: str
    code: str
    meaning: str
    tone: str
    why: str  # in words; "" where there is nothing to say
    detail: str  # what the program wrote besides, in English
    next_step: str  # in the site's words
    viewer: str  # address at which the site's viewer opens the study; "" without one
    risk: Risk | None
    modalities: tuple[tuple[str, bool], ...]
    slices: tuple[Slice, ...]
    density: Density
    overview: Picture | None
    overview_alt: str
    z_top: str
    z_bottom: str
    groups: tuple[BarGroup, ...]
    shap_base: str
    checks: tuple[Check, ...]
    provenance: tuple[tuple[str, str], ...]


def page(view: StudyView, text_of: ReportText = IN_ENGLISH) -> Page:
    """Lay out one study."""
    row, words = view.row, words_in(text_of.language)
    state = State(row["state"])
    slices = _slices(view, words)
    extent = _extent(view, slices, words)
    why, detail = reason(row, words)
    return Page(
        anchor=anchor(row),
        patient=text(row.get("patient_key")),
        facts=_facts(row, words),
        state=state.value,
        code=text(row.get("code")),
        meaning=words(f"state.{state}"),
        tone=TONE[state],
        why=why,
        detail=detail,
        next_step=next_step(row, suppressing(view.background), text_of.next_step) or "",
        viewer=viewer_link(row, text_of.viewer),
        risk=_risk(row, words) if state in (State.SCORED, State.SCORED_WARN) else None,
        modalities=tuple((words(f"group.{g}"), g in (row.get("modalities") or ())) for g in GROUPS),
        slices=slices,
        density=density(row, view.background, words),
        overview=picture(view.overview.png, view.overview.spacing, 420) if view.overview else None,
        overview_alt=words(f"slices.overview.{view.overview.plane}") if view.overview else "",
        z_top=extent[0],
        z_bottom=extent[1],
        groups=bar_groups(row.get("shap") or (), words),
        shap_base=signed(row.get("shap_base")),
        checks=tuple(check(g, words) for g in row.get("gates") or ()),
        provenance=_provenance(row, words),
    )


def anchor(row: Mapping[str, Any]) -> str:
    """An id for links inside one page; series UIDs are digits and dots, anything else is dropped."""
    key = row.get("series_uid") or row.get("row_key") or row.get("study_uid") or "unknown"
    return "s-" + "".join(c if c.isalnum() else "-" for c in str(key))


def next_step(row: Mapping[str, Any], known: bool, steps: NextStep) -> str | None:
    """What the site asks its readers to do with a result; None where it says nothing.

    Args:
        known: a recent DXA or treatment is on record.
    """
    if row["state"] not in (State.SCORED, State.SCORED_WARN) or row.get("risk_prob") is None:
        return steps.not_scored
    if known and steps.known is not None:
        return steps.known
    return {"high": steps.high, "low": steps.low}.get(row.get("risk_class") or "")


def viewer_link(row: Mapping[str, Any], viewer: str | None) -> str:
    """Where the site's viewer opens a study; "" without a viewer or a study."""
    if viewer is None or not row.get("study_uid"):
        return ""
    for name in ("study_uid", "series_uid"):
        viewer = viewer.replace(f"{{{name}}}", quote(str(row.get(name) or ""), safe=""))
    return viewer


def _facts(row: Mapping[str, Any], words: Words) -> tuple[tuple[str, str], ...]:
    age = None if row.get("age_y") is None else words("years", n=f"{row['age_y']:.0f}")
    sex = row.get("sex") and words.get(f"sex.{row['sex']}", row["sex"])
    kvp, thick, contrast = row.get("kvp"), row.get("slice_thickness_mm"), row.get("contrast")
    facts = (
        ("age", age and age + origin(row, "age_from", words)),
        ("sex", sex and sex + origin(row, "sex_from", words)),
        ("scanner", row.get("manufacturer")),
        ("kvp", None if kvp is None else f"{kvp:g} kVp"),
        ("thickness", None if thick is None else f"{thick:g} mm"),
        ("kernel", row.get("convolution_kernel")),
        ("contrast", None if contrast in (None, "unknown") else words.get(f"contrast.{contrast}", contrast)),
        ("study_date", date(row.get("study_date"))),
        ("study", tail(row.get("study_uid"))),
    )
    # For a scored study a gap in what is known is itself a finding; elsewhere it is only noise.
    scored = row.get("risk_prob") is not None
    return tuple((words(f"fact.{k}"), shorten(str(v)) if v else words("not_recorded")) for k, v in facts if v or scored)


def origin(row: Mapping[str, Any], column: str, words: Words | None = None) -> str:
    """Where an age or sex comes from, in words behind it: " (record)", " (CT header)"; "" where a row does not say."""
    where = row.get(column)
    if where not in ("record", "header"):
        return ""
    return f" ({(words or words_in())(f'origin.{where}')})"


def _risk(row: Mapping[str, Any], words: Words) -> Risk | None:
    p = row.get("risk_prob")
    if p is None:
        return None
    low, high, cut = row.get("risk_low"), row.get("risk_high"), row.get("threshold")
    cls = row.get("risk_class") or ""
    names = ("osteoporosis", "osteopenia", "normal")
    classes = tuple(
        (words(f"risk.{n}"), percent(row[f"p_{n}"]), 100 * row[f"p_{n}"])
        for n in names
        if row.get(f"p_{n}") is not None
    )
    known = low is not None and high is not None
    interval = words("risk.interval", low=percent(low), high=percent(high)) if known else words("risk.no_interval")
    return Risk(
        value=percent(p),
        interval=interval,
        at=100 * p,
        low_at=None if low is None or high is None else 100 * low,
        high_at=None if low is None or high is None else 100 * high,
        threshold=percent(cut),
        cut=words("risk.cut", at=percent(cut)),
        threshold_at=None if cut is None else 100 * cut,
        high={"high": True, "low": False}.get(cls),
        verdict=words(f"risk.{cls}" if cls in ("high", "low") else "risk.none"),
        operating_point=text(row.get("operating_point")),
        classes=classes if len(classes) == 3 else (),
        spoken=words("risk.alt", value=percent(p), interval=interval, at=percent(cut)),
    )


def _slices(view: StudyView, words: Words) -> tuple[Slice, ...]:
    """Chosen slices from head to foot; pictures are matched by SOP UID and index."""
    chosen = sorted(view.row.get("selected") or (), key=lambda s: (-(s["z_mm"] or 0.0), s["index"]))
    pictures = {(t.sop_uid, t.index): t for t in view.thumbnails}
    total = view.row.get("slices_total")
    top_weight = max((s["weight"] or 0.0 for s in chosen), default=0.0)
    at = [_at(s, view.overview, total) for s in chosen]
    labels = spread([a for a in at if a is not None], gap=5.5)
    out = []
    for i, s in enumerate(chosen):
        t = pictures.get((s["sop_uid"], s["index"]))
        near = close_up(t) if t else None
        n = s["index"] + 1
        out.append(
            Slice(
                number=i + 1,
                mark=" ".join([str(i + 1), *filter(None, [s.get("level")])]),
                picture=picture(t.png, t.spacing) if t else None,
                z=number(s["z_mm"]) + " mm" if s["z_mm"] is not None else NONE,
                weight=words("slices.weight", w=percent(s["weight"])),
                weight_at=100 * (s["weight"] or 0.0) / top_weight if top_weight else 0.0,
                p_lumbar=words("slices.lumbar", p=percent(s.get("p_lumbar"))),
                level=s.get("level") or words("slices.no_level"),
                uid=text(s["sop_uid"]),
                uid_tail=tail(s["sop_uid"]),
                place=words("of", n=n, total=total) if total else str(n),
                at=at[i],
                label_at=labels.pop(0) if at[i] is not None else None,
                hu=NONE if s.get("hu") is None else f"{s['hu']:.0f} HU",
                close=picture(near.hu, t.spacing) if t and near else None,
                circle=(100 * near.x, 100 * near.y, 100 * near.radius) if near else None,
            )
        )
    return tuple(out)


def _at(s: Mapping[str, Any], overview: Overview | None, total: int | None) -> float | None:
    """Place from the top of the scan in percent: by mm where an overview says what it spans, else by index."""
    if overview is not None and s["z_mm"] is not None and overview.z_top_mm > overview.z_bottom_mm:
        rows = (overview.z_top_mm - overview.z_bottom_mm) / overview.spacing[0] + 1
        row = (overview.z_top_mm - s["z_mm"]) / overview.spacing[0] + 0.5  # row centres, half a row from the edge
        return min(100.0, max(0.0, 100 * row / rows))
    if total:
        return 100 * (1 - (s["index"] + 0.5) / total)
    return None


def spread(at: Sequence[float], gap: float) -> list[float]:
    """Label places for ascending marks in [0, 100]: at least `gap` apart where there is space, near their marks."""
    if not at:
        return []
    gap = min(gap, 100 / len(at))
    places: list[float] = []
    for a in at:
        places.append(max(a, places[-1] + gap) if places else max(a, gap / 2))
    over = places[-1] - (100 - gap / 2)
    if over > 0:
        places[-1] -= over
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - gap)
    return places


def _extent(view: StudyView, slices: Sequence[Slice], words: Words) -> tuple[str, str]:
    if view.overview is not None:
        return number(view.overview.z_top_mm, 0) + " mm", number(view.overview.z_bottom_mm, 0) + " mm"
    total = view.row.get("slices_total")
    return (words("slices.extent", n=total), words("slices.extent", n=1)) if total and slices else ("", "")


def _provenance(row: Mapping[str, Any], words: Words) -> tuple[tuple[str, str], ...]:
    decoded, total = row.get("slices_decoded"), row.get("slices_total")
    share = f" ({100 * decoded / total:.0f} %)" if decoded is not None and total else ""
    name = " ".join(str(v) for v in (row.get("model_name"), row.get("model_version")) if v)
    times = {k: row.get(f"{k}_s") for k in ("open", "select", "score")}
    spent = {k: NONE if s is None else f"{s:.2f} s" for k, s in times.items()}
    stage = words("prov.stage", stage=words.get(f"stage.{row.get('stage')}", text(row.get("stage"))))
    lines = (
        ("outcome", f"{row['state']}, {text(row.get('code'))}, {stage}"),
        ("model", text(name)),
        ("sha", text(row.get("model_sha256"))),
        ("calibrator", text(row.get("calibrator"))),
        ("run", text(row.get("run_id"))),
        ("row_key", text(row.get("row_key"))),
        ("study", text(row.get("study_uid"))),
        ("series", text(row.get("series_uid"))),
        ("decoded", NONE if decoded is None else words("of", n=decoded, total=text(total)) + share),
        ("bytes", size(row.get("bytes_read"))),
        ("time", NONE if all(s is None for s in times.values()) else words("prov.times", **spent)),
        ("attempt", text(row.get("attempt"))),
    )
    return tuple((words(f"prov.{k}"), v) for k, v in lines if v != NONE)
