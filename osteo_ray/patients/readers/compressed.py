"""Files that may be compressed: by what is in them, not by their name."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO, cast

_GZIP = b"\x1f\x8b"


def open_bytes(path: Path) -> IO[bytes]:
    """A file's bytes, decompressed where it begins as gzip does."""
    with open(path, "rb") as f:
        compressed = f.read(2) == _GZIP
    return cast("IO[bytes]", gzip.open(path, "rb") if compressed else open(path, "rb"))
