"""A bundle made to fit one site: its risks moved to where that site's CT-DXA pairs say they belong.

    found = recalibrate(pairs, "north", SiteConfig(), seed=0)
    apply(bundle, found)                   # every calibrator of a pattern with CT, threshold, class sets, card

One curve for all patterns, P' = sigmoid(slope * logit(P) + intercept), is all that a few hundred pairs can hold. It is
fitted by penalised likelihood towards the bundle as it is (slope 1, intercept 0), so that few pairs move it little.
What it gains is judged on patients that a fit did not see (leave-one-out, or folds), with bootstrap intervals; these
hold the curve's fits fixed.

The order of patients does not change, and the threshold moves along: who is called stays the same; what the number says
of the patient changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.special import expit, logit

from osteo_ray.model.conformal import fit_conformal
from osteo_ray.model.scoring_bundle import ScoringBundle
from osteo_ray.monitoring.config import SiteConfig
from osteo_ray.outcomes import InputError
from osteo_ray.patients.labels import OSTEOPOROSIS

EDGE = 1e-6
FIXED = 1e9
BINS = 10


@dataclass(frozen=True)
class Pairs:
    """Scored patients with a DXA. Arrays share the axis [n]."""

    patient: np.ndarray  # str
    probs: np.ndarray  # float [n, 3], as the bundle reports them
    pattern: np.ndarray  # str, e.g. "demographics+ct"
    label: np.ndarray  # int, index into records.labels.CLASSES

    @property
    def y(self) -> np.ndarray:
        """Osteoporosis or not."""
        return self.label == OSTEOPOROSIS


@dataclass(frozen=True)
class Figure:
    """One figure before and after, with intervals."""

    before: tuple[float, float, float]
    after: tuple[float, float, float]
    gain: tuple[float, float, float]  # how much nearer to the ideal, paired


@dataclass(frozen=True)
class Recalibration:
    """What was found at a site."""

    site: str
    n: int
    events: int
    patterns: dict[str, int]
    slope: float
    intercept: float
    resampled: tuple[tuple[float, float], ...]
    conformal: list[float] | None  # None: no level was asked for
    figures: dict[str, Figure]
    judged_by: str

    @property
    def gains(self) -> bool:
        """Whether the Brier score on unseen patients is surely lower."""
        return self.figures["brier"].gain[1] > 0

    def lines(self) -> list[str]:
        """For a terminal and the card."""
        out = [
            f"{self.n} patients with CT and DXA, {self.events} with osteoporosis; "
            f"log-odds x {self.slope:.2f} {self.intercept:+.2f}",
            f"{'':12s}{'before':>24s}{'after':>24s}   (after: {self.judged_by})",
        ]
        for name, f in self.figures.items():
            out.append(f"{name:12s}{_span(f.before):>24s}{_span(f.after):>24s}")
        if not self.gains:
            out.append("no sure gain: the bundle as it is may serve this site as well")
        return out

    def facts(self) -> dict:
        """Plain data for the bundle; nobody's score is in it."""
        d = asdict(self)
        del d["resampled"], d["conformal"]
        return d


