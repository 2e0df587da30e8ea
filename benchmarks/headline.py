"""What is claimed of the whole method, judged once on people whom nobody has looked at (docs/decisions/headline.md).

    python benchmarks/headline.py --work runs/headline            # hours of two cores; a rerun does what is missing
    python benchmarks/headline.py --work runs/headline --students # without the selectors

Renders three training cohorts and a test cohort, embeds them with the encoder that ships, fits every arm of the
student on the slices that the shipped policy picks, draws the curve of students without distillation, and fits image
teachers on what each selector keeps. Writes docs/results/headline.json and its page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ablation_tables as tables
import numpy as np
from ablation import Ablation, Setting, fit_missing, population, runs_of
from results_page import RESULTS, bar, table, write
from selection_study.job import slice_set, study_set, whole_cohort
from selection_study.study import StudyConfig, StudySet, compare
from selection_study.table import LONG_SERIES, judge

from osteo_ray.drlis import rivals as controls
from osteo_ray.io.step_cache import StepCache
from osteo_ray.model import reference
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.encoder import SliceEncoder
from osteo_ray.model.patterns import PATTERNS

SEEDS = (321, 322, 323)
COMPLETE, EXTRA = 246, 1210
SIZES = (100, 150, 246, 350, 500, 700, 1000)
MAIN, PERFECT = "11 % complete, slices of DRLIS", "11 % complete, slices read perfectly"
FEW = {"coarse": 6, "spare": 0, "more_looks": 0}
RULE = "belief rule"
AUC, ACCURACY, HEADROOM, EFFICIENCY = 0.9542, 88.65, 0.6, 2.5
OVER_UNIFORM, BEHIND_ATTENTION, SHARE = 0.018, 0.005, 0.07


def students(work: Path, cohorts: int) -> Ablation:
    """The cohorts, encoder and settings of every student."""
    b = Bundle.load(reference.bundle())
    known = {"complete": COMPLETE, "extra": EXTRA, "repeats": 3}
    settings = [
        Setting(name=MAIN, picks="policy", **known),
        Setting(name=PERFECT, picks="policy", reading="perfect", arms="students", **known),
        *(
            Setting(name=f"{n:,} complete", complete=n, extra=EXTRA, picks="policy", arms="no_kd", repeats=3)
            for n in SIZES
        ),
    ]
    return Ablation(
        out=str(work), seeds=SEEDS[:cohorts], test_seed=391, bundle=reference.bundle(), settings=tuple(settings),
        cross_fitted=0, crop=b.config.crop, encoder=b.config.encoder, acquisition=b.config.acquisition,
    )  # fmt: skip


def selectors(cfg: Ablation) -> list[dict[str, Any]]:
    """Rows of every selector: an image teacher on what each keeps."""
    how = StudyConfig(arms={}, acquisition=cfg.acquisition, curve=(), boots=1000)
    b = Bundle.load(reference.bundle())
    view = b.config.view
    few = view.model_copy(update=FEW)
    fixed: dict[str, Callable[[StudySet], controls.Picks]] = {
        "DRLIS": lambda s: controls.by_policy(s.scans, b.policy, b.reward_classifiers, view),
        f"{RULE}, at most twelve slices": lambda s: controls.by_rule(s.scans, few),
    }
    run, encoder = StepCache(Path(cfg.out)), b.encoder
    assert isinstance(encoder, SliceEncoder)

    def embedded(seed: int, people: int) -> StudySet:
        return study_set(
            run, slice_set(run, whole_cohort(seed, people), cfg.crop, cfg.positions), encoder, cfg.crop, 64
        )

    test, found = embedded(cfg.test_seed, cfg.test_people), {}
    for seed in cfg.seeds:
        at, first = Path(cfg.out) / f"policies-{seed}", seed == cfg.seeds[0]
        found[seed] = compare(embedded(seed, cfg.people), test, how, cfg.encoder.layout, at, seed, first, False, fixed)
    rows = []
    for _, r in judge(found, test, how)[0].iterrows():
        rows.append({
            "table": "selectors", "arm": r["arm"], "cohorts": int(r["cohorts"]), "decoded": round(r["decoded"], 1),
            f"of_{LONG_SERIES}_%": round(100 * r["share"], 1), "L1-L4_%": round(100 * r["lumbar"]),
            "mid_third_%": round(100 * r["mid"]), "auc": ci(r["auc"], r["auc_low"], r["auc_high"]),
            "vs_rest": round(r["rest"], 4), "drlis_ahead": ci(r["ahead"], r["ahead_low"], r["ahead_high"], True),
            "ahead": float(r["ahead"]), "ahead_low": float(r["ahead_low"]), "ahead_high": float(r["ahead_high"]),
            "share": float(r["share"]),
        })  # fmt: skip
    return rows


def ci(value: float, low: float, high: float, signed: bool = False, digits: int = 4) -> str:
    """A figure with its interval."""
    sign = "+" if signed else ""
    return f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def bar_of(name: str, point: float, draws: np.ndarray, target: float, scale: float = 1) -> dict[str, Any]:
    """A target that is met where the point reaches it."""
    low, high = tables.interval(scale * draws)
    value = scale * point
    return bar(name, round(value, 4), round(low, 4), round(high, 4), target, bool(value >= target))


def judged(cfg: Ablation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and bars of the students."""
    todo = fit_missing(cfg)
    runs = {s.name: runs_of(todo, i) for i, s in enumerate(cfg.settings)}
    test = population(cfg, cfg.test_seed, cfg.settings[0])
    rows: list[dict[str, Any]] = []
    for r in tables.one_setting(MAIN, runs[MAIN], test.label, test.bayes, PATTERNS)[1]:
        auc = ci(r["auc"], r["auc_low"], r["auc_high"])
        if r["arm"].startswith("pattern "):
            rows.append({"table": "patterns", "known": r["arm"].removeprefix("pattern "), "auc": auc,
                         "its_teacher": round(r["teacher_auc"], 4)})  # fmt: skip
            continue
        gain = ci(r["auc_gain"], r["auc_gain_low"], r["auc_gain_high"], True)
        accuracy = ci(100 * r["accuracy"], 100 * r["accuracy_low"], 100 * r["accuracy_high"], digits=1)
        ahead = ci(r["auc_behind"], r["auc_behind_low"], r["auc_behind_high"], True)
        rows.append({"table": "arms", "arm": r["arm"], "auc": auc, "vs_rest": round(r["auc_rest"], 4),
                     "accuracy_%": accuracy, "minus_no_KD": gain, "shipped_minus_it": ahead})  # fmt: skip
    boot = tables.Boot(list(runs[MAIN]), test.label)

    def measured(setting: str, arm: str, what: str = "auc") -> tuple[float, np.ndarray]:
        return boot.measures([r[arm] for r in runs[setting].values()])[what]

    base, whole = measured(MAIN, tables.BASE), measured(MAIN, tables.MAIN)
    for s in cfg.settings:
        if s.name in (MAIN, PERFECT):
            of = [measured(s.name, arm) for arm in (tables.BASE, tables.MAIN)]
            first, second = (ci(a, *tables.interval(d)) for a, d in of)
            rows.append({"table": "settings", "setting": s.name, "no_KD": first, "as_shipped": second})
    curve = [measured(s.name, tables.BASE) for s in cfg.settings if s.arms == "no_kd"]
    for n, (a, d) in zip(SIZES, curve, strict=True):
        rows.append({"table": "efficiency", "complete": n, "auc_without_KD": ci(a, *tables.interval(d))})
    needed = complete_needed(whole[0], [a for a, _ in curve]) / COMPLETE
    draws = np.array([complete_needed(whole[1][b], [d[b] for _, d in curve]) / COMPLETE for b in range(len(whole[1]))])
    perfect = measured(PERFECT, tables.MAIN)
    room, rooms = perfect[0] - base[0], perfect[1] - base[1]
    gained = whole[0] - base[0]
    right = measured(MAIN, tables.MAIN, "accuracy")
    bars = [
        bar_of("AUC against normal, as shipped", whole[0], whole[1], AUC),
        bar_of("accuracy, %, as shipped", right[0], right[1], ACCURACY, 100),
        bar_of("AUC, shipped less no distillation", gained, whole[1] - base[1], 0.0),
        bar_of("share of the headroom to perfect reading", gained / room, (whole[1] - base[1]) / rooms, HEADROOM),
        bar_of("label efficiency", needed, draws, EFFICIENCY),
    ]
    return rows, bars


