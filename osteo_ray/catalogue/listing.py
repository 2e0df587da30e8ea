"""Listing an archive in groups that can be walked side by side. No Ray here.

A source is cut into branches (folders of its upper levels), successive branches into groups, a group's entries into
parts. Every cut is where the entries themselves say so, by a checksum of their names, so that a new file or folder
moves the cuts around it and no others, and the parts of what did not change keep their names and their results.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.dicom.sources import Branch, Entry, roots

GROUPS = 64  # at least as many groups, where an archive has as many folders


def groups(archive: str | Path | Sequence[str | Path], cfg: IndexConfig) -> Iterator[list[Branch]]:
    """The archive as groups of branches.

    Raises:
        FileNotFoundError: an archive that isn't there.
    """
    for source in roots(archive, cfg.follow_links):
        if not hasattr(source, "branches"):  # a service: one list
            yield [Branch(source.root, "", True)]  # type: ignore[attr-defined]
            continue
        branches = list(source.branches(GROUPS))
        every = 1 << max(0, (len(branches) // GROUPS).bit_length() - 1)  # a power of two: growth rarely moves a cut
        group: list[Branch] = []
        for b in branches:
            group.append(b)
            if _checksum(b.folder) % every == 0 or len(group) >= 4 * every:
                yield group
                group = []
        if group:
            yield group


def entries(group: Iterable[Branch], cfg: IndexConfig) -> Iterator[Entry]:
    """What is listed in a group."""
    for b in group:
        source: Any = roots(b.root, cfg.follow_links)[0]
        yield from source.list_branch(b) if hasattr(source, "list_branch") else source.list()


def parts(listed: Iterable[Entry], cfg: IndexConfig) -> Iterator[list[Entry]]:
    """Cut a listing into parts of about `part_entries` entries or `part_bytes` bytes."""
    part: list[Entry] = []
    size = 0
    for e in listed:
        part.append(e)
        size += e.bytes
        if _checksum(e.uri) % cfg.part_entries == 0 or len(part) >= 4 * cfg.part_entries or size >= cfg.part_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part


def _checksum(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogateescape"))
