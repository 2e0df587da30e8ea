"""A service without Serve: the real app and the real scorer in one process, over a synthetic archive."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from osteo_ray.config import validate
from osteo_ray.service.config import ServeConfig, check
from osteo_ray.service.drive import drive
from osteo_ray.service.runs import Run, RunJob, Runs
from osteo_ray.service.scoring import Answer, Model, ModelHost, Pointer


def config(home: Path, cohort_run: Any, bundle: Path, **changes: Any) -> ServeConfig:
    data: dict[str, Any] = {
        "runs": str(home / "runs"),
        "bundle": str(bundle),
        "bundles": [str(bundle.parent)],
        "archives": {"roots": [str(cohort_run.archive)]},
        "records": [str(cohort_run.records.parent)],
        "names": ["testserver"],
        "screening": {"pipeline": {"actors": 1, "actor_cpus": 0.5}, "report_studies": 1},
    }
    return check(validate(ServeConfig, data | changes))


def runs_of(cfg: ServeConfig) -> Runs:
    """The screenings of a service whose config `config` wrote."""
    assert cfg.runs is not None
    return Runs(cfg.runs)


def study_config(home: Path, bundle: Path, **changes: Any) -> ServeConfig:
    """A service that scores single studies, without an archive."""
    data: dict[str, Any] = {"runs": str(home / "runs"), "bundle": str(bundle), "bundles": [str(home)]}
    return check(validate(ServeConfig, data | {"screening": {"scoring": {"shap": False}}} | changes))


class LocalScoring:
    """`scoring.Scoring` in this process; its children are real."""

    def __init__(self, cfg: ServeConfig):
        assert cfg.bundle is not None
        pointer = Pointer(runs_of(cfg).store)
        pointer.deploy(cfg.bundle)
        self.host = ModelHost(pointer, cfg)
        self.host.refresh()

    async def score(self, study: str, values: np.ndarray) -> Answer:
        return await self.host.score(study, values)

    async def model(self) -> Model:
        return self.host.model

    async def fault(self) -> str | None:
        return await self.host.fault()


class QuietSupervisor:
    """Nothing is started: what the API writes is what is tested."""

    def __init__(self, runs: Runs):
        self.runs = runs

    async def wake(self) -> None:
        return

    async def cancel(self, run_id: str) -> None:
        from osteo_ray.service.runs import RunState

        run = self.runs.get(run_id)
        assert run is not None
        run.end(RunState.CANCELLED)


def finished(cfg: ServeConfig, cohort_run: Any) -> Run:
    """A screening of the synthetic archive, done in this process."""
    assert cfg.bundle is not None
    job = RunJob(str(cohort_run.archive), str(cohort_run.records), None, {}, cfg.bundle, "tester", 1.0e9)
    run = runs_of(cfg).create(job)
    run.begin()
    drive(run, cfg)
    return run


def study_zip(cohort_run: Any, path: Path) -> Path:
    """The study of the first patient whose axial series is open, as a zip."""
    import pyarrow.parquet as pq

    from osteo_ray.dicom.sources import file_path

    rows = pq.read_table(cohort_run.catalogue).to_pylist()
    row = next(r for r in rows if r["state"] is None and r["instances"][0]["uri"].startswith("file://"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for i, uri in enumerate(sorted({x["uri"] for x in row["instances"]})):
            z.write(file_path(uri), f"{i}.dcm")
    return path
