"""The one way in which a local file is written: it appears whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced(path: str | os.PathLike[str], durable: bool = False) -> Iterator[Path]:
    """A hidden file beside `path` to write; it takes `path`'s place when the block ends without an error.

    Args:
        durable: the bytes are on the disk before the file appears, so that not even a power cut loses it.

    Raises:
        OSError: whatever the disk says; the half-written file is gone then.
    """
    path = Path(path)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
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
