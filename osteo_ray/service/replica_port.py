"""Serve's replicas listen where they must, and nowhere else.

Each Serve replica opens a gRPC port on all interfaces and unpickles what arrives there: whoever reaches the port runs
code. No setting of Ray binds it, so `bind` replaces the one call that opens it, after it has looked that this call is
what it knows. `foreign_listeners` then lists what can be reached from outside, whoever opened it.
"""

import inspect
import socket
from collections.abc import Iterator
from ipaddress import ip_address

from osteo_ray.config import ConfigError

CALL = 'add_port_to_grpc_server(self._server, "[::]:0")'
"""How Ray 2.60 opens the port (`ray.serve._private.replica`)."""


class OpenPortError(RuntimeError):
    """A port that can be reached from other machines, and can't be closed."""

    exit_code = 2


def bind() -> None:
    """Bind the replica port to the node's own address, in this process; call it where a replica's module is imported.

    Raises:
        OpenPortError: this version of Ray opens the port in another way.
    """
    from ray.serve._private import replica

    if getattr(replica.add_port_to_grpc_server, "bound", False):
        return
    if inspect.getsource(replica).count(CALL) != 1:
        import ray

        raise OpenPortError(
            f"Ray {ray.__version__} opens its replicas' gRPC port in a way that is not known here, so it can't be "
            "bound to this machine; install the version in constraints.txt"
        )
    original = replica.add_port_to_grpc_server

    def bound_port(server, address: str) -> int:
        import ray

        host = ray.util.get_node_ip_address()
        return original(server, address.replace("[::]:", f"[{host}]:" if ":" in host else f"{host}:"))

    bound_port.bound = True  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = bound_port


def refuse_taken(host: str, port: int) -> None:
    """Try to listen at an address, before anything else is started for it.

    Raises:
        ConfigError: it is no address of this machine, or somebody listens there.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that a former run left waiting is free
            s.bind(address)
            s.listen()
    except OSError as e:
        raise ConfigError(f"host, port: can't listen at {host}, port {port}: {e.strerror}; give another") from None


def on_loopback(address: str) -> bool:
    """Whether only this machine reaches an address, IPv4 inside IPv6 (::ffff:127.0.0.1) too."""
    ip = ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def foreign_listeners(allowed: frozenset[int] = frozenset()) -> Iterator[tuple[int, str, str, int]]:
    """(process id, process name, address, port) of sockets beyond loopback that this process and its children listen
    on, but for the ports `allowed`.
    """
    import psutil

    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            name = process.name()
            found = process.net_connections(kind="inet")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        for c in found:
            if c.status == psutil.CONN_LISTEN and not on_loopback(c.laddr.ip) and c.laddr.port not in allowed:
                yield process.pid, name, c.laddr.ip, c.laddr.port
