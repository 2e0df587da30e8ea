"""Files of JSON lines that several processes append to: whole lines, and readers that a torn one does not stop.

append(path, {"time": ..., "action": ...})
read(path)                                        # the lines that are whole, oldest first
Lines(store, "audit").append({...})               # on a disk such a file, in a bucket an object a line
"""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from osteo_ray.io.files import private_folder
from osteo_ray.io.parquet_set import ahead
from osteo_ray.io.store import Store

LINE_BYTES = 1024
"""More than a line has."""


def append(path: Path, value: dict[str, Any]) -> None:
    """Add one line, readable by the owner alone.

    Raises:
        OSError: it could not be written; what was written of it is a line that `read` leaves out.
    """
    data = (json.dumps(value) + "\n").encode()
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":  # a power cut or a full disk tore the last one
            data = b"\n" + data
        written = os.write(fd, data)
        if written < len(data):  # the rest would not fit either
            os.write(fd, data[written:])
    finally:
        os.close(fd)


def parse(lines: bytes) -> list[dict[str, Any]]:
    """The objects in a file's bytes; what is no whole line of JSON is left out."""
    out = []
    for line in lines.splitlines():
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                out.append(value)
    return out


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole line, oldest first; none where there is no file."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return []


class Lines:
    """Lines in a store. Nothing can be appended to an object, so in a bucket each line is one, in a folder a day:
    `audit/2026-01-31/<time in ns>-<random>.json`."""

    def __init__(self, store: Store, name: str):
        self.store, self.name = store, name

    @property
    def _file(self) -> Path:
        return Path(self.store.path(f"{self.name}.jsonl"))

    def append(self, value: dict[str, Any]) -> None:
        """Add one line; it is stored when this returns.

        Raises:
            OSError: it could not be written.
        """
        if not self.store.remote:
            private_folder(self._file.parent)
            append(self._file, value)
            return
        now = time.time_ns()
        day = time.strftime("%Y-%m-%d", time.gmtime(now / 1e9))
        self.store.put(f"{self.name}/{day}/{now:020d}-{secrets.token_hex(4)}.json", json.dumps(value).encode())

    def read(self) -> list[dict[str, Any]]:
        """Every whole line, oldest first; in a bucket also those of a file that was copied there from a disk."""
        if not self.store.remote:
            return read(self._file)
        copied = [n for n in (f"{self.name}.jsonl",) if self.store.is_file(n)]
        return self._objects([*copied, *self.store.tree(f"{self.name}/")])

    def tail(self, n: int) -> list[dict[str, Any]]:
        """The last n lines, oldest first."""
        if self.store.remote:
            names: list[str] = []
            for day in reversed(Store(self.store.path(self.name)).folders()):
                names = self.store.names(f"{self.name}/{day}/") + names
                if len(names) >= n:
                    break
            return self._objects(names[-n:])
        try:
            with self._file.open("rb") as f:
                size = f.seek(0, os.SEEK_END)
                f.seek(max(0, size - LINE_BYTES * n))
                return parse(f.read())[-n:]  # the first line may be cut, and is left out then
        except FileNotFoundError:
            return []

    def _objects(self, names: list[str]) -> list[dict[str, Any]]:
        return [v for data in ahead(self.store.get, names) for v in parse(data)]
