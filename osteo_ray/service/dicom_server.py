"""A DICOM server whose connections are bounded before anybody's title is known.

    server = start(ae, ("127.0.0.1", 11112), handlers, Bounds(...))

pynetdicom reads whatever length a message states, waits for its bytes without an end, and counts connections only once
they have introduced themselves. Here each connection has a time in which its association request must have come, each
message a size and a time, and connections that have not introduced themselves are counted, also by address.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

REQUEST_BYTES = 1 << 20
"""Longest association request: 128 proposed contexts with all transfer syntaxes are a tenth of it."""
SLACK = 4096
"""What a message may have beyond the agreed size: its own head."""
STRANGERS, OF_ONE_ADDRESS = 32, 8
"""Connections at once that have not introduced themselves: of all, and of one address."""


@dataclass(frozen=True)
class Bounds:
    """What one connection may take."""

    associations: int
    associate_s: float  # from the connection to its whole association request
    message_s: float  # from the first byte of a message to its last
    message_bytes: int
    instance_bytes: int  # of all messages of one C-STORE


class Unbounded(OSError):
    """A peer went beyond its bounds; its connection is shut."""


class Connection(AssociationSocket):
    """An association's socket that reads within bounds."""

    bounds: Bounds
    opened: float
    of_instance: int  # bytes since the last whole instance
    known: bool  # it has introduced itself, and was accepted

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly so many bytes, fewer where the peer ends.

        Raises:
            Unbounded: more bytes, or a longer time, than the peer has.
        """
        b = self.bounds
        known = self.known = self.known or bool(self.assoc.is_established)
        self.of_instance += nr_bytes
        if nr_bytes > (b.message_bytes + SLACK if known else REQUEST_BYTES):
            self._shut(f"a message of {nr_bytes} bytes")
        if self.of_instance > b.instance_bytes + (1 << 20) + SLACK:
            self._shut("an instance larger than is accepted")
        end = time.monotonic() + b.message_s if known else self.opened + b.associate_s
        out = bytearray()
        raw = self.socket
        while raw is not None and len(out) < nr_bytes:
            left = end - time.monotonic()
            if left <= 0:
                self._shut("a message that does not come to its end")
            raw.settimeout(left)
            try:
                part = raw.recv(min(nr_bytes - len(out), 65536))
            except TimeoutError:
                continue
            if not part:
                break
            out += part
        if raw is not None:
            raw.settimeout(b.message_s)  # a peer that does not read is no better
        return out

    def _shut(self, why: str) -> None:
        self._shutdown_socket()
        raise Unbounded(why)


class Handler(RequestHandler):
    """Makes the association of a new connection."""

    server: Server

    def _create_association(self) -> Association:
        assoc = super()._create_association()
        socket: Any = assoc.dul.socket
        socket.__class__ = Connection  # pynetdicom has no other way to give it one of ours
        socket.bounds, socket.opened = self.server.bounds, time.monotonic()
        socket.of_instance, socket.known = 0, False
        return assoc


class Server(ThreadedAssociationServer):
    """Takes connections up to the allowed numbers."""

    bounds: Bounds

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether one more connection is within the allowed numbers."""
        now = self.active_associations
        strangers = [a for a in now if not a.is_established]
        of_address = sum(a.requestor.address == client_address[0] for a in strangers)
        return (
            len(now) - len(strangers) < self.bounds.associations
            and len(strangers) < STRANGERS
            and of_address < OF_ONE_ADDRESS
        )

    def service_actions(self) -> None:
        """Called twice a second: connections that stay silent are shut."""
        super().service_actions()
        for a in self.active_associations:
            socket: Any = a.dul.socket
            if socket is None or socket.known or a.is_established:
                continue
            if time.monotonic() - socket.opened > self.bounds.associate_s:
                socket.close()


def start(ae: AE, address: tuple[str, int], handlers: list[Any], bounds: Bounds) -> tuple[Server, threading.Thread]:
    """Listen in a thread; `ae.shutdown()` ends it."""
    ae.maximum_associations = bounds.associations + STRANGERS  # those beyond `associations` never get that far
    server: Any = ae.make_server(address, evt_handlers=handlers, server_class=Server, request_handler=Handler)
    server.bounds = bounds
    ae._servers.append(server)
    thread = threading.Thread(target=server.serve_forever, name="dicom-server", daemon=True)
    thread.start()
    return server, thread


def instance_taken(assoc: Association) -> None:
    """Begin to count the bytes of the next instance."""
    socket: Any = assoc.dul.socket
    if socket is not None:
        socket.of_instance = 0
