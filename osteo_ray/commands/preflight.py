"""Before any work on a cluster: every node sees what the job reads, and can write where it writes.

    refuse_relative("screen", job)      # a submitted job gives whole paths
    preflight("screen", job)            # seconds; InputError names each node and path; nothing where Ray is not joined

Nodes that an autoscaler starts later can't be asked; a scorer that starts on one looks for the run's folder itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from osteo_ray import ray_setup
from osteo_ray.commands.first_look import ONE_FILE, READ, WRITTEN, named_paths
from osteo_ray.config import ConfigError, Section

if TYPE_CHECKING:
    from osteo_ray.io.every_node import Place

ON_NODES = ("index", "records", "targets", "cohort", "train", "tune", "screen", "retry")
"""Commands whose work is done on nodes other than the driver's."""
OF_DRIVER = ("answers", "patients", "split", "truth")
"""Keys of files that the driver alone reads."""
OF_ITS_OWN = ("train", "tune")
"""Commands that work in a folder on a disk of the driver's node: no other needs it, or the slice sets."""
SLICES = ("extra_slices", "encoder_slices", "heldout_slices", "heldout_records", "records")
BESIDE_CONFIG = ("answers",)
"""Keys of files that may lie beside a job's YAML, in its working directory."""
PLACES = (*READ, "bundle", "out", "publish", "runs", *WRITTEN.values())
"""Keys whose paths a submitted job must give in full."""


def refuse_relative(name: str, job: Section) -> None:
    """Refuse paths that mean another place on each node.

    Raises:
        ConfigError: a submitted job names one.
    """
    if not ray_setup.submitted():
        return
    _refuse_relative(job, "")
    if name == "tune" and (training := _training_of(job)) is not None:
        _refuse_relative(training, "train: ")


def preflight(name: str, job: Section, action: str | None = None) -> None:
    """Look at a job's paths from every node of the cluster that it runs on.

    Raises:
        InputError: a node can't see a path; the text says which, and what to do.
        StoreError: `out` can't be written.
    """
    if name not in ON_NODES or not ray_setup.joined() or getattr(job, "explain", None) or getattr(job, "draft", None):
        return
    if (name == "records" and not getattr(job, "partitions", None)) or (name == "cohort" and action != "write"):
        return  # written by the driver
    from osteo_ray.io.every_node import check_nodes

    out = getattr(job, "out", None)
    if out is not None and name in ONE_FILE and not getattr(job, "partitions", None):
        out = os.path.dirname(str(out).rstrip("/")) or "."
    if name == "tune":
        name, job = "train", _training_of(job) or job
    check_nodes(None if name in OF_ITS_OWN else out, list(_places(name, job)))


def _training_of(job: Section) -> Any:
    """The training that a tuning job names."""
    from osteo_ray.commands.train import TrainJob
    from osteo_ray.config import load

    path = getattr(job, "train", None)
    return None if path is None else load(TrainJob, path)


def _refuse_relative(job: Section, of: str) -> None:
    from osteo_ray.io.uris import is_remote

    for key, path in named_paths(job, PLACES):
        outer = path.rpartition("::")[2]
        if key in BESIDE_CONFIG or is_remote(outer) or os.path.isabs(outer.removeprefix("file://")):
            continue
        raise ConfigError(
            f"{of}{key}: {path} is relative; in a submitted job that is a folder of the package that Ray unpacks, not "
            "yours: give the whole path, the same on every node, or a bucket (s3://...)"
        )


def _places(name: str, job: Section) -> Iterator[Place]:
    """What the job's tasks read, as the driver sees it."""
    from osteo_ray.io.every_node import place
    from osteo_ray.model.bundle_files import COPIED

    for key, path in named_paths(job, READ):
        if key in OF_DRIVER or (name in OF_ITS_OWN and key in SLICES) or any(c in path for c in "*?["):
            continue
        if key == "records" and not _is_record_set(path):
            continue  # tables are read by the driver
        if key == "archive" and (catalogue := _catalogue_of(name, path)) is not None:
            yield place(key, catalogue)
            yield from _archive_of(catalogue)
            continue
        outer = path.rpartition("::")[2]
        yield place(key, outer)
        if key == "catalogue" and name == "train":
            yield from _archive_of(path)
    if hasattr(job, "bundle"):
        from osteo_ray.model import reference

        yield place("bundle", str(job.bundle or reference.bundle()), COPIED)


def _is_record_set(path: str) -> bool:
    from osteo_ray.patients.record_set import is_record_set

    return is_record_set(path)


def _catalogue_of(name: str, path: str) -> str | None:
    if name not in ("screen", "retry"):
        return None
    from osteo_ray.reports.run import catalogue_of

    return catalogue_of(path)


def _archive_of(catalogue: str) -> Iterator[Place]:
    """Files that a catalogue names: its archive may be mounted where the driver is not."""
    from osteo_ray.catalogue.mounted import some_files
    from osteo_ray.io.every_node import Place

    for uri in some_files(catalogue):
        yield Place("archive", uri, workers=True)
