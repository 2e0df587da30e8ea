"""What `osteo-ray report` does: reports of chosen results, and their way into a PACS."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from osteo_ray import progress
from osteo_ray.commands import Command
from osteo_ray.config import narrow, need
from osteo_ray.outcomes import InputError, State
from osteo_ray.reports.config import PackageConfig

if TYPE_CHECKING:
    from osteo_ray.reports.source import Identity


class ReportJob(PackageConfig):
    """`osteo-ray report`."""

    results: str | None = Field(None, description="folder of a run, or its results.parquet")
    catalogue: str | None = Field(
        None, description="catalogue.parquet of the run; null: the one that the run was made from"
    )
    out: str | None = Field(None, description="folder for the reports; null: studies/ in the run's folder")
    series: tuple[str, ...] = Field((), description="series UIDs; empty: by state and risk")
    states: tuple[State, ...] = Field(
        (State.SCORED, State.SCORED_WARN, State.ABSTAINED),
        min_length=1,
        description="results in these states are reported where no series is named",
    )
    top: int | None = Field(None, ge=1, description="only so many results, those of highest risk; null: all")
    stow: str | None = Field(None, description="DICOMweb address that SR and secondary captures are stored to")


def report(job: ReportJob) -> list[str]:
    """Write the reports of chosen results; store their DICOM objects where a PACS is named."""
    try:
        from osteo_ray.reports.background import PATIENTS_FILE, backgrounds
        from osteo_ray.reports.package import write_package
        from osteo_ray.reports.stow import held_for_another, store
    except ModuleNotFoundError as e:
        raise InputError(f"{e.name} is missing; pip install 'osteo-ray[reports]' brings it") from None

    given = Path(need(job, "results"))
    table = given / "results.parquet" if given.is_dir() else given
    if not table.exists():
        raise InputError(f"{table} is not there; give the folder of a finished run")
    rows = chosen(table, job)
    catalogue = _catalogue(job, table.parent)
    by_uid = _series(catalogue, rows)
    out = Path(job.out) if job.out else table.parent / "studies"
    known = backgrounds(table, rows, job.people, table.with_name(PATIENTS_FILE))
    created = datetime.now().astimezone().replace(microsecond=0)  # DICOM's times are local ones, with their zone
    cfg = narrow(job, PackageConfig)
    counts: Counter[str] = Counter()
    problems: list[str] = []
    identities: dict[str, Identity | None] = {}
    out.mkdir(parents=True, exist_ok=True)
    with (
        (out / "reports.jsonl").open("w", encoding="utf-8") as ledger,
        progress.progress_bar("write reports", len(rows), "study") as advance,
    ):
        for row in rows:
            package = write_package(out, row, _match(row, by_uid), cfg, created, background=known[row["row_key"]])
            line: dict[str, Any] = {
                "row_key": row["row_key"],
                "series_uid": row["series_uid"],
                "state": row["state"],
                "written": sorted(package.files),
                "problems": list(package.problems),
                "stored": [],
            }
            counts.update(package.files.keys())
            identities[row["series_uid"]] = package.identity
            if job.stow and (dicom := [package.files[k] for k in ("sr", "sc") if k in package.files]):
                try:
                    if warning := held_for_another(job.stow, dicom):
                        line["problems"].append(warning)
                    line["stored"] = store(job.stow, dicom)
                    counts["stored"] += len(dicom)
                except InputError as e:
                    line["problems"].append(str(e))
            problems += line["problems"]
            ledger.write(json.dumps(line) + "\n")
            advance(1)
    lines = [f"problem  {p}" for p in problems[:20]]
    if len(problems) > 20:
        lines.append(f"problem  and {len(problems) - 20} more, in {out / 'reports.jsonl'}")
    worklist = table.with_name("worklist.csv")
    if job.identifiers and worklist.exists():
        from osteo_ray.reports.worklist import write_identified

        n = write_identified(out / "worklist-identified.csv", worklist, identities)
        lines.append(f"worklist {out / 'worklist-identified.csv'}: {n} lines with name and number")
    written = ", ".join(f"{k} {n}" for k, n in counts.items())
    return [*lines, f"{len(rows)} results: {written or 'nothing written'}", f"reports  {out}"]


def chosen(results: Path, job: ReportJob) -> list[dict[str, Any]]:
    """The result rows that a job asks for, of highest risk first; only these are read whole.

    Raises:
        InputError: a series that the results do not hold, or nothing chosen at all.
    """
    import pyarrow.compute as pc

    from osteo_ray.reports.results import by_risk, columns_of

    asked = pc.field("series_uid").isin(job.series)
    if not job.series:
        asked = pc.field("state").isin([str(s) for s in job.states])
    rows = by_risk(results, asked, job.top)
    missing = sorted(set(job.series) - set(columns_of(results, ["series_uid"], asked)["series_uid"].to_pylist()))
    if missing:
        raise InputError(f"the results hold no series {', '.join(missing)}")
    if not rows:
        raise InputError(f"no result is {' or '.join(job.states)}; there is nothing to report")
    return rows


def _catalogue(job: ReportJob, folder: Path) -> str:
    from osteo_ray.io.parquet_set import is_finished

    if job.catalogue:
        return job.catalogue
    summary = folder / "summary.json"
    facts = json.loads(summary.read_text()) if summary.exists() else {}
    uri = str(facts.get("catalogue", folder / "catalogue.parquet"))
    if not is_finished(uri):
        raise InputError(f"the catalogue {uri} is not there; name it with --catalogue")
    return uri


def _series(catalogue: str, rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The catalogue rows of these results' series; a split series has several."""
    import pyarrow.compute as pc

    from osteo_ray.io.parquet_set import open_set

    wanted = pc.field("series_uid").isin([r["series_uid"] for r in rows])
    out: dict[str, list[dict[str, Any]]] = {}
    for row in open_set(catalogue).of_key([r["study_uid"] for r in rows], wanted).to_pylist():
        out.setdefault(row["series_uid"], []).append(row)
    return out


def _match(row: Mapping[str, Any], by_uid: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """The catalogue row behind a result: the open one, or where the index closed the series, the one with its code."""
    found = by_uid.get(row["series_uid"], [])
    closed = [r for r in found if r["state"] == row["state"] and r["code"] == row["code"]]
    return next((r for r in found if r["state"] is None and not closed), closed[0] if closed else None)


COMMAND = Command(ReportJob, report, positional="results")
