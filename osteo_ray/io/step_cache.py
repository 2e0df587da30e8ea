"""Steps of a run that are done once: a step whose inputs have not changed is not run again."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from osteo_ray.outcomes import InputError


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
    """Runs steps into `<out>/<name>/` and remembers in `done.json` what each was made from."""

    def __init__(self, out: Path):
        self.out = out
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []

    def run(self, name: str, key: str, work: Callable[[Path], None]) -> Path:
        """Do `work(folder)` unless it was done with the same key; returns the folder.

        What a run with the same key left when it was cut short is kept, for `work` to carry on;
        what another key left is removed.

        Raises:
            InputError: where the folder holds something that no step wrote.
        """
        folder = self.out / name
        mark = folder / "done.json"
        if mark.exists():
            done = json.loads(mark.read_text())
            if done["key"] == key:
                self.seconds[name] = done["seconds"]
                self.reused.append(name)
                return folder
            mark.unlink()
        started = folder / "started.json"
        if not started.exists() and folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder} holds files that no step wrote; give a new or an empty folder")
        if started.exists() and json.loads(started.read_text())["key"] != key:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        started.write_text(json.dumps({"key": key}))
        t = time.perf_counter()
        work(folder)
        self.seconds[name] = time.perf_counter() - t
        mark.write_text(json.dumps({"key": key, "seconds": round(self.seconds[name], 3)}))
        return folder
