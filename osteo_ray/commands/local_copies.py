"""Commands that work on a few files of a run: where those lie in an object store, they are fetched, and what is written
is stored.

    for line in run_on_local_copies("evaluate", job, evaluate): print(line)  # results: s3://bucket/run

Indexing, screening and training read and write object stores themselves (`store`); this is for what one process does
with a finished run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TypeVar

from osteo_ray.config import Section
from osteo_ray.io.store import Store
from osteo_ray.io.uris import is_remote
from osteo_ray.model.bundle_files import COPIED as BUNDLE
from osteo_ray.outcomes import InputError

RUN = ("results.parquet", "summary.json", "patients.parquet", "evaluation.json")
FILE: tuple[str, ...] = ()

READS: dict[str, dict[str, tuple[str, ...]]] = {
    "evaluate": {"results": RUN, "against": RUN, "labels": FILE, "truth": FILE, "bundle": BUNDLE, "answers": FILE},
    "checklist": {"evaluation": RUN, "bundle": BUNDLE, "answers": FILE},
    "recalibrate": {"results": RUN, "bundle": BUNDLE, "labels": FILE, "split": FILE},
    "drift": {"results": RUN, "baseline": RUN, "bundle": BUNDLE},
    "report": {"results": (*RUN, "worklist.csv")},  # of the catalogue it reads rows, wherever it lies
}
"""Command -> key -> the files of that folder which the command reads; FILE: the value names a file."""

J = TypeVar("J", bound=Section)


def run_on_local_copies(command: str, job: J, run: Callable[[J], Iterable[str]]) -> Iterator[str]:
    """Run a command; one of `READS` on copies of what its keys name by URI. Its lines, in which URIs stand again.

    What it wrote is stored also where it ends with an exception, as it would be on a disk.
    """
    reads = READS.get(command, {})
    keys = (*reads, "out") if reads else ()
    far = {k: v for k in keys if isinstance(v := getattr(job, k, None), str) and is_remote(v)}
    if "labels" in far:
        from osteo_ray.patients.record_set import is_record_set

        if is_record_set(far["labels"]):  # is read where it lies
            del far["labels"]
    if not far:
        yield from run(job)
        return
    with ExitStack() as stack:
        near: dict[str, str] = {}
        for k, uri in far.items():
            above, _, name = uri.rstrip("/").rpartition("/")
            parent = Store(above)  # a command may write beside what it read
            if k == "out" and command == "recalibrate" and parent.names(f"{name}/"):
                raise InputError(f"{uri} is there already; a bundle is never written over: give another --out")
            files = [name] if parent.is_file(name) else [f"{name}/{n}" for n in reads.get(k, ())]
            wanted = [n for n in files if k != "out" and parent.exists(n)]
            near[k] = str(stack.enter_context(parent.folder(wanted)) / name)

        def with_uris(text: str) -> str:
            for k, path in near.items():
                text = text.replace(path, far[k].rstrip("/"))
            return text

        try:
            for line in run(job.model_copy(update=near)):
                yield with_uris(line)
        except Exception as e:
            e.args = tuple(with_uris(a) if isinstance(a, str) else a for a in e.args)
            raise
