"""Pictures of what a score rests on and where it may stay silent, in the style of `figures.py`.

    Path("shap.png").write_bytes(beeswarm(evaluation))

The beeswarm and the missingness, abstention and conformal figures. Each says "not defined" where the results do not
carry what it shows.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib import rc_context
from numpy.typing import NDArray
from scipy.stats import rankdata

from osteo_ray.evaluation.attribution import Attributions
from osteo_ray.evaluation.evaluate import Evaluation, Subgroup
from osteo_ray.evaluation.figures import ACCENT, INK, LINE, MUTED, RAISE, RC, Format, axes, drawn, undefined
from osteo_ray.patients.schema import NAMES, feature


def beeswarm(ev: Evaluation, fmt: Format = "png", most: int = 14, points: int = 400) -> bytes:
    """SHAP values, one mark a patient: the `most` features of largest mean |SHAP|, `points` patients evenly taken.

    A triangle up is a value above the median, a triangle down one below, a ring an unknown value; a dot where the
    feature has no value (the CT as a whole).
    """
    a = ev.attributions
    shown = ev.importance[:most]
    with rc_context(RC):
        fig, ax = axes(6.4, max(1.8, 0.3 * len(shown) + 0.9))
        if a is None or not shown:
            undefined(ax, "results carry no SHAP values")
            ax.set_axis_off()
            return drawn(fig, fmt)
        rows = np.unique(np.linspace(0, len(a) - 1, min(points, len(a))).astype(int))
        for i, f in enumerate(shown):
            _swarm(ax, a, rows, a.features.index(f.feature), i)
        ax.axvline(0, color=MUTED, lw=1)
        ax.set_yticks(range(len(shown)), [f"{name(f.feature)}" for f in shown])
        for tick, f in zip(ax.get_yticklabels(), shown, strict=True):
            tick.set_fontweight("bold" if f.group == "ct" else "normal")
            tick.set_color(MUTED if f.group == "labs" else INK)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set(xlabel="SHAP value: log-odds of osteoporosis added by the feature", ylim=(len(shown) - 0.4, -0.6))
        ax.grid(axis="x")
        ax.set_axisbelow(True)
        marks = (("^", RAISE, RAISE, "above median"), ("v", ACCENT, ACCENT, "below"), ("o", "none", MUTED, "missing"))
        for mark, face, edge, text in marks:
            ax.plot([], [], mark, color=face, mec=edge, ms=4.5, label=text)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, borderaxespad=0.2, handletextpad=0.1)
        return drawn(fig, fmt)


def missingness(ev: Evaluation, fmt: Format = "png") -> bytes:
    """AUC (osteoporosis vs rest) by what the score had: modalities on the left, number of missing labs on the right."""
    with rc_context(RC):
        fig, ax = axes(6.4, 3.2)
        patterns = [g for g in ev.subgroups if g.by == "modalities"]
        labs = [g for g in ev.subgroups if g.by == "labs missing"]
        overall = ev.task("vs_rest").auc
        if not patterns and not labs:
            undefined(ax, "results name no modalities")
            ax.set_axis_off()
            return drawn(fig, fmt)
        low, at = 0.5, 0
        for groups, colour in ((patterns, ACCENT), (labs, RAISE)):
            places = list(range(at, at + len(groups)))
            for x, g in zip(places, groups, strict=True):
                low = min(low, _point(ax, x, g, colour))
            if groups is labs:  # a gap where a group is not defined
                ax.plot(places, [g.auc_vs_rest.value for g in groups], color=colour, lw=1, ls=":", zorder=1)
            if groups is patterns and labs:
                ax.axvline(places[-1] + 0.75 if places else -0.5, color=LINE, lw=1)
            at += len(groups) + (1 if groups is patterns and groups and labs else 0)
        ticks = [*range(len(patterns)), *range(at - len(labs), at)]
        texts = [_stacked(g) for g in patterns] + [f"{g.group}\nlabs missing\nn = {g.n}" for g in labs]
        ax.set_xticks(ticks, texts, fontsize=7.5)
        ax.tick_params(axis="x", length=0)
        if not math.isnan(overall.value):
            ax.axhline(overall.value, color=INK, lw=1, ls="--", label="all patients")
            ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
        ax.set(ylabel="AUC, osteoporosis vs rest", ylim=(low - 0.03, 1.02), xlim=(-0.6, at - 0.4))
        ax.grid(axis="y")
        ax.set_axisbelow(True)
        return drawn(fig, fmt)


def risk_coverage(ev: Evaluation, fmt: Format = "png") -> bytes:
    """Sensitivity, specificity and error at the locked threshold among the patients that the score is surest about."""
    a = ev.abstention
    with rc_context(RC):
        fig, ax = axes(5.2, 3.4)
        if a is None:
            undefined(ax, "no threshold or no probabilities")
            ax.set_axis_off()
            return drawn(fig, fmt)
        lines = (("sensitivity", ACCENT, "-"), ("specificity", RAISE, "--"))
        for figure, colour, dash in lines:
            e = [getattr(c, figure) for c in a.at]
            ax.plot(a.share, [x.value for x in e], color=colour, ls=dash, lw=1.6, label=figure)
            ax.fill_between(a.share, [x.low for x in e], [x.high for x in e], color=colour, alpha=0.12, lw=0)
        ax.plot(a.share, [1 - c.accuracy.value for c in a.at], color=INK, ls=":", lw=1.6, label="error")
        ax.set(xlabel="Share of patients scored, the surest kept", ylabel="Among those scored", ylim=(-0.02, 1.02))
        ax.set_xlim(1.01, min(a.share) - 0.01)
        ax.grid(axis="y")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, borderaxespad=0.2)
        return drawn(fig, fmt)


def conformal(ev: Evaluation, fmt: Format = "png") -> bytes:
    """How often the conformal set holds the true class, for everyone and class by class, and the sets' sizes."""
    with rc_context(RC):
        fig, ax = axes(5.2, 2.4)
        if ev.conformal is None:
            undefined(ax, "results carry no conformal sets")
            ax.set_axis_off()
            return drawn(fig, fmt)
        groups = ev.conformal.groups
        for i, g in enumerate(groups):
            if math.isnan(g.covered.value):
                ax.text(0.02, i, "nobody", va="center", color=MUTED, fontsize=8)
                continue
            ax.hlines(i, g.covered.low, g.covered.high, color=ACCENT, lw=1.4)
            ax.plot(g.covered.value, i, "s", color=ACCENT, ms=5)
        names = [f"{g.name} (n = {g.n}, size {g.mean_size:.2f})" if g.n else g.name for g in groups]
        ax.set_yticks(range(len(groups)), names)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set(xlabel="Share of sets that hold the true class", xlim=(-0.01, 1.01), ylim=(len(groups) - 0.5, -0.5))
        ax.grid(axis="x")
        ax.set_axisbelow(True)
        return drawn(fig, fmt)


