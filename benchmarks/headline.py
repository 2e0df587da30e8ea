"""What is claimed of the whole method, judged once on people whom nobody has looked at (docs/decisions/headline.md).

    python benchmarks/headline.py --work runs/headline            # hours of two cores; a rerun does what is missing
    python benchmarks/headline.py --work runs/headline --students # without the selectors
    python benchmarks/headline.py --work runs/headline --policies # policies trained on each cohort alone

Renders three training cohorts and a test cohort, embeds them with the encoder that ships, fits every arm of the
student on the slices that the shipped policy picks, draws the curve of students without distillation, and fits image
teachers on what each selector keeps. Writes docs/results/headline.json and its page; `--policies` trains the plan's
policies, one on each cohort, and on the first also from other seeds and with other rewards and budgets, and writes
docs/results/policy-rewards.json and its page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ablation_tables as tables
import numpy as np
from ablation import Ablation, Setting, fit_missing, of_people, population, runs_of
from results_page import RESULTS, bar, table, write
from selection_study.job import slice_set, study_set, whole_cohort
from selection_study.study import Found, StudyConfig, StudySet, compare
from selection_study.table import LONG_SERIES, judge

from osteo_ray.drlis import rivals as controls
from osteo_ray.drlis.config import PolicyConfig, SelectionConfig
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
HERE = "DRLIS, trained on this cohort"
POLICIES: dict[str, dict[str, Any]] = {
    HERE: {},
    "level term alone": {"reward": {"gain": 0.0, "terminal": 0.0}},
    "without the level term": {"reward": {"level": 0.0}},
    "at most twelve slices": {"view": FEW},
}
"""What differs from the settings that ship; all but the first are trained on the first cohort alone."""
SPREAD = 2
"""Further policies of the first arm from other seeds, on the first cohort."""
POLICIES_COMMAND = "python benchmarks/headline.py --work W --policies --cohorts"
SHIPPED, RULE, UNIFORM, ATTENTION = "DRLIS", "belief rule", "uniform", "all slices, attention"
LUMBAR, EVERY = "lumbar scans", "every scan"
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


class Cohorts:
    """The cohorts' scans, embedded by the encoder that ships."""

    def __init__(self, cfg: Ablation):
        self.cfg, self.run = cfg, StepCache(Path(cfg.out))
        self.bundle = Bundle.load(reference.bundle())

    def embedded(self, seed: int, people: int) -> StudySet:
        """Scans of a cohort, with their truth."""
        cfg, encoder = self.cfg, self.bundle.encoder
        assert isinstance(encoder, SliceEncoder)
        at = slice_set(self.run, whole_cohort(seed, people), cfg.crop, cfg.positions)
        return study_set(self.run, at, encoder, cfg.crop, cfg.positions)

    @property
    def test(self) -> StudySet:
        """The test people's scans, in the order of the people."""
        cfg = self.cfg
        return of_people(self.embedded(cfg.test_seed, cfg.test_people), cfg.test_seed, cfg.test_people)


def with_lumbar(s: StudySet) -> np.ndarray:
    """Scans [m] that show at least three of L1-L4, by the truth."""
    return np.flatnonzero([len(set(row[row > 0].tolist())) >= 3 for row in s.level])


