"""Files of JSON lines that several processes append to: whole lines, and readers that a torn one does not stop.

append(path, {"time": ..., "action": ...})
read(path)                                        # the lines that are whole, oldest first
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


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
