"""Pictures of how a selection policy learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

PANELS = {
    "episode_return": "return of an episode",
    "val_auc": "AUC, osteoporosis vs normal\n(reward's scorers, validation)",
    "val_decoded": "slices decoded a scan\n(validation)",
    "val_on_target": "belief: mid L1-L4\n(kept slices, validation)",
}


def learning_curves(curve: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draw `selection.train.train_policy`'s rows over env steps; a panel without a value is left out."""
    shown = [name for name in PANELS if any(name in row for row in curve)]
    figure = Figure(figsize=(3.2 * max(1, len(shown)), 2.8), layout="constrained")
    for axis, name in zip(figure.subplots(1, max(1, len(shown)), squeeze=False)[0], shown, strict=False):
        rows = [row for row in curve if name in row]
        axis.plot([r["env_steps"] for r in rows], [r[name] for r in rows], marker="." if len(rows) < 30 else None)
        axis.set(xlabel="environment steps", title=PANELS[name])
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