def recalibrate(
    pairs: Pairs, site: str, cfg: SiteConfig, seed: int, conformal_level: float | None = None
) -> Recalibration:
    """Fit a site's curve and judge it.

    Raises:
        InputError: a site's name that can't be one, too few pairs, or scores that do not order the site's patients.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", site):
        raise InputError(f"site {site!r}: use letters, digits, dot, dash and underscore, 64 at most")
    y, x = pairs.y, logit(np.clip(pairs.probs[:, OSTEOPOROSIS], EDGE, 1 - EDGE))
    n, events = len(y), int(y.sum())
    if min(events, n - events) < cfg.min_per_class:
        raise InputError(
            f"{site}: {events} scored patients with osteoporosis by DXA and {n - events} without; at least "
            f"{cfg.min_per_class} of each are needed. Screen more patients who have a DXA; until then keep the bundle "
            "as it is (min_per_class can be lowered to 10, at the price of a curve that says little)"
        )
    slope, intercept = fit_curve(x, y, cfg)
    if slope < 0.1:
        raise InputError(
            f"{site}: the scores do not order this site's patients (slope {slope:.2f}); no calibration mends that. "
            "See what differs: osteo-ray drift, and osteo-ray evaluate by subgroup"
        )
    rng = np.random.default_rng(seed)
    fits = [fit_curves(x, y, w, _penalty(cfg)) for w in _draws(n, cfg.resamples, rng)]
    resampled = tuple((float(a), float(b)) for a, b in np.concatenate(fits))
    unseen, judged_by = _unseen(x, y, cfg, rng)
    accepted = None
    if conformal_level is not None:
        rest = pairs.probs[:, :2] / np.maximum(pairs.probs[:, :2].sum(1, keepdims=True), EDGE)
        accepted = fit_conformal(np.c_[rest * (1 - unseen)[:, None], unseen], pairs.label, conformal_level)
    names, counts = np.unique(pairs.pattern, return_counts=True)
    return Recalibration(
        site,
        n,
        events,
        dict(zip(names.tolist(), counts.tolist(), strict=True)),
        slope,
        intercept,
        resampled,
        accepted,
        _figures(y, expit(x), unseen, cfg, rng),
        judged_by,
    )


def fit_curves(x: np.ndarray, y: np.ndarray, weights: np.ndarray, penalty: tuple[float, float]) -> np.ndarray:
    """[R, 2] of (slope, intercept), of greatest penalised likelihood of y by sigmoid(slope x + intercept).

    Args:
        x, y: [n] log-odds and outcomes.
        weights: [R, n] how much each patient counts in each fit.
        penalty: inverse variances of slope - 1 and intercept; 0 leaves one free, FIXED holds it.
    """
    w = np.tile([1.0, 0.0], (len(weights), 1))
    a, b = penalty[0] + 1e-9, penalty[1] + 1e-9
    for _ in range(40):  # Newton's method, all fits at once
        p = expit(w[:, :1] * x + w[:, 1:])
        r, v = weights * (p - y), weights * p * (1 - p)
        g0, g1 = r @ x + a * (w[:, 0] - 1), r.sum(1) + b * w[:, 1]
        h00, h01, h11 = v @ (x * x) + a, v @ x, v.sum(1) + b
        step = np.c_[h11 * g0 - h01 * g1, h00 * g1 - h01 * g0] / (h00 * h11 - h01**2)[:, None]
        w -= np.clip(step, -1, 1)  # far from the optimum a full step may overshoot
        if np.abs(step).max() < 1e-8:
            break
    return w


def fit_curve(x: np.ndarray, y: np.ndarray, cfg: SiteConfig) -> tuple[float, float]:
    """A site's curve on all of its patients."""
    slope, intercept = fit_curves(x, y, np.ones((1, len(x))), _penalty(cfg))[0].tolist()
    return slope, intercept


def _penalty(cfg: SiteConfig) -> tuple[float, float]:
    return cfg.slope_sd**-2, cfg.intercept_sd**-2


