"""What a request may make the service read, and how much of it.

    allowed_archive("/data/ct/2024", cfg.archives)      # -> the path without links, or Problem 403
    check_zip(path, cfg.limits)                         # -> nothing, or Problem 413 / 422

Allow-lists only: a path has to lie under a configured folder after every link is resolved; a bucket or a DICOMweb
service has to be named in the config. Clients never choose a scheme, a host or a port of their own.
"""

from __future__ import annotations

import os
import re
import socket
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from osteo_ray.service.config import Archives, ServiceLimits
from osteo_ray.service.http.problems import Problem

Resolve = Callable[[str, int], Sequence[str]]

_UID = re.compile(r"[0-9.]{1,64}")
_PORTS = {"http": 80, "https": 443}


def refused(detail: str, remedy: str) -> Problem:
    return Problem(403, "NOT_ALLOWED", detail, remedy)


# ---- paths


def under(path: str, roots: Sequence[str], what: str) -> Path:
    """`path` with every link resolved, where that lies under one of `roots`.

    The answer is the same for what is outside and what does not exist there, so that nothing outside can be probed.

    Raises:
        Problem: 403 outside, 404 inside but not there, 422 no path at all.
    """
    if not path or "\0" in path or len(path) > 4096:
        raise Problem(422, "INVALID", f"{what}: not a path", "give an absolute path under a configured folder")
    remedy = f"ask the operator which folders are configured for {what}"
    if not os.path.isabs(path):
        raise refused(f"{what}: a relative path is refused", remedy)
    real = Path(os.path.realpath(path))
    homes = [Path(os.path.realpath(r)) for r in roots]
    if not any(real == h or h in real.parents for h in homes):
        raise refused(f"{what}: the path lies under no configured folder", remedy)
    if not real.exists():
        raise Problem(404, "NOT_THERE", f"{what}: nothing is there", "check the path")
    return real


def allowed_archive(uri: str, archives: Archives, resolve: Resolve | None = None) -> str:
    """An archive that may be screened, as the pipeline should read it.

    Raises:
        Problem: 403 where it is not allowed, 404 where it is not there, 422 where it can't be understood.
    """
    if "::" in uri:
        raise refused("archive: chained addresses are refused", "give a folder, a zip, a bucket or a DICOMweb service")
    if uri.startswith("dicomweb+"):
        return allowed_dicomweb(uri.removeprefix("dicomweb+"), archives, resolve)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", uri):
        return _allowed_bucket(uri, archives)
    path = under(uri, archives.roots, "archive")
    if path.suffix == ".parquet":
        # A catalogue holds addresses of its own, which nobody has checked.
        raise refused("archive: a catalogue is refused", "give the archive that it was made from")
    return str(path)


def _allowed_bucket(uri: str, archives: Archives) -> str:
    # Percent-encoding is not decoded by the stores' clients, but a prefix that depends on that is no prefix.
    if any(p in ("..", ".") for p in re.split(r"[/\\]", unquote(uri))) or "\\" in uri or _odd(uri):
        raise refused("archive: dots and backslashes are refused in an address", "give the plain address")
    for prefix in archives.buckets:
        if uri == prefix.rstrip("/") or uri.startswith(prefix.rstrip("/") + "/"):
            return uri
    raise refused(
        "archive: the address begins with no configured prefix", "ask the operator which buckets are configured"
    )


# ---- DICOMweb


@dataclass(frozen=True)
class _Root:
    scheme: str
    host: str
    port: int
    path: str

    @property
    def names_loopback(self) -> bool:
        """Whether the operator wrote a loopback address, which makes it meant."""
        address = _literal(self.host)
        return self.host == "localhost" or (address is not None and address.is_loopback)


