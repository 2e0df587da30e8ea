"""The files of a bundle's folder, and whether they are what was written (no torch: many only pass it on)."""

from __future__ import annotations

import hashlib
from pathlib import Path

MANIFEST, WEIGHTS, CARD = "bundle.json", "weights.safetensors", "card.md"
FILES = (MANIFEST, WEIGHTS, CARD)
SUMS = "SHA256SUMS"
COPIED = (*FILES, SUMS)
"""All that a copy of a bundle consists of."""


class BundleError(ValueError):
    """A bundle that can't be used: a file missing, changed, or of another format."""

    exit_code = 3


def seal(folder: Path) -> str:
    """Write SHA256SUMS beside the files; the bundle's sha256, which is that of this list."""
    sums = "".join(f"{_sha256(folder / f)}  {f}\n" for f in FILES)
    (folder / SUMS).write_text(sums)
    return hashlib.sha256(sums.encode()).hexdigest()


def verify(folder: Path) -> str:
    """Check the files against SHA256SUMS and return the bundle's sha256."""
    sums_path = folder / SUMS
    if not sums_path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no {SUMS}; `osteo-ray train` writes one")
    sums = sums_path.read_text()
    listed: dict[str, str] = {}
    for line in sums.splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    for f in FILES:
        if f not in listed or not (folder / f).is_file():
            raise BundleError(f"{folder}: {f} is missing")
        if _sha256(folder / f) != listed[f]:
            raise BundleError(f"{folder}: {f} was changed after the bundle was written (its sha256 differs)")
    return hashlib.sha256(sums.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
