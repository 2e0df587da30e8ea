"""Whether a run's patients are still those that a bundle (or an earlier run) knew, and what moved.

    report = compare(reference, current, DriftConfig())
    report.moved                              # what did, most certain first
    report.lines()

A quantity has moved where it differs more than chance would have it at these numbers of patients *and* by more than is
worth telling (`distributions.QUANTITIES`): of millions of patients everything differs a little. Chance: for numbers the
two-sample tests of Mann and Whitney (a shift) and of Kolmogorov and Smirnov (any other change), the better one counted
twice; for categories chi squared (by simulation where a cell is small). Over all quantities together a run without
drift is called moved with probability `alpha` at most (Holm).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency, kstwobign, mannwhitneyu, random_table

from osteo_ray.model.distributions import OTHER, QUANTITIES, SCORE, Distributions, Numbers, Quantity
from osteo_ray.monitoring.config import DriftConfig


@dataclass(frozen=True)
class Finding:
    """One quantity, compared."""

    name: str
    words: str
    n_reference: int
    n_current: int
    p: float  # Holm-adjusted
    effect: float  # numbers: Wasserstein distance in `unit`; categories: population stability index
    unit: str
    least: float
    moved: bool
    text: str


@dataclass(frozen=True)
class Report:
    """A run against a reference."""

    patients_reference: int
    patients_current: int
    findings: tuple[Finding, ...]
    not_compared: tuple[str, ...]

    @property
    def moved(self) -> tuple[Finding, ...]:
        """What moved, the most certain first."""
        return tuple(sorted((f for f in self.findings if f.moved), key=lambda f: (f.p, -f.effect / f.least)))

    def lines(self) -> list[str]:
        """For a terminal."""
        out = [f"{self.patients_current} patients against {self.patients_reference} of the reference"]
        out += [f"moved    {f.words}: {f.text}" for f in self.moved]
        still = [f.words for f in self.findings if not f.moved]
        out.append("as before: " + (", ".join(still) or "nothing"))
        if self.not_compared:
            out.append("not compared (too little known on one side): " + ", ".join(self.not_compared))
        return out

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self) | {"moved": [f.name for f in self.moved]}


def compare(reference: Distributions, current: pd.DataFrame, cfg: DriftConfig, seed: int = 0) -> Report:
    """Compare a run's patients with a reference.

    Args:
        current: one row a patient, with the columns that `Distributions.of` reads.
    """
    rng = np.random.default_rng(seed)
    current_distributions = Distributions.of(current)
    raw: list[tuple[Quantity, int, int, float, float, str]] = []
    for name in sorted(set(reference.numbers) & set(current_distributions.numbers)):
        ref = reference.numbers[name]
        v = _values(current, name)
        p = min(1.0, 2 * min(_ks(ref, v), _mann_whitney(ref, v)))
        # An interval costs a bootstrap: only what may have moved gets one.
        text = _shift(name, ref, v, cfg, rng) if p < cfg.alpha else ""
        raw.append((_quantity(name), ref.n, len(v), p, _distance(ref, v), text))
    for name in sorted(set(reference.categories) & set(current_distributions.categories)):
        a, b = _aligned(reference.categories[name], current[name].dropna().astype(str).value_counts().to_dict())
        psi, text = _psi(a, b), _mix(a, b)
        raw.append((_quantity(name), sum(a.values()), sum(b.values()), _chi2(a, b, cfg, rng), psi, text))
    findings = []
    for (q, m, n, _, effect, text), p in zip(raw, holm([r[3] for r in raw]), strict=True):
        least = q.least * cfg.scale
        moved = p < cfg.alpha and effect >= least
        findings.append(Finding(q.name, q.words, m, n, p, effect, q.unit or "PSI", least, moved, text))
    compared = {f.name for f in findings}
    known = (
        set(reference.numbers)
        | set(reference.categories)
        | set(current_distributions.numbers)
        | set(current_distributions.categories)
    )
    left = tuple(_quantity(k).words for k in sorted(known - compared))
    return Report(reference.patients, len(current), tuple(findings), left)


def holm(p: list[float]) -> list[float]:
    """Holm's adjustment of p values."""
    order = np.argsort(p)
    out, worst = np.ones(len(p)), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, p[i] * (len(p) - rank)))
        out[i] = worst
    return out.tolist()


