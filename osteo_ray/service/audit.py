"""Who screened what, when: one JSON line a request that changes or reads something, without patient identifiers.

An archive's path may hold a name, so the log has the configured folder that it lies under, and a hash of the whole.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osteo_ray.service import json_lines


class Audit:
    """Appends whole lines; several replicas may write to one file."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, caller: str, action: str, **facts: Any) -> None:
        """Append one line. `facts` must be codes, ids, counts or hashes, never what a patient or a file is called."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        json_lines.append(self.path, {"time": at, "who": caller, "action": action, **facts})

    def tail(self, n: int) -> list[dict[str, Any]]:
        """The last n lines, oldest first."""
        try:
            with self.path.open("rb") as f:
                size = f.seek(0, os.SEEK_END)
                f.seek(max(0, size - 1024 * n))
                return json_lines.parse(f.read())[-n:]  # the first line may be cut, and is left out then
        except FileNotFoundError:
            return []


def place(archive: str, roots: Sequence[str]) -> dict[str, str]:
    """What the log says of an archive: which configured place it lies in, and a hash that tells two apart."""
    home = next((r for r in roots if archive.startswith((os.path.realpath(r), r))), "")
    return {"archive_root": home, "archive_sha256": hashlib.sha256(archive.encode()).hexdigest()[:16]}
