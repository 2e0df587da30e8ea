"""Steps of a run that are done once: a step whose inputs have not changed is not run again."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from osteo_ray.io.store import Store
from osteo_ray.io.trouble import retry_for
from osteo_ray.outcomes import InputError

DONE, STARTED = "done.json", "started.json"
PATIENCE_S = 300.0
"""How long a store may be away while a step's files are stored."""


def digest(*parts: Any) -> str:
    """Hash of plain data (JSON), of files (a Path: its bytes) and of folders (names and sizes)."""
    h = hashlib.sha256()
    for p in parts:
        if isinstance(p, Path) and p.is_dir():
            names = sorted(f"{f.relative_to(p)} {f.stat().st_size}" for f in p.rglob("*") if f.is_file())
            h.update("\n".join(names).encode())
        elif isinstance(p, Path):
            with p.open("rb") as f:
                h.update(hashlib.file_digest(f, "sha256").digest())
        else:
            h.update(json.dumps(p, sort_keys=True, default=str).encode())
        h.update(b"\0")
    return h.hexdigest()[:16]


class StepCache:
    """Runs steps into `<out>/<name>/` and remembers in `done.json` what each was made from.

    Where `out` is an object store, steps work in a temporary folder of this machine, `self.out`. What a step leaves is
    stored when it ends, also by an exception, and when it asks for it (`save`): a run that another machine begins with
    the same `out` goes on from there.
    """

    def __init__(self, out: str | Path):
        self.store = Store(out)
        self._temporary = tempfile.TemporaryDirectory(prefix="osteo-ray-") if self.store.remote else None
        self.out = Path(self.store.uri if self._temporary is None else self._temporary.name)
        self._stored: dict[Path, int] = {}  # files that the store has, by the time of their change here
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []

    def run(self, name: str, key: str, work: Callable[[Path], None]) -> Path:
        """Do `work(folder)` unless it was done with the same key; returns the folder, on this machine.

        What a run with the same key left when it was cut short is kept, for `work` to carry on;
        what another key left is removed.

        Raises:
            InputError: where the folder holds something that no step wrote.
        """
        folder = self.out / name
        mark, started = folder / DONE, folder / STARTED
        self._fetch(name, key)
        if mark.exists():
            done = json.loads(mark.read_text())
            if done["key"] == key:
                self.seconds[name] = done["seconds"]
                self.reused.append(name)
                return folder
            mark.unlink()
        if not started.exists() and folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{self.store.path(name)} holds files that no step wrote; give a new or an empty folder")
        if started.exists() and json.loads(started.read_text())["key"] != key:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        started.write_text(json.dumps({"key": key}))
        t = time.perf_counter()
        try:
            work(folder)
        finally:
            self.save(name)
        self.seconds[name] = time.perf_counter() - t
        mark.write_text(json.dumps({"key": key, "seconds": round(self.seconds[name], 3)}))
        self.save(f"{name}/{DONE}")
        return folder

    def save(self, name: str) -> None:
        """Store what is new or changed in a file or folder of `out`, and remove from the store what is gone. Where
        `out` is on a disk nothing is left to do.

        Raises:
            StoreError: the store is away for longer than `PATIENCE_S`.
        """
        if not self.store.remote:
            return
        at = self.out / name
        there = [at] if at.is_file() else [p for p in at.rglob("*") if p.is_file()]
        # What lies deeper first: a file that says that a folder is whole comes after what is in it.
        for p in sorted(there, key=lambda p: (-len(p.parts), p)):
            if self._stored.get(p) != (changed := p.stat().st_mtime_ns):
                self._patiently(partial(self.store.upload, p, p.relative_to(self.out).as_posix()))
                self._stored[p] = changed
        gone = [p for p in self._stored if (p == at or at in p.parents) and not p.exists()]
        self._patiently(lambda: self.store.remove([p.relative_to(self.out).as_posix() for p in gone]))
        for p in gone:
            del self._stored[p]

    def _patiently(self, work: Callable[[], None]) -> None:
        retry_for(work, self.store.uri, PATIENCE_S)

    def _fetch(self, name: str, key: str) -> None:
        """Bring what an earlier run stored of a step to this machine; what it stored under another key is removed."""
        if not self.store.remote or (self.out / name).exists():
            return
        found = self.store.tree(f"{name}/")
        marks = [json.loads(self.store.get(n)) for n in (f"{name}/{DONE}", f"{name}/{STARTED}") if n in found]
        if marks and marks[0]["key"] != key:
            self.store.remove(found)
            return
        for n in found:
            p = self.out / n
            self._patiently(partial(self.store.download, n, p))
            self._stored[p] = p.stat().st_mtime_ns
