"""`osteo-ray records`: map a hospital's records of demographics, labs and DXA to the schema; propose a mapping."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, nullcontext
from typing import Literal

from pydantic import Field

from osteo_ray.commands import Command
from osteo_ray.config import need
from osteo_ray.patients.config import RecordMapping, SitePatientKeys


class RecordsJob(RecordMapping, SitePatientKeys):
    """`osteo-ray records`."""

    source: tuple[str, ...] | str | None = Field(
        None, description="files, URIs or folders: .csv, .tsv, .xlsx, .parquet, FHIR .ndjson or Bundle .json"
    )
    out: str | None = Field(None, description="Parquet file in the schema's columns and units; null: report alone")
    partitions: int | None = Field(
        None, ge=1, description="write `out` as a folder, partitioned by patient, that tasks read from; null: one file"
    )
    on_bad: Literal["raise", "missing"] = Field(
        "raise", description="missing: refused values become missing, and are listed"
    )
    catalogue: str | None = Field(None, description="catalogue.parquet of an index: say how many records met a CT")
    draft: str | None = Field(None, description="a table: print a proposal of its mapping, to be corrected, and end")


def records(job: RecordsJob) -> list[str]:
    """Map records to the schema."""
    if job.draft is not None:
        from osteo_ray.patients.draft import draft

        return draft(job.draft)
    from osteo_ray.io.store import new_file
    from osteo_ray.io.uris import absolute
    from osteo_ray.patients import load
    from osteo_ray.patients.findings import Findings
    from osteo_ray.patients.match import announced, match_catalogue
    from osteo_ray.patients.source import convert

    found, out = Findings(), absolute(job.out) if job.out else None
    with ExitStack() as stack:
        # A record set is made of the one file, which then lies in a folder for the time being.
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if job.partitions and out else None
        target = f"{folder}/records.parquet" if folder else out
        with new_file(target) if target else nullcontext() as path:
            how = job.mapping, job.pseudonym_key, job.identity, found, job.on_bad, job.site
            done = convert(need(job, "source"), path, *how)
        counts = ", ".join(f"{k or 'unlabelled'} {n}" for k, n in done.labels.most_common())
        lines = [f"refused  {i}" for i in found.listed()]
        lines += found.report().lines()
        lines.append(f"{done.rows} records of {len(done.patients.keys)} patients: {counts}")
        if job.catalogue:
            lines += announced(match_catalogue(done.patients, job.catalogue, job.pseudonym_key, job.identity))
        if folder and out:
            from osteo_ray.patients.record_set import write_record_set

            record_set = write_record_set(load(str(target)), out, job.partitions)
            lines.append(f"written  {record_set.uri}: {record_set.rows} records in {record_set.partitions} partitions")
        elif out:
            lines.append(f"written  {out}")
    return lines


COMMAND = Command(RecordsJob, records, positional="source")
