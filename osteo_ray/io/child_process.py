"""A child process that may hang or die: started with one end of a socket, ended with everything that it started.

    child = ChildProcess("osteo_ray.dicom.decode_guard", "serve", 1024)     # calls serve(fd, 1024) over there
    child.socket.sendall(...)
    child.end()                                                             # "exit 0", "signal 9", ...

Who uses it speaks a protocol of its own over the socket; here is only what every such child needs. See
docs/decisions/child-process.md for why this is not a process pool.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

GRACE_S = 0.5
"""How long a child may take to end by itself once its socket is closed."""


class ChildProcess:
    """One running child."""

    def __init__(self, module: str, function: str, *args: int, env: Mapping[str, str] | None = None):
        """Start an interpreter that calls `function(fd, *args)` of `module`; fd is its end of the socket.

        Args:
            env: variables that are set unless the environment has them already.
        """
        self.socket, child_end = socket.socketpair()
        code = f"from {module} import {function}; import sys; {function}(*map(int, sys.argv[1:]))"
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(child_end.fileno()), *map(str, args)],
                pass_fds=[child_end.fileno()],
                env={**(env or {}), **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # so that what it starts is ended with it
            )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def end(self) -> str:
        """End the child and what it started; says how it ended."""
        self.socket.close()
        process = self._process
        try:
            rc: int | None = process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            rc = None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
        rc = process.wait() if rc is None else rc
        return f"signal {-rc}" if rc < 0 else f"exit {rc}"
