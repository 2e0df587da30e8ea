"""Which series of a study is screened: hard limits, then a ranked score with its reasons. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from osteo_ray.catalogue.assembly import image_kind
from osteo_ray.catalogue.checks import KVP_RANGE, kernel_class
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.people import people
from osteo_ray.catalogue.pixel_meaning import explanation
from osteo_ray.outcomes import Phase, State

Row = dict[str, Any]


def choose(rows: list[Row], cfg: IndexConfig) -> None:
    """Set chosen, choice_* and the end of every series that lost; `rows` may be of many studies, changed in place."""
    by_study: dict[tuple[str | None, str], list[Row]] = defaultdict(list)
    for r in rows:
        if r["state"] is None:
            by_study[r["patient_key"], r["study_uid"]].append(r)  # one study UID may hold several patients
    for (key, _), study in by_study.items():
        for members in people(study, lambda r: r["person"], by_name=key is None):
            _choose_one(members, cfg)


def _choose_one(rows: list[Row], cfg: IndexConfig) -> None:
    fit = []
    for r in rows:
        why = unfit(r, cfg)
        if why:
            _end(r, *why)
        else:
            fit.append(r)
    scored = []
    for r in fit:
        total, reason = score(r, cfg)
        r["choice_score"], r["choice_reason"] = round(total, 4), reason
        scored.append(r)
    scored.sort(
        key=lambda r: (
            -r["choice_score"],
            r["series_number"] is None,
            r["series_number"],
            r["series_uid"],
            r["content_hash"],
        )
    )
    for rank, r in enumerate(scored, 1):
        r["choice_rank"] = rank
        if rank == 1:
            r["chosen"] = True
        else:
            best = scored[0]
            _end(
                r,
                "NOT_CHOSEN",
                f"series {best['series_number']} ({best['series_uid']}) was chosen: {best['choice_reason']}; "
                f"this one: {r['choice_reason']}",
            )


def _end(r: Row, code: str, message: str) -> None:
    r.update(state=str(State.EXCLUDED), code=code, stage=str(Phase.CHOOSE), message=message)


def coverage_mm(r: Row) -> float:
    """Length of the body that the slices stand for: first to last, plus one spacing."""
    return float(r["z_max_mm"] - r["z_min_mm"] + r["spacing_z_median_mm"])


def unfit(r: Row, cfg: IndexConfig) -> tuple[str, str] | None:
    """(code, message) where a series is never screened, whatever else the study holds."""
    if r["special"]:
        return "SPECIAL_RECON", explanation(r["special"], r["rescale_type"])
    if r["kvp"] is not None and not KVP_RANGE[0] <= r["kvp"] <= KVP_RANGE[1]:
        return "KVP_OUT_OF_RANGE", f"{r['kvp']:g} kVp; CT is taken at {KVP_RANGE[0]:g} to {KVP_RANGE[1]:g} kVp"
    if image_kind(r["image_type"]).endswith("REFORMATTED"):
        return "REFORMATTED", f"image type {r['image_type']}: made of another series"
    cover = coverage_mm(r)
    if cover < cfg.choice.min_coverage_mm:
        return "SHORT_COVERAGE", f"{cover:.0f} mm of the body, {cfg.choice.min_coverage_mm:g} are needed"
    return None


def score(r: Row, cfg: IndexConfig) -> tuple[float, str]:
    """(score, reason): weighted parts, each in 0..1."""
    c = cfg.choice
    original = image_kind(r["image_type"]) == "ORIGINAL"
    kernel = kernel_class(r["convolution_kernel"], cfg.gates)
    thick = r["slice_thickness_mm"] or r["spacing_z_median_mm"]
    cover = coverage_mm(r)
    fov = r["field_of_view_mm"]
    parts = (
        (c.weight_original, 1.0 if original else 0.0),
        (c.weight_fov, 1.0 if fov is None or fov >= cfg.gates.fov_min_mm else 0.0),
        (c.weight_kernel, {"soft": 1.0, "unknown": 0.5, "sharp": 0.0}[kernel]),
        (c.weight_phase, c.phase_rank.get(r["contrast"] or "unknown", 0.0)),
        (c.weight_thickness, _thickness(thick, c.thickness_low_mm, c.thickness_high_mm, cfg.gates.thickness_max_mm)),
        (c.weight_coverage, min(cover / c.coverage_full_mm, 1.0)),
        (c.weight_kvp, 0.5 if r["kvp"] is None else float(abs(r["kvp"] - cfg.gates.kvp) <= cfg.gates.kvp_tolerance)),
    )
    total = sum(w * v for w, v in parts)
    kvp = "kVp unknown" if r["kvp"] is None else f"{r['kvp']:g} kVp"
    phase = {"none": "unenhanced", "unknown": "phase unknown"}.get(r["contrast"] or "unknown", r["contrast"])
    origin, named = ("original" if original else "derived"), r["convolution_kernel"] or ""
    reason = (
        f"score {total:.2f}: {origin}, {kernel} kernel {named}".rstrip()
        + f", {phase}, {thick:g} mm, {cover:.0f} mm coverage, {kvp}"
        + (f", field of view {fov:.0f} mm" if fov is not None and fov < cfg.gates.fov_min_mm else "")
    )
    return total, reason


def _thickness(t: float, low: float, high: float, worst: float) -> float:
    """1 inside the preferred range, falling to 0 at `worst` above it, and gently below it."""
    if t > high:
        return max(0.0, 1.0 - (t - high) / max(worst - high, 1e-6))
    return 1.0 if t >= low else 0.5 + 0.5 * t / low
