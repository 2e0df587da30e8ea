"""Where CT lies, behind one small protocol: list, header, read.

    with open_source("/data/archive") as s:
        for e in s.list(): ...
    read_uri(e.uri, offset, length)

URIs are what travels between tasks. A local file is `file:///a/b` (percent-encoded, so any file name survives), a
member of an archive is `zip://<member>::<uri of the archive>` or `tar://<member>@<offset>+<size>::<uri>`, the rest is
what fsspec calls it (`s3://bucket/key`) or `dicomweb+https://host/root/studies/...`. Names and extensions mean nothing:
content is sniffed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import quote, unquote_to_bytes

from osteo_ray.outcomes import Phase, Rejected, State


@dataclass(frozen=True)
class Entry:
    """One listed thing: a file, a member of an archive, or a remote series. `code` is set where it can't be read."""

    uri: str
    bytes: int
    stamp: str  # changes when the content may have changed: mtime, ETag, CRC
    code: str | None = None
    message: str | None = None


class Source(Protocol):
    """A place that holds DICOM objects."""

    def list(self) -> Iterator[Entry]:
        """Everything there, in an order that depends on names only; reads no content."""
        ...

    def header(self, uri: str, n: int) -> bytes:
        """The first `n` bytes (fewer at the end); raises OSError or Rejected."""
        ...

    def read(self, uri: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of one object; `length` None reads to its end."""
        ...

    def close(self) -> None: ...


def file_uri(path: str | os.PathLike[str]) -> str:
    return "file://" + quote(os.fsencode(os.path.abspath(path)), safe="/")


def file_path(uri: str) -> str:
    return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))


def unreadable(stage: Phase, uri: str, e: Exception) -> Rejected:
    """An I/O failure as an outcome; the name of the thing is in its row, not in the message."""
    why = getattr(e, "strerror", None) or f"{type(e).__name__}: {e}"
    return Rejected(State.ERROR, "UNREADABLE", stage, str(why)[:300])


class LocalSource:
    """A folder tree or one file."""

    def __init__(self, root: str | os.PathLike[str], follow_links: bool = True):
        self.root = os.fspath(root)
        self.follow_links = follow_links

    def list(self) -> Iterator[Entry]:
        root = os.path.abspath(self.root)
        if not os.path.isdir(root):
            yield self._entry(root)
            return
        st = os.stat(root)
        seen = {(st.st_dev, st.st_ino)}
        stack = [root]
        while stack:
            folder = stack.pop()
            try:
                with os.scandir(folder) as it:
                    found = sorted(it, key=lambda e: os.fsencode(e.name))
            except OSError as e:
                yield Entry(file_uri(folder), 0, "", "UNREADABLE", e.strerror or str(e))
                continue
            below = []
            for item in found:
                try:
                    folder_like = item.is_dir(follow_symlinks=self.follow_links)
                except OSError:
                    folder_like = False
                if not folder_like:
                    if not self.follow_links and item.is_symlink():
                        yield Entry(file_uri(item.path), 0, "", "NOT_REGULAR", "a link; this run follows none")
                        continue
                    yield self._entry(item.path)
                    continue
                try:
                    st = os.stat(item.path)
                except OSError as e:
                    yield Entry(file_uri(item.path), 0, "", "UNREADABLE", e.strerror or str(e))
                    continue
                if (st.st_dev, st.st_ino) in seen:
                    yield Entry(file_uri(item.path), 0, "", "LINK_LOOP", "a link to a folder that was already visited")
                    continue
                seen.add((st.st_dev, st.st_ino))
                below.append(item.path)
            stack.extend(reversed(below))

    @staticmethod
    def _entry(path: str) -> Entry:
        uri = file_uri(path)
        try:
            st = os.stat(path)
        except OSError as e:
            return Entry(uri, 0, "", "UNREADABLE", e.strerror or str(e))
        if not stat.S_ISREG(st.st_mode):
            return Entry(uri, 0, "", "NOT_REGULAR", "a pipe, socket, device or folder link, not a regular file")
        return Entry(uri, st.st_size, f"{st.st_mtime_ns:x}")

    def header(self, uri: str, n: int) -> bytes:
        return self.read(uri, 0, n)

    def read(self, uri: str, offset: int = 0, length: int | None = None) -> bytes:
        fd = os.open(file_path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe in disguise must not block
        try:
            size = os.fstat(fd).st_size - offset
            n = max(size if length is None else min(length, size), 0)
            data = os.pread(fd, n, offset)
            while len(data) < n:  # Linux returns at most 2 GiB a call
                more = os.pread(fd, n - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(fd)

    def open(self, uri: str) -> IO[bytes]:
        """A seekable file object, for the archive readers."""
        return open(file_path(uri), "rb")

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> LocalSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def sniff_archive(head: bytes) -> str | None:
    """ "zip", "tar" or None, from the first bytes; a DICOM preamble may hold anything, so DICM is asked first."""
    if head[128:132] == b"DICM":
        return None
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head[257:262] == b"ustar":
        return "tar"
    if head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head[:6] == b"\xfd7zXZ\x00":
        from osteo_ray.dicom.containers import inflate_start

        if inflate_start(head, 512)[257:262] == b"ustar":
            return "tar"
    return None


def open_source(uri: str | os.PathLike[str], follow_links: bool = True) -> Source:
    """Open a folder, a file, a zip, a tar, an fsspec URI or a DICOMweb service.

    Raises:
        FileNotFoundError: a local path that isn't there.
        ValueError: a URI that can't be understood, or one that carries a password.
    """
    text = os.fspath(uri)
    if text.startswith(("zip://", "tar://")):
        return _container(text.split("::", 1)[1], text[:3])
    if text.startswith("dicomweb+"):
        from osteo_ray.dicom.dicomweb import DicomWebSource

        return DicomWebSource(text)
    if "://" in text and not text.startswith("file://"):
        from osteo_ray.dicom.remote import FsspecSource

        return FsspecSource(text)
    path = file_path(text) if text.startswith("file://") else text
    if not os.path.exists(path):
        raise FileNotFoundError(f"archive {path} is not there")
    local = LocalSource(path, follow_links)
    if os.path.isfile(path):
        kind = sniff_archive(local.header(file_uri(path), 4096))
        if kind:
            return _container(file_uri(path), kind)
    return local


def _container(outer: str, kind: str) -> Source:
    from osteo_ray.dicom.containers import TarSource, ZipSource

    return (ZipSource if kind == "zip" else TarSource)(store_of(outer), outer)


def store_of(uri: str) -> Source:
    """The source that reads plain objects of this URI's kind (not archive members)."""
    if uri.startswith("file://"):
        return _LOCAL
    return open_source(uri)


_LOCAL = LocalSource("/")


def roots(archive: str | Path | Sequence[str | Path], follow_links: bool = True) -> list[Source]:
    """The sources to list: like `open_source`, but a local archive file is one entry, which its header task expands.

    Listing then costs one stat a file, also for zips, and a zip that has not changed is not opened again.
    """
    many = [archive] if isinstance(archive, (str, os.PathLike)) else list(archive)
    out: list[Source] = []
    for a in many:
        text = os.fspath(a)
        if "://" in text and not text.startswith("file://"):
            out.append(open_source(text))
            continue
        path = file_path(text) if text.startswith("file://") else text
        if not os.path.exists(path):
            raise FileNotFoundError(f"archive {path} is not there")
        out.append(LocalSource(path, follow_links))
    return out


@lru_cache(maxsize=16)
def shared(key: str) -> Source:
    """An open source for this archive or service, shared by the readers of this process."""
    return open_source(key)


def shared_of(uri: str) -> Source:
    """The shared source that reads `uri`."""
    if uri.startswith("file://"):
        return _LOCAL
    if uri.startswith(("zip://", "tar://")):
        return shared(uri[:3] + "://::" + uri.split("::", 1)[1])
    if uri.startswith("dicomweb+"):
        return shared(uri.split("/studies/", 1)[0])
    return shared(uri.split("://", 1)[0] + "://")


def read_uri(uri: str, offset: int = 0, length: int | None = None) -> bytes:
    """Bytes of one object, wherever it lies.

    Raises:
        Rejected: UNREADABLE and the like, stage DECODE.
        MemoryError: an object larger than memory; it is the caller's to say what that costs.
    """
    try:
        return shared_of(uri).read(uri, offset, length)
    except (Rejected, MemoryError):
        raise
    except Exception as e:  # stores raise their own kinds of error: botocore, aiohttp, requests
        raise unreadable(Phase.DECODE, uri, e) from e
