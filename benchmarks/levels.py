"""Whether vertebral levels are named right, on fresh synthetic scans.

    python benchmarks/levels.py --bundle osteo_ray/model/reference/bundle --scans 60 --seed 5200

Writes docs/results/levels.json and docs/results/levels.md. Judged are the picks and every looked-at slice that shows a
vertebral body, apart for scans that show ribs (T12) or sacrum and for scans that show neither. The same scans without
further looks (`view.more_looks`) stand beside: what they cost, and whether a score comes or goes by them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from osteo_ray.config import Section, load
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.config import ScoringConfig
from osteo_ray.screening.predictor import Predictor
from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig, MissingnessConfig
from osteo_ray.synthetic.truth import slice_truth

TARGET = 0.975


class LevelsJob(Section):
    """What is judged."""

    bundle: str = "osteo_ray/model/reference/bundle"
    scans: int = 60
    seed: int = 5200
    out: str = "docs/results/levels.json"


def judged(scorer: Predictor, stack: fast.SyntheticStack) -> list[dict[str, Any]]:
    """One dict a looked-at slice of a body: true level, name, confidence, whether it is a pick and anchors are seen."""
    t = slice_truth(stack.anatomy, stack.scan)
    seen = scorer.see(stack)
    named = seen.levels()
    shown = set(map(str, t.level))
    out = []
    for k in np.flatnonzero(seen.selection.looked[: len(seen.z_mm)]):
        i = int(seen.positions[k])
        true = str(t.level[i])
        kept = bool(k in seen.selection.kept)
        if kept or true[0] in "TL":
            out.append(
                {
                    "true": true,
                    "name": named.level[k],
                    "confidence": float(named.confidence[k]),
                    "pick": kept,
                    "anchored": bool(shown & {"S", "T12"}),
                    "lumbar": bool(shown & {"L1", "L2", "L3", "L4"}),
                }
            )
    return out


def scored(scorer: Predictor, stack: fast.SyntheticStack, more_looks: int) -> dict[str, Any]:
    """The result row of a scan without a record, with at most so many further looks."""
    config = scorer.bundle.config
    view = config.view.model_copy(update={"more_looks": more_looks})
    scorer.bundle.config = config.model_copy(update={"view": view})
    fresh = fast.SyntheticStack(stack.anatomy, stack.scan)
    facts = {"kvp": stack.scan.kvp, "contrast": "venous" if stack.scan.contrast else "none"}
    result = scorer.score_stack(fresh, facts, np.full(len(NAMES), np.nan))
    scorer.bundle.config = config
    return result


def looks(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """What further looks change: one row without and one with them."""
    without, with_them = zip(*pairs, strict=True)
    rows = []
    for what, results in (("none", without), ("up to 12", with_them)):
        ends = [r["state"] in ("SCORED", "SCORED_WARN") for r in results]
        picks = [p for r in results for p in r["selected"]]
        rows.append(
            {"table": "looks", "further_looks": what, "scans": len(results), "scored": sum(ends),
             "decoded": round(float(np.mean([r["slices_decoded"] for r in results])), 1),
             "picks_named": round(float(np.mean([p["level"] is not None for p in picks])), 3)}
        )  # fmt: skip
    both = [(a["risk_prob"], b["risk_prob"]) for a, b in pairs if None not in (a["risk_prob"], b["risk_prob"])]
    rows[1]["largest_change_of_risk"] = round(max(abs(a - b) for a, b in both), 3)
    rows[1]["changed_risks"] = sum(a != b for a, b in both)
    return rows


def row(what: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of one group, with a 95 % Wilson interval of what is right among the named."""
    named = [r for r in rows if r["name"] is not None]
    right = sum(r["name"] == r["true"] for r in named)
    ci = binomtest(right, len(named)).proportion_ci(method="wilson") if named else None
    return {
        "table": "levels", "slices": what, "n": len(rows), "named": len(named), "right": right,
        "right_of_named": round(right / len(named), 4) if named else None,
        "low": round(ci.low, 4) if ci else None, "high": round(ci.high, 4) if ci else None,
    }  # fmt: skip


def main() -> None:
    """Judge and write."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in LevelsJob.model_fields:
        p.add_argument(f"--{name}")
    job = load(LevelsJob, None, [], {k: v for k, v in vars(p.parse_args()).items() if v})
    torch.set_num_threads(1)
    scorer = Predictor.load(job.bundle, ScoringConfig(shap=False))
    everybody = MissingnessConfig(complete_share=1, ct_only_share=0, no_labs_share=0)
    cfg = CohortConfig(seed=job.seed, persons=job.scans, missing=everybody)
    rows, pairs = [], []
    for spec in fast.people(cfg):
        stack = fast.stack_of(spec, cfg)
        rows += judged(scorer, stack)
        pairs.append((scored(scorer, stack, 0), scored(scorer, stack, 12)))
    groups = {
        "picks, ribs or sacrum in view": [r for r in rows if r["pick"] and r["anchored"] and r["lumbar"]],
        "picks, neither in view": [r for r in rows if r["pick"] and not r["anchored"]],
        "picks, no L1-L4 in view": [r for r in rows if r["pick"] and not r["lumbar"]],
        "bodies looked at, ribs or sacrum in view": [r for r in rows if r["true"][0] in "TL" and r["anchored"]],
    }
    table = [row(k, v) for k, v in groups.items()]
    looked = looks(pairs)
    first = table[0]
    value = first["right_of_named"] or 0.0
    bars = [{"name": "levels of picks right, ribs or sacrum in view", "value": value, "low": first["low"],
             "high": first["high"], "target": f">= {TARGET}", "met": value >= TARGET}]  # fmt: skip
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = f"python benchmarks/levels.py --scans {job.scans} --seed {job.seed}"
    done = {
        "command": command,
        "commit": commit,
        "seed": job.seed,
        "bundle": scorer.model,
        "rows": [*table, *looked],
        "bars": bars,
    }
    out = Path(job.out)
    out.write_text(json.dumps(done, indent=1) + "\n")
    lines = "".join(
        f"| {r['slices']} | {r['n']} | {r['named']} | {r['right']} | {r['right_of_named']} ({r['low']}-{r['high']}) |\n"
        for r in table
    )
    more = "".join(
        f"| {r['further_looks']} | {r['scans']} | {r['scored']} | {r['decoded']} | {r['picks_named']} |\n"
        for r in looked
    )
    out.with_suffix(".md").write_text(
        f"""# Level names on fresh synthetic scans

`{command}`; {scorer.model["model_name"]} {scorer.model["model_version"]}; {job.scans} people, every protocol. A name
counts as wrong where the slice shows a disc or the sacrum. In brackets: 95 % Wilson intervals over slices.

<!-- rows: levels -->

| slices | n | named | right | right of named |
|---|---|---|---|---|
{lines}
Target: {TARGET:.1%} of picks where ribs or sacrum are in view: {"met" if bars[0]["met"] else "**not met**"}.

## Further looks

`view.more_looks`: slices looked at beyond the policy's while a pick's level is not known.

<!-- rows: looks -->

| further looks | scans | scored | decoded | picks named |
|---|---|---|---|---|
{more}
Largest change of a risk by them: {looked[1]["largest_change_of_risk"]} ({looked[1]["changed_risks"]} risks changed).
"""
    )
    print("\n".join(str(r) for r in [*table, *looked]))


if __name__ == "__main__":
    main()
