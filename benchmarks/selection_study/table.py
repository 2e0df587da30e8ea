"""Figures of the selection study: what each arm came to, with intervals over patients and training cohorts (pure).

table, curve = judge({101: found, 102: ...}, test, cfg)      # pandas, one row an arm
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from osteo_ray.drlis.rivals import Picks
from osteo_ray.evaluation.resample import Order, weighted_auc
from selection_study.study import NORMAL, POROTIC, Found, StudyConfig, StudySet

LONG_SERIES = 300  # slices; what a share of decoded slices is stated for


def judge(runs: Mapping[int, dict[str, Found]], test: StudySet, cfg: StudyConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Table of the arms, and of AUC against slices decoded.

    Intervals are 95 %, from a bootstrap that draws test patients and training cohorts together, so that the
    differences are paired.

    Returns:
        arms: arm, cohorts, kept, decoded, share (of a 300-slice series), mb, lumbar (share of picks on L1-L4, in scans
        that show three of them or more), mid (there, share in the middle third of a vertebra), auc, auc_low,
        auc_high, rest, rest_low, rest_high, ahead, ahead_low, ahead_high (AUC of the first arm minus this one's).
        curve: arm, kept, decoded, auc.
    """
    y = test.scans.label
    cases = [(np.flatnonzero((y == NORMAL) | (y == POROTIC)), 0), (np.flatnonzero(y >= 0), 1)]
    rng = np.random.default_rng(0)
    names = list(dict.fromkeys(a for r in runs.values() for a in r))
    seeds = list(runs)
    keep = cfg.selection.view.keep
    drawn = [rng.integers(0, len(seeds), len(seeds)) for _ in range(cfg.boots)]
    each: dict[tuple[str, int], np.ndarray] = {}
    point: dict[tuple[str, int], np.ndarray] = {}
    for rows, column in cases:
        draws = [
            np.bincount(rng.choice(rows, len(rows)), minlength=len(y))[rows].astype(float) for _ in range(cfg.boots)
        ]
        for arm in names:
            each[arm, column] = np.full((cfg.boots, len(seeds)), np.nan)
            point[arm, column] = np.full(len(seeds), np.nan)
            for j, s in enumerate(seeds):
                if arm not in runs[s]:
                    continue
                orders = [Order.of(y[rows] == POROTIC, o[rows]) for o in runs[s][arm].log_odds[keep][..., column]]
                point[arm, column][j] = np.mean([weighted_auc(o, np.ones(len(rows))) for o in orders])
                each[arm, column][:, j] = [np.mean([weighted_auc(o, w) for o in orders]) for w in draws]

    def interval(values: np.ndarray) -> tuple[float, float]:
        """Over patients and cohorts; values [boots, cohorts], NaN where a cohort has no such arm."""
        means = [np.nanmean(v[d]) for v, d in zip(values, drawn, strict=True) if np.isfinite(v[d]).any()]
        return tuple(np.quantile(means, [0.025, 0.975]))

    whole = np.array([len(set(row[row > 0].tolist())) >= 3 for row in test.level])
    main, table, curve = names[0], [], []
    for arm in names:
        of = [runs[s][arm] for s in seeds if arm in runs[s]]
        looked = np.stack([f.test.looked.sum(1) for f in of])
        row = {"arm": arm, "cohorts": len(of), "kept": np.mean([(f.test.kept >= 0).sum(1).mean() for f in of])}
        row |= {"decoded": looked.mean(), "share": looked.mean() / LONG_SERIES}
        row["mb"] = float((looked * test.slice_bytes).mean() / 1e6)
        row["lumbar"] = np.mean([_share(f.test, test.level > 0, whole) for f in of])
        row["mid"] = np.mean([_share(f.test, test.mid > 2 / 3, whole) for f in of])
        for name, column in (("auc", 0), ("rest", 1)):
            row[name] = np.nanmean(point[arm, column])
            row[f"{name}_low"], row[f"{name}_high"] = interval(each[arm, column])
        row["ahead"] = np.nanmean(point[main, 0] - point[arm, 0])
        row["ahead_low"], row["ahead_high"] = interval(each[main, 0] - each[arm, 0])
        table.append(row)
        for k in sorted(of[0].log_odds):
            rows = cases[0][0]
            aucs = [roc_auc_score(y[rows] == POROTIC, o[rows, 0]) for f in of for o in f.log_odds[k]]
            decoded = np.mean([(f.test if k == keep else f.test.first(k)).looked.sum(1).mean() for f in of])
            curve.append({"arm": arm, "kept": k, "decoded": decoded, "auc": float(np.mean(aucs))})
    return pd.DataFrame(table), pd.DataFrame(curve)


def _share(picks: Picks, what: np.ndarray, rows: np.ndarray) -> float:
    """Share of the picks of the scans `rows` for which `what` [n, T] is true."""
    kept = picks.kept[rows]
    hit = np.take_along_axis(what[rows], np.maximum(kept, 0), 1)
    return float(hit[kept >= 0].mean())


def markdown(
    table: pd.DataFrame, seeds: Sequence[int], people: int, test_seed: int, test_people: int, keep: int
) -> list[str]:
    """The table of arms in Markdown, for training cohorts of `people` and so many slices kept."""
    main = table["arm"].iloc[0]

    def of(r: Any, name: str) -> str:
        return f"{r[name]:.4f} ({r[name + '_low']:.4f} to {r[name + '_high']:.4f})"

    lines = [
        f"Training cohorts of {people} (seeds {', '.join(map(str, seeds))}), {test_people} test patients (seed "
        f"{test_seed}), at most {keep} slices kept; 95 % intervals over patients and cohorts.",
        "",
        f"| arm | kept | decoded | of {LONG_SERIES} | MB | L1-L4 | mid | AUC vs normal | vs rest | {main} ahead |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for _, r in table.iterrows():
        looks = f"{r['kept']:.1f} | {r['decoded']:.1f} | {r['share']:.1%} | {r['mb']:.1f}"
        where = f"{r['lumbar']:.0%} | {r['mid']:.0%}"
        ahead = "" if r["arm"] == main else f"{r['ahead']:+.4f} ({r['ahead_low']:+.4f} to {r['ahead_high']:+.4f})"
        lines.append(f"| {r['arm']} | {looks} | {where} | {of(r, 'auc')} | {of(r, 'rest')} | {ahead} |")
    return lines
