"""What a score is worth to a clinic, by pattern of modalities: net benefit, scans to read a case, the worklist's top.

    for v in value(frame): print(v.pattern, v.net_benefit, v.number_needed)

Net benefit as in Vickers and Elkin, Med Decis Making 26:565 (2006): true positives less false positives times the odds
of the threshold probability, per patient. It is a mean over patients, and so are differences of two rules on the same
patients; intervals are normal ones of those means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from osteo_ray.evaluation import metrics as m
from osteo_ray.evaluation.reference_hu import cut_offs
from osteo_ray.evaluation.subgroups import NOT_RECORDED, pattern
from osteo_ray.evaluation.tables import HU_RULE

EVERYONE = "all patterns"
TOP = (10, 20, 50, 100, 200)
"""Lengths of the worklist's top that are counted."""
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Top:
    """The worklist's first `n` patients, highest risk first."""

    n: int
    cases: int
    found: m.Estimate  # share of the pattern's cases that are among them
    right: m.Estimate  # share of them that are cases


@dataclass(frozen=True)
class PatternValue:
    """One pattern, at the thresholds that stand in its rows."""

    pattern: str
    n: int
    events: int
    threshold: float  # mean over patients
    sensitivity: m.Estimate
    specificity: m.Estimate
    net_benefit: m.Estimate
    against_all: m.Estimate  # net benefit less that of referring everyone
    hu_rule: m.Estimate  # net benefit of L1-L2 HU at and below the sensitive cut-off, where the HU is known
    against_hu_rule: m.Estimate  # net benefit less the rule's, on the patients whose HU is known
    number_needed: m.Estimate  # patients called high risk for each one with osteoporosis
    top: tuple[Top, ...]


def value(frame: pd.DataFrame, level: float = 0.95) -> tuple[PatternValue, ...]:
    """Every pattern with labelled patients, and all together first; () where rows have no threshold or probability.

    Args:
        frame: one row a patient, with `label`, `risk_prob`, `threshold`, and where known `modalities`, `l1_l2_hu`.
    """
    if "threshold" not in frame:
        return ()
    known = frame[frame["threshold"].notna() & frame["risk_prob"].notna()]
    return tuple(_value(name, part, level) for name, part in _parts(known)) if len(known) else ()


def _parts(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield EVERYONE, frame
    if "modalities" in frame:
        names = frame["modalities"].map(pattern, na_action="ignore").fillna(NOT_RECORDED)
        for name in sorted(names.unique()):
            yield name, frame[(names == name).to_numpy()]


def _value(name: str, frame: pd.DataFrame, level: float) -> PatternValue:
    case = (frame["label"] == "osteoporosis").to_numpy(bool)
    risk, cut = frame["risk_prob"].to_numpy(float), frame["threshold"].to_numpy(float)
    odds = cut / np.maximum(1 - cut, 1e-9)
    called = risk >= cut
    at = m.confusion_at(case, risk, cut, level)
    benefit, everyone = _benefit(case, called, odds), _benefit(case, np.ones(len(case), bool), odds)
    hu = frame[HU_RULE].to_numpy(float) if HU_RULE in frame else np.full(len(case), np.nan)
    read = np.isfinite(hu)
    rule = _benefit(case[read], hu[read] <= cut_offs().sensitive, odds[read])
    return PatternValue(
        pattern=name,
        n=len(case),
        events=int(case.sum()),
        threshold=float(cut.mean()),
        sensitivity=at.sensitivity,
        specificity=at.specificity,
        net_benefit=_mean(benefit, case, level),
        against_all=_mean(benefit - everyone, case, level),
        hu_rule=_mean(rule, case[read], level),
        against_hu_rule=_mean(benefit[read] - rule, case[read], level),
        number_needed=_inverse(at.ppv),
        top=tuple(_top(case, risk, n, level) for n in TOP if n <= len(case)),
    )


def _benefit(case: Bools, called: Bools, odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """What calling adds for each patient, [n]."""
    return np.where(called, np.where(case, 1.0, -odds), 0.0)


def _mean(each: NDArray[np.float64], case: Bools, level: float) -> m.Estimate:
    """Mean of a figure per patient with its normal interval."""
    n = len(each)
    events = int(case.sum())
    if n == 0:
        return m.Estimate(m.NAN, m.NAN, m.NAN, 0, 0, "nobody")
    mean = float(each.mean())
    if n < 2:
        return m.Estimate(mean, m.NAN, m.NAN, events, n - events, "a single patient: no interval")
    half = float(norm.ppf(0.5 + level / 2) * each.std(ddof=1) / np.sqrt(n))
    return m.Estimate(mean, mean - half, mean + half, events, n - events)


def _inverse(ppv: m.Estimate) -> m.Estimate:
    """1 / PPV: infinite ends become NaN, for no interval can be drawn there."""
    value, low, high = (1 / v if v > 0 else m.NAN for v in (ppv.value, ppv.high, ppv.low))
    return m.Estimate(value, low, high, ppv.n_pos, ppv.n_neg, ppv.note or ("no case called" if ppv.value == 0 else ""))


def _top(case: Bools, risk: NDArray[np.float64], n: int, level: float) -> Top:
    """Ties at the end of the list go in the order of the rows, as the worklist has them."""
    first = case[np.argsort(-risk, kind="stable")[:n]]
    hits = int(first.sum())
    return Top(n, hits, m.proportion(hits, int(case.sum()), level), m.proportion(hits, n, level))


def lines(values: tuple[PatternValue, ...]) -> list[str]:
    """The figures as text, about 110 characters wide."""
    if not values:
        return []
    out = ["", f"{'value at the threshold, by pattern':<36}{'n':>6}  {'net benefit':<24}{'less refer all':<24}per case"]
    for v in values:
        cells = (_short(e) for e in (v.net_benefit, v.against_all))
        needed = "n/a" if np.isnan(v.number_needed.value) else f"{v.number_needed.value:.1f}"
        out.append(f"  {v.pattern[:33]:<34}{v.n:>6}  " + "".join(f"{c:<24}" for c in cells) + needed)
        if not np.isnan(v.hu_rule.value):
            out.append(f"    less the rule by HU{'':<13}{v.hu_rule.n:>6}  {_short(v.against_hu_rule)}")
        for t in v.top:
            share = f"{t.found.value:.0%} of the cases" if t.found.n else "no case is known"
            out.append(f"    first {t.n:<4} of the worklist: {t.cases} with osteoporosis, {share}")
    return out


def _short(e: m.Estimate) -> str:
    if np.isnan(e.value):
        return "n/a"
    return f"{e.value:+.3f}" if np.isnan(e.low) else f"{e.value:+.3f} ({e.low:+.3f}, {e.high:+.3f})"
