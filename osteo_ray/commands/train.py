"""`osteo-ray train`: train a bundle from a catalogue and records."""

from __future__ import annotations

from pydantic import Field

from osteo_ray.config import narrow, need
from osteo_ray.io.store import Store
from osteo_ray.patients import load_records
from osteo_ray.training.config import TrainConfig


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


def train(job: TrainJob) -> list[str]:
    """Train a bundle."""
    from osteo_ray.training.run import train as run

    made = run(sources(job), need(job, "out"), narrow(job, TrainConfig))
    lines = made.lines()
    if job.publish:
        from osteo_ray.model.bundle import FILES

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
    table = load_records(need(job, "records"), job.mapping, job.pseudonym_key)
    held = load_records(job.heldout_records, job.mapping, job.pseudonym_key) if job.heldout_records else None
    return Sources(job.catalogue, table, job.targets, job.extra_slices, job.encoder_slices, job.heldout_slices, held)
