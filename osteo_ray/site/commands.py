"""What `osteo-ray recalibrate` and `osteo-ray drift` do: one function a command, as in `osteo_ray.commands`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import Field

from osteo_ray.commands import need, read_records
from osteo_ray.config import narrow
from osteo_ray.outcomes import InputError
from osteo_ray.site.drift import DriftConfig
from osteo_ray.site.recalibrate import SiteConfig


class Moved(Exception):
    """Raised when all is told: the run's patients are not those that the reference knew."""


class RecalibrateJob(SiteConfig):
    """`osteo-ray recalibrate`."""

    site: str | None = Field(None, description="the site's name")
    bundle: str | None = Field(None, description="the bundle that scored the results")
    results: str | None = Field(None, description="folder of a run, or its results.parquet")
    labels: str | None = Field(None, description="records with the DXA T-score, or a table of patient_key and label")
    mapping: str | None = None
    pseudonym_key: str | None = None
    split: str | None = Field(None, description="split.parquet of the training run; null: beside the bundle, if there")
    out: str | None = Field(None, description="folder for the new bundle")
    dxa_days: int = Field(365, ge=0, description="a dated DXA counts so many days before or after the CT")
    seed: int = Field(0, ge=0)


def recalibrate(job: RecalibrateJob) -> list[str]:
    """Write a bundle whose risks fit a site."""
    from osteo_ray.bundle import Bundle
    from osteo_ray.evaluation.tables import is_plain_labels, read_labels
    from osteo_ray.site.pairs import load_pairs
    from osteo_ray.site.recalibrate import apply
    from osteo_ray.site.recalibrate import recalibrate as fit

    site, folder, out = need(job, "site"), Path(need(job, "bundle")), Path(need(job, "out"))
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is there already; a bundle is never written over: give another --out")
    labels = Path(need(job, "labels"))
    if not labels.exists():
        raise InputError(f"{labels}: no such file; give records with a T-score, or a table of patient_key and label")
    dated = labels.suffix == ".parquet" and "dxa_date" in pq.read_schema(labels).names  # records, as written by us
    if job.mapping is None and is_plain_labels(labels) and not dated:
        frame = read_labels(labels, job.pseudonym_key)
    else:
        frame = read_records(str(labels), job.mapping, job.pseudonym_key).frame
    beside = folder.absolute().parent / "split.parquet"
    split = job.split or (str(beside) if beside.exists() else None)
    bundle = Bundle.load(folder)
    pairs, notes = load_pairs(need(job, "results"), frame, bundle.sha256, job.dxa_days, split)
    found = fit(pairs, site, narrow(job, SiteConfig), job.seed, bundle.conformal_level)
    sha256 = apply(bundle, found).save(out)
    return [*notes, *found.lines(), f"bundle   {out} (sha256 {sha256[:12]}...): screening scores anew with it"]


class DriftJob(DriftConfig):
    """`osteo-ray drift`."""

    results: str | None = Field(None, description="folder of a run, or its results.parquet")
    bundle: str | None = Field(None, description="the bundle that scored the run")
    baseline: str | None = Field(None, description="an earlier run to compare with; null: the bundle's own patients")
    out: str | None = Field(None, description="JSON file; null: drift.json beside the results")
    seed: int = Field(0, ge=0)


def drift(job: DriftJob) -> Iterator[str]:
    """Compare a run's patients with the bundle's, or with an earlier run's; say what moved.

    Raises:
        Moved: after the last line, where something did.
    """
    from osteo_ray.bundle import Bundle
    from osteo_ray.site.distributions import Distributions
    from osteo_ray.site.drift import compare
    from osteo_ray.site.frame import BY_MODEL, of_results
    from osteo_ray.site.pairs import results_table

    results = results_table(need(job, "results"))
    bundle = Bundle.load(need(job, "bundle"))
    acquisition = bundle.config.acquisition
    if job.baseline:
        reference = Distributions.of(of_results(results_table(job.baseline), acquisition))
        causes = None
    elif "distributions" in bundle.metrics:
        reference, causes = Distributions.from_dict(bundle.metrics["distributions"]), BY_MODEL
    else:
        raise InputError(
            f"{job.bundle} holds no reference distributions (an older bundle); name an earlier run with --baseline, "
            "or train it again"
        )
    current = of_results(results, acquisition, causes)
    if not len(current):
        raise InputError(f"{results}: no patient was scored, or abstained on; there is nothing to compare")
    report = compare(reference, current, narrow(job, DriftConfig), job.seed)
    out = Path(job.out) if job.out else results.with_name("drift.json")
    out.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    yield from report.lines()
    yield f"figures  {out}"
    if report.moved:
        raise Moved("moved: " + ", ".join(f.words for f in report.moved))
