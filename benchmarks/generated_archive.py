"""An archive that is made while it is read: `ctgen://LAYOUT-STUDIES/...`, an fsspec store for measurements.

Listing and first bytes are computed from the names, so that no disk holds it; headers are those of archive_tree.py
(about 130 elements, 4 KB). Layouts: `local`, a folder a study; `shuffled`, folders of 4,096 objects whose studies are
mixed, as stores have them that name objects by a hash. No pixel can be read.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import fsspec
from archive_tree import template

PER_STUDY = 300
SIDE = 512
_FOLDER = 4096  # objects of a folder of the shuffled layout
_PRIME = 982_451_653


class GeneratedFileSystem(fsspec.AbstractFileSystem):
    """Read only. Paths: LAYOUT-STUDIES/folder/folder/object."""

    protocol = "ctgen"
    cachable = True

    def ls(self, path: str, detail: bool = True, **kw: Any) -> list[Any]:
        names = [*self._names(path.strip("/"))]
        return names if detail else [n["name"] for n in names]

    def _names(self, path: str):
        root, *below = path.split("/")
        layout, studies = root.split("-")
        if layout == "local":
            if not below:
                yield from (_folder(f"{path}/{i:05d}") for i in range(-(-int(studies) // 100)))
            elif len(below) == 1:
                first = int(below[0]) * 100
                yield from (_folder(f"{path}/{s:07d}") for s in range(first, min(first + 100, int(studies))))
            else:
                yield from (_file(f"{path}/IM{k:04d}") for k in range(PER_STUDY))
        else:
            total = int(studies) * PER_STUDY
            if not below:
                yield from (_folder(f"{path}/{i:05d}") for i in range(-(-total // _FOLDER)))
            else:
                first = int(below[0]) * _FOLDER
                yield from (_file(f"{path}/{i:09d}") for i in range(first, min(first + _FOLDER, total)))

    def info(self, path: str, **kw: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        return _file(path) if self.isfile(path) else _folder(path)

    def isfile(self, path: str) -> bool:
        parts = path.strip("/").split("/")
        return len(parts) == (4 if parts[0].startswith("local") else 3)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kw: Any) -> bytes:
        return self._header(self._strip_protocol(path))[start:end]

    def cat_ranges(self, paths, starts, ends, max_gap=None, on_error="return", **kw: Any) -> list[bytes]:
        return [self._header(p)[a:b] for p, a, b in zip(paths, starts, ends, strict=True)]

    def _header(self, path: str) -> bytes:
        root, *_, folder, name = path.strip("/").split("/")
        layout, studies = root.split("-")
        if layout == "local":
            study, k = int(folder), int(name[2:])
        else:
            study, k = divmod(int(name) * _PRIME % (int(studies) * PER_STUDY), PER_STUDY)
        h = _template().replace(b".3.1000000000", b".3.%010d" % (study * PER_STUDY + k))
        h = h.replace(b"-000000000.0", b"-%09d.0" % (2 * k)).replace(b".1.1000000000", b".1.%010d" % study)
        return h.replace(b".2.1000000000", b".2.%010d" % study).replace(b"P000000000000", b"P%012d" % (study // 2))


@cache
def _template() -> bytes:
    return template(SIDE)


def _size() -> int:
    return len(_template()) + SIDE * SIDE * 2


def _folder(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


def _file(name: str) -> dict[str, Any]:
    return {"name": name, "size": _size(), "type": "file", "ETag": "1"}


def register() -> None:
    """In every process that reads it."""
    fsspec.register_implementation("ctgen", GeneratedFileSystem, clobber=True)
