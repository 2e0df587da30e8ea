"""A real Orthanc for a test or a measurement: on loopback, with a password; files and process are gone afterwards."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

PLUGINS = Path("/usr/share/orthanc/plugins")


def binary() -> str | None:
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")


def installed() -> bool:
    return binary() is not None and (PLUGINS / "libOrthancDicomWeb.so").exists()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def running(
    home: Path, dicom_port: int | None = None, modalities: dict[str, list] | None = None
) -> Iterator[tuple[str, requests.Session, Path]]:
    """(DICOMweb root URL, authenticated session, netrc file) of an empty Orthanc whose files lie in `home`.

    With `dicom_port` it also speaks DIMSE, as ORTHANC; `modalities` are those that it knows: name -> [AE, host, port].
    """
    port = free_port()
    config = {
        "Name": "test",
        "StorageDirectory": str(home / "storage"),
        "IndexDirectory": str(home / "index"),
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so"), str(PLUGINS / "libOrthancGdcm.so")],
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"reader": "secret"},
        "DicomServerEnabled": dicom_port is not None,
        "DicomPort": dicom_port or 4242,
        "DicomAet": "ORTHANC",
        "DicomModalities": modalities or {},
        "SyncStorageArea": False,
        "StableAge": 1,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (home / "orthanc.json").write_text(json.dumps(config))
    netrc = home / "netrc"
    netrc.write_text("machine 127.0.0.1 login reader password secret\n")
    netrc.chmod(0o600)
    base = f"http://127.0.0.1:{port}/dicom-web"
    session = requests.Session()
    session.trust_env = False
    session.auth = ("reader", "secret")
    env = {"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([str(binary()), str(home / "orthanc.json")], stdout=log, stderr=log, env=env)
        try:
            _wait(session, base, home / "log")
            yield base, session, netrc
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait(session: requests.Session, base: str, log: Path) -> None:
    for _ in range(300):
        try:
            if session.get(f"{base}/studies", timeout=2).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"Orthanc did not answer: {log.read_text()[-500:]}")


def store(session: requests.Session, base: str, files: Iterable[bytes]) -> None:
    """Upload through Orthanc's own API."""
    for data in files:
        r = session.post(base.replace("/dicom-web", "/instances"), data=data, timeout=30)
        r.raise_for_status()
