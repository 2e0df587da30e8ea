"""Ray: what the nodes of a cluster see of a job's paths, looked at from every one of them before any work.

    found = look_from_every_node("s3://bucket/run", [place("records", "/data/records")])
    for line in found: print(line)          # one a node and path, with the remedy; none: all see everything

A folder of one name on two machines may be two folders. So a file is written to `out` by the driver and read by a task
on each node, and of what is to be read the sizes of a few files are compared with what the driver sees.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from osteo_ray import __version__, ray_setup
from osteo_ray.io.files import replaced
from osteo_ray.io.store import Store
from osteo_ray.io.trouble import StoreError
from osteo_ray.io.uris import absolute, is_remote, join
from osteo_ray.outcomes import InputError

PROBE = ".osteo-ray-nodes-"
ANSWER_S = 90.0
"""Longest wait for the nodes: a worker's first start there, with the job's runtime environment."""
APPEAR_S = 5.0
"""How long a new file may take to appear on another machine: NFS clients keep listings for some seconds."""
SAMPLES = 3
CONNECT_S = 10.0
NODES_NAMED = 3


@dataclass(frozen=True)
class Place:
    """Something that tasks read. `files`: (name below it, bytes; None: a folder) of a few that the driver sees."""

    key: str
    uri: str
    files: tuple[tuple[str, int | None], ...] = ()
    workers: bool = False  # only nodes with CPUs need it


@dataclass(frozen=True)
class Finding:
    """What one node does not see."""

    node: str
    key: str
    uri: str
    why: str
    remedy: str


def place(key: str, uri: str, names: Sequence[str] = ()) -> Place:
    """What the driver sees of a path or URI; `names`: of the files in the folder that are read, empty: any few."""
    uri = absolute(uri)
    if is_remote(uri) or not os.path.exists(uri):
        return Place(key, uri)
    if not os.path.isdir(uri):
        return Place(key, uri, (("", os.path.getsize(uri)),))
    if not names:
        with os.scandir(uri) as entries:
            names = sorted(e.name for e in islice(entries, 1000))[:SAMPLES]
    found = [n for n in names if os.path.exists(join(uri, n))]
    return Place(key, uri, tuple((n, _size(join(uri, n))) for n in found))


def _size(path: str) -> int | None:
    return None if os.path.isdir(path) else os.path.getsize(path)


def look_from_every_node(out: str | None, places: Iterable[Place]) -> list[str]:
    """Lines that name node, path and remedy, for whatever a node can't see or write; none where all is well.

    Joins the cluster. A cluster of one node has nothing to ask: the driver has looked.

    Args:
        out: folder that the job writes to; None: nothing is written.
    """
    import ray

    ray_setup.start()
    nodes = {n["NodeID"]: n for n in ray.nodes() if n["Alive"]}
    own = ray.get_runtime_context().get_node_id()
    if set(nodes) == {own}:
        return []
    probe = _Probe.write(out) if out is not None else None
    try:
        return _lines(_ask(nodes, probe, tuple(places)))
    finally:
        if probe is not None:
            probe.remove()


@dataclass(frozen=True)
class _Probe:
    """A file in `folder`, which is `out` or, where that does not exist yet, the nearest folder above it."""

    out: str
    folder: str
    name: str
    nonce: str

    @classmethod
    def write(cls, out: str) -> _Probe:
        folder = _nearest(out)
        probe = cls(absolute(out), folder, PROBE + secrets.token_hex(4), secrets.token_hex(16))
        try:
            if is_remote(folder):
                Store(folder).put(probe.name, probe.nonce.encode())
            else:
                with replaced(join(folder, probe.name)) as tmp:
                    tmp.write_text(probe.nonce)
        except OSError as e:
            raise StoreError(f"{folder} can't be written: {e}") from e
        return probe

    def remove(self) -> None:
        with suppress(Exception):  # a store may allow to write and not to delete
            Store(self.folder).remove([self.name])

    def read(self) -> str:
        """ "" where it is the one that was written, else why not; waits for a file that is on its way."""
        limit = time.monotonic() + APPEAR_S
        while True:
            try:
                same = Store(self.folder).get(self.name).decode() == self.nonce
                return "" if same else "what the driver wrote there reads otherwise"
            except Exception as e:  # stores raise their own kinds of error
                why = "what the driver wrote there is not there" if isinstance(e, FileNotFoundError) else _words(e)
            if time.monotonic() >= limit:
                return why
            time.sleep(0.5)


def _nearest(out: str) -> str:
    at = absolute(out)
    if is_remote(at):
        return at
    above = Path(at)
    while not os.path.lexists(above):
        above = above.parent
    return str(above)


def _ask(nodes: dict[str, dict[str, Any]], probe: _Probe | None, places: tuple[Place, ...]) -> list[Finding]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(_look)
    asked: dict[Any, str] = {}
    for node_id, node in nodes.items():
        works = node["Resources"].get("CPU", 0) > 0
        mine = tuple(p for p in places if works or not p.workers)
        # No CPU: a head that computes nothing answers, and so does a node whose cores are all at work.
        hard = NodeAffinitySchedulingStrategy(node_id, soft=False)
        asked[task.options(num_cpus=0, max_retries=1, scheduling_strategy=hard).remote(probe, mine)] = node_id
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    found: list[Finding] = []
    for ref in done:
        node_id = asked[ref]
        named = _name(nodes[node_id])
        try:
            version, seen = ray.get(ref)
        except Exception as e:  # Ray's errors, and those of a package that is not there
            if _alive(node_id):
                how = "use the same image on all nodes"
                found.append(Finding(named, "", "", f"can't run this package ({_words(e)})", how))
            continue
        if version != __version__:
            why = f"has osteo-ray {version}, the driver {__version__}"
            found.append(Finding(named, "", "", why, "use the same image on all nodes"))
        found += [replace(f, node=named) for f in seen]
    for ref in late:
        ray.cancel(ref, force=True)
        if _alive(asked[ref]):
            why = f"did not answer within {ANSWER_S:g} s"
            found.append(Finding(_name(nodes[asked[ref]]), "", "", why, "look at its logs, or drain it"))
    return found


def _alive(node_id: str) -> bool:
    import ray

    return any(n["NodeID"] == node_id and n["Alive"] for n in ray.nodes())


def _name(node: dict[str, Any]) -> str:
    """Address and the beginning of its id: on one machine, or behind one address, several nodes may run."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def _lines(found: list[Finding]) -> list[str]:
    """One line for each thing that is wrong; nodes that share it are named together."""
    nodes: dict[tuple[str, ...], list[str]] = {}
    for f in found:
        nodes.setdefault((f.key, f.uri, f.why, f.remedy), []).append(f.node)
    lines = []
    for (key, uri, why, remedy), named in nodes.items():
        more = f" and {len(named) - NODES_NAMED} more" if len(named) > NODES_NAMED else ""
        at = f"{key}: {uri}: " if uri else ""
        lines.append(f"node {', '.join(sorted(named)[:NODES_NAMED])}{more}: {at}{why}; {remedy}")
    return lines