def complete_needed(auc: float, curve: list[float]) -> float:
    """Complete patients at which a curve over SIZES, made monotone, first has an AUC; the largest size where none has.

    Linear in the logarithm of the size.
    """
    rising = np.maximum.accumulate(curve)
    if auc >= rising[-1]:
        return float(SIZES[-1])
    return float(np.exp(np.interp(auc, rising, np.log(SIZES))))


def of_selectors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bars of the selectors."""
    by = {r["arm"]: r for r in rows}
    u, a, r = by["uniform"], by["all slices, attention"], by[RULE]
    share = 100 * by["DRLIS"]["share"]
    few = by[f"{RULE}, at most twelve slices"]
    return [
        bar("DRLIS ahead of uniform, AUC", round(u["ahead"], 4), round(u["ahead_low"], 4), round(u["ahead_high"], 4),
            OVER_UNIFORM, u["ahead"] >= OVER_UNIFORM),
        bar("DRLIS behind attention over all slices, AUC", round(-a["ahead"], 4), round(-a["ahead_high"], 4),
            round(-a["ahead_low"], 4), f"at most {BEHIND_ATTENTION}", -a["ahead"] <= BEHIND_ATTENTION),
        bar("slices decoded, % of 300", round(share, 1), target=f"at most {100 * SHARE:.0f}",
            met=share <= 100 * SHARE),
        bar("DRLIS ahead of the belief rule, AUC", round(r["ahead"], 4), round(r["ahead_low"], 4),
            round(r["ahead_high"], 4)),
        bar("the rule with at most twelve slices behind DRLIS, AUC", round(few["ahead"], 4), round(few["ahead_low"], 4),
            round(few["ahead_high"], 4), "at most 0.003", few["ahead"] <= 0.003),
    ]  # fmt: skip


def page(rows: list[dict[str, Any]], bars: list[dict[str, Any]], cfg: Ablation) -> str:
    """The Markdown beside the JSON."""
    seeds = ", ".join(map(str, cfg.seeds))
    aims = [
        {"table": "bars", "figure": b["name"], "measured": b["value"], "low": b["low"], "high": b["high"],
         "aimed at": b["target"], "met": {True: "yes", False: "no", None: ""}[b["met"]]} for b in bars
    ]  # fmt: skip
    parts = [
        f"""# Headline figures

