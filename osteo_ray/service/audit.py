"""Who screened what, when: one JSON line a request that changes or reads something, without patient identifiers.

An archive's path may hold a name, so the log has the configured folder that it lies under, and a hash of the whole.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from typing import Any

from osteo_ray.io.store import Store
from osteo_ray.service.json_lines import Lines


class Audit:
    """Adds whole lines; several replicas may write."""

    def __init__(self, store: Store):
        self._lines = Lines(store, "audit")

    def write(self, caller: str, action: str, **facts: Any) -> None:
        """Add one line. `facts` must be codes, ids, counts or hashes, never what a patient or a file is called."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._lines.append({"time": at, "who": caller, "action": action, **facts})

    def tail(self, n: int) -> list[dict[str, Any]]:
        """The last n lines, oldest first."""
        return self._lines.tail(n)


def place(archive: str, roots: Sequence[str]) -> dict[str, str]:
    """What the log says of an archive: which configured place it lies in, and a hash that tells two apart."""
    home = next((r for r in roots if archive.startswith((os.path.realpath(r), r))), "")
    return {"archive_root": home, "archive_sha256": hashlib.sha256(archive.encode()).hexdigest()[:16]}
