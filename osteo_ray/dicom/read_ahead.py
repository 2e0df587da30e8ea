"""Reads of stores and services that are begun before their bytes are asked for.

reads = ReadAhead(at_once=8)
begun = reads.begin("s3://bucket/slice", 1024, 524288)
data = begun.result()
"""

from __future__ import annotations

import threading
from concurrent.futures import Future

from osteo_ray.dicom.sources import read_uri


class ReadAhead:
    """At most `at_once` reads side by side, each in a daemon thread: one that hangs holds up no program's end."""

    def __init__(self, at_once: int):
        self._slots = threading.BoundedSemaphore(at_once)

    def begin(self, uri: str, offset: int, length: int | None) -> Future[bytes]:
        """Begin `read_uri`; cancelled before it has its turn, it never reads."""
        begun: Future[bytes] = Future()
        args = (begun, uri, offset, length)
        threading.Thread(target=self._read, args=args, name="read-ahead", daemon=True).start()
        return begun

    def _read(self, begun: Future[bytes], uri: str, offset: int, length: int | None) -> None:
        with self._slots:
            if not begun.set_running_or_notify_cancel():
                return
            try:
                begun.set_result(read_uri(uri, offset, length))
            except BaseException as e:  # it is raised where the bytes are asked for
                begun.set_exception(e)
