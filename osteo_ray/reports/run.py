"""A screening from archive to worklist: index where needed, score, rows by patient, worklist and report in one folder.

The command line, `ray job submit` and the service all call `screen_archive`.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from osteo_ray import progress
from osteo_ray.catalogue import build as cat
from osteo_ray.config import narrow, need, validate
from osteo_ray.io.database import database
from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.store import Store
from osteo_ray.io.uris import absolute
from osteo_ray.model import reference
from osteo_ray.outcomes import InputError
from osteo_ray.patients.match import announced, match_catalogue
from osteo_ray.patients.record_set import open_records
from osteo_ray.patients.table import RecordTable
from osteo_ray.reports.background import PATIENTS_FILE
from osteo_ray.screening.config import IN_ENGLISH, PatientConfig, ReportText, ScreenConfig, ScreenJob
from osteo_ray.screening.ledger import model_of

if TYPE_CHECKING:
    from osteo_ray.evaluation.evaluate import Evaluation

RESULTS_FILE = "results.parquet"
RUN_FILE = "run.json"
WRITTEN = {"results": RESULTS_FILE, "worklist": "worklist.csv", "report": "report.html"}


def claim_folder(job: ScreenJob) -> None:
    """Write down in `out` whose run it holds: of which archive, by which bundle.

    An archive that grew, other records and other settings are the same run: what changed is scored again.

    Raises:
        InputError: it holds another archive's or another bundle's run, and `overwrite` is not set.
    """
    store = Store(need(job, "out"))
    archive = [catalogue_of(a) or absolute(a) for a in _archives(job)]
    model = model_of(job.bundle or reference.bundle())
    before: dict[str, Any] = {}
    if store.is_file(RUN_FILE):
        before = json.loads(store.get(RUN_FILE))
    elif store.is_file("summary.json"):  # a run of a version that wrote no such file
        made = json.loads(store.get("summary.json"))
        before = {"archive": [made["catalogue"]] if "catalogue" in made else None, "model": made.get("model_sha256")}
        if before["archive"] == [store.path(cat.CATALOGUE_FILE)]:
            before["archive"] = None  # indexed into the folder itself: from what is not known
    differ = [k for k, v in (("archive", archive), ("model", model)) if before.get(k) not in (None, v)]
    if differ and not job.overwrite:
        what = {"archive": f"another archive ({', '.join(before.get('archive') or ())})", "model": "another bundle"}
        raise InputError(
            f"out: {store.uri} holds the results of {' and '.join(what[k] for k in differ)}; give another folder, or "
            "replace them with --overwrite"
        )
    store.put(RUN_FILE, (json.dumps({"archive": archive, "model": model}, indent=1) + "\n").encode())


def catalogue_of(archive: str) -> str | None:
    """The catalogue where `archive` names one, or the folder of a finished index; None where it is to be indexed."""
    if archive.endswith(".parquet"):
        return absolute(archive)
    if archive.startswith("dicomweb+") or "::" in archive or not Store(archive).exists(cat.CATALOGUE_FILE):
        return None
    return Store(archive).path(cat.CATALOGUE_FILE)


def _archives(job: ScreenJob) -> list[str]:
    archive = need(job, "archive")
    return [archive] if isinstance(archive, str) else list(archive)


def _catalogue(archives: list[str], out: str, cfg: ScreenConfig) -> tuple[str, list[str]]:
    """The catalogue to screen, and what there is to say of an index that was made for it in `out`.

    Raises:
        InputError: it holds no series.
    """
    known = [catalogue_of(a) for a in archives]
    if len(archives) == 1 and known[0] is not None:
        if not len(open_set(known[0])):
            raise InputError(f"{known[0]} holds no series: the archive that it was made of was empty, or not mounted")
        return known[0], []
    if any(known):
        raise InputError("archive: give one index, or archives alone; `osteo-ray index A B` makes one index of several")
    named = ", ".join(archives)
    progress.notice(f"indexing {named} first; `osteo-ray index` does it once for all runs, which then take its folder")
    with progress.counted(cat.UNITS) as say:
        summary = cat.build(archives, out, cfg.index, say)
    cat.check_not_empty(summary, archives)
    return Store(out).path(cat.CATALOGUE_FILE), summary.lines()


def screen_archive(
    job: ScreenJob, codes: frozenset[str] = frozenset(), states: frozenset[str] = frozenset(), run_id: str | None = None
) -> list[str]:
    """Score an archive; worklist, results and report in `out`. For the rest see `screening.pipeline.screen`.

    Raises:
        InputError: the archive holds no CT series.
    """
    from osteo_ray.reports.worklist import write_worklist
    from osteo_ray.screening.patients import write_patients
    from osteo_ray.screening.pipeline import dry_run
    from osteo_ray.screening.pipeline import screen as run

    bundle = job.bundle or reference.bundle()
    notes = [] if job.bundle else [f"model    {reference.NOTICE}"]
    cfg = narrow(job, ScreenConfig)
    with ExitStack() as stack:
        nowhere = None if job.out or not job.dry_run else stack.enter_context(tempfile.TemporaryDirectory())
        store = Store(nowhere or need(job, "out"))
        table = open_records(job.records, job.mapping, cfg.index) if job.records else None
        indexes = stack.enter_context(tempfile.TemporaryDirectory()) if job.dry_run else store.uri
        catalogue, indexed = _catalogue(_archives(job), indexes, cfg)
        if isinstance(table, RecordTable):
            notes += announced(match_catalogue(table, str(catalogue), cfg.index.pseudonym_key, cfg.index.identity))
        only = None
        if job.patients:
            split = pq.read_table(job.patients).to_pylist()
            only = {r["patient_key"] for r in split if r["part"] == job.part}
            if not only:
                raise InputError(f"{job.patients} names no patient of part {job.part!r}")
        if job.dry_run:
            return [*notes, *indexed[:-1], *dry_run(catalogue, table, bundle, store.uri, cfg, only)]
    summary = run(catalogue, table, bundle, store.uri, cfg, only, codes=codes, states=states, run_id=run_id)
    with store.folder(read=[RESULTS_FILE, "summary.json"]) as out:
        results, patients = out / RESULTS_FILE, out / PATIENTS_FILE
        write_patients(results, table, patients, cfg.people)
        worklist = write_worklist(out / "worklist.csv", results, cfg.worklist_top_n_per_week, patients, cfg.text)
        write_report(out, catalogue, cfg.report_studies, text=cfg.text, people=cfg.people)
    written = [f"{k:8} {store.path(n)}" for k, n in WRITTEN.items()]
    if worklist.suppressed:
        why = ", ".join(f"{k} {n}" for k, n in sorted(worklist.suppressed.items()))
        written.insert(2, f"{'':8} {sum(worklist.suppressed.values())} patients are in suppressed.csv instead: {why}")
    return [*notes, *indexed, *summary.lines(), *written]


def write_report(
    out: Path,
    catalogue: str | Path,
    studies: int,
    evaluation: Evaluation | None = None,
    text: ReportText = IN_ENGLISH,
    people: PatientConfig | None = None,
) -> Path:
    """The run's report.html from what lies in `out`; `evaluation` puts its figures in. `report_again` does the same."""
    from osteo_ray.reports.html import write_run
    from osteo_ray.reports.views import study_views
    from osteo_ray.screening.patients import suppressed_in
    from osteo_ray.screening.schema import RESULTS

    results = out / RESULTS_FILE
    summary = json.loads((out / "summary.json").read_text())
    facts = {"run_id": summary["run_id"], "indexed": summary["series"]}
    if not summary["reused"]:  # a rate says something only where this run did all of the work
        facts["wall_s"] = summary["seconds"]
    with database(results=(results, RESULTS)) as db:
        if db.execute("SELECT 1 FROM results WHERE model_name = ? LIMIT 1", [reference.NAME]).fetchone():
            facts["notice"] = reference.NOTICE
    with progress.progress_bar("write report", None, "study"):
        people = people or PatientConfig()
        views = study_views(results, catalogue, studies, people, out / PATIENTS_FILE)
        told = {"text": text.model_dump(mode="json"), "people": people.model_dump(mode="json")}
        summary.update(catalogue=str(catalogue), report_studies=studies, report=told)
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        return write_run(
            out / "report.html", results, facts, views, evaluation, suppressed=suppressed_in(out), text=text
        )


def report_again(out: Path, evaluation: Evaluation) -> Path | None:
    """The run's report as it was asked for, with an evaluation's figures; None where there was no report."""
    file = out / "summary.json"
    summary = json.loads(file.read_text()) if file.exists() else {}
    if "catalogue" not in summary:
        return None
    told = summary.get("report", {})  # a run of an earlier version was reported in English
    text, people = validate(ReportText, told.get("text", {})), validate(PatientConfig, told.get("people", {}))
    return write_report(out, summary["catalogue"], summary["report_studies"], evaluation, text, people)
