"""Zip and tar as sources: members are read where they lie, nothing is unpacked to disk.

A member's name is only a key, so `../` in it is harmless. What a member may inflate to is bounded by what is asked for.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast
from urllib.parse import quote

from osteo_ray.dicom.sources import Entry, Source
from osteo_ray.outcomes import Phase, Rejected, State

_CHUNK = 1 << 18
_LOCAL_EXTRA = 64  # bytes by which a member's local header may be longer than the directory's entry tells
_ALONE = 1 << 16  # bytes from which a member's read is a request of its own
_SMALLEST_CAP = 1 << 30  # what any compressed tar may inflate to


def inflate_start(head: bytes, n: int) -> bytes:
    """The first `n` bytes inside a gzip, bzip2 or xz stream; what there is of them where it is broken."""
    try:
        if head[:2] == b"\x1f\x8b":
            return zlib.decompressobj(31).decompress(head, n)
        if head[:3] == b"BZh":
            return bz2.BZ2Decompressor().decompress(head, n)
        return lzma.LZMADecompressor().decompress(head, n)
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
        return b""


def _quote(name: str) -> str:
    return quote(name.encode("utf-8", "surrogateescape"), safe="/")


def broken(what: str, e: Exception | str) -> Rejected:
    return Rejected(State.QUARANTINED, "BROKEN_ARCHIVE", Phase.LIST, f"{what}: {e}"[:300])


class _Container:
    """An open file object over the outer object, with positioned reads."""

    def __init__(self, store: Source, outer: str):
        self.outer, self._store = outer, store
        self.file: IO[bytes] = store.open(outer)  # type: ignore[attr-defined]
        self._lock = threading.Lock()
        try:
            self._fd: int | None = self.file.fileno()
        except (AttributeError, OSError, io.UnsupportedOperation):
            self._fd = None

    def pread(self, n: int, offset: int) -> bytes:
        if self._fd is not None:
            return os.pread(self._fd, n, offset)
        with self._lock:
            self.file.seek(offset)
            return self.file.read(n)

    def exact(self, n: int, offset: int) -> bytes:
        """As `pread`; of an object store these bytes in one request, and no others that may be wanted next."""
        return self.pread(n, offset) if self._fd is not None else self._store.read(self.outer, offset, n)

    def close(self) -> None:
        self.file.close()


def _first_chunk(stop: int) -> int:
    """Deflated bytes that surely hold the first `stop` bytes of pixels, or are worth one read."""
    return min(_CHUNK, max(4096, (stop >> 1) + 4096))


class ZipSource:
    """Members of a zip file: stored and deflated ones by positioned reads, other methods through zipfile."""

    def __init__(self, store: Source, outer: str):
        self._c = _Container(store, outer)
        try:
            self._zip = zipfile.ZipFile(self._c.file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as e:
            self._c.close()
            raise broken("zip", e) from None
        self._by_key: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if info.is_dir():
                continue
            key = _quote(info.filename)
            k = 2
            while key in self._by_key:  # the same name twice: both are listed
                key = f"{_quote(info.filename)}?{k}"
                k += 1
            self._by_key[key] = info

    def __len__(self) -> int:
        return len(self._by_key)

    def list(self) -> Iterator[Entry]:
        for key, info in self._by_key.items():
            uri = f"zip://{key}::{self._c.outer}"
            if info.flag_bits & 0x1:
                yield Entry(uri, info.file_size, f"{info.CRC:08x}", "ENCRYPTED", "the zip member is encrypted")
            else:
                yield Entry(uri, info.file_size, f"{info.CRC:08x}")

    def header(self, uri: str, n: int) -> bytes:
        return self.read(uri, 0, n)

    def read(self, uri: str, offset: int = 0, length: int | None = None) -> bytes:
        info = self._by_key.get(uri.removeprefix("zip://").split("::", 1)[0])
        if info is None:
            raise FileNotFoundError(2, "no such member in the zip")
        if info.flag_bits & 0x1:
            raise Rejected(State.QUARANTINED, "ENCRYPTED", Phase.HEADER, "the zip member is encrypted")
        stop = info.file_size if length is None else min(offset + length, info.file_size)
        if stop <= offset:
            return b""
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return self._slow(info, offset, stop)
        stored = info.compress_type == zipfile.ZIP_STORED
        # Local header and what follows it at once: in an object store each read is a request.
        lead = 30 + len(info.orig_filename.encode("utf-8", "surrogateescape")) + len(info.extra) + _LOCAL_EXTRA
        wanted = stop if stored else min(info.compress_size, _first_chunk(stop))
        far = stored and offset > _CHUNK  # then what lies between is not read
        begin = self._c.exact(30 if far else lead + wanted, info.header_offset)
        if len(begin) < 30 or begin[:4] != b"PK\x03\x04":
            raise broken("zip", "a member's local header is not where the directory says")
        skip = 30 + sum(struct.unpack_from("<HH", begin, 26))
        start = info.header_offset + skip
        if not stored:
            return self._inflate(start, info.compress_size, offset, stop, begin[skip : skip + info.compress_size])
        if len(begin) >= skip + stop:
            return begin[skip + offset : skip + stop]
        return self._c.exact(stop - offset, start + offset)

    def _inflate(self, start: int, size: int, offset: int, stop: int, raw: bytes) -> bytes:
        """Bytes `offset` to `stop` of a deflated member; `raw`: its first bytes as they were read already."""
        d = zlib.decompressobj(-15)
        parts: list[bytes] = []
        have, taken = 0, len(raw)
        try:
            while have < stop and not d.eof:
                if not raw:
                    raw = self._c.exact(min(_CHUNK, size - taken), start + taken) if taken < size else b""
                    if not raw:
                        break
                    taken += len(raw)
                out = d.decompress(raw, stop - have)
                raw = d.unconsumed_tail
                if have + len(out) > offset:
                    parts.append(out[max(offset - have, 0) :])
                have += len(out)
        except zlib.error as e:
            raise broken("zip member", e) from None
        return b"".join(parts)

    def _slow(self, info: zipfile.ZipInfo, offset: int, stop: int) -> bytes:
        try:
            with self._zip.open(info) as f:
                f.read(offset)
                return f.read(stop - offset)
        except (NotImplementedError, zipfile.BadZipFile, OSError, ValueError, EOFError, lzma.LZMAError) as e:
            raise broken("zip member", e) from None

    def close(self) -> None:
        self._zip.close()
        self._c.close()

    def __enter__(self) -> ZipSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class TarSource:
    """Members of a tar file, plain or compressed.

    A plain tar is read by position. A compressed one has to be inflated up to the member: going forward is one pass,
    going back starts again, so compressed tars suit indexing, and screening of few slices only.
    """

    max_ratio = 400  # inflated against stored bytes; CT reaches 3, an all-zero phantom some 100

    def __init__(self, store: Source, outer: str):
        self._c = _Container(store, outer)
        head = self._c.pread(6, 0)
        self._size = self._c.file.seek(0, os.SEEK_END)
        self._c.file.seek(0)
        self._packed = head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head[:6] == b"\xfd7zXZ\x00"
        self._stream: IO[bytes] = _unpacked(self._c.file, head) if self._packed else self._c.file

    def list(self) -> Iterator[Entry]:
        cap = max(self._size * self.max_ratio, _SMALLEST_CAP) if self._packed else 1 << 62
        try:
            self._stream.seek(0)
            with tarfile.open(fileobj=cast(Any, _Capped(self._stream, cap)), mode="r:") as tar:
                while (m := tar.next()) is not None:
                    cast(Any, tar).members = []  # tarfile keeps every member otherwise
                    if m.isreg():
                        name = f"tar://{_quote(m.name)}@{m.offset_data}+{m.size}::{self._c.outer}"
                        yield Entry(name, m.size, f"{int(m.mtime):x}")
        except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as e:
            raise broken("tar", e) from None

    def header(self, uri: str, n: int) -> bytes:
        return self.read(uri, 0, n)

    def read(self, uri: str, offset: int = 0, length: int | None = None) -> bytes:
        where = uri.removeprefix("tar://").split("::", 1)[0].rpartition("@")[2]
        start, size = (int(x) for x in where.split("+"))
        n = max(min(size - offset, size if length is None else length), 0)
        if not self._packed:  # headers of small members lie side by side, pixels don't
            return self._c.exact(n, start + offset) if n > _ALONE else self._c.pread(n, start + offset)
        try:
            with self._c._lock:
                self._stream.seek(start + offset)
                return self._stream.read(n)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as e:
            raise broken("compressed tar", e) from None

    def close(self) -> None:
        self._c.close()

    def __enter__(self) -> TarSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _unpacked(f: IO[bytes], head: bytes) -> Any:
    import gzip

    if head[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=f)
    return bz2.BZ2File(f) if head[:3] == b"BZh" else lzma.LZMAFile(f)


class _Capped:
    """A file object that refuses to go past `cap`: the guard against compressed tars that inflate for ever."""

    def __init__(self, f: IO[bytes], cap: int):
        self._f, self._cap = f, cap

    def read(self, n: int = -1) -> bytes:
        if self._f.tell() > self._cap:
            raise OSError("it inflates beyond any CT archive (bomb)")
        return self._f.read(n)

    def seek(self, pos: int, whence: int = 0) -> int:
        if pos > self._cap:
            raise OSError("it inflates beyond any CT archive (bomb)")
        return self._f.seek(pos, whence)

    def tell(self) -> int:
        return self._f.tell()
