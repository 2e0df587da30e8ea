"""`osteo-ray recalibrate`: fit a bundle's risks to a site's patients with CT and DXA; writes a new bundle."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from shutil import copyfile

from pydantic import Field

from osteo_ray.commands import Command
from osteo_ray.config import narrow, need
from osteo_ray.monitoring.config import SiteConfig
from osteo_ray.outcomes import InputError
from osteo_ray.patients.config import LabelRecords, PatientKeys, SitePatientKeys


class RecalibrateJob(LabelRecords, PatientKeys, SiteConfig):
    """`osteo-ray recalibrate`."""

    site: str | None = Field(None, description="the site's name")
    bundle: str | None = Field(None, description="the bundle that scored the results")
    results: str | None = Field(None, description="folder of a run, or its results.parquet")
    split: str | None = Field(None, description="split.parquet of the training run; null: beside the bundle, if there")
    out: str | None = Field(None, description="folder for the new bundle")
    seed: int = Field(0, ge=0, description="of the bootstrap's draws and folds")


def recalibrate(job: RecalibrateJob) -> list[str]:
    """Write a bundle whose risks fit a site."""
    from osteo_ray.evaluation.labels import open_labels
    from osteo_ray.model.bundle_files import WEIGHTS
    from osteo_ray.model.scoring_bundle import ScoringBundle
    from osteo_ray.monitoring.pairs import load_pairs
    from osteo_ray.monitoring.recalibrate import apply
    from osteo_ray.monitoring.recalibrate import recalibrate as fit

    site, folder, out = need(job, "site"), Path(need(job, "bundle")), Path(need(job, "out"))
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is there already; a bundle is never written over: give another --out")
    # `site` names the calibration; whose numbers a table holds, its mapping may say.
    keys = SitePatientKeys(pseudonym_key=job.pseudonym_key, identity=job.identity)
    labels = open_labels(need(job, "labels"), job.mapping, keys)
    beside = folder.absolute().parent / "split.parquet"
    split = job.split or (str(beside) if beside.exists() else None)
    bundle = ScoringBundle.load(folder)
    pairs, notes = load_pairs(need(job, "results"), labels, bundle.sha256, job.timeline, split)
    found = fit(pairs, site, narrow(job, SiteConfig), job.seed, bundle.conformal_level)
    sha256 = apply(bundle, found).write(out, partial(copyfile, folder / WEIGHTS))
    return [*notes, *found.lines(), f"bundle   {out} (sha256 {sha256[:12]}...): screening scores anew with it"]


COMMAND = Command(RecalibrateJob, recalibrate)
