"""What may pass when a store fails, and trying again until it has.

rows = retry_for(lambda: store.table("part.parquet"), "part.parquet", patience_s=600)
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
NOT_THE_STORE = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, AssertionError, MemoryError)
"""Errors that no store raises: what a program got wrong."""

_TRANSIENT = frozenset(
    (
        *(errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.ENOLINK, errno.EREMOTEIO),
        *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EPIPE, errno.EBUSY, errno.ENFILE, errno.EMFILE),
    )
)
_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE))
_TRANSIENT_HTTP = frozenset((408, 429, 500, 502, 503, 504))


class StoreError(OSError):
    """A store that could not be written or read for as long as one was ready to wait; the text says where and why."""

    exit_code = 5


def is_transient(e: BaseException) -> bool:
    """Whether a failure to read one thing may pass: a network, a busy or restarting store; not a missing file."""
    if isinstance(e, (ConnectionError, TimeoutError)):
        return True
    answer = getattr(e, "response", None)  # botocore's and requests' errors carry what the service said
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    if status is None:
        status = getattr(answer, "status_code", getattr(e, "status", None))
    if status in _TRANSIENT_HTTP:
        return True
    if isinstance(e, OSError) and (e.errno in _TRANSIENT or e.errno in _TRANSIENT_HTTP):
        return True
    return e.__cause__ is not None and e.__cause__ is not e and is_transient(e.__cause__)


def is_storage_trouble(e: BaseException) -> bool:
    """Whether a disk is full, read-only or failing: a later run may succeed."""
    while e is not None:
        if isinstance(e, StoreError) or (isinstance(e, OSError) and e.errno in _DISK):
            return True
        cause = getattr(e, "cause", None)  # what Ray wraps
        if isinstance(cause, BaseException) and is_storage_trouble(cause):
            return True
        e = e.__cause__  # type: ignore[assignment]
    return False


def reason(e: BaseException) -> str:
    """What went wrong, for a person, in at most 300 characters."""
    return str(getattr(e, "strerror", None) or f"{type(e).__name__}: {e}")[:300]


def retry_for(
    work: Callable[[], T], where: str, patience_s: float, only: Callable[[Exception], bool] = lambda e: True
) -> T:
    """Do `work()`, again and again while it fails, for `patience_s` seconds: a full disk or a store that is away may
    come back. What `only` is not true of is raised at once.

    Raises:
        StoreError: where it still failed in the end.
    """
    start, pause = time.monotonic(), 0.5
    while True:
        try:
            return work()
        except NOT_THE_STORE:
            raise
        except Exception as e:  # stores raise their own kinds of error: botocore, aiohttp
            if not only(e):
                raise
            left = patience_s - (time.monotonic() - start)
            if left <= 0:
                raise StoreError(f"{where}: {reason(e)} (tried for {patience_s:g} s)") from e
            time.sleep(min(pause, left))
            pause = min(2 * pause, 15.0)
