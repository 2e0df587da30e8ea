"""Figures of the ablation: measures, a bootstrap over patients, cohorts and repeats, tables, one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from osteo_ray.model.calibration import rest_log_odds

BASE = "(i) no KD"
MAIN = "(iii) as shipped: KD, everyone also in the student"
BOOTS = 1000


def weighted_auc(score: np.ndarray, case: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """AUC for each row of patients' weights [B, n], for scores without ties."""
    order = np.argsort(score)
    w, y = weight[:, order], case[order]
    below = np.cumsum(np.where(y, 0, w), axis=1)
    return (np.where(y, w, 0) * below).sum(1) / (np.where(y, w, 0).sum(1) * below[:, -1])


def slope(log_odds: np.ndarray, case: np.ndarray) -> float:
    """Calibration slope: logistic regression of the outcome on the calibrated log-odds."""
    return float(LogisticRegression(C=1e6).fit(log_odds[:, None].astype(float), case).coef_[0, 0])


class Boot:
    """Draws of test patients, cohort seeds and, within them, repeats: the same for every arm, so it is paired."""

    def __init__(self, keys: list[tuple[int, int]], label: np.ndarray):
        rng = np.random.default_rng(0)
        n = len(label)
        self.y, self.ends = label == 2, label != 1
        self.weight = rng.multinomial(n, np.full(n, 1 / n), BOOTS).astype(np.float32)
        seeds = sorted({k[0] for k in keys})
        of = {s: [i for i, k in enumerate(keys) if k[0] == s] for s in seeds}
        self.share = np.zeros((BOOTS, len(keys)))
        for row in self.share:
            for s in rng.choice(seeds, len(seeds)):
                np.add.at(row, rng.choice(of[s], len(of[s])), 1 / len(of[s]) / len(seeds))

    def measures(self, runs: list[np.ndarray]) -> dict[str, tuple[float, np.ndarray]]:
        """Class log-probabilities of each run -> measure -> (mean over runs, its draws [BOOTS])."""
        point, drawn = [], []
        for logits in runs:
            x = logits.astype(float)
            s, rest = x[:, 2] - x[:, 0], rest_log_odds(x)
            right = ((s > 0) == self.y)[self.ends]
            w = self.weight[:, self.ends]
            point.append([roc_auc_score(self.y[self.ends], s[self.ends]), roc_auc_score(self.y, rest), right.mean()])
            drawn.append(
                [
                    weighted_auc(s[self.ends], self.y[self.ends], w),
                    weighted_auc(rest, self.y, self.weight),
                    (w * right).sum(1) / w.sum(1),
                ]
            )
        d = np.array(drawn)  # [runs, 3, BOOTS]
        names = ("auc", "auc_rest", "accuracy")
        return {n: (float(np.mean(point, 0)[i]), (self.share * d[:, i].T).sum(1)) for i, n in enumerate(names)}


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % of the draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def one_setting(
    name: str, runs: dict[tuple[int, int], dict], label: np.ndarray, bayes: np.ndarray, patterns: Sequence[str]
) -> tuple[list[str], list[dict]]:
    """One setting's lines and rows."""
    keys, every = list(runs), list(runs.values())
    boot = Boot(keys, label)
    best = boot.measures([np.log(np.c_[1 - bayes[:, 0], np.full(len(bayes), 1e-9), bayes[:, 0]])] * len(keys))["auc"]
    arms = [a for a in every[0] if a != "seconds" and not a.startswith(("pattern", "teacher ", "risk", "cross"))]
    arms.sort(key=lambda a: (not a.startswith("("), a.split(",")[0]))
    found = {a: boot.measures([r[a] for r in every]) for a in arms}
    lines = [
        f"\n## {name}: {len(keys)} runs\n",
        f"Bayes-optimal AUC {best[0]:.4f} against normal ({_ci(best[1])}).\n",
        "| arm | AUC vs normal | of Bayes | vs rest | accuracy, % | AUC minus (i) | accuracy minus (i) | "
        "AUC of shipped minus it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for a in arms:
        m = found[a]
        of = m["auc"][1] / best[1]
        lines.append(
            f"| {a} | {m['auc'][0]:.4f} ({_ci(m['auc'][1])}) | {m['auc'][0] / best[0]:.3f} ({_ci(of)}) | "
            f"{m['auc_rest'][0]:.4f} | {100 * m['accuracy'][0]:.2f} ({_ci(100 * m['accuracy'][1], 1)}) | "
            f"{_difference(m['auc'], found[BASE]['auc'])} | "
            f"{_difference(m['accuracy'], found[BASE]['accuracy'], 100, 2)} | "
            f"{_difference(found[MAIN]['auc'], m['auc'])} |"
        )
        row = {"setting": name, "arm": a, "runs": len(keys), "bayes": best[0]}
        row["of_bayes_low"], row["of_bayes_high"] = interval(of)
        for n, (point, draws) in m.items():
            row[n] = point
            row[f"{n}_low"], row[f"{n}_high"] = interval(draws)
            row[f"{n}_gain"] = point - found[BASE][n][0]
            row[f"{n}_gain_low"], row[f"{n}_gain_high"] = interval(draws - found[BASE][n][1])
            row[f"{n}_behind"] = found[MAIN][n][0] - point
            row[f"{n}_behind_low"], row[f"{n}_behind_high"] = interval(found[MAIN][n][1] - draws)
        rows.append(row)
    lines += [
        "",
        "| the shipped student sees | AUC vs normal | its unimodal teacher | student minus teacher | accuracy, % | "
        "calibration slope, validation patients alone (SD over runs) | with cross-fitted training patients |",
        "|---|---|---|---|---|---|---|",
    ]
    for p in patterns:
        student, teacher = (boot.measures([r[f"{w} {p}"] for r in every]) for w in ("pattern", "teacher"))
        slopes, apart = (
            [slope(r[f"{w} {p}"], label == 2) for r in every if f"{w} {p}" in r] for w in ("risk", "cross")
        )
        lines.append(
            f"| {p} | {student['auc'][0]:.4f} ({_ci(student['auc'][1])}) | {teacher['auc'][0]:.4f} | "
            f"{_difference(student['auc'], teacher['auc'])} | {100 * student['accuracy'][0]:.2f} | "
            f"{np.mean(slopes):.2f} ({np.std(slopes):.2f}) | "
            + (f"{np.mean(apart):.2f} ({np.std(apart):.2f}) |" if apart else "- |")
        )
        row = {"setting": name, "arm": f"pattern {p}", "runs": len(keys), "bayes": best[0], "auc": student["auc"][0]}
        row["auc_low"], row["auc_high"] = interval(student["auc"][1])
        row |= {"teacher_auc": teacher["auc"][0], "slope": float(np.mean(slopes)), "slope_sd": float(np.std(slopes))}
        row |= {"cross_slope": float(np.mean(apart)), "cross_slope_sd": float(np.std(apart))} if apart else {}
        rows.append(row)
    return lines, rows


def picture(frame: pd.DataFrame, to: Path) -> None:
    """AUC against the share of complete patients, for the settings that differ in it alone."""
    f = frame[(frame["extra"] == 0) & (frame["picks"] == "belief") & (frame["reading"] == "encoder") & frame["t_score"]]
    shown = [BASE, "(iii) KD, teachers on everyone", MAIN, "(v) late fusion", "everyone, no KD", "image teacher"]
    if f.empty:
        return
    fig, ax = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
    for i, arm in enumerate(shown):
        g = f[f["arm"] == arm].sort_values("complete_share")
        x = 100 * g["complete_share"] * (1 + 0.015 * (i - 2.5))
        ax.errorbar(x, g["auc"], [g["auc"] - g["auc_low"], g["auc_high"] - g["auc"]], marker="o", capsize=2, label=arm)
    ax.axhline(f["bayes"].mean(), color="0.4", ls="--", lw=1, label="Bayes-optimal")
    ax.set(xscale="log", xlabel="complete patients of 1,000, %", ylabel="AUC, osteoporosis against normal")
    ax.set_xticks([10, 20, 50, 100], ["10", "20", "50", "100"])
    ax.minorticks_off()
    ax.legend(fontsize=8)
    fig.savefig(to, dpi=120)
    plt.close(fig)


def _ci(draws: np.ndarray, digits: int = 3) -> str:
    low, high = interval(draws)
    return f"{low:.{digits}f}-{high:.{digits}f}"


def _difference(a: tuple[float, np.ndarray], b: tuple[float, np.ndarray], scale: float = 1, digits: int = 4) -> str:
    low, high = interval(scale * (a[1] - b[1]))
    return f"{scale * (a[0] - b[0]):+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
