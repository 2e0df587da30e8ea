"""Object stores as sources, through fsspec: s3://, gs://, abfs://, http:// and what else is installed.

Endpoint and credentials come from where each store's own tools look for them (AWS_ENDPOINT_URL, ~/.aws, fsspec's config
files), never from the URI, because URIs are written into the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

import fsspec

from osteo_ray.dicom.s3_ranges import S3Ranges
from osteo_ray.dicom.sources import Branch, Entry, with_sidecars
from osteo_ray.io.uris import refuse_password


class FsspecSource:
    """A bucket, a prefix or one object. Headers are fetched as ranges, many at a time."""

    def __init__(self, uri: str):
        refuse_password(uri)
        self.root = uri
        self.scheme = uri.split("://", 1)[0]
        self._fs, self._root = fsspec.core.url_to_fs(uri)
        self._ranges = S3Ranges(self._fs) if self.scheme == "s3" else None

    def _uri(self, path: str) -> str:
        return path if "://" in path else f"{self.scheme}://{path}"

    def _entry(self, path: str, info: dict) -> Entry:
        stamp = next(
            (info[k] for k in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created") if info.get(k)), ""
        )
        return Entry(self._uri(path), int(info.get("size") or 0), str(stamp).strip('"'))

    def list(self) -> Iterator[Entry]:
        yield from self.list_branch(Branch(self.root, self._root, True))

    def branches(self, least: int) -> Iterator[Branch]:
        """The prefix cut into at least `least` branches, where it has as many below it; in the order of `list`."""
        below: dict[str, Sequence[str]] = {}
        level = [] if self._is_object(self._root) else [self._root]
        while level and len(below) + len(level) < least:
            for folder in level:
                below[folder] = self._scan(folder)[1]
            level = [f for folder in level for f in below[folder]]
        stack = [self._root]
        while stack:
            folder = stack.pop()
            yield Branch(self.root, folder, folder not in below)
            stack += reversed(below.get(folder, []))

    def list_branch(self, branch: Branch) -> Iterator[Entry]:
        """The entries of one branch."""
        if self._is_object(branch.folder):
            yield from with_sidecars([self._entry(branch.folder, self._fs.info(branch.folder))], self._beside)
            return
        stack = [branch.folder]
        while stack:
            entries, below = self._scan(stack.pop())
            known = {e.uri: e for e in entries}
            yield from with_sidecars(entries, known.get)
            if not branch.deep:
                return
            stack += reversed(below)

    def _is_object(self, path: str) -> bool:
        return bool(path.strip("/")) and self._fs.isfile(path)

    def _beside(self, uri: str) -> Entry | None:
        path = self._fs._strip_protocol(uri)
        return self._entry(path, self._fs.info(path)) if self._fs.isfile(path) else None

    def _scan(self, folder: str) -> tuple[Sequence[Entry], Sequence[str]]:
        """(entries, prefixes) right below a prefix, each in order of names."""
        found = sorted(self._fs.ls(folder, detail=True), key=lambda info: info["name"])
        names = [(info["name"].rstrip("/"), info) for info in found if info["name"].rstrip("/") != folder.rstrip("/")]
        files = [self._entry(name, info) for name, info in names if info["type"] != "directory"]
        return files, [name for name, info in names if info["type"] == "directory"]

    def header(self, uri: str, n: int) -> bytes:
        return self.read(uri, 0, n)

    def headers(self, uris: Sequence[str], n: int) -> Sequence[bytes | Exception]:
        """First bytes of many objects at once; a failure stands in its place."""
        paths = [self._fs._strip_protocol(u) for u in uris]
        found: list[bytes | Exception | None] = [None] * len(paths)
        if self._ranges is not None:
            found[:] = self._ranges.read_each(paths, 0, n)
        open_ = [i for i, f in enumerate(found) if f is None]
        if open_:
            rest = self._fs.cat_ranges([paths[i] for i in open_], [0] * len(open_), [n] * len(open_), on_error="return")
            for i, data in zip(open_, rest, strict=True):
                found[i] = data
        return [f for f in found if f is not None]

    def read(self, uri: str, offset: int = 0, length: int | None = None) -> bytes:
        path = self._fs._strip_protocol(uri)
        if self._ranges is not None and length is not None:
            data = self._ranges.read(path, offset, length)
            if data is not None:
                return data
        return self._fs.cat_file(path, start=offset or None, end=None if length is None else offset + length)

    def open(self, uri: str) -> IO[bytes]:
        return self._fs.open(self._fs._strip_protocol(uri), "rb", block_size=1 << 18)

    def close(self) -> None:
        """Connections belong to fsspec's shared instance."""

    def __enter__(self) -> FsspecSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
