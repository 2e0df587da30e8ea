"""Two results of the same patients, side by side: every difference with its interval. No model is asked.

    c = compare("runs/new/results.parquet", "theirs.csv", labels)
    print("\\n".join(c.lines()))

Only patients that both scored count, one row each (`tables.one_per_patient`), so that a system gains nothing by leaving
out the hard ones; how many only one of them scored is said. Differences are a - b.

Sources: paired AUC as DeLong, Biometrics 44:837 (1988); McNemar, Psychometrika 12:153 (1947), exact; the other
intervals are percentiles of a bootstrap over patients in which both are judged on the same draw.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from osteo_ray.evaluation import metrics as m
from osteo_ray.evaluation import resample
from osteo_ray.evaluation.evaluate import TITLES
from osteo_ray.evaluation.labels import pair_labels, read_labels
from osteo_ray.evaluation.tables import NO_SECRET, one_per_patient, plain, read_results, scored_rows
from osteo_ray.outcomes import InputError
from osteo_ray.patients.config import SitePatientKeys, TimelineConfig


@dataclass(frozen=True)
class Difference:
    """One figure of both, and a - b. `p` is NaN where there is no test, `low` and `high` where there is no interval."""

    task: str
    figure: str
    a: float
    b: float
    diff: float
    low: float
    high: float
    p: float
    method: str
    n: int


@dataclass(frozen=True)
class PairedComparison:
    """All differences of two results, a against b."""

    a: str
    b: str
    level: float
    both: int  # labelled patients that both scored
    only_a: int
    only_b: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The comparison as text."""
        out = [
            f"a: {self.a}",
            f"b: {self.b}",
            f"labelled patients scored by both {self.both}, by a alone {self.only_a}, by b alone {self.only_b}",
            "",
            f"{'figure':<36}{'a':>8}{'b':>8}{'a - b':>9}  {f'{self.level:.0%} interval':<20}{'p':<8}method",
        ]
        for d in self.differences:
            span = "n/a" if math.isnan(d.low) else f"{d.low:+.4f} to {d.high:+.4f}"
            p = "" if math.isnan(d.p) else f"{d.p:.3g}"
            numbers = "".join(f"{_n(v):>8}" for v in (d.a, d.b)) + f"{_n(d.diff, '+.4f'):>9}"
            out.append(f"{d.figure + ', ' + d.task:<36}{numbers}  {span:<20}{p:<8}{d.method}")
        return out + [f"note: {n}" for n in self.notes]

    def to_json(self) -> str:
        """JSON text; NaN becomes null."""
        return json.dumps(plain(asdict(self)), indent=1)


def compare(
    a: Any,
    b: Any,
    labels: Any,
    names: tuple[str, str] = ("a", "b"),
    level: float = 0.95,
    resamples: int = resample.N_BOOT,
    seed: int = 0,
    keys: SitePatientKeys = NO_SECRET,
    timeline: TimelineConfig | None = None,
) -> PairedComparison:
    """Compare two results; each may be whatever `tables.read_results` takes.

    Raises:
        InputError: a table can't be read, or the two share no labelled patient.
    """
    notes: list[str] = []
    facts = read_labels(labels, keys).drop(columns=["site"], errors="ignore")
    sides, certain = [], True
    for results, name in zip((a, b), names, strict=True):
        rows = read_results(results, keys)
        certain &= bool(rows.attrs["probabilities"])
        own: list[str] = []
        kept = one_per_patient(pair_labels(scored_rows(rows), facts, timeline or TimelineConfig(), own), own)
        notes += [f"{name}: {n}" for n in own]
        sides.append(kept[kept["label"].notna()])
    frame = sides[0].merge(sides[1], on="patient_key", suffixes=("_a", "_b"))
    if frame.empty:
        raise InputError(
            f"{names[0]} and {names[1]} share no labelled patient; are both keyed with the same pseudonym_key?"
        )
    frame["label"] = frame["label_a"]
    if not certain:
        notes.append("one of the two has a score that is no probability: no Brier score is compared")
    differences: list[Difference] = []
    for task, title in TITLES.items():
        sub = frame[frame["label"] != "osteopenia"] if task == "vs_normal" else frame
        differences += _task(sub, task, title.replace("Osteoporosis ", ""), level, (resamples, seed), certain, notes)
    alone = [len(s) - len(frame) for s in sides]
    return PairedComparison(names[0], names[1], level, len(frame), alone[0], alone[1], tuple(differences), tuple(notes))


