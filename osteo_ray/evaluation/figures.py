"""Pictures of an evaluation, as PNG or SVG bytes; the same input gives the same bytes.

    Path("roc.png").write_bytes(roc(evaluation))
    Path("roc.svg").write_bytes(roc(evaluation, "svg"))

Matplotlib without pyplot: no global state, no display, safe in threads and Ray tasks. Lines differ by dash as well as
by colour. A figure whose data is undefined (one class only) shows its frame and the words "not defined".
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from osteo_ray.evaluation.evaluate import Evaluation, Subgroup
from osteo_ray.evaluation.palette import ACCENT, INK, LINE, MUTED, PAPER, RAISE

Format = Literal["png", "svg"]

# Six distinct colours and no others: the HTML report swaps each for a CSS variable, so figures follow dark mode.

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "osteo-ray",
}


def roc(ev: Evaluation, fmt: Format = "png") -> bytes:
    """ROC curves of both tasks, with each task's AUC and interval in the legend."""
    with rc_context(RC):
        fig, ax = axes(4.2, 4.0)
        ax.plot([0, 1], [0, 1], color=LINE, lw=1)
        for task, colour, dash in zip(ev.tasks, (ACCENT, RAISE), ("-", "--"), strict=False):
            if task.roc[0]:
                ax.plot(*task.roc, color=colour, lw=1.6, ls=dash, label=f"{task.title}\nAUC {task.auc}")
        ax.set(xlabel="1 - specificity", ylabel="Sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="lower right")
        else:
            undefined(ax, ev.tasks[0].auc.note if ev.tasks else "")
        return drawn(fig, fmt)


def calibration(ev: Evaluation, fmt: Format = "png") -> bytes:
    """Observed share against mean predicted risk in equal-count bins, osteoporosis vs rest."""
    k = ev.task("vs_rest").calibration
    with rc_context(RC):
        fig, ax = axes(4.2, 4.0)
        ax.plot([0, 1], [0, 1], color=LINE, lw=1, label="perfect")
        if k is not None and k.bins:
            from statsmodels.stats.proportion import proportion_confint

            p, share, n = (np.array(c, dtype=float) for c in zip(*k.bins, strict=True))
            low, high = proportion_confint(np.round(share * n), n, alpha=1 - ev.level, method="wilson")
            ax.vlines(p, low, high, color=ACCENT, lw=1)
            ax.plot(p, share, "o", color=ACCENT, ms=4.5, label=f"{len(p)} bins of equal count")
            ax.legend(loc="upper left")
        else:
            undefined(ax, "nobody")
        ax.set(xlabel="Predicted risk", ylabel="Observed share with osteoporosis", aspect="equal")
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        return drawn(fig, fmt)


def decision(ev: Evaluation, fmt: Format = "png") -> bytes:
    """Net benefit against threshold probability, osteoporosis vs rest."""
    d = ev.task("vs_rest").decision
    with rc_context(RC):
        fig, ax = axes(5.2, 3.4)
        ax.axhline(0, color=MUTED, lw=1, label="refer none")
        if d is not None and d.n_pos + d.n_neg:
            ax.plot(d.thresholds, d.treat_all, color=RAISE, lw=1.3, ls="--", label="refer all")
            ax.plot(d.thresholds, d.model, color=ACCENT, lw=1.6, label="refer by this score")
            share = d.n_pos / (d.n_pos + d.n_neg)
            ax.set_ylim(-max(0.05, 0.25 * share), max(0.05, share * 1.1))
            ax.legend(loc="upper right")
        else:
            undefined(ax, "nobody")
        ax.set(xlabel="Threshold probability", ylabel="Net benefit per patient")
        return drawn(fig, fmt)


def forest(ev: Evaluation, fmt: Format = "png") -> bytes:
    """AUC (osteoporosis vs rest) with interval, per subgroup; groups with one class only are listed as not defined."""
    overall = ev.task("vs_rest").auc
    lines: list[tuple[str, Subgroup | None]] = []
    for g in ev.subgroups:
        if not lines or all(x is None or x.by != g.by for _, x in lines):
            lines.append((g.by, None))
        lines.append((f"{_cut(g.group)} (n = {g.n})", g))
    with rc_context(RC):
        fig, ax = axes(6.4, max(1.6, 0.235 * len(lines) + 0.8))
        low = 0.5
        for i, (_, shown) in enumerate(lines):
            if shown is None:
                continue
            a = shown.auc_vs_rest
            if math.isnan(a.value):
                ax.text(
                    0.01, i, "not defined", va="center", color=MUTED, fontsize=8, transform=ax.get_yaxis_transform()
                )
                continue
            if not math.isnan(a.low):
                ax.hlines(i, a.low, a.high, color=ACCENT, lw=1.2)
                low = min(low, a.low)
            ax.plot(a.value, i, "s" if not math.isnan(a.low) else "o", color=ACCENT, ms=4.5)
            low = min(low, a.value)
        if not math.isnan(overall.value):
            ax.axvline(overall.value, color=RAISE, lw=1, ls="--")
        ax.set_yticks(range(len(lines)), [text for text, _ in lines])
        for tick, (_, shown) in zip(ax.get_yticklabels(), lines, strict=True):
            tick.set_color(INK if shown is None else MUTED)
            tick.set_fontweight("bold" if shown is None else "normal")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set(xlabel="AUC (dashed: all patients)", xlim=(low - 0.02, 1.01))
        ax.set_ylim(len(lines) - 0.4, -0.6)
        ax.grid(axis="x")
        ax.set_axisbelow(True)
        return drawn(fig, fmt)


def score_histogram(risk: ArrayLike, thresholds: Sequence[float] = (), fmt: Format = "png") -> bytes:
    """Counts of risk in 20 bins over [0, 1], with the operating points as dashed lines."""
    values = np.asarray(risk, dtype=np.float64)
    with rc_context(RC):
        fig, ax = axes(6.4, 2.5)
        if len(values):
            ax.hist(values, bins=[0.05 * i for i in range(21)], color=ACCENT, rwidth=0.92)
        else:
            undefined(ax, "nothing scored")
        for i, t in enumerate(sorted(set(thresholds))):
            ax.axvline(t, color=RAISE, lw=1.2, ls="--", label=None if i else "operating point")
        if thresholds:
            ax.legend(loc="upper right")
        ax.set(xlabel="Calibrated risk of osteoporosis", ylabel="Series", xlim=(0, 1))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        return drawn(fig, fmt)


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    return fig, fig.add_subplot()


def _cut(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def undefined(ax: Axes, why: str) -> None:
    text = f"not defined: {why}" if why else "not defined"
    ax.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, transform=ax.transAxes)


def drawn(fig: Figure, fmt: Format) -> bytes:
    out = io.BytesIO()
    meta = {"Date": None, "Creator": "osteo-ray"} if fmt == "svg" else {"Software": "osteo-ray"}
    fig.savefig(out, format=fmt, dpi=150, metadata=meta, transparent=fmt == "svg")
    return out.getvalue()
