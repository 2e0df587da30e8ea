"""Files by path or URI.

    with local_folder("s3://bucket/bundle", ("bundle.json", "weights.safetensors")) as folder: ...

Object stores are reached through fsspec; endpoint and credentials come from where each store's own tools look for them,
never from the URI.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def is_remote(uri: str | os.PathLike[str]) -> bool:
    """Whether `uri` names an object store, not a path of this machine."""
    text = os.fspath(uri)
    return "://" in text and not text.startswith("file://")


@contextmanager
def local_folder(uri: str | os.PathLike[str], names: tuple[str, ...]) -> Iterator[Path]:
    """The files `names` of a folder by path or URI, as a local folder; files that are not there are left out."""
    if not is_remote(uri):
        yield Path(os.fspath(uri).removeprefix("file://"))
        return
    import fsspec

    fs, path = fsspec.core.url_to_fs(os.fspath(uri))
    with tempfile.TemporaryDirectory(prefix="osteo-ray-") as folder:
        for n in names:
            with suppress(FileNotFoundError):
                fs.get_file(f"{path.rstrip('/')}/{n}", f"{folder}/{n}")
        yield Path(folder)
