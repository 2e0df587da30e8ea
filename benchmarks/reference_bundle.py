"""The table of the bundle that ships: its own figures on held-out people, as the bundle keeps them.

    python benchmarks/reference_bundle.py             # after `make reference`
    python benchmarks/reference_bundle.py --judge     # the card's figures again, after a change of how scans are scored
    python benchmarks/reference_bundle.py --finish    # and what is fitted on picks: models, calibration, thresholds

Writes docs/results/reference-bundle.json and .md from osteo_ray/model/reference/bundle/bundle.json. `--judge` judges
the bundle anew on the held-out people of runs/reference and writes its card again; `--finish` first fits teachers,
student, calibration and thresholds anew, with the bundle's own encoder and policy. Both need the slice sets of
`make reference` alone: embeddings that are not there are made by the bundle's encoder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from calibration import slopes
from scipy.special import logit
from torch import nn

from osteo_ray import ray_setup
from osteo_ray.commands.train import TrainJob
from osteo_ray.config import load, narrow
from osteo_ray.io.step_cache import StepCache
from osteo_ray.model.bundle import Bundle
from osteo_ray.patients.config import PatientKeys
from osteo_ray.patients.record_set import open_records
from osteo_ray.progress import progress_bar
from osteo_ray.training.card import model_card
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.finish import finish
from osteo_ray.training.heldout import judge, scored
from osteo_ray.training.patients import acquisition_of, gather, scans_of
from osteo_ray.training.picks import pick_slices
from osteo_ray.training.prepare import People, Prepared
from osteo_ray.training.slices import count, embed_slice_sets, scans_in

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "osteo_ray" / "model" / "reference" / "bundle"
OUT = ROOT / "docs" / "results" / "reference-bundle.json"
ALL = "demographics+labs+ct"
LOW, HIGH = 0.9, 1.1
FIGURES = {"auc": "auc_vs_normal", "auc_rest": "auc_vs_rest", "calibration_slope": "calibration_slope",
           "sensitivity": "sensitivity", "specificity": "specificity"}  # fmt: skip


def estimate(values: list[float]) -> dict[str, float]:
    """Value and 95 % interval, three digits."""
    return dict(zip(("value", "low", "high"), (round(v, 3) for v in values), strict=True))


def bar(name: str, e: dict[str, float], target: str | None, met: bool | None) -> dict[str, Any]:
    """One bar of the JSON."""
    return {"name": name, **e, "target": target, "met": met}


def settings() -> TrainConfig:
    """The config that the bundle was trained with."""
    return narrow(load(TrainJob, ROOT / "configs" / "reference.yaml"), TrainConfig)


def people_of(cohort: str, embedded: str, cfg: TrainConfig, encoder: nn.Module) -> People:
    """People of runs/reference with their embeddings: those that `make reference` left, or else the encoder's."""
    runs = ROOT / "runs" / "reference"
    slices = runs / cohort / "slices"
    records = open_records(str(runs / cohort / "records.csv"), None, PatientKeys())
    people = gather(records, scans_in([slices]), (), cfg.seed, cfg.split, cfg.timeline)
    at = runs / "run" / embedded / "embedded.parquet"
    if not at.exists():
        ray_setup.start()
        with progress_bar("embed slices", count([slices]), "slice", False) as advance:
            table = embed_slice_sets([slices], encoder, cfg.crop.size, 1, advance)
        at.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, at)
    table = pq.read_table(at)
    scans = scans_of(table, people.labels, cfg.selection.view.positions)
    return People(scans, acquisition_of(table, scans), people)


def judge_again() -> None:
    """Held-out figures of the bundle by today's rules, and its card."""
    cfg, bundle = settings(), Bundle.load(BUNDLE)
    bundle.metrics |= judge(bundle, people_of("heldout", "heldout", cfg, bundle.encoder))
    bundle.card = model_card(bundle, cfg)
    bundle.save(BUNDLE)


def finish_again() -> None:
    """Teachers, student, calibration, thresholds and card anew, on the bundle's own encoder and policy."""
    cfg, bundle = settings(), Bundle.load(BUNDLE)
    parts = (("people", "embeddings"), ("heldout", "heldout"))
    train, heldout = (people_of(*part, cfg, bundle.encoder) for part in parts)
    run = StepCache(ROOT / "runs" / "reference" / "run")
    made = Prepared(run, "", train, bundle.encoder, heldout, {})
    scorers = bundle.reward_classifiers
    picks = pick_slices(train.scans, bundle.policy, scorers, bundle.config.view)
    finish(BUNDLE, made, picks, bundle.policy, scorers, cfg, str(run.out / "ray"), False)


