"""What the bundle that ships is worth by pattern of modalities, on the held-out people of `make reference`.

    python benchmarks/value.py        # after `make reference`; a minute

Every held-out person whom the product would score is scored by each pattern, and evaluated as `osteo-ray evaluate` does
it: net benefit at the pattern's own threshold against referring everybody, nobody, and by the plain rule (mean HU of L1
and L2); people called for one with osteoporosis; what the worklist's first hold; subgroups. Writes docs/results/value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from plain_rule import l1_l2_hu
from reference_bundle import BUNDLE, people_of, settings
from results_page import RESULTS, bar, table, write

from osteo_ray.evaluation.evaluate import Subgroup, evaluate
from osteo_ray.evaluation.metrics import Estimate
from osteo_ray.evaluation.value import EVERYONE, PatternValue
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.calibration import normal_log_odds
from osteo_ray.patients.labels import CLASSES
from osteo_ray.patients.schema import NAMES
from osteo_ray.training.heldout import Scored, scored
from osteo_ray.training.picks import pick_slices
from osteo_ray.training.prepare import People

WHOLE = "demographics+labs+ct"
RESAMPLES = 500


def frame_of(s: Scored, bundle: Bundle, people: People, hu: np.ndarray) -> pd.DataFrame:
    """A pattern's people as the rows of results that evaluation reads, one a person, with their labels."""
    p = people.patients
    value = {n: p.values[s.rows, NAMES.index(n)] for n in ("age_y", "sex_male", "height_cm", "weight_kg")}
    with_ct = "ct" in s.pattern.split("+")
    scan = p.scan[s.rows]
    kvp = people.scanned.kvp[scan]
    return pd.DataFrame(
        {
            "patient_key": p.key[s.rows],
            "risk_prob": s.prediction.risk,
            "log_odds": normal_log_odds(s.prediction.logits),
            "threshold": bundle.threshold_of(s.pattern),
            "modalities": s.pattern,
            "age_y": value["age_y"],
            "sex": pd.Series(value["sex_male"]).map({1.0: "M", 0.0: "F"}),
            "bmi_kg_m2": value["weight_kg"] / (value["height_cm"] / 100) ** 2,
            "kvp": kvp if with_ct else np.nan,
            "contrast": np.where(people.scanned.contrast[scan] > 0, "yes", "no") if with_ct else None,
            "l1_l2_hu": hu[scan] if with_ct else np.nan,
            "label": np.array(CLASSES)[p.label[s.rows]],
        }
    )


def shown(e: Estimate, digits: int = 3, signed: bool = False) -> str | float | None:
    """A figure with its interval; without one a number."""
    if np.isnan(e.value):
        return None
    sign = "+" if signed else ""
    if np.isnan(e.low):
        return round(e.value, digits)
    return f"{e.value:{sign}.{digits}f} ({e.low:{sign}.{digits}f} to {e.high:{sign}.{digits}f})"


def rows_of(pattern: str, v: PatternValue, text: str) -> list[dict[str, Any]]:
    """Rows of one pattern."""
    first = {"table": "value", "known": pattern, "n": v.n, "osteoporosis": v.events, "threshold": round(v.threshold, 3)}
    out: list[dict[str, Any]] = [
        first | {"sensitivity": shown(v.sensitivity), "specificity": shown(v.specificity),
                 "called_per_case": shown(v.number_needed, 1), "net_benefit": shown(v.net_benefit, 3, True),
                 "less_refer_all": shown(v.against_all, 3, True), "operating_point": text}
    ]  # fmt: skip
    if not np.isnan(v.hu_rule.value):
        out.append({"table": "rule", "known": pattern, "rule_by_hu": shown(v.hu_rule, 3, True),
                    "less_rule_by_hu": shown(v.against_hu_rule, 3, True)})  # fmt: skip
    for t in v.top:
        out.append({"table": "worklist", "known": pattern, "first": t.n, "with_osteoporosis": t.cases,
                    "share_of_cases": shown(t.found), "share_of_list": shown(t.right)})  # fmt: skip
    return out


def subgroup(g: Subgroup) -> dict[str, Any]:
    """Row of a subgroup, everything known."""
    return {"table": "subgroups", "by": g.by, "group": g.group, "n": g.n, "auc_vs_rest": shown(g.auc_vs_rest),
            "sensitivity": shown(g.sensitivity), "specificity": shown(g.specificity)}  # fmt: skip


def main() -> None:
    """Score, evaluate, write."""
    cfg, bundle = settings(), Bundle.load(BUNDLE)
    people = people_of("heldout", "heldout", cfg, bundle.encoder)
    picks = pick_slices(people.scans, bundle.policy, bundle.reward_classifiers, bundle.config.view)
    layout = bundle.config.encoder.layout
    hu = l1_l2_hu(people.scans, people.scanned, picks.kept, picks.looked, layout, bundle.config.acquisition)
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for s in scored(bundle, people, picks):
        frame = frame_of(s, bundle, people, hu)
        found = evaluate(frame.drop(columns="label"), frame[["patient_key", "label"]], resamples=RESAMPLES)
        v = next(x for x in found.value if x.pattern == EVERYONE)
        own = bundle.operating_points.get(s.pattern)
        rows += rows_of(s.pattern, v, bundle.operating_point if own is None else own.text)
        a = v.against_all
        bars.append(bar(f"net benefit less that of referring all, {s.pattern}", round(a.value, 4), round(a.low, 4),
                        round(a.high, 4), "above 0", a.value > 0))  # fmt: skip
        if s.pattern == WHOLE:
            rows += [subgroup(g) for g in found.subgroups if g.by != "modalities"]
            r = v.against_hu_rule
            bars.append(bar("net benefit less the rule's by HU, everything known", round(r.value, 4), round(r.low, 4),
                            round(r.high, 4), "above 0", r.value > 0))  # fmt: skip
    write(RESULTS / "value.json", "python benchmarks/value.py", 4002, rows, bars, page(rows, bundle))
    print((RESULTS / "value.md").read_text())


def page(rows: list[dict[str, Any]], bundle: Bundle) -> str:
    """The Markdown beside the JSON."""
    point = table(rows, "value", ["known", "n", "osteoporosis", "threshold", "sensitivity", "specificity"])
    benefit = table(rows, "value", ["known", "net_benefit", "less_refer_all", "called_per_case"])
    rule = table(rows, "rule")
    how = table(rows, "value", ["known", "operating_point"])
    return f"""# What the score is worth, by what is known

{bundle.name} {bundle.version} on its 1,000 held-out synthetic people: every one whom the product would score, by each
pattern of modalities, at that pattern's own threshold. In brackets 95 %. Osteoporosis against everybody else.

{point}
{how}
## Net benefit

At the threshold's own odds (Vickers and Elkin 2006); referring nobody has 0. Called per case: people called high risk
for each one with osteoporosis.

{benefit}
The plain rule: mean HU of L1 and L2 at 120 kVp at and below the published sensitive cut-off, on the same people.

{rule}
## The worklist's first

{table(rows, "worklist")}
## Subgroups, everything known

Many and small: an interval that holds the overall figure says nothing against a group. Synthetic people differ less by
group than patients do.

{table(rows, "subgroups", ["by", "group", "n", "auc_vs_rest"])}
{table(rows, "subgroups", ["by", "group", "sensitivity", "specificity"])}
The risk of the same patient scanned again: [rescans](selection-rescans.md), synthetic; no real patient scanned twice
was available.
"""


if __name__ == "__main__":
    main()
