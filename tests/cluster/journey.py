"""The jobs of a site, one after the other, in one place: a bucket, or a path that every node mounts.

for step in steps(place, LONG): done = step.run(rig)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rig import Rig
from screening_job import Service
from small_training import TRAIN

SHORT = ("index", "screen", "report")
LONG = (
    *("index", "records", "dry run", "screen", "again", "retry"),
    *("evaluate", "report", "drift", "recalibrate", "train", "tune"),
)
UNSEEN = "another folder than the driver's"
At = Callable[[str], str]
"""Name of a file or folder -> its path or URI in the place."""


@dataclass(frozen=True)
class Step:
    """A submitted job and what its log has to say; `works`: whether it ends as SUCCEEDED."""

    job: str
    config: dict[str, Any]
    says: str
    action: str = ""
    works: bool = True
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)  # more YAML in the working directory


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    job: str
    good: bool
    seconds: float
    log: str


def run(rig: Rig, step: Step) -> Done:
    """Submit a job and wait for it."""
    for name, config in step.beside.items():
        rig.write(name, config)
    begun = time.monotonic()
    succeeded, log = rig.end(rig.start(step.job, step.config, step.action))
    return Done(step.job, succeeded == step.works and step.says in log, time.monotonic() - begun, log)


def steps(at: At, jobs: tuple[str, ...]) -> Iterator[Step]:
    """The jobs, in the order in which each finds what it needs.

    Args:
        at: `ct`, `records.csv`, `labels.csv` and `bundle` lie there; the rest is written there.
    """
    run = {"results": at("run"), "bundle": at("bundle")}
    screen = {
        "archive": at("index"),
        "records": at("records") if "records" in jobs else at("records.csv"),
        "bundle": at("bundle"),
        "out": at("run"),
        "scoring": {"shap": False},
        "report_studies": 1,
        "pipeline": {"series_per_task": 2},
    }
    train = TRAIN | {"extra_slices": [f"{at('people')}/slices"], "out": at("train")}
    train |= {"records": f"{at('people')}/records.csv", "publish": at("trained")}
    tune = {
        "train": "train.yaml",
        "out": at("tune"),
        "splits": 2,
        "search": {"trials": 4, "startup": 2},
        "tabular": {"kdamm.tabular.epochs": {"kind": "int", "low": 1, "high": 5}},
        "image": {"kdamm.image.lr": {"kind": "loguniform", "low": 0.001, "high": 0.01}},
    }
    people = {"seed": 6, "persons": 330, "scan": {"size_512_share": 0, "slice_max": 40}, "positions": 16}
    people |= {"missing": {"complete_share": 0.2}, "out": at("people")}
    every = {
        "index": [Step("index", {"archive": at("ct"), "out": at("index")}, "catalogue:")],
        "records": [
            Step("records", {"source": at("records.csv"), "out": at("records"), "partitions": 2}, "2 partitions")
        ],
        "dry run": [Step("screen", screen | {"dry_run": True}, "to score")],
        "screen": [Step("screen", screen, "indexed series")],
        "again": [Step("screen", screen, "0 scored now")],
        "retry": [Step("retry", screen | {"code": ["GATE_WARN", "OK"]}, "scored now")],
        "evaluate": [
            Step(
                "evaluate",
                {"results": at("run"), "labels": at("records.csv"), "resamples": 100, "out": at("evaluation")},
                "evaluation.json",
            )
        ],
        "report": [
            Step("report", {"results": at("run"), "top": 1, "formats": ["json"], "out": at("reports")}, "1 results")
        ],
        # Of so few patients nothing can be compared, and no risk fitted: each says so, from what it has read.
        "drift": [
            Step(
                "drift",
                run | {"baseline": at("run"), "out": at("drift.json")},
                "nothing could be compared",
                works=False,
            )
        ],
        "recalibrate": [
            Step(
                "recalibrate",
                run | {"labels": at("records.csv"), "site": "a", "out": at("new")},
                "at least 20 of each",
                works=False,
            )
        ],
        "train": [Step("cohort", people, "with CT", "slices"), Step("train", train, "published")],
        "tune": [Step("tune", tune, "4 trials", "teachers", beside={"train": train})],
    }
    for job in jobs:
        yield from every[job]


def screenings(
    rig: Rig, at: At, archives: dict[str, Any], deployment: dict[str, Any], unseen: str | None = None
) -> Any:
    """`serve` as a job, and screenings that it starts: (what, whether it went as it should, seconds, what went wrong).

    Args:
        archives, deployment: of the service's config.
        unseen: an archive that the service's replica has and another node has not.
    """
    config = {"runs": at("service"), "bundle": at("bundle"), "archives": archives, "deployment": deployment}
    begun = time.monotonic()
    with Service(rig, config) as service:
        yield "serve", True, time.monotonic() - begun, ""
        if unseen is not None:
            begun = time.monotonic()
            ended = service.until(run := service.screen(unseen), "DONE", "FAILED")
            refused = UNSEEN in str(ended["error"])
            refused &= service.ray_job(run, 1, "FAILED") is not None
            yield "serve: an archive that a node lacks", refused, time.monotonic() - begun, ended["error"]
        begun = time.monotonic()
        run = service.screen(at("ct"))
        job = service.ray_job(run, 1, "RUNNING", "SUCCEEDED", "FAILED").submission_id
        rig.client.stop_job(job)
        ended = service.until(run, "CANCELLED", "DONE", "FAILED")
        yield "serve: `ray job stop`", ended["state"] == "CANCELLED", time.monotonic() - begun, ended["error"]
        begun = time.monotonic()
        service.resume(run)
        ended = service.until(run, "DONE", "FAILED")
        good = ended["state"] == "DONE" and service.ray_job(run, 2, "SUCCEEDED") is not None
        good &= service.http.get(f"/v1/screenings/{run}/worklist").json()["total"] == sum(ended["counts"].values())
        yield "serve: resumed to the end", good, time.monotonic() - begun, ended["error"]
