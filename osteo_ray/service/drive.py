"""One screening of the service, from what was asked to its end: the program of its Ray job, or of an actor.

drive(run, cfg)                                            # DONE or FAILED is written down in the run's folder
python -m osteo_ray.service.drive runs/service/<id>        # the same, as `ray job submit` runs it
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from osteo_ray import ray_setup
from osteo_ray.dicom.library_logs import keep_values_out
from osteo_ray.patients.mapping import shipped
from osteo_ray.service.config import ServeConfig
from osteo_ray.service.http.problems import Problem
from osteo_ray.service.runs import OPEN, Run, RunJob, RunState
from osteo_ray.service.security import allowed_archive, under

WORDS = 1000
MODULE = "osteo_ray.service.drive"
log = logging.getLogger(__name__)


def drive(run: Run, cfg: ServeConfig) -> RunState:
    """The work of `osteo-ray screen` in the run's folder; how it ended is written down there."""
    from osteo_ray.reports.run import screen_archive
    from osteo_ray.screening.config import ScreenJob

    if (before := run.saved.state) not in OPEN:  # cancelled while it waited for a node
        return before
    state, error = RunState.DONE, None
    try:
        check_again(run.job, cfg)
        look_from_nodes(run)
        for line in screen_archive(ScreenJob.model_validate(screen_job(run, cfg))):
            log.info("%s", line)
    except Problem as p:
        state, error = RunState.FAILED, f"{p.code}: {p.detail}"
    except Exception as e:  # whatever it was, the screening ended by it, and says so
        log.exception("screening %s", run.id)
        state, error = RunState.FAILED, _short(f"{type(e).__name__}: {e}")
    run.end(state, error)
    return state


def _short(text: str) -> str:
    """Beginning and end: of an error of another process the cause stands last."""
    return text if len(text) <= WORDS else f"{text[: WORDS // 2]} ... {text[-WORDS // 2 :]}"


def check_again(job: RunJob, cfg: ServeConfig) -> None:
    """What was allowed when it was submitted may have become a link, or the operator may have taken it off the list.

    Raises:
        Problem: it is not allowed now, or not what it was.
    """
    from osteo_ray.reports.run import catalogue_of

    found = [(job.archive, allowed_archive(job.archive, cfg.archives))]
    if job.records is not None:
        found.append((job.records, str(under(job.records, cfg.records, "records"))))
    if job.mapping is not None and job.mapping not in shipped():
        found.append((job.mapping, str(under(job.mapping, cfg.records, "mapping"))))
    for before, now in found:
        if before != now:
            raise Problem(403, "NOT_ALLOWED", "a path leads elsewhere than when it was submitted")
    if catalogue_of(job.archive) is not None:  # `screen` would take one that lies in the archive's folder
        raise Problem(403, "NOT_ALLOWED", "a catalogue holds addresses of its own, which nobody has checked")


def look_from_nodes(run: Run) -> None:
    """On a cluster: every node sees the archive and the bundle, and can write to the run's folder.

    Raises:
        InputError: a line a node and path that is not so, with the remedy; before any work.
    """
    if not ray_setup.joined():
        return
    from osteo_ray.io.every_node import check_nodes, place
    from osteo_ray.model.bundle_files import COPIED

    job = run.job
    check_nodes(run.out, [place("archive", job.archive), place("bundle", job.bundle, COPIED)])


def screen_job(run: Run, cfg: ServeConfig) -> dict[str, Any]:
    """The typed job of `osteo-ray screen` for what was asked. Links are never followed: see `security`."""
    job: RunJob = run.job
    o = job.options
    base = cfg.screening.model_dump(mode="json")
    base["index"]["follow_links"] = False
    if o.get("gate_policy") is not None:
        base["index"]["gates"]["policy"] = o["gate_policy"]
    if o.get("shap") is not None:
        base["scoring"]["shap"] = o["shap"]
    if o.get("worklist_top_n_per_week") is not None:
        base["worklist_top_n_per_week"] = o["worklist_top_n_per_week"]
    given = {"archive": job.archive, "records": job.records, "mapping": job.mapping, "bundle": job.bundle}
    return base | given | {"out": run.out}


def main(folder: str) -> int:
    """Of a Ray job; its exit code says how the screening ended."""
    os.umask(0o077)  # results are the owner's alone
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_values_out()
    run = Run.at(folder)
    ray_setup.start()
    return 0 if drive(run, run.config) == RunState.DONE else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
