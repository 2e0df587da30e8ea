"""One result row -> what the study page shows: numbers formatted, positions in percent, groups summed. Pure.

The templates only lay out; every choice of wording, scale and order is made here, so that it can be tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osteo_ray.outcomes import State
from osteo_ray.patients.schema import FEATURES
from osteo_ray.reports.pictures import Overview, Picture, Thumbnail, close_up, picture
from osteo_ray.reports.wording import NONE, date, number, percent, plain, shorten, signed, size, tail, text

DISCLAIMER = "Research use only; an aid, not a diagnosis; it cannot rule out low bone density."

CUT_OFFS = (
    "Published cut-offs for L1 at 120 kVp without contrast agent (Pickhardt 2013): 160 HU and below is 90 % sensitive, "
    "110 HU and below over 90 % specific. They are given for comparison; the score does not use them."
)

GROUPS = {"demographics": "Demographics", "labs": "Laboratory values", "ct": "CT"}
MOST_BARS = 8  # per group
SHORT = {"demographics": "demographics", "labs": "labs", "ct": "CT"}
TONE = {
    State.SCORED: "ok",
    State.SCORED_WARN: "warn",
    State.ABSTAINED: "warn",
    State.EXCLUDED: "quiet",
    State.QUARANTINED: "bad",
    State.ERROR: "bad",
}
MEANING = {
    State.SCORED: "Scored",
    State.SCORED_WARN: "Scored, with a warning",
    State.ABSTAINED: "Abstained: no score is given",
    State.EXCLUDED: "Excluded: not scored",
    State.QUARANTINED: "Quarantined: not scored",
    State.ERROR: "Failed: not scored",
}
VERDICT = {"pass": ("✓", "Pass", "ok"), "warn": ("!", "Warn", "warn"), "fail": ("✕", "Fail", "bad")}
FEATURE = {f.name: f for f in FEATURES}
OWN_LABEL = {"ct": "Chosen slices", "sex_male": "Sex"}  # words for a page, where the column name is a code


@dataclass(frozen=True)
class StudyView:
    """A row of the results with its pictures."""

    row: Mapping[str, Any]
    thumbnails: Sequence[Thumbnail] = ()
    overview: Overview | None = None


@dataclass(frozen=True)
class Risk:
    """The score; `at`, `low_at`, `high_at`, `threshold_at` are positions on a 0-100 scale, None where absent."""

    value: str
    interval: str
    at: float
    low_at: float | None
    high_at: float | None
    threshold: str
    threshold_at: float | None
    high: bool | None
    verdict: str
    operating_point: str
    classes: tuple[tuple[str, str, float], ...]  # name, percent, width


@dataclass(frozen=True)
class Slice:
    """One chosen slice: number from head to foot, and `at`, its place from the top of the scan in percent."""

    number: int
    picture: Picture | None
    z: str
    weight: str
    weight_at: float
    p_lumbar: str
    level: str
    uid_tail: str
    place: str
    at: float | None
    label_at: float | None
    hu: str
    close: Picture | None
    circle: tuple[float, float, float] | None  # on the close-up: x, y, radius in percent of its width


@dataclass(frozen=True)
class Level:
    """Trabecular HU of one vertebral level."""

    name: str
    hu: str
    hu_120_kvp: str
    slices: str
    spread: str


@dataclass(frozen=True)
class Bar:
    """One SHAP bar: `left` and `width` in percent of a track whose middle is 0."""

    label: str
    value: str
    shap: str
    raises: bool
    left: float
    width: float


@dataclass(frozen=True)
class BarGroup:
    title: str
    total: Bar
    bars: tuple[Bar, ...]


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
    message: str
    stage: str
    risk: Risk | None
    modalities: tuple[tuple[str, bool], ...]
    slices: tuple[Slice, ...]
    levels: tuple[Level, ...]
    density_notes: tuple[str, ...]
    overview: Picture | None
    overview_plane: str
    z_top: str
    z_bottom: str
    groups: tuple[BarGroup, ...]
    shap_base: str
    gates: tuple[tuple[str, str, str, str, str, str], ...]
    provenance: tuple[tuple[str, str], ...]


def page(view: StudyView) -> Page:
    """Lay out one study."""
    row = view.row
    state = State(row["state"])
    slices = _slices(view)
    extent = _extent(view, slices)
    return Page(
        anchor=anchor(row),
        patient=text(row.get("patient_key")),
        facts=_facts(row),
        state=state.value,
        code=text(row.get("code")),
        meaning=MEANING[state],
        tone=TONE[state],
        message=row.get("message") or "",
        stage=text(row.get("stage")),
        risk=_risk(row) if state in (State.SCORED, State.SCORED_WARN) else None,
        modalities=tuple((GROUPS[g], g in (row.get("modalities") or ())) for g in GROUPS),
        slices=slices,
        levels=_levels(row),
        density_notes=_density_notes(row),
        overview=picture(view.overview.png, view.overview.spacing, 420) if view.overview else None,
        overview_plane=view.overview.plane if view.overview else "",
        z_top=extent[0],
        z_bottom=extent[1],
        groups=_groups(row.get("shap") or ()),
        shap_base=signed(row.get("shap_base")),
        gates=tuple(_gate(g) for g in row.get("gates") or ()),
        provenance=_provenance(row),
    )


def anchor(row: Mapping[str, Any]) -> str:
    """An id for links inside one page; series UIDs are digits and dots, anything else is dropped."""
    key = row.get("series_uid") or row.get("row_key") or row.get("study_uid") or "unknown"
    return "s-" + "".join(c if c.isalnum() else "-" for c in str(key))


def _facts(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    age = None if row.get("age_y") is None else f"{row['age_y']:.0f} y"
    sex = {"F": "female", "M": "male"}.get(row.get("sex") or "", row.get("sex"))
    kvp = row.get("kvp")
    thick = row.get("slice_thickness_mm")
    facts = (
        ("Age", age and age + origin(row, "age_from")),
        ("Sex", sex and sex + origin(row, "sex_from")),
        ("Scanner", row.get("manufacturer")),
        ("Tube voltage", None if kvp is None else f"{kvp:g} kVp"),
        ("Slice thickness", None if thick is None else f"{thick:g} mm"),
        ("Kernel", row.get("convolution_kernel")),
        ("Contrast", row.get("contrast")),
        ("Study date", date(row.get("study_date"))),
        ("Study", tail(row.get("study_uid"))),
    )
    # For a scored study a gap in what is known is itself a finding; elsewhere it is only noise.
    scored = row.get("risk_prob") is not None
    return tuple((k, shorten(str(v)) if v else "not recorded") for k, v in facts if v or scored)


def origin(row: Mapping[str, Any], column: str) -> str:
    """Where an age or sex comes from, in words behind it: " (record)", " (CT header)"; "" where a row does not say."""
    words = {"record": " (record)", "header": " (CT header)"}
    return words.get(row.get(column) or "", "")


def _risk(row: Mapping[str, Any]) -> Risk | None:
    p = row.get("risk_prob")
    if p is None:
        return None
    low, high, cut = row.get("risk_low"), row.get("risk_high"), row.get("threshold")
    cls = row.get("risk_class")
    verdict = {
        "high": "High: at or above the operating point",
        "low": "Low: below the operating point",
    }.get(cls or "", "No operating point")
    names = (("Osteoporosis", "p_osteoporosis"), ("Osteopenia", "p_osteopenia"), ("Normal", "p_normal"))
    classes = tuple((n, percent(row[c]), 100 * row[c]) for n, c in names if row.get(c) is not None)
    return Risk(
        value=percent(p),
        interval="no interval given" if low is None or high is None else f"{percent(low)} to {percent(high)}",
        at=100 * p,
        low_at=None if low is None or high is None else 100 * low,
        high_at=None if low is None or high is None else 100 * high,
        threshold=percent(cut),
        threshold_at=None if cut is None else 100 * cut,
        high={"high": True, "low": False}.get(cls or ""),
        verdict=verdict,
        operating_point=text(row.get("operating_point")),
        classes=classes if len(classes) == 3 else (),
    )


def _slices(view: StudyView) -> tuple[Slice, ...]:
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
        out.append(
            Slice(
                number=i + 1,
                picture=picture(t.png, t.spacing) if t else None,
                z=number(s["z_mm"]) + " mm" if s["z_mm"] is not None else NONE,
                weight=percent(s["weight"]),
                weight_at=100 * (s["weight"] or 0.0) / top_weight if top_weight else 0.0,
                p_lumbar=percent(s.get("p_lumbar")),
                level=s.get("level") or "level not known",
                uid_tail=tail(s["sop_uid"]),
                place=f"{s['index'] + 1} of {total}" if total else str(s["index"] + 1),
                at=at[i],
                label_at=labels.pop(0) if at[i] is not None else None,
                hu=NONE if s.get("hu") is None else f"{s['hu']:.0f} HU",
                close=picture(near.hu, t.spacing) if t and near else None,
                circle=(100 * near.x, 100 * near.y, 100 * near.radius) if near else None,
            )
        )
    return tuple(out)


def _levels(row: Mapping[str, Any]) -> tuple[Level, ...]:
    return tuple(
        Level(v["level"], number(v["hu"], 0), number(v["hu_120_kvp"], 0), str(v["slices"]), number(v["spread"], 0))
        for v in row.get("hu_by_level") or ()
    )


def _density_notes(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader of the HU has to know: tube voltage, contrast agent, and what published cut-offs are."""
    if not row.get("hu_by_level"):
        return ()
    kvp, contrast = row.get("kvp"), row.get("contrast")
    if kvp is None:
        voltage = "The tube voltage is not recorded, so HU at 120 kVp are not known."
    elif kvp == 120:
        voltage = "Scanned at 120 kVp."
    else:
        voltage = f"Scanned at {kvp:g} kVp; HU of bone at 120 kVp by the model's factor for this voltage."
    agent = {
        None: "Whether contrast agent was given is not recorded; it raises HU of bone.",
        "unknown": "Whether contrast agent was given is not recorded; it raises HU of bone.",
        "none": "No contrast agent.",
    }.get(contrast, f"With contrast agent ({contrast}), which raises HU of bone; not corrected in this table.")
    return (voltage, agent, CUT_OFFS)


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


