"""What is gained where all slices that the policy decodes are read, and not the kept ones alone.

    python benchmarks/looked_slices.py --work runs/headline      # beside the headline's cohorts, which it shares

Named before it was run (docs/decisions/headline.md): training cohorts of the headline, test cohort 392, encoder and
policy of the bundle that ships, teachers cross-fitted. Image teachers on what each selector reads; students, with and
without distillation, on the kept slices and on all that were looked at, and the curve of complete patients for both.
Writes docs/results/looked-slices.json and its page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ablation_tables as tables
import numpy as np
from ablation import Ablation, Setting, all_looked, fit_missing, population, runs_of
from headline import (
    ACCURACY,
    ATTENTION,
    AUC,
    BEHIND_ATTENTION,
    COMPLETE,
    EFFICIENCY,
    EVERY,
    EXTRA,
    FEW,
    HEADROOM,
    LUMBAR,
    SEEDS,
    SIZES,
    Cohorts,
    above_zero,
    at_people,
    bar_of,
    ci,
    complete_needed,
    named,
    of_scans,
    students,
    with_lumbar,
)
from results_page import RESULTS, bar, table, write
from selection_study.study import StudyConfig, StudySet, compare
from selection_study.table import LONG_SERIES, judge

from osteo_ray.drlis import rivals as controls
from osteo_ray.drlis.config import SelectionConfig
from osteo_ray.kdamm.config import KdammConfig

TEST = 392
ALL, KEPT = "DRLIS, all looked at", "DRLIS, kept"
ALL_FEW = "DRLIS, at most twelve decoded, all looked at"
TWENTY, TWELVE = "20 uniform slices", "12 uniform slices"
READS = {"kept": "policy", "all": "looked"}
"""Which slices the student reads: the kept ones, or all that were looked at."""


def settings() -> tuple[Setting, ...]:
    """Populations: both ways of reading, each with its curve; and slices that are read perfectly."""
    known: dict[str, Any] = {"complete": COMPLETE, "extra": EXTRA, "repeats": 3}
    perfect = Setting(name="read perfectly", picks="policy", reading="perfect", arms="students", **known)
    mains = [Setting(name=n, picks=p, arms="students", **known) for n, p in READS.items()]  # type: ignore[arg-type]
    curves = [
        Setting(name=f"{n}, {k:,}", complete=k, extra=EXTRA, picks=p, arms="no_kd", repeats=3)  # type: ignore[arg-type]
        for n, p in READS.items()
        for k in SIZES
    ]
    return (perfect, *mains, *curves)


def selectors(cfg: Ablation) -> list[dict[str, Any]]:
    """Rows of image teachers on what each selector reads; the first is what the others are set against."""
    cohorts = Cohorts(cfg)
    b = cohorts.bundle
    view = b.config.view
    few = view.model_copy(update=FEW)

    def drlis(s: StudySet, how=view) -> controls.Picks:
        return controls.by_policy(s.scans, b.policy, b.reward_classifiers, how)

    arms: dict[str, Callable[[StudySet], controls.Picks]] = {
        ALL: lambda s: all_looked(drlis(s)),
        KEPT: drlis,
        ALL_FEW: lambda s: all_looked(drlis(s, few)),
        TWENTY: lambda s: controls.uniform(s.scans, 20),
        TWELVE: lambda s: controls.uniform(s.scans, 12),
        "belief rule, all looked at": lambda s: all_looked(controls.by_rule(s.scans, view)),
    }
    selection = SelectionConfig(view=view)
    how = StudyConfig(arms={}, selection=selection, acquisition=cfg.acquisition, curve=(), boots=1000)
    test = cohorts.test
    found = {
        seed: compare(
            cohorts.embedded(seed, cfg.people), test, how, cfg.encoder.layout, Path(cfg.out) / f"read-{seed}", seed,
            seed == cfg.seeds[0], False, arms, (ATTENTION,),
        )
        for seed in cfg.seeds
    }  # fmt: skip
    rows = []
    for scans, at in ((LUMBAR, with_lumbar(test)), (EVERY, np.arange(len(test.scans)))):
        part = {seed: {arm: of_scans(f, at) for arm, f in each.items()} for seed, each in found.items()}
        for _, r in judge(part, test.take(at), how)[0].iterrows():
            rows.append({
                "table": named("selectors", scans), "arm": r["arm"], "decoded": round(r["decoded"], 1),
                "read": round(r["kept"], 1), f"of_{LONG_SERIES}_percent": round(100 * r["share"], 1),
                "auc": ci(r["auc"], r["auc_low"], r["auc_high"]), "vs_rest": round(r["rest"], 4),
                "first_ahead": ci(r["ahead"], r["ahead_low"], r["ahead_high"], True),
                **{k: float(r[k]) for k in ("ahead", "ahead_low", "ahead_high")},
            })  # fmt: skip
    return rows


def of_students(cfg: Ablation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and bars of the students, on people whose scan shows lumbar vertebrae and on all."""
    todo = fit_missing(cfg)
    runs = {s.name: runs_of(todo, i) for i, s in enumerate(cfg.settings)}
    test = population(cfg, cfg.test_seed, cfg.settings[0])
    rows, bars = [], []
    for scans, at in ((LUMBAR, with_lumbar(Cohorts(cfg).test)), (EVERY, np.arange(cfg.test_people))):
        part = {n: {k: at_people(run, at) for k, run in r.items()} for n, r in runs.items()}
        more, own = judged_on(part, test.label[at], test.bayes[at], scans)
        rows += more
        bars += [b | {"name": f"{b['name']}, {scans}"} for b in own]
    return rows, bars


