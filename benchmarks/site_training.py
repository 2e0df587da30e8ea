"""What a site's training reaches without masks, with masks of 30 scans, and with every slice target.

    python benchmarks/site_training.py --scans 200 --fresh 300 --out runs/site_training

Writes docs/results/site_training.json and docs/results/site_training.md. The site is synthetic: its scans differ from
those that teach the encoder by protocol, contrast, kernel and slice thickness. Training is that of configs/train.yaml;
its slice targets are taken away, kept for 30 scans, or kept. All else is the same. Fresh people show L1-L4, all of
them; a scan counts as scored where the product would score it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray.commands.train import TrainJob, synthetic_slices
from osteo_ray.config import Section, load, narrow
from osteo_ray.io.step_cache import StepCache, digest
from osteo_ray.model.config import CropConfig
from osteo_ray.patients import load_records
from osteo_ray.synthetic.config import CohortConfig, MissingnessConfig, ScanConfig
from osteo_ray.synthetic.slice_set import write_slice_set
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.prepare import Sources
from osteo_ray.training.run import train
from osteo_ray.training.slices import load_table

SITE = ScanConfig(
    protocols={"abdomen": 0.5, "abdomen_pelvis": 0.3, "trunk": 0.2}, contrast_share=0.6, sharp_share=0.15,
    thickness={1.25: 0.2, 3.0: 0.3, 5.0: 0.5},
)  # fmt: skip
ARMS = ("none", "30 masks", "all")
SCORED, WITHIN_NONE, WITHIN_MASKS = 0.95, 0.02, 0.01


class SiteTraining(Section):
    """How large, where, and from which training config."""

    scans: int = 200
    fresh: int = 300
    masks: int = 30
    seed: int = 6100
    config: str = "configs/train.yaml"
    out: str = "runs/site_training"
    results: str = "docs/results/site_training.json"


def cohort(run: StepCache, name: str, persons: int, seed: int) -> Path:
    """A cohort of scanned people as a slice set with targets, made once."""
    everybody = MissingnessConfig(complete_share=1, ct_only_share=0, no_labs_share=0)
    cfg = CohortConfig(seed=seed, persons=persons, missing=everybody, scan=SITE)
    return run.run(name, digest(cfg.model_dump(mode="json")), lambda f: write(f, cfg))


def write(folder: Path, cfg: CohortConfig) -> None:
    """Render a cohort."""
    write_slice_set(folder, cfg, CropConfig(), 64)


def with_targets_of(run: StepCache, site: Path, name: str, kept: int | None) -> Path:
    """The site's slices with the targets of `kept` scans (None: all of them)."""
    if kept is None:
        return site / "slices"

    def work(folder: Path) -> None:
        table = load_table([site / "slices"])
        series = table["series_uid"].to_pylist()
        chosen = set(sorted(set(series))[:kept])
        known = np.array([s in chosen for s in series])
        for column, unknown in (("region", -1), ("vertebra", np.nan), ("mid", np.nan), ("trabecular_hu", np.nan)):
            values = np.where(known, table[column].to_numpy(), unknown)
            at = table.column_names.index(column)
            table = table.set_column(at, column, pa.array(values, table.schema.field(column).type))
        pq.write_table(table, folder / "part-000000.parquet", row_group_size=512)

    return run.run(f"slices {name}", digest(site, kept), work)


def arm(name: str, slices: Path, site: Path, fresh: Path, job: SiteTraining) -> dict[str, Any]:
    """Train on one arm's slices and judge on fresh people by CT alone."""
    out = Path(job.out) / name.replace(" ", "-")
    over = ["catalogue=null", "kdamm.workers=0", "selection.policy={env_steps: 40000, env_runners: 1}"]
    asked = load(TrainJob, job.config, over, {"out": str(out)})
    shared = asked.model_copy(update={"out": job.out})  # the synthetic slices are the same for every arm
    src = Sources(
        catalogue=None,
        records=load_records(str(site / "records.csv")),
        extra_slices=(slices,),
        encoder_slices=synthetic_slices(shared),
        start=asked.start,
        heldout_slices=(fresh / "slices",),
        heldout_records=load_records(str(fresh / "records.csv")),
    )
    trained = train(src, out, narrow(asked, TrainConfig))
    m = json.loads(Path(trained.bundle, "bundle.json").read_text())["metrics"]
    ct = next((r for r in m["heldout"] if r["pattern"] == "ct"), None)
    seconds = round(sum(trained.seconds.values()))
    if ct is None:
        return {"table": "arms", "targets": name, "scans": m["heldout_scans"], "scored": 0.0, "seconds": seconds}
    return {
        "table": "arms", "targets": name, "scans": m["heldout_scans"],
        "scored": round(ct["n"] / m["heldout_scans"], 4), "refused": ct["refused"],
        "auc": ct["auc"][0], "low": ct["auc"][1], "high": ct["auc"][2], "seconds": seconds,
    }  # fmt: skip


def bars_of(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The bars, as far as there are figures."""
    auc = {k: rows[k].get("auc") or 0.0 for k in ARMS}

    def one(name: str, value: float, target: str, met: bool) -> dict[str, Any]:
        return {"name": name, "value": round(value, 4), "low": None, "high": None, "target": target, "met": met}

    less, masks = auc["all"] - auc["none"], auc["all"] - auc["30 masks"]
    return [
        one("scans scored without masks", rows["none"]["scored"], ">= 0.95", rows["none"]["scored"] >= SCORED),
        one("AUC below every target, no masks", less, "<= 0.02", auc["none"] > 0 and less <= WITHIN_NONE),
        one("AUC below every target, 30 masks", masks, "<= 0.01", auc["30 masks"] > 0 and masks <= WITHIN_MASKS),
    ]


def main() -> None:
    """Train the three arms, each step once, and write the table."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in SiteTraining.model_fields:
        p.add_argument(f"--{name}")
    job = load(SiteTraining, None, [], {k: v for k, v in vars(p.parse_args()).items() if v})
    run = StepCache(Path(job.out).absolute())
    site, fresh = cohort(run, "site", job.scans, job.seed), cohort(run, "fresh", job.fresh, job.seed + 1)
    rows = {}
    for name, kept in zip(ARMS, (0, job.masks, None), strict=True):
        rows[name] = arm(name, with_targets_of(run, site, name, kept), site, fresh, job)
        print(rows[name])
    bars = bars_of(rows)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = f"python benchmarks/site_training.py --scans {job.scans} --fresh {job.fresh} --seed {job.seed}"
    done = {"command": command, "commit": commit, "seed": job.seed, "rows": list(rows.values()), "bars": bars}
    out = Path(job.results)
    out.write_text(json.dumps(done, indent=1) + "\n")
    lines = "".join(
        f"| {r['targets']} | {r['scored']:.3f} | {r.get('auc')} ({r.get('low')}-{r.get('high')}) | {r['seconds']} |\n"
        for r in rows.values()
    )
    met = "".join(f"| {b['name']} | {b['value']} | {b['target']} | {'yes' if b['met'] else '**no**'} |\n" for b in bars)
    out.with_suffix(".md").write_text(
        f"""# A site's training: without masks, with 30, with every slice target

`{command}`.
{job.scans} scans to train on, {job.fresh} fresh ones; CT alone; AUC against normal with 95 % DeLong intervals.
The site is synthetic, and so is what the reference encoder knows: the figures say that the settings work, not how far
real scans are from synthetic ones.

| bar | value | target | met |
|---|---|---|---|
{met}
<!-- rows: arms -->

| targets | scored | auc | seconds |
|---|---|---|---|
{lines}"""
    )


if __name__ == "__main__":
    main()
