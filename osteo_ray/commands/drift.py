"""`osteo-ray drift`: compare a run's patients with the bundle's, or an earlier run's, and say what moved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from osteo_ray.commands import Command
from osteo_ray.config import narrow, need
from osteo_ray.monitoring.config import DriftConfig
from osteo_ray.outcomes import InputError


class Moved(Exception):
    """Raised when all is told: the run's patients are not those that the reference knew."""

    exit_code = 6


class DriftJob(DriftConfig):
    """`osteo-ray drift`."""

    results: str | None = Field(None, description="folder of a run, or its results.parquet")
    bundle: str | None = Field(None, description="the bundle that scored the run")
    baseline: str | None = Field(None, description="an earlier run to compare with; null: the bundle's own patients")
    out: str | None = Field(None, description="JSON file; null: drift.json beside the results")
    seed: int = Field(0, ge=0, description="of the bootstrap's draws and simulated tables")


def drift(job: DriftJob) -> Iterator[str]:
    """Compare a run's patients with the bundle's, or with an earlier run's; say what moved.

    Raises:
        Moved: after the last line, where something did.
    """
    from osteo_ray.model.abstention import MODEL_CODES
    from osteo_ray.model.distributions import Distributions
    from osteo_ray.model.scoring_bundle import ScoringBundle
    from osteo_ray.monitoring.drift import compare
    from osteo_ray.monitoring.frame import of_results
    from osteo_ray.monitoring.pairs import results_table

    results = results_table(need(job, "results"))
    bundle = ScoringBundle.load(need(job, "bundle"))
    acquisition = bundle.config.acquisition
    if job.baseline:
        reference = Distributions.of(of_results(results_table(job.baseline), acquisition))
        causes = None
    elif "distributions" in bundle.metrics:
        reference, causes = Distributions.from_dict(bundle.metrics["distributions"]), MODEL_CODES
    else:
        raise InputError(
            f"{job.bundle} holds no reference distributions (an older bundle); name an earlier run with --baseline, "
            "or train it again"
        )
    current = of_results(results, acquisition, causes)
    if not len(current):
        raise InputError(f"{results}: no patient was scored, or abstained on; there is nothing to compare")
    report = compare(reference, current, narrow(job, DriftConfig), job.seed)
    out = Path(job.out) if job.out else results.with_name("drift.json")
    out.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    yield from report.lines()
    yield f"figures  {out}"
    if not report.findings:
        raise InputError(
            f"nothing could be compared: of {report.patients_current} patients too little is known; "
            "screen more of them, or name another --baseline"
        )
    if report.moved:
        raise Moved("moved: " + ", ".join(f.words for f in report.moved))


COMMAND = Command(DriftJob, drift)