def judged_on(
    runs: dict[str, Any], label: np.ndarray, bayes: np.ndarray, scans: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and bars on the test people whose label and posterior are given."""
    boot = tables.Boot(list(runs["kept"]), label)

    def measured(setting: str, arm: str, what: str = "auc") -> tuple[float, np.ndarray]:
        return boot.measures([r[arm] for r in runs[setting].values()])[what]

    def told(x: tuple[float, np.ndarray], signed: bool = False) -> str:
        return ci(x[0], *tables.interval(x[1]), signed)

    def less(a: tuple[float, np.ndarray], b: tuple[float, np.ndarray]) -> tuple[float, np.ndarray]:
        return a[0] - b[0], a[1] - b[1]

    rows: list[dict[str, Any]] = []
    for arm in next(iter(runs["kept"].values())):
        if arm.startswith(("pattern", "teacher ", "risk", "cross", "seconds")):
            continue
        both = [measured(n, arm) for n in READS]
        rows.append({"table": named("students", scans), "arm": arm, "kept": told(both[0]),
                     "all": told(both[1]), "gained": told(less(both[1], both[0]), signed=True)})  # fmt: skip
    curve = {n: [measured(f"{n}, {k:,}", tables.BASE) for k in SIZES] for n in READS}
    for i, k in enumerate(SIZES):
        rows.append({"table": named("efficiency", scans), "complete": k,
                     **{n: told(c[i]) for n, c in curve.items()}})  # fmt: skip
    perfect = measured("read perfectly", tables.MAIN)
    rows.append({"table": named("perfect", scans), "auc": told(perfect)})

    # A cohort that is easy for the best there could be is easy for all.
    p = np.clip(bayes[:, 0], 1e-9, 1 - 1e-9)
    exact = boot.measures([np.log(np.c_[1 - p, np.full(len(p), 1e-9), p])] * len(runs["kept"]))["auc"]
    low, high = tables.interval(exact[1])
    bars = [
        bar("people", len(label)),
        bar("Bayes-optimal AUC", round(exact[0], 4), round(low, 4), round(high, 4)),
    ]
    whole = {n: measured(n, tables.MAIN) for n in READS}
    for n in READS:
        bars.append(bar_of(f"AUC against normal, {n}", *whole[n], AUC))
        bars.append(bar_of(f"accuracy, %, {n}", *measured(n, tables.MAIN, "accuracy"), ACCURACY, 100))
    bars.append(above_zero("AUC, all less kept", *less(whole["all"], whole["kept"])))
    for n, without in (*zip(READS, READS, strict=True), ("all", "kept")):
        base, compared = measured(without, tables.BASE), f"{n} over no distillation on {without}"
        gain, room = less(whole[n], base), less(perfect, base)
        points = [c[0] for c in curve[without]]
        needed = complete_needed(whole[n][0], points) / COMPLETE
        draws = [complete_needed(w, [c[1][b] for c in curve[without]]) / COMPLETE for b, w in enumerate(whole[n][1])]
        bars.append(above_zero(f"AUC, {compared}", *gain))
        bars.append(bar_of(f"share of the headroom, {compared}", gain[0] / room[0], gain[1] / room[1], HEADROOM))
        bars.append(bar_of(f"label efficiency, {compared}", needed, np.array(draws), EFFICIENCY))
    return rows, bars


def of_selectors(rows: list[dict[str, Any]], scans: str) -> list[dict[str, Any]]:
    """Bars of the selectors."""
    by = {r["arm"]: r for r in rows if r["table"] == named("selectors", scans)}
    out = []
    for arm in list(by)[1:]:
        value, low, high = (round(by[arm][k], 4) for k in ("ahead", "ahead_low", "ahead_high"))
        aim = BEHIND_ATTENTION if arm == ATTENTION else None
        told = None if aim is None else f"at least -{aim}"
        met = None if aim is None else bool(by[arm]["ahead"] >= -aim)  # not what rounding makes of it
        out.append(bar(f"AUC, ahead of {arm}, {scans}", value, low, high, told, met))
    return out


def page(rows: list[dict[str, Any]], bars: list[dict[str, Any]], cfg: Ablation) -> str:
    """The Markdown beside the JSON."""
    aims = [
        {"table": "bars", "figure": b["name"], "measured": b["value"], "low": b["low"], "high": b["high"],
         "aimed at": b["target"], "met": {True: "yes", False: "no", None: ""}[b["met"]]} for b in bars
    ]  # fmt: skip
    parts = [
        f"""# All slices that were looked at

A policy decodes about twenty slices and keeps six; here the teachers and the student read all twenty, at no further
decode. [Named before it was run](../decisions/headline.md): training cohorts {", ".join(map(str, cfg.seeds))}, test
cohort {cfg.test_seed} ({cfg.test_people:,} people), encoder and policy of the bundle that ships, teachers cross-fitted,
three runs a cohort. These test people are easier than the headline's, as the best possible score shows: compare within
this page. In brackets 95 %, over test people and runs together; differences are paired. "Kept" and "all" say which
slices a student reads; selectors are held against image teachers that read all that DRLIS looked at.

{table(aims, "bars").split(chr(10), 2)[2]}"""
    ]
    for scans in (LUMBAR, EVERY):
        shown = ["arm", "decoded", f"of_{LONG_SERIES}_percent", "read", "vs_rest"]
        parts.append(f"""## {scans.capitalize()}

An image teacher, three fits, on what each selector reads of 1,000 people:

{table(rows, named("selectors", scans), shown)}
{table(rows, named("selectors", scans), ["arm", "auc", "first_ahead"])}
Students, {COMPLETE} of {1000 + EXTRA:,} training people complete:

{table(rows, named("students", scans), ["arm", "kept", "all"])}
{table(rows, named("students", scans), ["arm", "gained"])}
As shipped, where slices are read perfectly:

{table(rows, named("perfect", scans))}
Without distillation, by the number of complete people:

{table(rows, named("efficiency", scans))}""")
    return "\n".join(parts)


def main() -> None:
    """Run what is missing, write JSON and page."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--work", required=True, help="the headline's folder")
    args = p.parse_args()
    cfg = students(Path(args.work).absolute(), len(SEEDS))
    cfg = cfg.model_copy(update={"test_seed": TEST, "settings": settings(), "kdamm": KdammConfig()})
    rows, bars = of_students(cfg)
    more = selectors(cfg)
    rows += more
    bars += [b for scans in (LUMBAR, EVERY) for b in of_selectors(more, scans)]
    to = RESULTS / "looked-slices.json"
    write(to, "python benchmarks/looked_slices.py --work runs/headline", TEST, rows, bars, page(rows, bars, cfg))
    print(to.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
