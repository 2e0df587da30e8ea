"""A search's trials for people: a table, and a picture with one line a trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from osteo_ray.training.search_space import Choice, Range


def write_table(table: pd.DataFrame, folder: Path) -> None:
    """trials.csv in the order the trials began, trials.md sorted by score with the finished first."""
    table.to_csv(folder / "trials.csv", index=True, index_label="number")
    shown = table.assign(number=table.index).sort_values(
        ["done", "score"], ascending=[False, False], kind="stable", na_position="last"
    )
    columns = ["number", "state", "done", "score", *(c for c in table if c.startswith("param:"))]
    head = [c.removeprefix("param:") for c in columns]
    rows = [" | ".join(_text(r[c]) for c in columns) for _, r in shown.iterrows()]
    (folder / "trials.md").write_text(
        "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {r} |" for r in rows)]) + "\n"
    )


def parallel_coordinates(table: pd.DataFrame, space: Mapping[str, Range | Choice], path: Path) -> None:
    """One axis a setting and one for the score, one line a trial.

    Finished trials are coloured by score, those stopped early are grey; the config's own settings are dashed, the best
    are thick.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ok = table[np.isfinite(table["score"])]
    done = ok["state"] == "finished"
    low, high = _ends(ok.loc[done, "score"])
    heights = [_heights(ok[f"param:{k}"], s) for k, s in space.items()]
    score = ((ok["score"] - low) / (high - low)).clip(0, 1).to_numpy()
    y = np.column_stack([*heights, score])
    x = np.arange(y.shape[1])
    top = int(np.argmax(np.where(done, ok["score"], -np.inf)))
    fig, ax = plt.subplots(figsize=(1.6 + 1.7 * len(x), 4.6))
    colours = plt.get_cmap("viridis")
    for i in range(len(ok)):
        finished = bool(done.iloc[i])
        ax.plot(
            x[: len(x) if finished else -1],
            y[i, : len(x) if finished else -1],
            color=colours(0.92 * score[i]) if finished else "0.75",
            linewidth=3.2 if i == top else 1.1,
            linestyle="--" if ok.index[i] == 0 else "-",
            alpha=0.95 if finished else 0.6,
            zorder=3 if i == top else 2 if finished else 1,
        )
    for j, (key, s) in enumerate(space.items()):
        ax.axvline(j, color="0.4", linewidth=0.8)
        for at, text in _ticks(s):
            ax.text(j, at, f" {text}", va="center", fontsize=7, color="0.2")
        ax.text(j, -0.09, _label(key), ha="center", va="top", fontsize=8)
    ax.axvline(x[-1], color="0.4", linewidth=0.8)
    for at, v in ((0.0, low), (1.0, high)):
        ax.text(x[-1], at, f" {v:.4g}", va="center", fontsize=7, color="0.2")
    ax.text(x[-1], -0.09, "score", ha="center", va="top", fontsize=8)
    ax.set(xlim=(-0.3, x[-1] + 0.5), ylim=(-0.05, 1.05))
    ax.axis("off")
    n = table["state"].value_counts()
    ax.set_title(
        f"{len(table)} trials: " + ", ".join(f"{v} {k}" for k, v in n.items()) + "; grey: stopped early, dashed: the "
        "config's own, thick: the best",
        fontsize=9,
    )
    fig.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(fig)


def _heights(values: pd.Series, s: Range | Choice) -> np.ndarray:
    """Where each value lies on its axis, 0..1."""
    if isinstance(s, Choice):
        at = {str(v): i / (len(s.values) - 1) for i, v in enumerate(s.values)}
        return np.array([at[_text(v) if _text(v) in at else str(v)] for v in values])
    v = values.to_numpy(float)
    if s.kind == "loguniform":
        return (np.log(v) - np.log(s.low)) / (np.log(s.high) - np.log(s.low))
    return (v - s.low) / (s.high - s.low)


def _ticks(s: Range | Choice) -> list[tuple[float, str]]:
    if isinstance(s, Choice):
        return [(i / (len(s.values) - 1), str(v)) for i, v in enumerate(s.values)]
    return [(0.0, f"{s.low:.3g}"), (1.0, f"{s.high:.3g}")]


def _ends(score: pd.Series) -> tuple[float, float]:
    low, high = float(score.min()), float(score.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _label(key: str) -> str:
    return key.replace(".", "\n")


def _text(v: Any) -> str:
    if isinstance(v, float | np.floating):
        return "" if np.isnan(v) else f"{v:.4g}"
    return str(v)