def allowed_dicomweb(url: str, archives: Archives, resolve: Resolve | None = None) -> str:
    """A DICOMweb address under a configured service root, as the index writes it (`dicomweb+https://...`).

    Whole services, one study (`.../studies/<uid>`) and one series are allowed. The name is resolved here, and none of
    its addresses may be loopback (unless the config names it), link-local, multicast or unspecified.

    Raises:
        Problem: 403, saying what was refused; 422 where it is no such address.
    """
    asked, parts = _root(url)
    configured = [_root(r)[0] for r in archives.dicomweb]
    match = [
        r
        for r in configured
        if (r.scheme, r.host, r.port) == (asked.scheme, asked.host, asked.port)
        and (asked.path == r.path or asked.path.startswith(r.path + "/"))
    ]
    if not match:
        raise refused(
            "dicomweb: the address is under no configured service", "ask the operator which services are configured"
        )
    rest = asked.path[len(match[0].path) :].strip("/")
    if rest and not _is_study(rest):
        raise Problem(422, "INVALID", "dicomweb: not a study of the service", "end it with /studies/<StudyInstanceUID>")
    if parts.query or parts.fragment:
        raise Problem(422, "INVALID", "dicomweb: a query is refused", "give the address without ? and #")
    for text in (resolve or _resolve)(asked.host, asked.port):
        address = ip_address(text.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if address.is_link_local or address.is_multicast or address.is_unspecified:
            raise refused("dicomweb: the name resolves to an address that no service has", "check the name")
        if address.is_loopback and not match[0].names_loopback:
            raise refused("dicomweb: the name resolves to this machine", "configure it by its address and port")
    return f"dicomweb+{asked.scheme}://{_netloc(asked)}{asked.path}"


def _is_study(rest: str) -> bool:
    parts = rest.split("/")
    names = ("studies", "series")
    return (
        len(parts) in (2, 4)
        and all(parts[2 * i] == names[i] for i in range(len(parts) // 2))
        and all(_UID.fullmatch(u) for u in parts[1::2])
    )


def _root(url: str) -> tuple[_Root, SplitResult]:
    remedy = "write it as https://host/path"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Problem(422, "INVALID", "dicomweb: not an address", remedy) from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise Problem(422, "INVALID", "dicomweb: only http and https addresses are read", remedy)
    if "@" in parts.netloc:
        raise refused("dicomweb: a user or password in the address is refused", "the operator keeps them in .netrc")
    if _odd(url) or "%" in parts.path or "\\" in url or any(p in ("..", ".") for p in parts.path.split("/")):
        raise refused("dicomweb: dots, backslashes and escapes are refused in an address", remedy)
    path = parts.path.rstrip("/")
    return _Root(parts.scheme, parts.hostname.lower().rstrip("."), port or _PORTS[parts.scheme], path), parts


def _odd(url: str) -> bool:
    """Blanks and control characters, which address parsers read differently from each other."""
    return any(ord(c) <= 32 or ord(c) == 127 for c in url)


def _netloc(r: _Root) -> str:
    host = f"[{r.host}]" if ":" in r.host else r.host
    return host if r.port == _PORTS[r.scheme] else f"{host}:{r.port}"


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _resolve(host: str, port: int) -> list[str]:
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError):
        raise Problem(422, "INVALID", "dicomweb: the name can't be resolved", "check the name") from None


# ---- uploads


def check_zip(path: Path, limits: ServiceLimits) -> None:
    """Refuse what is no zip, and zips that would cost more than the limits allow; reads the directory alone.

    `dicom.containers` never inflates a member beyond the size that its directory entry states, so the stated sizes are
    what a bomb is judged by; members that share bytes count each time.

    Raises:
        Problem: 413 ZIP_BOMB or TOO_MANY_FILES, 422 NOT_A_ZIP or ENCRYPTED.
    """
    remedy = "send one study's DICOM files in a zip"
    try:
        with zipfile.ZipFile(path) as z:
            members = z.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        raise Problem(422, "NOT_A_ZIP", "study: the upload is not a zip", remedy) from None
    if len(members) > limits.members:
        raise Problem(413, "TOO_MANY_FILES", f"study: {len(members)} files; {limits.members} are allowed", remedy)
    whole = sum(m.file_size for m in members)
    if whole > limits.unzipped_mb << 20:
        raise Problem(
            413, "ZIP_BOMB", f"study: unzips to {whole >> 20} MB; {limits.unzipped_mb} MB are allowed", remedy
        )
    # Small members may be all zeros; what counts is what a member costs.
    if any(m.file_size > 1 << 20 and m.file_size > limits.ratio * max(m.compress_size, 1) for m in members):
        raise Problem(413, "ZIP_BOMB", f"study: a file inflates more than {limits.ratio}-fold", remedy)
    if any(m.flag_bits & 0x1 for m in members):
        raise Problem(422, "ENCRYPTED", "study: the zip is encrypted", "send it without a password")