def _quantity(name: str) -> Quantity:
    if name.startswith("score "):
        pattern = name.removeprefix("score ")
        return Quantity(name, f"{SCORE.words} of {pattern.replace('+', ' + ')}", SCORE.unit, SCORE.least)
    return next(q for q in QUANTITIES if q.name == name)


def _values(frame: pd.DataFrame, name: str) -> np.ndarray:
    if name.startswith("score "):
        frame, name = frame[frame["pattern"] == name.removeprefix("score ")], "score"
    v = frame[name].to_numpy(float)
    return np.sort(v[np.isfinite(v)])


# ---- numbers


def _ks(ref: Numbers, v: np.ndarray) -> float:
    """p of Kolmogorov and Smirnov's two-sample test, at both samples' sizes."""
    n, m = len(v), ref.n
    x, first, count = np.unique(v, return_index=True, return_counts=True)
    below, upto = ref.cdf(x)
    d = max(np.abs(first / n - below).max(), np.abs((first + count) / n - upto).max())
    return float(kstwobign.sf(d * np.sqrt(n * m / (n + m))))


def _mann_whitney(ref: Numbers, v: np.ndarray) -> float:
    """p of Mann and Whitney's test against a sample of the reference's size, laid out evenly along its quantiles."""
    return float(mannwhitneyu(v, ref.at((np.arange(ref.n) + 0.5) / ref.n), method="asymptotic").pvalue)


def _distance(ref: Numbers, v: np.ndarray) -> float:
    """Wasserstein distance, in the number's unit."""
    u = (np.arange(400) + 0.5) / 400
    return float(np.abs(np.quantile(v, u) - ref.at(u)).mean())


def _shift(name: str, ref: Numbers, v: np.ndarray, cfg: DriftConfig, rng: np.random.Generator) -> str:
    """Medians in words, and their difference with its 95 % interval by bootstrap of both sides."""
    unit = _quantity(name).unit
    drawn = v if len(v) <= 5000 else rng.choice(v, 5000, replace=False)
    m = min(ref.n, 5000)
    now = np.median(rng.choice(drawn, (cfg.resamples, len(drawn))), axis=1)
    then = np.median(ref.at(rng.random((cfg.resamples, m))), axis=1)
    low, high = np.quantile(now - then, [0.025, 0.975])
    before, after = float(ref.at(np.array(0.5))), float(np.median(v))
    return f"median {before:.3g} -> {after:.3g} {unit} ({after - before:+.3g}; {low:+.3g} to {high:+.3g})".replace(
        "  ", " "
    )


# ---- categories


def _aligned(ref: dict[str, int], now: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Counts over the same categories: what the reference did not name is `other` in both."""
    names = [k for k in ref if k != OTHER]
    current_distributions = {k: now.get(k, 0) for k in names}
    rest = sum(n for k, n in now.items() if k not in current_distributions)
    if rest or OTHER in ref:
        return {**{k: ref[k] for k in names}, OTHER: ref.get(OTHER, 0)}, current_distributions | {OTHER: rest}
    return dict(ref), current_distributions


def _chi2(a: dict[str, int], b: dict[str, int], cfg: DriftConfig, rng: np.random.Generator) -> float:
    table = np.array([list(a.values()), list(b.values())])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2:
        return 1.0
    found = chi2_contingency(table, correction=False)
    if found.expected_freq.min() >= 5:
        return float(found.pvalue)
    expected = found.expected_freq
    drawn = random_table(table.sum(1), table.sum(0)).rvs(cfg.tables, random_state=rng)
    chi2 = ((drawn - expected) ** 2 / expected).sum((1, 2))
    return float((1 + (chi2 >= found.statistic - 1e-9).sum()) / (1 + cfg.tables))


def _shares(counts: dict[str, int]) -> np.ndarray:
    c = np.array(list(counts.values()), float) + 0.5
    return c / c.sum()


def _psi(a: dict[str, int], b: dict[str, int]) -> float:
    """Population stability index, with half a patient added to each cell."""
    p, q = _shares(a), _shares(b)
    return float(((q - p) * np.log(q / p)).sum())


def _mix(a: dict[str, int], b: dict[str, int]) -> str:
    """The categories whose share changed most, in words."""
    na, nb = max(sum(a.values()), 1), max(sum(b.values()), 1)
    by = sorted(a, key=lambda k: -abs(b[k] / nb - a[k] / na))[:3]
    return ", ".join(f"{k} {a[k] / na:.0%} -> {b[k] / nb:.0%}" for k in by)
