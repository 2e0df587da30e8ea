"""`osteo-ray records`: map a hospital's table of demographics and labs to the schema."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteo_ray.config import Section, need
from osteo_ray.io.store import absolute, new_file


class RecordsJob(Section):
    """`osteo-ray records`."""

    source: str | None = None
    mapping: str | None = Field(None, description="shipped name, or path to YAML; null: the default mapping")
    out: str | None = Field(None, description="Parquet file in the schema's columns and units")
    on_bad: Literal["raise", "missing"] = Field(
        "raise", description="missing: refused values become missing, and are listed"
    )
    pseudonym_key: str | None = None


def records(job: RecordsJob) -> list[str]:
    """Map a table of records to the schema."""
    from osteo_ray.patients import load

    table = load(need(job, "source"), job.mapping, job.pseudonym_key, job.on_bad)
    out = absolute(need(job, "out"))
    with new_file(out) as path:
        table.to_parquet(path)
    labels = table.frame["label"].value_counts(dropna=False).to_dict()
    counts = ", ".join(f"{'unlabelled' if k != k or k is None else k} {n}" for k, n in labels.items())
    refused = [f"refused  {i}" for i in table.issues]
    return [f"{len(table)} records: {counts}", *refused, f"written  {out}"]