def name(column: str) -> str:
    """A feature's printed name; CT for the CT, another system's feature as it is."""
    return "CT" if column == "ct" else feature(column).label if column in NAMES else column


def _swarm(ax, a: Attributions, rows: NDArray[np.intp], j: int, y: int) -> None:
    shap, value = a.shap[rows, j], a.value[rows, j]
    played = np.isfinite(shap)
    shap, value = shap[played], value[played]
    offset = _spread(shap)
    known = np.isfinite(value)
    if a.groups[j] == "ct":
        ax.plot(shap, y + offset, "o", color=INK, ms=2.4, mew=0, alpha=0.75)
        return
    high = np.zeros(len(value), bool)
    if known.any():
        # By rank, so that a yes/no feature's one is always "above".
        ranks = rankdata(value[known]) / known.sum()
        high[known] = ranks > 0.5 + 0.5 / known.sum()
    for rows_, mark, face, edge in (
        (known & ~high, "v", ACCENT, ACCENT),
        (high, "^", RAISE, RAISE),
        (~known, "o", "none", MUTED),
    ):
        ax.plot(shap[rows_], y + offset[rows_], mark, color=face, mec=edge, ms=3, mew=0.5, alpha=0.8)


def _spread(x: NDArray[np.float64], width: float = 0.36, bins: int = 60) -> NDArray[np.float64]:
    """Vertical offsets so that marks of one bin lie beside each other; the fullest bin fills `width` on both sides."""
    if not len(x):
        return x
    edges = np.linspace(x.min(), x.max() + 1e-9, bins + 1)
    where = np.digitize(x, edges) - 1
    offset = np.zeros(len(x))
    counts = np.bincount(where, minlength=bins)
    step = min(0.12, 2 * width / max(1, counts.max()))
    for b in np.flatnonzero(counts):
        members = np.flatnonzero(where == b)
        k = np.arange(len(members))
        offset[members] = step * ((k + 1) // 2) * np.where(k % 2, 1, -1)
    return offset


def _point(ax, x: int, g: Subgroup, colour: str) -> float:
    e = g.auc_vs_rest
    if math.isnan(e.value):
        ax.text(x, 0.03, "not\ndefined", ha="center", color=MUTED, fontsize=7, transform=ax.get_xaxis_transform())
        return 1.0
    if math.isnan(e.low):
        ax.plot(x, e.value, "o", mfc="none", mec=colour, ms=5)
        return e.value
    ax.vlines(x, e.low, e.high, color=colour, lw=1.4)
    ax.plot(x, e.value, "s", color=colour, ms=5)
    return e.low


def _stacked(g: Subgroup) -> str:
    short = {"demographics": "demogr."}
    return "\n".join([*(short.get(p, p) for p in g.group.split(" + ")), f"n = {g.n}"])
