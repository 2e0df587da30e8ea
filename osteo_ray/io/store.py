"""Files of a run, on a disk or in an object store: one small class for both.

    out = Store("s3://bucket/run")            # or a path
    out.put("parts/a.parquet", data)          # whole or not at all
    out.names("parts/")                       # what is there
    with out.parquet("results.parquet") as f: ...

Object stores are reached through fsspec; endpoint and credentials come from where each store's own tools look for them,
never from the URI.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray.io.files import replaced
from osteo_ray.io.trouble import NOT_THE_STORE, StoreError, reason
from osteo_ray.io.uris import absolute, is_remote, join, refuse_password
from osteo_ray.progress import notice

if TYPE_CHECKING:
    import pyarrow.dataset as pads

_DELETED_AT_ONCE = 1000  # by one request to S3


class Store:
    """A folder of files, named by relative paths.

    Args:
        private: files that are put on a disk, and folders made for them, are the owner's alone. Who may read a bucket
            is for the bucket to say.
    """

    def __init__(self, uri: str | os.PathLike[str], private: bool = False):
        self.uri = absolute(uri)
        self._private = private
        self.remote = is_remote(self.uri)
        self.calls = 0  # files opened, written, looked up or removed, and listings: what a store has to answer
        self._fs: Any = None
        self._root = self.uri
        if self.remote:
            import fsspec

            refuse_password(self.uri)
            self._fs, self._root = fsspec.core.url_to_fs(self.uri)
            self._root = self._root.rstrip("/")

    def path(self, name: str) -> str:
        """Where `name` lies, as a path or URI that people and other programs can use."""
        return join(self.uri, name)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def names(self, folder: str, prefix: str = "") -> list[str]:
        """Files in `folder` ("parts/") whose name begins with `prefix`, sorted, as `folder + name`; none if absent."""
        self.calls += 1
        if self.remote:
            self._fs.invalidate_cache()
            # A prefix is what object stores list by: files of other prefixes are never fetched.
            found = self._fs.find(self._at(folder.rstrip("/")), prefix=prefix)
            found_names = [p.rsplit("/", 1)[1] for p in found]
        else:
            try:
                with os.scandir(self._at(folder)) as it:
                    found_names = [e.name for e in it]
            except FileNotFoundError:
                return []
        return sorted(folder + n for n in found_names if n and n.startswith(prefix) and not n.startswith("."))

    def tree(self, folder: str) -> list[str]:
        """Files in `folder` ("slices/") and below it, sorted, as `folder + name`; none if absent."""
        self.calls += 1
        root = self._at(folder.rstrip("/"))
        if self.remote:
            self._fs.invalidate_cache()
            found = [p[len(root) + 1 :] for p in self._fs.find(root)]
        else:
            found = [p.relative_to(root).as_posix() for p in Path(root).rglob("*") if p.is_file()]
        return sorted(folder + n for n in found)

    def folders(self) -> list[str]:
        """Names of the folders in it, sorted; none if absent."""
        self.calls += 1
        if self.remote:
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._root, detail=True)
            except FileNotFoundError:
                return []
            return sorted(f["name"].rstrip("/").rsplit("/", 1)[1] for f in found if f["type"] == "directory")
        try:
            with os.scandir(self._root) as it:
                return sorted(e.name for e in it if e.is_dir())
        except FileNotFoundError:
            return []

    def written(self, folder: str) -> dict[str, int]:
        """Files in `folder` ("parts/"), as `folder + name`, and when each was written, ns since the epoch."""
        self.calls += 1
        root = self._at(folder.rstrip("/"))
        if self.remote:
            self._fs.invalidate_cache()
            listed = self._fs.find(root, detail=True).items()
            found = {p[len(root) + 1 :]: _written(i) for p, i in listed if "/" not in p[len(root) + 1 :]}
        else:
            found = {}
            with suppress(FileNotFoundError), os.scandir(root) as it:
                for e in it:
                    with suppress(FileNotFoundError):  # gone meanwhile
                        if e.is_file():
                            found[e.name] = e.stat().st_mtime_ns
        return {folder + n: at for n, at in sorted(found.items()) if n and not n.startswith(".")}

    def written_at(self, name: str) -> int | None:
        """When a file was written, ns since the epoch; None where there is no such file."""
        self.calls += 1
        try:
            if not self.remote:
                return os.stat(self._at(name)).st_mtime_ns if os.path.isfile(self._at(name)) else None
            self._fs.invalidate_cache()
            found = self._fs.info(self._at(name))
            return _written(found) if found["type"] == "file" else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, name: str) -> bool:
        self.calls += 1
        if self.remote:
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._at(name)))
        return os.path.exists(self._at(name))

    def those_there(self, names: Sequence[str]) -> set[str]:
        """Which of these files of one folder are there: one listing of an object store, a look at each on a disk.

        In an object store, looking for one that is not there takes two requests (as a file, and as a folder).
        """
        if not self.remote:
            return {n for n in names if self.exists(n)}
        if not names:
            return set()
        common = os.path.commonprefix(list(names))  # noqa: RUF071
        at = common.rfind("/") + 1
        return set(self.names(common[:at], common[at:])) & set(names)

    def is_file(self, name: str) -> bool:
        self.calls += 1
        if self.remote:
            self._fs.invalidate_cache()
            return bool(self._fs.isfile(self._at(name)))
        return os.path.isfile(self._at(name))

    def put(self, name: str, data: bytes) -> None:
        """Write one file; it appears whole or not at all."""
        self.calls += 1
        if self.remote:
            self._fs.pipe_file(self._at(name), data)
            return
        with replaced(self._at(name), private=self._private) as tmp:
            tmp.write_bytes(data)

    def get(self, name: str) -> bytes:
        self.calls += 1
        return self._fs.cat_file(self._at(name)) if self.remote else Path(self._at(name)).read_bytes()

    def upload(self, file: Path, name: str) -> None:
        """Copy a file of this machine into the store."""
        self.calls += 1
        if self.remote:
            self._fs.put_file(str(file), self._at(name))
            return
        with replaced(self._at(name), private=self._private) as tmp:
            shutil.copyfile(file, tmp)

    def download(self, name: str, file: Path) -> None:
        """Copy a file of the store to this machine."""
        self.calls += 1
        file.parent.mkdir(parents=True, exist_ok=True)
        if self.remote:
            self._fs.get_file(self._at(name), str(file))
        else:
            shutil.copyfile(self._at(name), file)

    def put_table(self, name: str, table: pa.Table, **kw: Any) -> None:
        """Write a table as one Parquet file; it appears whole or not at all. `kw`: of `pq.write_table`."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", **kw)
        self.put(name, sink.getvalue().to_pybytes())

    def table(self, name: str) -> pa.Table:
        """A Parquet file, all of it, without its metadata: of an object store in one read."""
        if not self.remote:
            with self.parquet(name) as f:
                return f.read().replace_schema_metadata(None)
        return pq.read_table(pa.BufferReader(self.get(name))).replace_schema_metadata(None)

    @contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """A Parquet file, opened for reading."""
        self.calls += 1
        with open_parquet(self.path(name)) as f:
            yield f

    @contextmanager
    def parquet_writer(self, name: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
        """A Parquet file written piece by piece; it appears, whole, when the block ends without an error."""
        with self.file_to_be(name) as tmp, pq.ParquetWriter(tmp, schema, compression="zstd") as w:
            yield w

    @contextmanager
    def file_to_be(self, name: str) -> Iterator[Path]:
        """A local file to write; it becomes `name` when the block ends without an error."""
        self.calls += 1
        if self.remote:
            with tempfile.TemporaryDirectory(prefix="osteo-ray-") as folder:
                tmp = Path(folder) / "file"
                yield tmp
                self._fs.put_file(str(tmp), self._at(name))
        else:
            with replaced(self._at(name), private=self._private) as tmp:
                yield tmp

    @contextmanager
    def folder(self, read: Sequence[str] = ()) -> Iterator[Path]:
        """The run as a local folder: its own, or one with a copy of the files `read`. What is new or changed in that
        one when the block ends is stored, also where it ends with an exception, as it would be on a disk."""
        if not self.remote:
            Path(self._root).mkdir(parents=True, exist_ok=True)
            yield Path(self._root)
            return
        with tempfile.TemporaryDirectory(prefix="osteo-ray-") as folder:
            root = Path(folder)
            for n in read:
                self.download(n, root / n)
            before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
            try:
                yield root
            finally:
                for p in root.rglob("*"):
                    if p.is_file() and before.get(p) != p.stat().st_mtime_ns:
                        self.upload(p, p.relative_to(root).as_posix())

    def check_writable(self) -> None:
        """Write and remove a small file: in the folder, or where it does not exist yet in the nearest one above it.

        Raises:
            StoreError: naming the folder and why nothing can be written.
        """
        self.calls += 1
        try:
            if self.remote:
                probe = self._at(f".probe-{secrets.token_hex(4)}")
                self._fs.pipe_file(probe, b"osteo-ray")
                with suppress(Exception):  # a store may allow to write and not to delete
                    self._fs.rm_file(probe)
                return
            above = Path(self._root)
            while not os.path.lexists(above):
                above = above.parent
            with tempfile.TemporaryFile(dir=above, prefix=".probe-") as f:
                f.write(bytes(4096))
                f.flush()
                os.fsync(f.fileno())  # some file systems take what they have no space for, and fail only now
        except NOT_THE_STORE:
            raise
        except Exception as e:  # stores raise their own kinds of error
            raise StoreError(f"{self.uri} can't be written: {reason(e)}") from e

    def remove_unfinished(self, folder: str) -> None:
        """Delete what killed writers left in `folder` of a disk; object stores show whole files only."""
        if not self.remote:
            for p in Path(self._at(folder)).glob(".*.tmp"):
                p.unlink(missing_ok=True)

    def remove(self, names: list[str]) -> None:
        """Delete files; one that is gone already is no error."""
        if self.remote and names:
            self.calls += -(-len(names) // _DELETED_AT_ONCE)
            try:
                self._fs.rm([self._at(n) for n in names])  # in bulk, where the store can
                return
            except FileNotFoundError:  # a store without bulk deletion stops at the first that is gone
                pass
        self.calls += len(names)
        for n in names:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._at(n)) if self.remote else os.unlink(self._at(n))

    def remove_tree(self, folder: str) -> None:
        """Delete a folder ("run") and all that is in it, where it is there."""
        self.calls += 1
        if not self.remote:
            shutil.rmtree(self._at(folder), ignore_errors=True)
            return
        self._fs.invalidate_cache()
        with suppress(FileNotFoundError):
            self._fs.rm(self._at(folder), recursive=True)

    def bytes_of(self, name: str, size: int = 1 << 20) -> Iterator[bytes]:
        """A file's bytes, `size` of them at a time."""
        self.calls += 1
        with self._fs.open(self._at(name)) if self.remote else open(self._at(name), "rb") as f:
            while piece := f.read(size):
                yield piece


def _written(info: Mapping[str, Any]) -> int:
    """When a file of an object store was written, ns since the epoch; stores name it differently."""
    keys = ("LastModified", "last_modified", "updated", "mtime", "created")
    at = next((info[k] for k in keys if info.get(k) is not None), 0)
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    return int((at.timestamp() if isinstance(at, datetime) else float(at)) * 1e9)


@contextmanager
def open_parquet(uri: str | os.PathLike[str]) -> Iterator[pq.ParquetFile]:
    """A Parquet file by path or URI."""
    if not is_remote(uri):
        with pq.ParquetFile(absolute(uri)) as f:
            yield f
        return
    import fsspec

    fs, path = fsspec.core.url_to_fs(os.fspath(uri))
    fs.invalidate_cache()
    # Footers and row groups are read in a few ranges; small pages suit them better than fsspec's 5 MiB.
    with fs.open(path, "rb", block_size=1 << 20) as raw, pq.ParquetFile(raw, pre_buffer=True) as f:
        yield f


def read_table(uri: str | os.PathLike[str], **kw: Any) -> pa.Table:
    """A whole Parquet file by path or URI."""
    if not is_remote(uri):
        return pq.read_table(absolute(uri), **kw)
    import fsspec

    with fsspec.open(os.fspath(uri), "rb") as raw:
        return pq.read_table(raw, **kw)


def dataset(uri: str | os.PathLike[str], schema: pa.Schema) -> pads.Dataset:
    """A Parquet file by path or URI, of which columns and rows are read; columns of `schema` that it lacks are null."""
    import pyarrow.dataset as pads  # brings pandas: a scorer's start does without

    if not is_remote(uri):
        return pads.dataset(absolute(uri), schema=schema)
    import fsspec

    fs, path = fsspec.core.url_to_fs(os.fspath(uri))
    fs.invalidate_cache()
    return pads.dataset(path, schema=schema, filesystem=fs, format="parquet")


@contextmanager
def local_file(uri: str | os.PathLike[str]) -> Iterator[Path]:
    """One file by path or URI, as a local path with the same name; a remote one is fetched for the block's length.

    Raises:
        FileNotFoundError: naming what is not there.
    """
    if not is_remote(uri):
        yield Path(absolute(uri))
        return
    import fsspec

    fs, path = fsspec.core.url_to_fs(os.fspath(uri))
    with tempfile.TemporaryDirectory(prefix="osteo-ray-") as folder:
        to = Path(folder) / path.rstrip("/").rsplit("/", 1)[-1]
        if not fs.isfile(path):
            raise FileNotFoundError(f"{uri} is not there")
        fs.get_file(path, str(to))
        yield to


@contextmanager
def new_file(uri: str | os.PathLike[str]) -> Iterator[Path]:
    """A local file to write; it becomes `uri`, a path or URI, when the block ends without an error."""
    folder, name = os.path.split(absolute(uri))
    with Store(folder).file_to_be(name) as tmp:
        yield tmp


@contextmanager
def local_folder(uri: str | os.PathLike[str], names: tuple[str, ...]) -> Iterator[Path]:
    """The files `names` of a folder by path or URI, as a local folder; files that are not there are left out."""
    if not is_remote(uri):
        yield Path(absolute(uri))
        return
    import fsspec

    fs, path = fsspec.core.url_to_fs(os.fspath(uri))
    with tempfile.TemporaryDirectory(prefix="osteo-ray-") as folder:
        for n in names:
            with suppress(FileNotFoundError):
                fs.get_file(f"{path.rstrip('/')}/{n}", f"{folder}/{n}")
        yield Path(folder)


@contextmanager
def watched(uri: str, patience_s: float, every_s: float = 5.0) -> Iterator[None]:
    """Say on stderr that a folder can't be written, and when it can again, while others (Ray tasks) write there.

    Those try again by themselves (`retry_for`) and can't be heard from another machine. An object store is asked
    six times more rarely.
    """
    store, ended, failing = Store(uri), threading.Event(), False

    def look() -> None:
        nonlocal failing
        while not ended.wait(every_s * (6 if store.remote else 1)):
            try:
                store.check_writable()
            except Exception as e:
                if not failing:
                    notice(f"cannot write: {e}; trying again for {patience_s:g} s")
                failing = True
            else:
                if failing:
                    notice(f"{store.uri} can be written again")
                failing = False

    thread = threading.Thread(target=look, name="watch-store", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
