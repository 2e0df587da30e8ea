"""Object stores as sources, through fsspec: s3://, gs://, abfs://, http:// and what else is installed.

Endpoint and credentials come from where each store's own tools look for them (AWS_ENDPOINT_URL, ~/.aws, fsspec's config
files), never from the URI, because URIs are written into the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

import fsspec

from osteo_ray.dicom.sources import Entry
from osteo_ray.io.store import refuse_password


class FsspecSource:
    """A bucket, a prefix or one object. Headers are fetched as ranges, many at a time."""

    def __init__(self, uri: str):
        refuse_password(uri)
        self.scheme = uri.split("://", 1)[0]
        self._fs, self._root = fsspec.core.url_to_fs(uri)

    def _uri(self, path: str) -> str:
        return path if "://" in path else f"{self.scheme}://{path}"

    def _entry(self, path: str, info: dict) -> Entry:
        stamp = next(
            (info[k] for k in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created") if info.get(k)), ""
        )
        return Entry(self._uri(path), int(info.get("size") or 0), str(stamp).strip('"'))

    def list(self) -> Iterator[Entry]:
        if self._root.strip("/") and self._fs.isfile(self._root):
            yield self._entry(self._root, self._fs.info(self._root))
            return
        for _, folders, files in self._fs.walk(self._root, detail=True):
            folders_in_order = sorted(folders.items())
            folders.clear()
            folders.update(folders_in_order)
            for _, info in sorted(files.items()):
                yield self._entry(info["name"], info)

    def header(self, uri: str, n: int) -> bytes:
        return self.read(uri, 0, n)

    def headers(self, uris: Sequence[str], n: int) -> Sequence[bytes | Exception]:
        """First bytes of many objects at once; a failure stands in its place."""
        paths = [self._fs._strip_protocol(u) for u in uris]
        return self._fs.cat_ranges(paths, [0] * len(paths), [n] * len(paths), on_error="return")

    def read(self, uri: str, offset: int = 0, length: int | None = None) -> bytes:
        path = self._fs._strip_protocol(uri)
        return self._fs.cat_file(path, start=offset or None, end=None if length is None else offset + length)

    def open(self, uri: str) -> IO[bytes]:
        return self._fs.open(self._fs._strip_protocol(uri), "rb", block_size=1 << 18)

    def close(self) -> None:
        """Connections belong to fsspec's shared instance."""

    def __enter__(self) -> FsspecSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
