"""A screening from archive to worklist: index where needed, score, rows by patient, worklist and report in one folder.

The command line, `ray job submit` and the service all call `screen_archive`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from osteo_ray import progress
from osteo_ray.config import narrow, need
from osteo_ray.io.store import Store
from osteo_ray.model import reference
from osteo_ray.outcomes import InputError
from osteo_ray.patients.match import announced, match_catalogue
from osteo_ray.patients.record_set import open_records
from osteo_ray.patients.table import RecordTable
from osteo_ray.screening.config import ScreenConfig, ScreenJob

RESULTS_FILE = "results.parquet"
WRITTEN = {"results": RESULTS_FILE, "worklist": "worklist.csv", "report": "report.html"}


def screen_archive(
    job: ScreenJob, codes: frozenset[str] = frozenset(), states: frozenset[str] = frozenset(), run_id: str | None = None
) -> list[str]:
    """Score an archive; worklist, results and report in `out`. For the rest see `screening.pipeline.screen`."""
    from osteo_ray.catalogue import build as cat
    from osteo_ray.reports.worklist import write_worklist
    from osteo_ray.screening.patients import write_patients
    from osteo_ray.screening.pipeline import dry_run
    from osteo_ray.screening.pipeline import screen as run

    archive, store = need(job, "archive"), Store(need(job, "out"))
    bundle = job.bundle or reference.bundle()
    notes = [] if job.bundle else [f"model    {reference.NOTICE}"]
    cfg = narrow(job, ScreenConfig)
    table = open_records(job.records, job.mapping, cfg.index.pseudonym_key, cfg.index.identity) if job.records else None
    indexed: list[str] = []
    archives = [archive] if isinstance(archive, str) else list(archive)
    if len(archives) == 1 and archives[0].endswith(".parquet"):
        catalogue = archives[0]
    else:
        catalogue = store.path(cat.CATALOGUE_FILE)
        with progress.counted("it") as say:
            indexed = cat.build(archives, store.uri, cfg.index, say).lines()
    if isinstance(table, RecordTable):
        notes += announced(match_catalogue(table, str(catalogue), cfg.index.pseudonym_key, cfg.index.identity))
    only = None
    if job.patients:
        split = pq.read_table(job.patients).to_pylist()
        only = {r["patient_key"] for r in split if r["part"] == job.part}
        if not only:
            raise InputError(f"{job.patients} names no patient of part {job.part!r}")
    if job.dry_run:
        return [*notes, *dry_run(catalogue, table, bundle, store.uri, cfg, only)]
    summary = run(catalogue, table, bundle, store.uri, cfg, only, codes=codes, states=states, run_id=run_id)
    with store.folder(read=[RESULTS_FILE, "summary.json"]) as out:
        patients = write_patients(out / RESULTS_FILE, table, out / "patients.parquet", cfg.people)
        results = pq.read_table(out / RESULTS_FILE)
        worklist = write_worklist(out / "worklist.csv", results, cfg.worklist_top_n_per_week, patients)
        write_report(out, catalogue, cfg.report_studies)
    written = [f"{k:8} {store.path(n)}" for k, n in WRITTEN.items()]
    if worklist.suppressed:
        why = ", ".join(f"{k} {n}" for k, n in sorted(worklist.suppressed.items()))
        written.insert(2, f"{'':8} {sum(worklist.suppressed.values())} patients are in suppressed.csv instead: {why}")
    return [*notes, *indexed, *summary.lines(), *written]


def write_report(out: Path, catalogue: str | Path, studies: int, evaluation=None) -> Path:
    """The run's report.html from what lies in `out`; `evaluation` puts its figures in."""
    from osteo_ray.reports.html import write_run
    from osteo_ray.reports.views import study_views
    from osteo_ray.screening.patients import suppressed_in

    results = pq.read_table(out / RESULTS_FILE)
    summary = json.loads((out / "summary.json").read_text())
    facts = {"run_id": summary["run_id"], "indexed": summary["series"]}
    if not summary["reused"]:  # a rate says something only where this run did all of the work
        facts["wall_s"] = summary["seconds"]
    if reference.NAME in results["model_name"].to_pylist():
        facts["notice"] = reference.NOTICE
    with progress.progress_bar("write report", None, "study"):
        views = study_views(results, catalogue, studies)
        summary.update(catalogue=str(catalogue), report_studies=studies)
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        return write_run(out / "report.html", results, facts, views, evaluation, suppressed=suppressed_in(out))
