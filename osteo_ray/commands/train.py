"""`osteo-ray train`: train a bundle from a catalogue and records."""

from __future__ import annotations

from pydantic import Field

from osteo_ray.commands import Command
from osteo_ray.config import narrow, need, validate
from osteo_ray.patients.config import RecordMapping, SitePatientKeys
from osteo_ray.training.config import TrainConfig

SYNTHETIC_SEED = 4001
"""Of the synthetic people whose slices teach an encoder: not a demo's or the reference bundle's."""


class TrainJob(RecordMapping, SitePatientKeys, TrainConfig):
    """`osteo-ray train`."""

    catalogue: str | None = Field(
        None, description="catalogue.parquet of the archive to train on; null: slice sets alone"
    )
    records: tuple[str, ...] | str | None = Field(
        None,
        description="demographics, labs and T-scores: files, URIs or folders of tables, or the folder of a record set",
    )
    targets: str | None = Field(
        None, description="Parquet of per-slice targets, as `osteo-ray targets` writes them; null: none"
    )
    extra_slices: tuple[str, ...] = Field((), description="slice sets of other archives")
    encoder_slices: tuple[str, ...] = Field(
        (), description="slice sets that teach the encoder as well, by their targets"
    )
    start: str | None = Field(
        None, description="bundle whose encoder is trained on; `reference`: the one that ships; null: random weights"
    )
    synthetic_scans: int = Field(
        0, ge=0, description="synthetic scans made in `out` whose slice targets teach the encoder as well; 0: none"
    )
    heldout_slices: tuple[str, ...] = Field((), description="slice sets of people for the card's figures alone")
    heldout_records: tuple[str, ...] | str | None = Field(None, description="records of the people in `heldout_slices`")
    out: str | None = Field(None, description="working folder, a path or URI; the bundle is in it")
    publish: str | None = Field(None, description="folder or URI that the finished bundle is copied to")


def train(job: TrainJob) -> list[str]:
    """Train a bundle."""
    from osteo_ray.patients.match import announced, match_catalogue
    from osteo_ray.patients.table import RecordTable
    from osteo_ray.training.run import train as run

    read = sources(job)
    met = []
    if job.catalogue and isinstance(read.records, RecordTable):
        met = announced(match_catalogue(read.records, job.catalogue, job.pseudonym_key, job.identity))
    trained = run(read, need(job, "out"), narrow(job, TrainConfig))
    lines = [*trained.lines(), *met]
    if job.publish:
        from osteo_ray.io.store import Store, local_folder
        from osteo_ray.model.bundle_files import COPIED

        store = Store(job.publish)
        with local_folder(trained.bundle, COPIED) as bundle:
            for name in COPIED:
                store.upload(bundle / name, name)
        lines.append(f"published    {store.uri}")
    return lines


def sources(job: TrainJob):
    """What a training job reads."""
    from osteo_ray.patients.record_set import open_records
    from osteo_ray.training.prepare import Sources

    if job.catalogue is None and not job.extra_slices:
        need(job, "catalogue")
    how = job.mapping, job, job.site
    table = open_records(need(job, "records"), *how)
    held = open_records(job.heldout_records, *how) if job.heldout_records else None
    mixed = (*job.encoder_slices, *synthetic_slices(job))
    return Sources(job.catalogue, table, job.targets, job.extra_slices, mixed, job.start, job.heldout_slices, held)


def synthetic_slices(job: TrainJob) -> list[str]:
    """The folder of `synthetic_scans` synthetic scans in `out`, made unless it is there; []: none are wanted."""
    if not job.synthetic_scans:
        return []
    from osteo_ray.commands import cohort
    from osteo_ray.io.uris import absolute, join

    out = join(absolute(need(job, "out")), "synthetic")
    cohort_job = {
        "out": out,
        "persons": job.synthetic_scans,
        "seed": SYNTHETIC_SEED,
        "missing": {"complete_share": 1, "ct_only_share": 0, "no_labs_share": 0},
        "scan": {"size_512_share": 0.1, "size_128_share": 0.06},
        "crop": job.crop.model_dump(),
        "positions": job.selection.view.positions,
    }
    cohort.slices(validate(cohort.CohortJob, cohort_job))
    return [join(out, "slices")]


COMMAND = Command(TrainJob, train)
