"""Commands that work on a few files of a run: where those lie in an object store, they are fetched, and what is written
is stored.

    for line in at_hand("evaluate", job, evaluate): print(line)      # results: s3://bucket/run

Indexing, screening and training read and write object stores themselves (`store`); this is for what one process does
with a finished run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from osteo_ray.bundle import FILES
from osteo_ray.config import Section
from osteo_ray.outcomes import InputError
from osteo_ray.store import Store, is_remote

RUN = ("results.parquet", "summary.json", "patients.parquet", "evaluation.json")
BUNDLE = (*FILES, "SHA256SUMS")
FILE: tuple[str, ...] = ()

READS: dict[str, dict[str, tuple[str, ...]]] = {
    "evaluate": {"results": RUN, "against": RUN, "labels": FILE, "truth": FILE, "bundle": BUNDLE, "answers": FILE},
    "checklist": {"results": RUN, "bundle": BUNDLE, "answers": FILE},
    "recalibrate": {"results": RUN, "bundle": BUNDLE, "labels": FILE, "split": FILE},
    "drift": {"results": RUN, "baseline": RUN, "bundle": BUNDLE},
    "report": {"results": RUN, "catalogue": FILE},
}
"""Command -> key -> the files of that folder which the command reads; FILE: the value names a file."""

J = TypeVar("J", bound=Section)


def at_hand(command: str, job: J, run: Callable[[J], Iterable[str]]) -> Iterator[str]:
    """Run a command; one of `READS` on copies of what its keys name by URI. Its lines, in which URIs stand again.

    What it wrote is stored also where it ends with an exception, as it would be on a disk.
    """
    reads = READS.get(command, {})
    keys = (*reads, "out") if reads else ()
    far = {k: v for k in keys if isinstance(v := getattr(job, k, None), str) and is_remote(v)}
    if not far:
        yield from run(job)
        return
    with tempfile.TemporaryDirectory(prefix="osteo-ray-") as tmp:
        near = {k: _Copy(v, Path(tmp, k)) for k, v in far.items()}
        for k, copy in near.items():
            if k != "out":
                copy.fetch(reads[k])
            elif command == "recalibrate" and copy.store.names(""):
                raise InputError(f"{far[k]} is there already; a bundle is never written over: give another --out")

        def told(text: str) -> str:
            for copy in near.values():
                text = text.replace(str(copy.path), copy.uri)
            return text

        try:
            for line in run(job.model_copy(update={k: str(c.path) for k, c in near.items()})):
                yield told(line)
        except Exception as e:
            e.args = tuple(told(a) if isinstance(a, str) else a for a in e.args)
            raise
        finally:
            for copy in near.values():
                copy.give_back()


class _Copy:
    """A file or folder of an object store and its copy on this machine."""

    def __init__(self, uri: str, folder: Path):
        self.uri = uri.rstrip("/")
        self.path = folder / self.uri.rsplit("/", 1)[1]
        folder.mkdir()
        self._above = folder  # a command may write beside what it read
        self.store = Store(self.uri)
        self._known: dict[Path, int] = {}

    def fetch(self, names: tuple[str, ...]) -> None:
        above, _, name = self.uri.rpartition("/")
        if (parent := Store(above)).is_file(name):
            self.path.write_bytes(parent.get(name))
        else:
            for n in filter(self.store.exists, names):
                self.path.mkdir(exist_ok=True)
                (self.path / n).write_bytes(self.store.get(n))
        self._known = self._files()

    def _files(self) -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in self._above.rglob("*") if p.is_file()}

    def give_back(self) -> None:
        above = Store(self.uri.rpartition("/")[0])
        for p, changed in self._files().items():
            if self._known.get(p) != changed:
                above.put(p.relative_to(self._above).as_posix(), p.read_bytes())
