"""Pictures of how a selection policy learns, and of what slices bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

PANELS = {
    "episode_return": "return of an episode",
    "val_auc": "AUC, osteoporosis vs normal\n(reward's scorers, validation)",
    "val_decoded": "slices decoded a scan\n(validation)",
    "val_on_target": "belief: mid L1-L4\n(kept slices, validation)",
}


def learning_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path) -> None:
    """Draw rows of `selection.train.train_policy` over env steps, one line a policy; no panel without values."""
    shown = [name for name in PANELS if any(name in row for curve in curves.values() for row in curve)]
    figure = Figure(figsize=(3.2 * max(1, len(shown)), 2.8 + 0.16 * len(curves)), layout="constrained")
    axes = figure.subplots(1, max(1, len(shown)), squeeze=False)[0]
    for axis, name in zip(axes, shown, strict=False):
        for label, curve in curves.items():
            rows = [row for row in curve if name in row]
            marker = "." if len(rows) < 30 else None
            axis.plot([r["env_steps"] for r in rows], [r[name] for r in rows], marker=marker, label=label)
        axis.set(xlabel="environment steps", title=PANELS[name])
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    if len(curves) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
    figure.savefig(path, dpi=120)


def decoded_curve(curve: pd.DataFrame, path: str | Path) -> None:
    """AUC against slices decoded; columns arm, kept, decoded, auc, one line an arm over the slices kept."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axis = figure.subplots()
    for i, (arm, rows) in enumerate(curve.groupby("arm", sort=False)):
        axis.plot(rows["decoded"], rows["auc"], marker="osD^v<>pPX*"[i % 11], lw=1 if i else 2.5, label=str(arm))
        last = rows.iloc[-1]
        axis.annotate(f"{last['kept']:.0f}" if last["kept"] else "", (last["decoded"], last["auc"]), fontsize=7)
    axis.set(xscale="log", xlabel="slices decoded a scan (log)", ylabel="AUC, osteoporosis vs normal")
    axis.grid(alpha=0.3, which="both")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    figure.savefig(path, dpi=120)
