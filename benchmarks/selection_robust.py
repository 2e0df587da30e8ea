"""Does the policy look at the same place, and the score stay, when the same patient is scanned differently?

    python benchmarks/selection_robust.py --bundle runs/reference/bundle

Synthetic people whose body is known; each is scanned again (another protocol, another calibration error, another start
of the grid) and the first scan is made anew with other spacings, gantry tilts and coverage. A pick's distance is to the
nearest pick of the person's first scan, in the body. A change of score is set beside what rescanning alone does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from osteo_ray.config import Section, load
from osteo_ray.screening.config import ScoringConfig
from osteo_ray.screening.predictor import Predictor
from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig, MissingnessConfig, ScanConfig
from osteo_ray.synthetic.fast import SyntheticStack
from osteo_ray.synthetic.population import Person
from osteo_ray.synthetic.scanner import Scan


class Robust(Section):
    """What is made and scored."""

    bundle: str = "runs/reference/bundle"
    people: int = 60
    chests: int = 40
    seed: int = 700
    out: str = "runs/selection_robust.md"


def respaced(scan: Scan, spacing: float) -> Scan:
    """The same scan with slices of that thickness, without a gap."""
    n = int((scan.z[-1] - scan.z[0]) / spacing) + 1
    z = tuple(round(scan.z[0] + i * spacing, 3) for i in range(n))
    # Noise falls with the root of the thickness.
    sigma = float(np.clip(scan.sigma * np.sqrt(scan.thickness / spacing), 4, 60))
    return replace(scan, z=z, spacing=spacing, thickness=spacing, sigma=sigma)


def part(scan: Scan, low: float, high: float) -> Scan:
    """The slices between two heights in the body."""
    return replace(scan, z=tuple(z for z in scan.z if low <= z <= high))


def _again(spec: Person, cfg: CohortConfig, repeat: int) -> SyntheticStack:
    return fast.stack_of(spec, cfg, repeat=repeat)


def variants(s: SyntheticStack, again: Callable[[int], SyntheticStack]) -> Iterator[tuple[str, SyntheticStack]]:
    """Other scans of one body, the first being the given one."""
    scan = s.scan
    at = {v.level: v.z for v in s.anatomy.vertebrae}
    yield "first scan", s
    for repeat in (1, 2):
        yield "scanned again", again(repeat)
    others = {f"{mm} mm slices": respaced(scan, mm) for mm in (0.6, 1.25, 2.5, 5.0)}
    others |= {f"tilt {deg} degrees": replace(scan, tilt=deg) for deg in (-10.0, 10.0)}
    others["ends below L2 (upper part)"] = part(scan, at["L3"] + 12, 1e9)
    others["begins above L3 (lower part)"] = part(scan, -1e9, at["L2"] - 12)
    others["T12 to L4 in 5 mm slices (short)"] = part(respaced(scan, 5.0), at["L4"] - 16, at["T12"] + 14)
    for name, other in others.items():
        yield name, SyntheticStack(s.anatomy, other)


def main() -> None:
    """Score every variant and write the table."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--bundle")
    p.add_argument("--set", nargs="+", action="extend", default=[])
    args = p.parse_args()
    job = load(Robust, None, args.set, {"bundle": args.bundle} if args.bundle else {})
    torch.set_num_threads(1)
    scorer = Predictor.load(job.bundle, ScoringConfig(shap=False))
    whole = MissingnessConfig(complete_share=1.0, ct_only_share=0, no_labs_share=0)
    cfg = CohortConfig(
        seed=job.seed, persons=job.people, missing=whole, scan=ScanConfig(protocols={"abdomen": 1.0}, tilt_share=0)
    )
    specs = fast.people(cfg)
    records = fast.records_of(specs, cfg).matrix()[0]
    rows = []
    for i, spec in enumerate(specs):
        base: np.ndarray | None = None
        for name, stack in variants(fast.stack_of(spec, cfg), partial(_again, spec, cfg)):
            if stack.n < 8:
                continue  # the part has nothing of the scan
            header = {"kvp": float(stack.scan.kvp), "contrast": "venous" if stack.scan.contrast else "none"}
            r = scorer.score_stack(stack, header, records[i])
            picks = np.array([x["z_mm"] for x in r["selected"] or []])
            levels = fast.slice_truth(stack.anatomy, stack.scan).level
            chosen = [str(levels[int(np.argmin(np.abs(stack.z_mm - z)))]) for z in picks]
            row = {"person": i, "scan": name, "state": r["state"], "code": r["code"], "decoded": r["slices_decoded"]}
            row |= {"slices": stack.n, "hu": r["trabecular_hu"], "lumbar": np.mean([c in LUMBAR for c in chosen])}
            if base is None and picks.size:
                base = picks
            row["away_mm"] = [float(np.abs(base - z).min()) for z in picks] if base is not None else []
            risk = r["risk_prob"]
            row["logit"] = float(np.log(risk / (1 - risk))) if risk else np.nan
            rows.append(row)
    t = pd.DataFrame(rows)
    lines = table(t)
    chest = CohortConfig(
        seed=job.seed + 1, persons=job.chests, missing=whole, scan=ScanConfig(protocols={"chest": 1.0})
    )
    people = fast.people(chest)
    values = fast.records_of(people, chest).matrix()[0]
    codes = pd.Series(
        [
            scorer.score_stack((s := fast.stack_of(q, chest)), {"kvp": float(s.scan.kvp)}, v)["code"]
            for q, v in zip(people, values, strict=True)
        ]
    ).value_counts()
    lines.append(f"\nChest alone ({job.chests} people): " + ", ".join(f"{k} {v}" for k, v in codes.items()))
    Path(job.out).parent.mkdir(parents=True, exist_ok=True)
    Path(job.out).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


LUMBAR = ("L1", "L2", "L3", "L4")


def table(t: pd.DataFrame) -> list[str]:
    """One row a way of scanning."""
    first = t[t["scan"] == "first scan"].set_index("person")["logit"]
    lines = [
        "| scan | n | slices | decoded | scored | on L1-L4 | mm from first picks (90 %) | log-odds: mean change | SD |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in t.groupby("scan", sort=False):
        away = np.concatenate([np.array(a) for a in rows["away_mm"]] or [np.zeros(0)])
        change = rows["logit"].to_numpy() - first.reindex(rows["person"]).to_numpy()
        near = f"{np.median(away):.1f} ({np.quantile(away, 0.9):.1f})" if away.size else ""
        ends = rows["state"].value_counts()
        scored = (ends.get("SCORED", 0) + ends.get("SCORED_WARN", 0)) / len(rows)
        lines.append(
            f"| {name} | {len(rows)} | {rows['slices'].median():.0f} | {rows['decoded'].mean():.1f} | {scored:.0%} | "
            f"{rows['lumbar'].mean():.0%} | {near} | {np.nanmean(change):+.2f} | {np.nanstd(change):.2f} |"
        )
    return lines


if __name__ == "__main__":
    main()
