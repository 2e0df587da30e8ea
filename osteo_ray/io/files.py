"""The one way in which a local file is written: it appears whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced(path: str | os.PathLike[str], durable: bool = False, private: bool = False) -> Iterator[Path]:
    """A hidden file beside `path` to write; it takes `path`'s place when the block ends without an error.

    Args:
        durable: the bytes are on the disk before the file appears, so that not even a power cut loses it.
        private: the file, and folders that are made for it, are the owner's alone (0600, 0700).

    Raises:
        OSError: whatever the disk says; the half-written file is gone then.
    """
    path = Path(path)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        if private:
            private_folder(path.parent)
            tmp.touch(mode=0o600)  # before anything is in it
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield tmp
        if durable:
            fd = os.open(tmp, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        os.replace(tmp, path)
    except BaseException:
        with suppress(OSError):
            tmp.unlink(missing_ok=True)
        raise


def private_folder(path: Path) -> None:
    """A folder of the owner's alone, where there is none; those above it that are missing, too."""
    if path.is_dir():
        return
    private_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