def _task(
    sub: pd.DataFrame, task: str, short: str, level: float, boot: tuple[int, int], certain: bool, notes: list[str]
) -> list[Difference]:
    def difference(figure: str, fn: Callable[[int, resample.Weights], float], method: str, p: float = m.NAN):
        one = np.ones(len(sub))
        e = resample.interval(lambda w: fn(0, w) - fn(1, w), sub["patient_key"].to_numpy(), *boot, level)
        return Difference(short, figure, fn(0, one), fn(1, one), e.value, e.low, e.high, p, method, len(sub))

    y = (sub["label"] == "osteoporosis").to_numpy(bool)
    out = []
    order = "log_odds" if task == "vs_normal" else "risk_prob"
    if order == "log_odds" and not all(f"log_odds_{s}" in sub and sub[f"log_odds_{s}"].notna().all() for s in "ab"):
        order = "risk_prob"
        notes.append(f"{TITLES[task]}: not both carry log_odds for everyone; both are ordered by their risk")
    scores = [sub[f"{order}_{s}"].to_numpy(float) for s in "ab"]
    d = m.delong_test(y, scores[0], scores[1], level)
    area_a, area_b = (m.auc_delong(y, s, level).value for s in scores)
    out.append(Difference(short, "AUC", area_a, area_b, d.diff, d.low, d.high, d.p, "DeLong, paired", len(sub)))
    orders = [resample.Order.of(y, s) for s in scores]
    out.append(difference("AUC", lambda i, w: resample.weighted_auc(orders[i], w), "bootstrap over patients"))
    risks = [sub[f"risk_prob_{s}"].to_numpy(float) for s in "ab"]
    if all(f"threshold_{s}" in sub and sub[f"threshold_{s}"].notna().all() for s in "ab"):
        called = [r >= sub[f"threshold_{s}"].to_numpy(float) for r, s in zip(risks, "ab", strict=True)]
        for figure, among in (("sensitivity", y), ("specificity", ~y)):
            hits = [(c if figure == "sensitivity" else ~c) & among for c in called]
            p = _mcnemar(hits[0][among], hits[1][among])
            share = _share(hits, among)
            out.append(difference(figure, share, "bootstrap; p: exact McNemar", p))
    elif task == "vs_rest":
        notes.append("not both carry a threshold for everyone: sensitivity and specificity are not compared")
    if certain and task == "vs_rest":
        losses = [(r - y) ** 2 for r in risks]
        out.append(difference("Brier score", lambda i, w: _mean(losses[i], w), "bootstrap over patients"))
    return out


def _share(hits: list[NDArray[np.bool_]], among: NDArray[np.bool_]) -> Callable[[int, resample.Weights], float]:
    def share(i: int, w: resample.Weights) -> float:
        total = w[among].sum()
        return float(w[hits[i]].sum() / total) if total else m.NAN

    return share


def _mean(values: NDArray[np.float64], w: resample.Weights) -> float:
    return float((w * values).sum() / w.sum()) if w.sum() else m.NAN


def _mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Exact two-sided p that both are right equally often; NaN for nobody."""
    if not len(a):
        return m.NAN
    from statsmodels.stats.contingency_tables import mcnemar  # imported late: it costs a second

    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    return float(mcnemar(table, exact=True).pvalue)


def _n(value: float, spec: str = ".4f") -> str:
    return "n/a" if math.isnan(value) else format(value, spec)