def against_posterior(bundles: list[Bundle]) -> list[dict[str, Any]]:
    """Each bundle's risks against the exact posterior of everything known, on the held-out people; by pattern.

    The slope is the posterior's on the calibrated log-odds; the squared error is times 1,000. Both have less noise than
    against drawn labels. Intervals: 300 draws of people.
    """
    people = people_of("heldout", "heldout", settings(), bundles[0].encoder)
    truth = pq.read_table(ROOT / "runs" / "reference" / "heldout" / "truth" / "patients.parquet").to_pandas()
    q = truth.set_index("patient_key")["p_bayes_rest"].loc[people.patients.key].to_numpy()
    rows = []
    for b in bundles:
        picks = pick_slices(people.scans, b.policy, b.reward_classifiers, b.config.view)
        for s in scored(b, people, picks):
            p, expected, n = np.clip(s.prediction.risk, 1e-6, 1 - 1e-6), q[s.rows], len(s.rows)
            draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 300)
            weight = np.vstack([np.ones(n), draws]).astype(float)
            of = {
                "slope": slopes(logit(p), expected, weight),
                "mean_error": weight @ (p - expected) / n,
                "squared_error": 1000 * (weight @ (p - expected) ** 2) / n,
            }
            found = {k: estimate([v[0], *np.quantile(v[1:], [0.025, 0.975])]) for k, v in of.items()}
            rows.append({"table": "posterior", "version": b.version, "known": s.pattern, "n": n, **found})
    return rows


def main() -> None:
    """Write both files."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    how = p.add_mutually_exclusive_group()
    how.add_argument("--judge", action="store_true", help="judge the bundle anew first")
    how.add_argument("--finish", action="store_true", help="fit anew what stands on its encoder and policy first")
    p.add_argument("--against", help="folder of an earlier bundle, to be judged beside it")
    args = p.parse_args()
    if args.judge:
        judge_again()
    if args.finish:
        finish_again()
    saved = json.loads((BUNDLE / "bundle.json").read_text())
    metrics = saved["metrics"]
    rows = [
        {"table": "heldout", "known": r["pattern"], "n": r["n"], "osteoporosis": r["events"],
         **{name: estimate(r[key]) for key, name in FIGURES.items()}}
        for r in metrics["heldout"]
    ]  # fmt: skip
    of = {r["known"]: r for r in rows}
    bundles = [Bundle.load(BUNDLE), *([Bundle.load(args.against)] if args.against else [])]
    rows += against_posterior(bundles)
    bars = [bar("auc_vs_normal_all_known", of[ALL]["auc_vs_normal"], None, None)]
    for known, r in of.items():
        slope = r["calibration_slope"]
        bars.append(bar(f"calibration slope, {known}", slope, f"{LOW} to {HIGH}", LOW <= slope["value"] <= HIGH))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    withheld = {k: metrics[k] for k in ("heldout_scans", "heldout_no_lumbar", "heldout_unlike")}
    done = {"command": "make reference; python benchmarks/reference_bundle.py", "commit": commit.stdout.strip(),
            "seed": "4000-4002", "withheld": withheld, "rows": rows, "bars": bars}  # fmt: skip
    OUT.write_text(json.dumps(done, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(page(saved, rows, withheld))
    print(OUT.with_suffix(".md").read_text())


def page(saved: dict[str, Any], rows: list[dict[str, Any]], withheld: dict[str, int]) -> str:
    """The Markdown beside the JSON."""

    def cell(e: dict[str, float]) -> str:
        return f"{e['value']:.3f} ({e['low']:.3f}-{e['high']:.3f})"

    heldout = [r for r in rows if r["table"] == "heldout"]
    posterior = [r for r in rows if r["table"] == "posterior"]

    def table(names: tuple[str, ...]) -> str:
        head = f"| known | n | osteoporosis | {' | '.join(n.replace('_', ' ') for n in names)} |\n"
        lines = (
            f"| {r['known']} | {r['n']} | {r['osteoporosis']} | {' | '.join(cell(r[n]) for n in names)} |\n"
            for r in heldout
        )
        return head + "|---" * (3 + len(names)) + "|\n" + "".join(lines)

    figures = ("slope", "mean_error", "squared_error")
    beside = "".join(
        f"| {r['version']} | {r['known']} | {' | '.join(cell(r[k]) for k in figures)} |\n" for r in posterior
    )
    outside = [r["known"] for r in heldout if not LOW <= r["calibration_slope"]["value"] <= HIGH]
    return f"""# The bundle that ships with the package

{saved["name"]} {saved["version"]}, by `make reference`: 4,000 synthetic patients to train and calibrate on, 1,000 held
out. It is not validated on patients. On real CT: [real CT](real_ct.md); level names: [levels](levels.md).

## Held-out patients

95 % intervals in brackets. Of {withheld["heldout_scans"]} held-out scans {withheld["heldout_no_lumbar"]} end
NO_LUMBAR_SEEN and {withheld["heldout_unlike"]} OOD_IMAGE: chests, necks and hips are among them on purpose. Sensitivity
and specificity are for osteoporosis against everybody else, at each pattern's threshold.

<!-- rows: heldout -->

{table(("auc_vs_normal", "auc_vs_rest", "calibration_slope"))}
<!-- rows: heldout -->

{table(("sensitivity", "specificity"))}
Aimed at: calibration slopes of {LOW} to {HIGH}. Outside:
{", ".join(outside) or "none"}.

## Against the exact posterior

The posterior of everything known of each person, in place of drawn labels. Slope: of the posterior on the calibrated
log-odds; squared error times 1,000. 0.3 has the same encoder, policy and people, and teachers that had labelled those
whom they were fitted on ([calibration](../decisions/calibration.md)).

<!-- rows: posterior -->

| version | known | slope | mean error | squared error |
|---|---|---|---|---|
{beside}"""


if __name__ == "__main__":
    main()
