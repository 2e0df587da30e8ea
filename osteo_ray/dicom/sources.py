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
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Protocol, Self
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


class Reader(Protocol):
    """What reads objects by their URI."""

    def header(self, uri: str, n: int) -> bytes:
        """The first `n` bytes (fewer at the end); raises OSError or Rejected."""
        ...

    def read(self, uri: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of one object; `length` None reads to its end."""
        ...


class Source(Reader, Protocol):
    """A place that holds DICOM objects."""

    def list(self) -> Iterator[Entry]:
        """Everything there, in an order that depends on names only; reads no content."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def file_uri(path: str | os.PathLike[str]) -> str:
    return "file://" + quote(os.fsencode(os.path.abspath(path)), safe="/")


def file_path(uri: str) -> str:
    return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))


_LOOP = "a link to a folder that is walked anyway"
_VOLUME = (".nii.gz", ".nii")


def sidecar_of(uri: str) -> str | None:
    """Where the JSON sidecar of a NIfTI volume lies, by the rule of BIDS and dcm2niix; None for other files."""
    name, sep, outer = uri.partition("::")
    lower = name.lower()
    if lower.endswith(_VOLUME):
        end = next(e for e in _VOLUME if lower.endswith(e))
        return name[: -len(end)] + ".json" + sep + outer
    return None


def is_sidecar(uri: str) -> bool:
    return uri.lower().partition("::")[0].endswith(".json")


def with_sidecars(entries: Iterable[Entry], beside: Callable[[str], Entry | None]) -> Iterator[Entry]:
    """A volume's stamp changes with its sidecar's: it is a part of what is read of it."""
    for e in entries:
        at = sidecar_of(e.uri)
        found = beside(at) if at is not None and e.code is None else None
        yield e if found is None else replace(e, stamp=f"{e.stamp}+{found.bytes}.{found.stamp}")


def unreadable(stage: Phase, uri: str, e: Exception) -> Rejected:
    """An I/O failure as an outcome; the name of the thing is in its row, not in the message."""
    why = getattr(e, "strerror", None) or f"{type(e).__name__}: {e}"
    return Rejected(State.ERROR, "UNREADABLE", stage, str(why)[:300])


@dataclass(frozen=True)
class Branch:
    """A part of a source that can be listed on its own: a folder with all that is below it, or without."""

    root: str  # what `roots` opens
    folder: str
    deep: bool


