"""Reports into a PACS: STOW-RS, and a look whether they are there (QIDO-RS).

    store("https://pacs/dicom-web", [Path("a.sr.dcm"), Path("a.sc.dcm")])

Credentials come from ~/.netrc (or $NETRC), as for reading an archive; none is ever part of an address.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from osteo_ray.outcomes import InputError


def store(url: str, files: Sequence[Path]) -> list[str]:
    """Store DICOM files; returns their SOP instance UIDs. What is there already stays one object.

    Raises:
        InputError: an address with a password, a file that is no DICOM, or what the server refused and why.
    """
    datasets = [_read(f) for f in files]
    client = _client(url)
    for ds in datasets:  # one a request: a refusal names its object, and a page of pixels is held once
        try:
            reply = client.store_instances([ds])
        except Exception as e:  # the client passes on whatever its transport raises
            raise InputError(f"{url} did not take {ds.SOPInstanceUID}: {type(e).__name__}: {str(e)[:200]}") from None
        # Servers send an empty FailedSOPSequence with every success.
        failed = list(reply.get("FailedSOPSequence") or ())
        if failed:
            reason = failed[0].get("FailureReason")
            raise InputError(f"{url} refused {ds.SOPInstanceUID}: failure reason {reason}")
    return [str(ds.SOPInstanceUID) for ds in datasets]


def find(url: str, **attributes: str) -> list[dict[str, Any]]:
    """QIDO-RS: instances whose attributes match, as DICOM JSON, e.g. `find(url, SOPInstanceUID=uid)`."""
    return _client(url).search_for_instances(search_filters=dict(attributes))


def held_for_another(url: str, files: Sequence[Path]) -> str | None:
    """Why reports under a pseudonym don't belong into a PACS: it holds the study under another PatientID.

    Returns:
        A sentence with the remedy; None where it does not hold the study, or holds it under the reports' own PatientID.
        No PatientID is in it.
    """
    ds = _read(files[0])
    if ds.get("PatientIdentityRemoved") != "YES":
        return None
    try:
        held = _client(url).search_for_studies(search_filters={"StudyInstanceUID": str(ds.StudyInstanceUID)})
    except Exception:  # a server that can't be asked will say so when it is to store
        return None
    ids = {str(v) for study in held for v in (study.get("00100020") or {}).get("Value") or ()}
    if not ids or ids == {str(ds.PatientID)}:
        return None
    return (
        f"{url} holds study {ds.StudyInstanceUID} under the patient's own number; its reports carry the pseudonym and "
        "will not file there: use --identifiers"
    )


def _client(url: str) -> DICOMwebClient:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url!r} is no DICOMweb address; write it as https://host/dicom-web")
    if parts.password or parts.username:
        raise InputError("the DICOMweb address holds a user or password; put them into ~/.netrc")
    return DICOMwebClient(url=url.rstrip("/"))


def _read(path: Path) -> Dataset:
    try:
        return dcmread(path)
    except (OSError, InvalidDicomError) as e:
        raise InputError(f"{path.name} can't be stored: {e}") from None