Judged once, on cohorts and arms that were [named before](../decisions/headline.md): training cohorts {seeds},
test cohort {cfg.test_seed} (1,200 people), encoder and policy of the bundle that ships. In brackets 95 %, over test
patients, cohorts and repeats together; differences are paired.

{table(aims, "bars").split(chr(10), 2)[2]}
## Students: {cfg.settings[0].repeats * len(cfg.seeds)} runs of each arm

{COMPLETE} of {COMPLETE + 1000 - COMPLETE + EXTRA:,} training people complete, on the slices that the shipped policy
picks.

{table(rows, "arms", ["arm", "auc", "vs_rest", "accuracy_%"])}
{table(rows, "arms", ["arm", "minus_no_KD", "shipped_minus_it"])}
{table(rows, "patterns")}
## What perfect reading of the slices leaves

{table(rows, "settings")}
## Without distillation, by the number of complete patients

{table(rows, "efficiency")}
Label efficiency: complete patients at which this curve (made monotone, linear in the logarithm of the number) has the
AUC of the shipped student, over the {COMPLETE} that it had; {SIZES[-1] / COMPLETE:.1f} where the curve never has it."""
    ]
    if any(r["table"] == "selectors" for r in rows):
        shown = ["arm", "cohorts", "decoded", f"of_{LONG_SERIES}_%", "L1-L4_%", "mid_third_%"]
        parts.append(f"""
## Selectors

An image teacher on what each keeps of 1,000 people; three fits a cohort.

{table(rows, "selectors", shown)}
{table(rows, "selectors", ["arm", "auc", "vs_rest", "drlis_ahead"])}""")
    return "\n".join(parts)


def main() -> None:
    """Run what is missing, write JSON and page."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--work", required=True, help="folder of cohorts, runs and policies")
    p.add_argument("--students", action="store_true", help="leave the selectors out")
    p.add_argument("--cohorts", type=int, default=len(SEEDS), help="training cohorts, of those that were named")
    args = p.parse_args()
    cfg = students(Path(args.work).absolute(), args.cohorts)
    rows, bars = judged(cfg)
    if not args.students:
        more = selectors(cfg)
        rows, bars = [*rows, *more], [*bars, *of_selectors(more)]
    to = RESULTS / "headline.json"
    write(to, "python benchmarks/headline.py --work runs/headline", cfg.test_seed, rows, bars, page(rows, bars, cfg))
    print(to.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
