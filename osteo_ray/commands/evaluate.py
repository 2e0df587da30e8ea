"""`osteo-ray evaluate`: judge results by labels, of this or any other system, alone or against another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from osteo_ray.commands import Command
from osteo_ray.commands.checklist import bundle_manifest
from osteo_ray.config import narrow, need
from osteo_ray.outcomes import InputError
from osteo_ray.patients.config import LabelRecords, SitePatientKeys

if TYPE_CHECKING:
    import pandas as pd

    from osteo_ray.evaluation.evaluate import Evaluation


class EvaluateJob(LabelRecords, SitePatientKeys):
    """`osteo-ray evaluate`."""

    results: str | None = Field(
        None, description="results.parquet, the folder that holds it, or any system's scores as CSV or Parquet"
    )
    truth: str | None = Field(None, description="synthetic cohort's truth/patients.parquet: Bayes-optimal AUC beside")
    against: str | None = Field(None, description="other results of the same patients, compared pair by pair")
    bundle: str | None = Field(None, description="the bundle that scored, for the reporting checklists")
    answers: str | None = Field(None, description="YAML with the site's own answers to the checklists")
    out: str | None = Field(None, description="folder for what is written; null: beside the results")
    level: float = Field(0.95, gt=0, lt=1, description="confidence level of every interval")
    resamples: int = Field(1000, ge=100, description="draws of the bootstrap over patients")
    seed: int = Field(0, ge=0, description="of the bootstrap's draws")


def evaluate(job: EvaluateJob) -> list[str]:
    """Judge results by labels: evaluation.json, evaluation.html and figures; the run's report gets the figures too."""
    from osteo_ray.evaluation.checklists import checklists, read_answers
    from osteo_ray.evaluation.compare import compare
    from osteo_ray.evaluation.evaluate import evaluate as judge
    from osteo_ray.evaluation.labels import open_labels
    from osteo_ray.reports.evaluation_page import pictures, write_evaluation
    from osteo_ray.reports.run import report_again

    results = Path(need(job, "results"))
    folder = results if results.is_dir() else results.parent
    out = Path(job.out) if job.out else folder
    keys = narrow(job, SitePatientKeys)
    labels = _with_truth(open_labels(need(job, "labels"), job.mapping, keys), job.truth)
    answers = read_answers(job.answers)
    manifest = bundle_manifest(job.bundle)
    how: dict[str, Any] = {"level": job.level, "resamples": job.resamples, "seed": job.seed, "timeline": job.timeline}
    ev = judge(results, labels, keys=keys, **how)
    if ev.patients_scored and not ev.patients_labelled:
        raise InputError(_nobody(job, labels, ev))
    paired = None
    if job.against:
        paired = compare(results, job.against, labels, (str(results), job.against), keys=keys, **how)
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(ev.to_json() + "\n")
    lines = ev.lines()
    if paired is not None:
        (out / "comparison.json").write_text(paired.to_json() + "\n")
        lines += ["", *paired.lines()]
    lists = checklists(json.loads(ev.to_json()), manifest, answers)
    for name, png in pictures(ev).items():
        (out / "figures").mkdir(exist_ok=True)
        (out / "figures" / f"{name}.png").write_bytes(png)
    page = write_evaluation(out / "evaluation.html", ev, str(results), paired, lists)
    lines += ["", f"figures  {out / 'evaluation.json'}, {out / 'figures'}", f"page     {page}"]
    # Results of another system have no run behind them, and no report to put the figures into.
    if out == folder and (report := report_again(folder, ev)):
        lines.append(f"report   {report}")
    return lines


def _nobody(job: EvaluateJob, labels: pd.DataFrame, ev: Evaluation) -> str:
    """Why there is nobody to judge by."""
    given = int(labels.loc[labels["label"].notna(), "patient_key"].nunique())
    if not given:
        return f"labels: {job.labels} holds no T-score and no label; give the records with the DXA"
    why = [n for n in ev.notes if n.endswith("were left out")]
    hint = "; ".join(why) or "are pseudonym_key, identity and site those of the index, and is it the same number?"
    return f"labels: none of the {given} patients with a label is among the {ev.patients_scored} scored: {hint}"


def _with_truth(labels: pd.DataFrame, truth: str | None) -> pd.DataFrame:
    """Labels with a synthetic cohort's posteriors beside them, where its truth is given."""
    import pyarrow.parquet as pq

    if truth is None:
        return labels
    posteriors = pq.read_table(truth).to_pandas()
    extra = [c for c in posteriors.columns if c == "patient_key" or c.startswith("p_bayes")]
    return labels.merge(posteriors[extra], on="patient_key", how="left")


COMMAND = Command(EvaluateJob, evaluate, positional="results")
