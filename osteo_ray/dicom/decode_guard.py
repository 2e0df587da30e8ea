"""A decoder in a process of its own: bounded memory and time; its death is an outcome, not the job's end.

    with DecodeGuard() as guard:
        stack = SliceStack.from_row(row, guard=guard)

Compressed pixels of strangers can hang or kill a native decoder. Here that costs one child process, which the next
frame replaces. Uncompressed pixels need no decoder and stay in the caller. The first use costs an interpreter's start
(about 0.5 s), each frame some 0.3 ms.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from typing import Any

import numpy as np

from osteo_ray.dicom.codecs import decode_error, decode_frame
from osteo_ray.dicom.limits import Limits
from osteo_ray.io.child_process import ChildProcess
from osteo_ray.outcomes import Rejected

_HEAD = struct.Struct("<II")


class DecodeGuard:
    """One child decoder, started when first needed and again after it died. Safe to share between threads."""

    def __init__(self, limits: Limits | None = None):
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self.deaths = 0

    def decode(
        self, data: bytes, transfer_syntax: str, shape: tuple[int, int], bits_allocated: int, halvings: int = 0
    ) -> np.ndarray:
        """`codecs.decode_frame` in the child.

        Raises:
            Rejected: what decode_frame raises; DECODER_TIMEOUT, DECODER_DIED.
        """
        ask = {"ts": transfer_syntax, "shape": shape, "bits": bits_allocated, "halvings": halvings}
        with self._lock:
            if self._child is None:
                self._start()
            assert self._child is not None
            try:
                _send(self._child.socket, ask, data)
                answer, body = _receive(self._child.socket)
            except TimeoutError:
                self._end()
                message = f"no answer within {self._limits.decode_timeout_s:g} s"
                raise decode_error(message, "DECODER_TIMEOUT") from None
            except (OSError, EOFError):
                rc = self._end()
                raise decode_error(f"the decoder process ended ({rc})", "DECODER_DIED") from None
        if "code" in answer:
            raise decode_error(answer["message"], answer["code"])
        return np.frombuffer(body, answer["dtype"]).reshape(answer["shape"])

    def _start(self) -> None:
        self._child = ChildProcess("osteo_ray.dicom.decode_guard", "serve", self._limits.decode_memory_mb)
        sock = self._child.socket
        sock.settimeout(60.0)  # an interpreter's start on a loaded machine is not the frame's fault
        try:
            _receive(sock)
        except (OSError, EOFError):
            raise decode_error(f"the decoder process could not start ({self._end()})", "DECODER_DIED") from None
        sock.settimeout(self._limits.decode_timeout_s)

    def _end(self) -> str:
        child, self._child = self._child, None
        self.deaths += 1
        return "not running" if child is None else child.end()

    def close(self) -> None:
        with self._lock:
            if self._child is not None:
                self._end()
                self.deaths -= 1

    def __enter__(self) -> DecodeGuard:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _send(sock: Any, head: dict[str, Any], body: bytes | memoryview) -> None:
    text = json.dumps(head).encode()
    sock.sendall(_HEAD.pack(len(text), len(body)) + text)
    sock.sendall(body)


def _receive(sock: Any) -> tuple[dict[str, Any], bytearray]:
    n, m = _HEAD.unpack(_exactly(sock, _HEAD.size))
    return json.loads(bytes(_exactly(sock, n))), _exactly(sock, m)


def _exactly(sock: Any, n: int) -> bytearray:
    out = bytearray(n)
    view, at = memoryview(out), 0
    while at < n:
        got = sock.recv_into(view[at:])
        if not got:
            raise EOFError("the other end is gone")
        at += got
    return out


def serve(fd: int, memory_mb: int) -> None:
    """The child's loop: one frame in, one array or code out, until the other end closes."""
    import imagecodecs  # noqa: F401  before the limit: its libraries are mapped, not used memory

    _limit_memory(memory_mb)
    with socket.socket(fileno=fd) as sock:
        _send(sock, {"ready": os.getpid()}, b"")
        while True:
            try:
                ask, data = _receive(sock)
            except EOFError:
                return
            try:
                frame = decode_frame(bytes(data), ask["ts"], tuple(ask["shape"]), ask["bits"], -1, ask["halvings"])
                a = np.ascontiguousarray(frame)
                _send(sock, {"dtype": a.dtype.str, "shape": a.shape}, a.data.cast("B"))
            except Rejected as r:
                _send(sock, {"code": r.outcome.code, "message": r.outcome.message}, b"")
            except MemoryError:
                _send(sock, {"code": "DECODE_ERROR", "message": f"more than {memory_mb} MB"}, b"")


def _limit_memory(memory_mb: int) -> None:
    import resource

    with open("/proc/self/statm") as f:
        mapped = int(f.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    cap = mapped + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