def _draws(n: int, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of n patients is in each of `count` bootstrap draws, [r, n] at a time."""
    at_once = max(1, 4_000_000 // n)
    for begin in range(0, count, at_once):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(at_once, count - begin)).astype(float)


def apply(bundle: ScoringBundle, found: Recalibration) -> ScoringBundle:
    """The bundle with a site's curve behind every calibrator that a CT's score can meet. Networks are untouched."""
    calibrators = dict(bundle.calibrators)
    conformal, points = dict(bundle.conformal), dict(bundle.operating_points)
    for pattern, c in bundle.calibrators.items():
        if "ct" not in pattern.split("+"):
            continue
        calibrators[pattern] = c.at_site(found.slope, found.intercept, found.resampled, found.n, found.events)
        if pattern in points:
            points[pattern] = replace(points[pattern], threshold=_moved(points[pattern].threshold, found))
        if found.conformal is not None:
            conformal[pattern] = list(found.conformal)
    out = replace(bundle, calibrators=calibrators, conformal=conformal, operating_points=points)
    out.threshold = _moved(bundle.threshold, found)
    out.operating_point = f"{bundle.operating_point}, at the risk it has at {found.site}"
    out.version = f"{bundle.version}+{found.site}"
    out.metrics = bundle.metrics | {"site": found.facts() | {"from_sha256": bundle.sha256}}
    figures = "\n".join(f"    {line}" for line in found.lines())
    out.card = f"""{bundle.card.rstrip()}

**Recalibrated for {found.site}.** The decision with everything known is now at a probability of {out.threshold:.3f},
and every threshold with CT has moved alike: the same patients are called. One curve for all patterns with CT; pairs by
pattern: {_counts(found.patterns)}. The class sets are refitted on the same pairs, all patterns together. Figures for
patients with CT above are those before this.

{figures}
"""
    return out


def _moved(threshold: float, found: Recalibration) -> float:
    return float(expit(found.slope * logit(np.clip(threshold, EDGE, 1 - EDGE)) + found.intercept))


def _counts(patterns: dict[str, int]) -> str:
    return ", ".join(f"{k} {n}" for k, n in patterns.items())


def _unseen(x: np.ndarray, y: np.ndarray, cfg: SiteConfig, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Each patient's risk by a fit that did not see that patient."""
    n = len(x)
    alone = n <= cfg.leave_one_out
    fold = np.arange(n)
    if not alone:
        for side in (np.flatnonzero(y), np.flatnonzero(~y)):
            fold[rng.permutation(side)] = np.arange(len(side)) % cfg.folds
    others = fold[None] != np.unique(fold)[:, None]
    w = fit_curves(x, y, others.astype(float), _penalty(cfg))[fold]
    return expit(
        w[:, 0] * x + w[:, 1]
    ), "each patient by a fit on the others" if alone else f"{cfg.folds}-fold, each by a fit without that patient"


def _figures(
    y: np.ndarray, before: np.ndarray, after: np.ndarray, cfg: SiteConfig, rng: np.random.Generator
) -> dict[str, Figure]:
    """Slope, intercept, Brier and ECE before and after, with percentile intervals over resampled patients."""
    ideal = {"slope": 1.0, "intercept": 0.0, "brier": 0.0, "ece": 0.0}
    columns = [_Judged.of(p, y) for p in (before, after)]
    n = len(y)
    draws = np.concatenate([np.stack([c(w) for c in columns], axis=1) for w in _draws(n, cfg.resamples, rng)])
    point, tail = np.stack([c(np.ones((1, n)))[0] for c in columns]), (1 - cfg.level) / 2
    centre = np.array(list(ideal.values()))
    gain, gains = (np.abs(v[..., 0, :] - centre) - np.abs(v[..., 1, :] - centre) for v in (point, draws))

    def span(value: float, sample: np.ndarray) -> tuple[float, float, float]:
        low, high = np.nanquantile(sample, [tail, 1 - tail])
        return float(value), float(low), float(high)

    return {
        name: Figure(span(point[0, k], draws[:, 0, k]), span(point[1, k], draws[:, 1, k]), span(gain[k], gains[:, k]))
        for k, name in enumerate(ideal)
    }


@dataclass(frozen=True)
class _Judged:
    """Probabilities of n patients, judged under weights: slope, calibration-in-the-large, Brier score, ECE."""

    x: np.ndarray
    y: np.ndarray
    square: np.ndarray
    gap: np.ndarray
    bins: np.ndarray  # [n, BINS] membership in equal-count bins

    @classmethod
    def of(cls, p: np.ndarray, y: np.ndarray) -> _Judged:
        p = np.clip(p, EDGE, 1 - EDGE)
        place = np.empty(len(p), int)
        place[np.argsort(p, kind="stable")] = np.arange(len(p)) * BINS // len(p)
        return cls(logit(p), y.astype(float), (p - y) ** 2, p - y, np.eye(BINS)[place])

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Weights [R, n] -> figures [R, 4]."""
        total = weights.sum(1)
        slope = fit_curves(self.x, self.y, weights, (0.0, 0.0))[:, 0]
        large = fit_curves(self.x, self.y, weights, (FIXED, 0.0))[:, 1]
        ece = np.abs((weights * self.gap) @ self.bins).sum(1) / total
        return np.stack([slope, large, weights @ self.square / total, ece], axis=1)


def _span(v: tuple[float, float, float]) -> str:
    return f"{v[0]:.3f} ({v[1]:.3f}, {v[2]:.3f})"