def _extent(view: StudyView, slices: Sequence[Slice]) -> tuple[str, str]:
    if view.overview is not None:
        return number(view.overview.z_top_mm, 0) + " mm", number(view.overview.z_bottom_mm, 0) + " mm"
    total = view.row.get("slices_total")
    return (f"slice {total}", "slice 1") if total and slices else ("", "")


def _groups(shap: Sequence[Mapping[str, Any]]) -> tuple[BarGroup, ...]:
    """Bars by modality, the longest first; all share one scale, and each group has its sum.

    What was not measured is one bar: that it is missing counts in the score, but each absence is no finding. Beyond
    `MOST_BARS` a group's smallest features are summed in one bar, so that the bars still add up.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for s in shap:
        groups.setdefault(s["group"], []).append(s)
    lines: dict[str, list[tuple[str, str, float]]] = {}
    for g, features in groups.items():
        absent = [s for s in features if s["value"] is None and s["group"] != "ct"]
        features = sorted((s for s in features if s not in absent), key=lambda s: -abs(s["shap"]))
        cut = MOST_BARS - 1 if len(features) > MOST_BARS else len(features)
        lines[g] = [(feature_label(s["feature"]), _measured(s), s["shap"]) for s in features[:cut]]
        if features[cut:]:
            lines[g].append((f"{len(features) - cut} others", "", sum(s["shap"] for s in features[cut:])))
        if absent:
            lines[g].append((_absent_label(absent), "not measured", sum(s["shap"] for s in absent)))
    totals = {g: sum(x for *_, x in items) for g, items in lines.items()}
    scale = max((abs(x) for g, items in lines.items() for x in (totals[g], *(i[2] for i in items))), default=0.0)
    order = [g for g in GROUPS if g in totals] + sorted(set(totals) - set(GROUPS))
    return tuple(
        BarGroup(
            GROUPS.get(g, g),
            _bar(GROUPS.get(g, g), "", totals[g], scale),
            tuple(_bar(label, value, x, scale) for label, value, x in lines[g]),
        )
        for g in order
    )


def _absent_label(absent: Sequence[Mapping[str, Any]]) -> str:
    return feature_label(absent[0]["feature"]) if len(absent) == 1 else f"{len(absent)} values"


def _bar(label: str, value: str, shap: float, scale: float) -> Bar:
    width = 50 * abs(shap) / scale if scale else 0.0
    return Bar(label, value, signed(shap), shap >= 0, 50.0 if shap >= 0 else 50 - width, width)


def _measured(s: Mapping[str, Any]) -> str:
    if s["value"] is None:
        return ""
    if s["feature"] == "sex_male":
        return "male" if s["value"] >= 0.5 else "female"
    known = FEATURE.get(s["feature"])
    if known is not None and known.kind == "binary":
        return "yes" if s["value"] >= 0.5 else "no"
    unit = {"a": "y", "1": "", None: ""}.get(s["unit"], s["unit"])  # UCUM's year and unity, as people write them
    return f"{plain(s['value'])} {unit}".strip()


def feature_label(name: str) -> str:
    """The record schema's own words for a feature; a name it doesn't know stands as it is."""
    if name in OWN_LABEL:
        return OWN_LABEL[name]
    return FEATURE[name].label if name in FEATURE else name


def _gate(g: Mapping[str, Any]) -> tuple[str, str, str, str, str, str]:
    mark, word, tone = VERDICT.get(g["verdict"], ("?", text(g["verdict"]), "quiet"))
    return (mark, word, tone, text(g["gate"]), text(g["value"]), text(g["threshold"]))


def _provenance(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    decoded, total = row.get("slices_decoded"), row.get("slices_total")
    share = f" ({100 * decoded / total:.0f} %)" if decoded is not None and total else ""
    name = " ".join(str(v) for v in (row.get("model_name"), row.get("model_version")) if v)
    times = [("open", "open_s"), ("select", "select_s"), ("score", "score_s")]
    known = [f"{n} {row[c]:.2f} s" for n, c in times if row.get(c) is not None]
    lines = (
        ("Model", text(name)),
        ("Model SHA-256", text(row.get("model_sha256"))),
        ("Calibrator", text(row.get("calibrator"))),
        ("Run", text(row.get("run_id"))),
        ("Row key", text(row.get("row_key"))),
        ("Study UID", text(row.get("study_uid"))),
        ("Series UID", text(row.get("series_uid"))),
        ("Slices decoded", NONE if decoded is None else f"{decoded} of {text(total)}{share}"),
        ("Bytes read", size(row.get("bytes_read"))),
        ("Time", ", ".join(known) or NONE),
        ("Attempt", text(row.get("attempt"))),
    )
    return tuple((k, v) for k, v in lines if v != NONE)
