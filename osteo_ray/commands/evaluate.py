"""`osteo-ray evaluate`: judge results by labels, of this or any other system, alone or against another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from osteo_ray.commands import Command
from osteo_ray.commands.checklist import bundle_manifest
from osteo_ray.config import Section, need
from osteo_ray.outcomes import InputError
from osteo_ray.patients.config import IdentityConfig, TimelineConfig


class EvaluateJob(Section):
    """`osteo-ray evaluate`."""

    results: str | None = Field(
        None, description="results.parquet, the folder that holds it, or any system's scores as CSV or Parquet"
    )
    labels: str | None = Field(None, description="records with a T-score, or a table of patient_key and label")
    mapping: str | None = Field(
        None,
        description="shipped name (default, nhanes), or path to a YAML, of how the records' columns map "
        "to the schema; null: default; for labels that are records",
    )
    pseudonym_key: str | None = Field(
        None,
        description="secret that keys patient pseudonyms: the same for index, records and cohort; null: "
        "no key, so that pseudonyms can be recomputed from patient numbers",
    )
    identity: IdentityConfig = Field(IdentityConfig(), description="when two patient numbers are one; as in the index")
    truth: str | None = Field(None, description="synthetic cohort's truth/patients.parquet: Bayes-optimal AUC beside")
    against: str | None = Field(None, description="other results of the same patients, compared pair by pair")
    bundle: str | None = Field(None, description="the bundle that scored, for the reporting checklists")
    answers: str | None = Field(None, description="YAML with the site's own answers to the checklists")
    out: str | None = Field(None, description="folder for what is written; null: beside the results")
    level: float = Field(0.95, gt=0, lt=1, description="confidence level of every interval")
    resamples: int = Field(1000, ge=100, description="draws of the bootstrap over patients")
    seed: int = Field(0, ge=0, description="of the bootstrap's draws")
    timeline: TimelineConfig = TimelineConfig()


def evaluate(job: EvaluateJob) -> list[str]:
    """Judge results by labels: evaluation.json, evaluation.html and figures; the run's report gets the figures too."""
    from osteo_ray.evaluation.checklists import checklists, read_answers
    from osteo_ray.evaluation.compare import compare
    from osteo_ray.evaluation.evaluate import evaluate as judge
    from osteo_ray.reports.evaluation_page import pictures, write_evaluation
    from osteo_ray.reports.run import write_report

    results = Path(need(job, "results"))
    folder = results if results.is_dir() else results.parent
    out = Path(job.out) if job.out else folder
    labels = _labels(job)
    answers = read_answers(job.answers)
    manifest = bundle_manifest(job.bundle)
    boot: dict[str, Any] = {"level": job.level, "resamples": job.resamples, "seed": job.seed, "timeline": job.timeline}
    ev = judge(results, labels, pseudonym_key=job.pseudonym_key, **boot)
    paired = None
    if job.against:
        paired = compare(
            results, job.against, labels, (str(results), job.against), pseudonym_key=job.pseudonym_key, **boot
        )
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
    summary = json.loads((folder / "summary.json").read_text()) if (folder / "summary.json").exists() else {}
    if "catalogue" in summary and out == folder:
        lines.append(f"report   {write_report(folder, summary['catalogue'], summary['report_studies'], ev)}")
    return lines


def _labels(job: EvaluateJob) -> Any:
    """Labels as a frame: a plain table as it is, anything else through the records' mapping."""
    import pyarrow.parquet as pq

    from osteo_ray.evaluation.tables import is_plain_labels, read_labels
    from osteo_ray.patients import load_records

    path = need(job, "labels")
    if not Path(path).exists():
        raise InputError(f"{path}: no such file; give records with a T-score, or a table of patient_key and label")
    if job.mapping is None and is_plain_labels(path):
        frame = read_labels(path, job.pseudonym_key)
    else:
        frame = load_records(path, job.mapping, job.pseudonym_key, identity=job.identity).frame
    if job.truth:
        truth = pq.read_table(job.truth).to_pandas()
        extra = [c for c in truth.columns if c == "patient_key" or c.startswith("p_bayes")]
        frame = frame.merge(truth[extra], on="patient_key", how="left")
    return frame


COMMAND = Command(EvaluateJob, evaluate, positional="results")