class LocalSource:
    """A folder tree or one file.

    Links to folders are followed, except into the tree itself, which is walked anyway, and into what holds it.
    """

    def __init__(self, root: str | os.PathLike[str], follow_links: bool = True):
        self.root = os.path.abspath(os.fspath(root))
        self.follow_links = follow_links
        self._real = os.path.realpath(self.root)

    def list(self) -> Iterator[Entry]:
        if not os.path.isdir(self.root):
            yield from with_sidecars([self._entry(file_uri(self.root), self.root)], self._beside)
            return
        yield from self.list_branch(Branch(self.root, self.root, True))

    def branches(self, least: int) -> Iterator[Branch]:
        """The tree cut into at least `least` branches, where it has as many folders; in the order of `list`."""
        if not os.path.isdir(self.root):
            yield Branch(self.root, self.root, False)
            return
        below: dict[str, list[str]] = {}
        level = [self.root]
        while level and len(below) + len(level) < least:
            for folder in level:
                try:
                    below[folder] = [item.path for item in self._scan(folder)[1]]
                except OSError:  # its own listing says so
                    below[folder] = []
            level = [f for folder in level for f in below[folder]]
        stack = [self.root]
        while stack:
            folder = stack.pop()
            yield Branch(self.root, folder, folder not in below)
            stack += reversed(below.get(folder, []))

    def list_branch(self, branch: Branch) -> Iterator[Entry]:
        """The entries of one branch."""
        if not os.path.isdir(branch.folder):
            yield from with_sidecars([self._entry(file_uri(branch.folder), branch.folder)], self._beside)
            return
        seen: set[tuple[int, int]] = set()  # links out of the tree may form loops of their own
        stack = [branch.folder]
        while stack:
            folder = stack.pop()
            try:
                st = os.stat(folder)
                if (st.st_dev, st.st_ino) in seen:
                    yield Entry(file_uri(folder), 0, "", "LINK_LOOP", _LOOP)
                    continue
                seen.add((st.st_dev, st.st_ino))
                entries, below = self._scan(folder)
            except OSError as e:
                yield Entry(file_uri(folder), 0, "", "UNREADABLE", e.strerror or str(e))
                continue
            yield from with_sidecars(entries, self._beside)
            if not branch.deep:
                return
            stack += [item.path for item in reversed(below)]

    def _scan(self, folder: str) -> tuple[Iterator[Entry], Sequence[os.DirEntry]]:
        """(entries, folders to walk) of one folder, each in order of names; an entry is looked at when it is taken."""
        with os.scandir(folder) as it:
            found = sorted((os.fsencode(e.name), e) for e in it)  # names of one folder differ
        files, below = [], []
        for name, item in found:
            try:
                folder_like = item.is_dir(follow_symlinks=self.follow_links)
            except OSError:
                folder_like = False
            if folder_like and not (item.is_symlink() and self._walked_anyway(item.path)):
                below.append(item)
            else:
                files.append((name, item, folder_like))
        # `file_uri` of every item, whose folder is normalised and quoted once
        at = file_uri(folder).rstrip("/") + "/"
        return (self._item(at + quote(name), item, loop) for name, item, loop in files), below

    def _item(self, uri: str, item: os.DirEntry, loop: bool) -> Entry:
        if loop:
            return Entry(uri, 0, "", "LINK_LOOP", _LOOP)
        if not self.follow_links and item.is_symlink():
            return Entry(uri, 0, "", "NOT_REGULAR", "a link; this run follows none")
        return self._entry(uri, item.path)

    def _walked_anyway(self, link: str) -> bool:
        target = os.path.realpath(link)
        return os.path.commonpath([target, self._real]) in (target, self._real)

    def _beside(self, uri: str) -> Entry | None:
        path = file_path(uri)
        return self._entry(file_uri(path), path) if os.path.isfile(path) else None

    @staticmethod
    def _entry(uri: str, path: str) -> Entry:
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


_PACKED = (
    (b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (b"Rar!\x1a\x07", "RAR archive"),
    (b"\x28\xb5\x2f\xfd", "Zstandard file"),
    (b"\x1f\x8b", "gzip file"),
    (b"BZh", "bzip2 file"),
    (b"\xfd7zXZ\x00", "xz file"),
    (b"PK\x07\x08", "part of a split zip"),
)


def packed_kind(head: bytes) -> str | None:
    """What kind of compressed file that is not looked into begins so, of those that `sniff_archive` does not know."""
    if head[128:132] == b"DICM":
        return None
    return next((kind for mark, kind in _PACKED if head.startswith(mark)), None)


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


_OPENING = [threading.Lock() for _ in range(64)]


def shared_of(uri: str) -> Source:
    """The shared source that reads `uri`."""
    if uri.startswith("file://"):
        return _LOCAL
    if uri.startswith(("zip://", "tar://")):
        key = uri[:3] + "://::" + uri.split("::", 1)[1]
    elif uri.startswith("dicomweb+"):
        key = uri.split("/studies/", 1)[0]
    else:
        key = uri.split("://", 1)[0] + "://"
    with _OPENING[hash(key) % len(_OPENING)]:  # threads that want the same archive open it once
        return shared(key)


def beyond_network(uri: str) -> bool:
    """Whether to read an object is to wait for a store or a service: then reads are worth doing side by side.

    A folder that a network file system mounts is not seen as one.
    """
    return not uri.rpartition("::")[2].startswith("file://")


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
