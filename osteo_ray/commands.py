"""One function a command: a typed job in, work done, lines to print out.

The command line, `ray job submit` and a notebook all call these. A job's YAML holds its paths too, so that
`python jobs/screen.py --config screen.yaml` is all that a cluster needs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow.parquet as pq
from pydantic import Field

from osteo_ray import progress, reference
from osteo_ray.archive.config import IndexConfig
from osteo_ray.bundle import FILES
from osteo_ray.config import ConfigError, Section, narrow
from osteo_ray.outcomes import InputError
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.store import Store, absolute, new_file, read_table
from osteo_ray.training.config import TrainConfig


class IndexJob(IndexConfig):
    """`osteo-ray index`."""

    archive: tuple[str, ...] | str | None = Field(None, description="folder, zip, tar, s3:// or DICOMweb address")
    out: str | None = Field(None, description="folder for catalogue.parquet and files.parquet")


class RecordsJob(Section):
    """`osteo-ray records`."""

    source: str | None = None
    mapping: str | None = Field(None, description="shipped name, or path to YAML; null: the default mapping")
    out: str | None = Field(None, description="Parquet file in the schema's columns and units")
    on_bad: Literal["raise", "missing"] = Field(
        "raise", description="missing: refused values become missing, and are listed"
    )
    pseudonym_key: str | None = None


class TrainJob(TrainConfig):
    """`osteo-ray train`."""

    catalogue: str | None = Field(None, description="null: slice sets alone")
    records: tuple[str, ...] | str | None = None
    mapping: str | None = None
    pseudonym_key: str | None = None
    targets: str | None = Field(None, description="per-slice truth, Parquet; null: none")
    extra_slices: tuple[str, ...] = Field((), description="slice sets of other archives")
    encoder_slices: tuple[str, ...] = Field((), description="slice sets for the encoder alone; none: the patients' own")
    heldout_slices: tuple[str, ...] = Field((), description="slice sets of people for the card's figures alone")
    heldout_records: tuple[str, ...] | str | None = Field(None, description="their records")
    out: str | None = Field(None, description="working folder, on a disk of the driver's node; the bundle is in it")
    publish: str | None = Field(None, description="folder or URI that the finished bundle is copied to")


class ScreenJob(ScreenConfig):
    """`osteo-ray screen`."""

    archive: tuple[str, ...] | str | None = Field(None, description="archive, or a catalogue.parquet made by index")
    records: str | None = Field(None, description="null: CT alone")
    mapping: str | None = None
    bundle: str | None = Field(None, description="null: the reference bundle, which is not validated on patients")
    out: str | None = None
    patients: str | None = Field(None, description="Parquet with patient_key and part: screen only `part`'s patients")
    part: str = "test"
    dry_run: bool = False


def index(job: IndexJob) -> list[str]:
    """Build a catalogue of an archive."""
    from osteo_ray.archive import catalogue

    with progress.counted("it") as say:
        summary = catalogue.build(need(job, "archive"), need(job, "out"), narrow(job, IndexConfig), say)
    return summary.lines()


def records(job: RecordsJob) -> list[str]:
    """Map a table of records to the schema."""
    from osteo_ray.records import load

    table = load(need(job, "source"), job.mapping, job.pseudonym_key, job.on_bad)
    out = absolute(need(job, "out"))
    with new_file(out) as path:
        table.to_parquet(path)
    labels = table.frame["label"].value_counts(dropna=False).to_dict()
    counts = ", ".join(f"{'unlabelled' if k != k or k is None else k} {n}" for k, n in labels.items())
    refused = [f"refused  {i}" for i in table.issues]
    return [f"{len(table)} records: {counts}", *refused, f"written  {out}"]


def train(job: TrainJob) -> list[str]:
    """Train a bundle."""
    from osteo_ray.training.run import train as run

    made = run(sources(job), need(job, "out"), narrow(job, TrainConfig))
    lines = made.lines()
    if job.publish:
        store = Store(job.publish)
        for name in (*FILES, "SHA256SUMS"):
            store.put(name, (made.bundle / name).read_bytes())
        lines.append(f"published    {store.uri}")
    return lines


def sources(job: TrainJob):
    """What a training job reads."""
    from osteo_ray.training.prepare import Sources

    if job.catalogue is None and not job.extra_slices:
        need(job, "catalogue")
    table = read_records(need(job, "records"), job.mapping, job.pseudonym_key)
    held = read_records(job.heldout_records, job.mapping, job.pseudonym_key) if job.heldout_records else None
    return Sources(job.catalogue, table, job.targets, job.extra_slices, job.encoder_slices, job.heldout_slices, held)


def screen(
    job: ScreenJob, codes: frozenset[str] = frozenset(), states: frozenset[str] = frozenset(), run_id: str | None = None
) -> list[str]:
    """Score an archive; worklist, results and report in `out`. For the rest see `screening.pipeline.screen`."""
    from osteo_ray.archive import catalogue as cat
    from osteo_ray.reports.worklist import write_worklist
    from osteo_ray.screening.patients import write_patients
    from osteo_ray.screening.pipeline import dry_run
    from osteo_ray.screening.pipeline import screen as run

    archive, store = need(job, "archive"), Store(need(job, "out"))
    bundle = job.bundle or reference.bundle()
    said = [] if job.bundle else [f"model    {reference.NOTICE}"]
    cfg = narrow(job, ScreenConfig)
    table = read_records(job.records, job.mapping, cfg.index.pseudonym_key) if job.records else None
    indexed: list[str] = []
    archives = [archive] if isinstance(archive, str) else list(archive)
    if len(archives) == 1 and archives[0].endswith(".parquet"):
        catalogue = archives[0]
    else:
        catalogue = store.path(cat.CATALOGUE_FILE)
        with progress.counted("it") as say:
            indexed = cat.build(archives, store.uri, cfg.index, say).lines()
    only = None
    if job.patients:
        split = pq.read_table(job.patients).to_pylist()
        only = {r["patient_key"] for r in split if r["part"] == job.part}
        if not only:
            raise InputError(f"{job.patients} names no patient of part {job.part!r}")
    if job.dry_run:
        return [*said, *dry_run(catalogue, table, bundle, store.uri, cfg, only)]
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
    return [*said, *indexed, *summary.lines(), *written]


RESULTS_FILE = "results.parquet"
WRITTEN = {"results": RESULTS_FILE, "worklist": "worklist.csv", "report": "report.html"}


def write_report(out: Path, catalogue: str | Path, studies: int, evaluation=None) -> Path:
    """The run's report.html from what lies in `out`; `evaluation` puts its figures in."""
    from osteo_ray.reports.html import write_run
    from osteo_ray.reports.views import study_views
    from osteo_ray.screening.patients import suppressed_in

    results = pq.read_table(out / RESULTS_FILE)
    made = json.loads((out / "summary.json").read_text())
    facts = {"run_id": made["run_id"], "indexed": made["series"]}
    if not made["reused"]:  # a rate says something only where this run did all of the work
        facts["wall_s"] = made["seconds"]
    if reference.NAME in results["model_name"].to_pylist():
        facts["notice"] = reference.NOTICE
    with progress.stage("write report", None, "study"):
        views = study_views(results, read_table(catalogue), studies)
        made.update(catalogue=str(catalogue), report_studies=studies)
        (out / "summary.json").write_text(json.dumps(made, indent=1) + "\n")
        return write_run(out / "report.html", results, facts, views, evaluation, suppressed=suppressed_in(out))


def read_records(paths: str | tuple[str, ...], mapping: str | None, key: str | None):
    """Records of one or more files as one table."""
    from osteo_ray.records import load
    from osteo_ray.records.table import RecordTable

    tables = [load(p, mapping, key) for p in ([paths] if isinstance(paths, str) else paths)]
    return RecordTable.of(pd.concat([t.frame for t in tables], ignore_index=True))


def need(job: Section, key: str):
    """A job's value that has no default; `ConfigError` where it was not given."""
    value = getattr(job, key)
    if value is None:
        raise ConfigError(f"{key}: not given; {type(job).model_fields[key].description or 'a path'}")
    return value