def check_nodes(out: str | None, places: Iterable[Place]) -> None:
    """`look_from_every_node`, as an error.

    Raises:
        InputError: something is not seen by every node that needs it.
        StoreError: the driver can't write to `out`.
    """
    if lines := look_from_every_node(out, places):
        raise InputError("\n".join(lines))


# --- on a node ---


def _look(probe: _Probe | None, places: tuple[Place, ...]) -> tuple[str, list[Finding]]:
    """Task: (version of the package, what this node does not see)."""
    found = []
    if probe is not None and (why := probe.read() or _cannot_write(probe.out)):
        found.append(Finding("", "out", probe.out, why, _remedy(probe.out, "written")))
    for p in places:
        if why := _cannot_see(p):
            found.append(Finding("", p.key, p.uri, why, _remedy(p.uri, "read")))
    return __version__, found


def _remedy(uri: str, how: str) -> str:
    if is_remote(uri):
        return f"let this node reach it, with the credentials by which it may be {how}"
    return "mount the same folder at this path on every node, or name a bucket (s3://...)"


def _cannot_write(out: str) -> str:
    try:
        Store(out).check_writable()
    except Exception as e:
        return _words(e.__cause__ or e)
    return ""


def _cannot_see(p: Place) -> str:
    """Why a place can't be read from here; "" where it can."""
    try:
        if p.uri.startswith("dicomweb+"):
            return _cannot_reach(p.uri.removeprefix("dicomweb+"))
        if is_remote(p.uri):
            import fsspec

            fs, path = fsspec.core.url_to_fs(p.uri)
            return "" if fs.exists(path) else "is not there"
        if not os.path.exists(p.uri):
            return "is not there"
        if os.path.isdir(p.uri) and not p.files:
            with os.scandir(p.uri) as entries:
                return "" if next(entries, None) is not None else "is an empty folder"
        for name, size in p.files:
            at = join(p.uri, name) if name else p.uri
            if not os.path.exists(at):
                return f"another folder than the driver's: it has no {name}"
            if (now := _size(at)) != size:
                return f"{name or 'the file'} has {now} bytes, the driver's has {size}"
            if size is not None:
                with open(at, "rb") as f:
                    f.read(1)
    except Exception as e:  # stores raise their own kinds of error
        return _words(e)
    return ""


def _cannot_reach(url: str) -> str:
    """Why a service's port can't be reached; where a proxy stands before it, the requests themselves will tell."""
    import socket
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return ""
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as e:
        return f"can't be reached: {e.strerror or e}"
    return ""


def _words(e: BaseException) -> str:
    text = str(getattr(e, "strerror", None) or getattr(e, "cause", None) or e).strip()
    return f"{type(e).__name__}: {text.splitlines()[0] if text else ''}"[:200]