def selectors(cfg: Ablation, policies: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> list[dict[str, Any]]:
    """Rows of every selector: an image teacher on what each keeps.

    Args:
        policies: trained on each cohort; the first is what the others are set against. With them two rivals alone
            are judged; the others stand in the headline's own table.
    """
    cohorts = Cohorts(cfg)
    b = cohorts.bundle
    view = b.config.view
    how = StudyConfig(
        arms=dict(policies), only_first=tuple(policies)[1:], spread=SPREAD if policies else 0,
        selection=SelectionConfig(view=view), acquisition=cfg.acquisition, curve=(), boots=1000,
    )  # fmt: skip
    few = view.model_copy(update=FEW)
    fixed: dict[str, Callable[[StudySet], controls.Picks]] = {
        SHIPPED: lambda s: controls.by_policy(s.scans, b.policy, b.reward_classifiers, view),
        f"{RULE}, at most twelve slices": lambda s: controls.by_rule(s.scans, few),
    }
    test, found = cohorts.embedded(cfg.test_seed, cfg.test_people), {}
    for seed in cfg.seeds:
        to, first = Path(cfg.out) / f"policies-{seed}", seed == cfg.seeds[0]
        train = cohorts.embedded(seed, cfg.people)
        rest = ({}, (UNIFORM, ATTENTION)) if policies else (fixed, None)
        found[seed] = compare(train, test, how, cfg.encoder.layout, to, seed, first, False, *rest)
    rows = []
    for scans, at in ((LUMBAR, with_lumbar(test)), (EVERY, np.arange(len(test.scans)))):
        part = {seed: {arm: of_scans(f, at) for arm, f in arms.items()} for seed, arms in found.items()}
        for _, r in judge(part, test.take(at), how)[0].iterrows():
            rows.append({
                "table": named("selectors", scans), "arm": r["arm"], "cohorts": int(r["cohorts"]),
                "decoded": round(r["decoded"], 1), f"of_{LONG_SERIES}_percent": round(100 * r["share"], 1),
                "on_l1_l4_percent": round(100 * r["lumbar"]),
                "mid_third_percent": round(100 * r["mid"]), "auc": ci(r["auc"], r["auc_low"], r["auc_high"]),
                "vs_rest": round(r["rest"], 4), "drlis_ahead": ci(r["ahead"], r["ahead_low"], r["ahead_high"], True),
                "ahead": float(r["ahead"]), "ahead_low": float(r["ahead_low"]), "ahead_high": float(r["ahead_high"]),
                "share": float(r["share"]),
            })  # fmt: skip
    return rows


def of_scans(f: Found, at: np.ndarray) -> Found:
    """What an arm came to on some of the test scans."""
    picks = controls.Picks(f.test.kept[at], f.test.decoded_not_kept[at])
    return Found({k: v[:, at] for k, v in f.log_odds.items()}, picks, f.curve)


def named(table: str, scans: str) -> str:
    """A table's name, for scans with lumbar vertebrae or all of them."""
    return f"{table}_{'lumbar' if scans == LUMBAR else 'every'}"


def ci(value: float, low: float, high: float, signed: bool = False, digits: int = 4) -> str:
    """A figure with its interval."""
    sign = "+" if signed else ""
    return f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def bar_of(name: str, point: float, draws: np.ndarray, target: float, scale: float = 1) -> dict[str, Any]:
    """A target that is met where the point reaches it."""
    low, high = tables.interval(scale * draws)
    value = scale * point
    return bar(name, round(value, 4), round(low, 4), round(high, 4), target, bool(value >= target))


def best(name: str, measured: tuple[float, np.ndarray], scale: float = 1) -> dict[str, Any]:
    """What the exact posterior comes to: no target, but a bound of those that follow."""
    low, high = tables.interval(scale * measured[1])
    return bar(name, round(scale * measured[0], 4), round(low, 4), round(high, 4))


def above_zero(name: str, point: float, draws: np.ndarray) -> dict[str, Any]:
    """A difference whose whole interval should lie above 0."""
    low, high = tables.interval(draws)
    return bar(name, round(point, 4), round(low, 4), round(high, 4), "interval above 0", bool(low > 0))


def judged(cfg: Ablation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and bars of the students, on test people whose scan shows lumbar vertebrae and on all of them."""
    todo = fit_missing(cfg)
    runs = {s.name: runs_of(todo, i) for i, s in enumerate(cfg.settings)}
    test, every = population(cfg, cfg.test_seed, cfg.settings[0]), np.arange(cfg.test_people)
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for scans, at in ((LUMBAR, with_lumbar(Cohorts(cfg).test)), (EVERY, every)):
        part = {n: {k: at_people(run, at) for k, run in r.items()} for n, r in runs.items()}
        more, own = judged_on(cfg, part, test.label[at], test.bayes[at], scans)
        rows += more
        bars += [b | {"name": f"{b['name']}, {scans}"} for b in own]
    return rows, bars


def at_people(run: dict[str, np.ndarray], at: np.ndarray) -> dict[str, np.ndarray]:
    """What a run says of some of the test people."""
    return {k: v[at] if v.ndim else v for k, v in run.items()}


def judged_on(
    cfg: Ablation, runs: dict[str, Any], label: np.ndarray, bayes: np.ndarray, scans: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and bars on the test people whose label and posterior are given."""
    rows: list[dict[str, Any]] = []
    for r in tables.one_setting(MAIN, runs[MAIN], label, bayes, PATTERNS)[1]:
        auc = ci(r["auc"], r["auc_low"], r["auc_high"])
        if r["arm"].startswith("pattern "):
            rows.append({"table": named("patterns", scans), "known": r["arm"].removeprefix("pattern "), "auc": auc,
                         "its_teacher": round(r["teacher_auc"], 4)})  # fmt: skip
            continue
        gain = ci(r["auc_gain"], r["auc_gain_low"], r["auc_gain_high"], True)
        accuracy = ci(100 * r["accuracy"], 100 * r["accuracy_low"], 100 * r["accuracy_high"], digits=1)
        ahead = ci(r["auc_behind"], r["auc_behind_low"], r["auc_behind_high"], True)
        rows.append({"table": named("arms", scans), "arm": r["arm"], "auc": auc, "vs_rest": round(r["auc_rest"], 4),
                     "accuracy_percent": accuracy, "minus_no_kd": gain, "shipped_minus_it": ahead})  # fmt: skip
    boot = tables.Boot(list(runs[MAIN]), label)

    def measured(setting: str, arm: str, what: str = "auc") -> tuple[float, np.ndarray]:
        return boot.measures([r[arm] for r in runs[setting].values()])[what]

    base, whole = measured(MAIN, tables.BASE), measured(MAIN, tables.MAIN)
    for name in (MAIN, PERFECT):
        first, second = (ci(a, *tables.interval(d)) for a, d in (measured(name, x) for x in (tables.BASE, tables.MAIN)))
        rows.append({"table": named("settings", scans), "setting": name, "no_kd": first, "as_shipped": second})
    curve = [measured(s.name, tables.BASE) for s in cfg.settings if s.arms == "no_kd"]
    for n, (a, d) in zip(SIZES, curve, strict=True):
        rows.append({"table": named("efficiency", scans), "complete": n, "auc_without_kd": ci(a, *tables.interval(d))})
    needed = complete_needed(whole[0], [a for a, _ in curve]) / COMPLETE
    draws = np.array([complete_needed(w, [d[b] for _, d in curve]) / COMPLETE for b, w in enumerate(whole[1])])
    perfect = measured(PERFECT, tables.MAIN)
    room, rooms = perfect[0] - base[0], perfect[1] - base[1]
    gained = whole[0] - base[0]
    right = measured(MAIN, tables.MAIN, "accuracy")
    p = np.clip(bayes[:, 0], 1e-9, 1 - 1e-9)
    exact = boot.measures([np.log(np.c_[1 - p, np.full(len(p), 1e-9), p])] * len(runs[MAIN]))
    bars = [
        bar("people", len(label)),
        best("Bayes-optimal AUC", exact["auc"]),
        best("Bayes-optimal accuracy, %", exact["accuracy"], 100),
        bar_of("AUC against normal, as shipped", whole[0], whole[1], AUC),
        bar_of("accuracy, %, as shipped", right[0], right[1], ACCURACY, 100),
        above_zero("AUC, shipped less no distillation", gained, whole[1] - base[1]),
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


def of_selectors(rows: list[dict[str, Any]], scans: str) -> list[dict[str, Any]]:
    """Bars of the selectors."""
    by = {r["arm"]: r for r in rows if r["table"] == named("selectors", scans)}
    share = 100 * by[SHIPPED]["share"]

    def ahead(name: str, arm: str, sign: int, target: float | str | None, limit: float | None) -> dict[str, Any]:
        r = by[arm]
        value, (low, high) = sign * r["ahead"], sorted((sign * r["ahead_low"], sign * r["ahead_high"]))
        met = None if limit is None else value >= limit if sign > 0 else value <= limit
        return bar(f"{name}, {scans}", round(value, 4), round(low, 4), round(high, 4), target, met)

    return [
        ahead("DRLIS ahead of uniform, AUC", UNIFORM, 1, OVER_UNIFORM, OVER_UNIFORM),
        ahead("DRLIS behind attention over all slices", ATTENTION, -1,
              f"at most {BEHIND_ATTENTION}", BEHIND_ATTENTION),
        ahead("DRLIS ahead of the belief rule, AUC", RULE, 1, None, None),
        bar(f"slices decoded, % of 300, {scans}", round(share, 1), target=f"at most {100 * SHARE:.0f}",
            met=share <= 100 * SHARE),
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
test cohort {cfg.test_seed} ({cfg.test_people:,} people), encoder and policy of the bundle that ships. A fifth of the
scans are of neck, chest or pelvis; the plan had not said whether they count. Both are shown: "{LUMBAR}", people
whose scan shows three of L1-L4 by the truth, whom the product scores; and "{EVERY}", with those whom it would
refuse. All train. In brackets 95 %, over test people and runs together; differences are paired.

{table(aims, "bars").split(chr(10), 2)[2]}"""
    ]
    for scans in (LUMBAR, EVERY):
        parts.append(f"""## Students, {scans}: {cfg.settings[0].repeats * len(cfg.seeds)} runs of each arm

{COMPLETE} of {1000 + EXTRA:,} training people complete, on the slices that the shipped policy picks.

{table(rows, named("arms", scans), ["arm", "auc", "vs_rest", "accuracy_percent"])}
{table(rows, named("arms", scans), ["arm", "minus_no_kd", "shipped_minus_it"])}
{table(rows, named("patterns", scans))}
What perfect reading of the slices leaves:

{table(rows, named("settings", scans))}
Without distillation, by the number of complete people:

{table(rows, named("efficiency", scans))}""")
    parts.append(f"""Label efficiency: complete people at which the curve without distillation (made monotone, linear
in the logarithm of the number) has the AUC of the shipped student, over the {COMPLETE} that it had;
{SIZES[-1] / COMPLETE:.1f} where the curve never has it.
""")
    for scans in (LUMBAR, EVERY) if any(r["table"].startswith("selectors") for r in rows) else ():
        shown = ["arm", "decoded", f"of_{LONG_SERIES}_percent", "on_l1_l4_percent", "mid_third_percent"]
        parts.append(f"""## Selectors, {scans}

An image teacher on what each keeps of 1,000 people; three fits.

{table(rows, named("selectors", scans), shown)}
{table(rows, named("selectors", scans), ["arm", "auc", "vs_rest", "drlis_ahead"])}""")
    return "\n".join(parts)


def of_policies(cfg: Ablation) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Rows, bars and page of policies trained on the cohorts: other seeds, rewards and budgets on the first of them."""
    rows = [
        {k.replace("drlis_ahead", "first_ahead"): v for k, v in r.items()} for r in selectors(cfg, POLICIES)
    ]  # fmt: skip
    bars: list[dict[str, Any]] = []
    picked, read = ["arm", "cohorts", "decoded", "on_l1_l4_percent", "mid_third_percent"], ["arm", "auc", "first_ahead"]
    parts = [
        f"""# Policies trained on the cohorts: other seeds, rewards and budgets

`{POLICIES_COMMAND} {len(cfg.seeds)}`: the part of the
[headline](headline.md)'s plan that was not run with it. Policies of {PolicyConfig().env_steps:,} steps,
trained on cohorts {", ".join(map(str, cfg.seeds))}, those from other seeds or with other rewards and budgets on
{cfg.seeds[0]} alone.
Encoder of the bundle that ships; an image teacher, three fits, on what each keeps of a cohort's {cfg.people:,} people
judges the {cfg.test_people:,} test people of seed {cfg.test_seed}. In brackets 95 %, over test people and cohorts;
`first ahead` is the AUC of "{HERE}" less the row's on the same cohorts, paired.
"""
    ]
    for scans in (LUMBAR, EVERY):
        here = [r for r in rows if r["table"] == named("selectors", scans)]
        for r in here:
            if r["arm"] != HERE:
                bars.append(bar(f"{HERE} less {r['arm']}, AUC, {scans}", round(r["ahead"], 4), round(r["ahead_low"], 4),
                                round(r["ahead_high"], 4)))  # fmt: skip
        tables_of = [table(rows, named("selectors", scans), columns) for columns in (picked, read)]
        parts.append("\n".join([f"## {scans.capitalize()}\n", *tables_of]))
    return rows, bars, "\n".join(parts)


def main() -> None:
    """Run what is missing, write JSON and page."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--work", required=True, help="folder of cohorts, runs and policies")
    p.add_argument("--students", action="store_true", help="leave the selectors out")
    p.add_argument("--policies", action="store_true", help="policies trained on each cohort alone")
    p.add_argument("--cohorts", type=int, default=len(SEEDS), help="training cohorts, of those that were named")
    args = p.parse_args()
    cfg = students(Path(args.work).absolute(), args.cohorts)
    if args.policies:
        to, command = RESULTS / "policy-rewards.json", f"{POLICIES_COMMAND} {args.cohorts}"
        rows, bars, text = of_policies(cfg)
        write(to, command, cfg.test_seed, rows, bars, text)
        print(text)
        return
    rows, bars = judged(cfg)
    if not args.students:
        more = selectors(cfg)
        rows += more
        bars += [b for scans in (LUMBAR, EVERY) for b in of_selectors(more, scans)]
    to = RESULTS / "headline.json"
    write(to, "python benchmarks/headline.py --work runs/headline", cfg.test_seed, rows, bars, page(rows, bars, cfg))
    print(to.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
