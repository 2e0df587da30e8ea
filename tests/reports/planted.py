"""Names, numbers and addresses planted where hospitals keep them, and a search for them in every byte written."""

from __future__ import annotations

import base64
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
from PIL import Image
from pydicom import dcmread

TAGS = {
    "PatientName": "Sonnenschein^Gertrüd^Wilhelmine",
    "PatientID": "HOSP-558311-Q",
    "OtherPatientIDs": "AOK7788123",
    "OtherPatientNames": "Mondfinster^Trudi",
    "PatientBirthDate": "19310717",
    "PatientAddress": "Veilchengasse 12b",
    "PatientTelephoneNumbers": "0451-8899776",
    "PatientComments": "Schwester von Bäckermeister Krautwurm",
    "ReferringPhysicianName": "Quacksalber^Ottokar",
    "PerformingPhysicianName": "Aderlass^Xaver",
    "OperatorsName": "Knipser^Yolanda",
    "InstitutionName": "Klinikum Nebelhorn",
    "InstitutionAddress": "Nebelhornstrasse 1",
    "StationName": "CTNEBEL7",
    "AccessionNumber": "ACC20551937",
    "StudyID": "STU-90210",
    "StudyDescription": "CT Abdomen Sonnenschein",
    "SeriesDescription": "Gertrüd axial",
    "DeviceSerialNumber": "SN-44418822",
}
FOLDER = "Sonnenschein_Gertrüd_19310717"
FILE = "Mondfinster-"
_WORDS = {w for v in (*TAGS.values(), FOLDER, FILE) for w in re.split(r"[\^_ ]", v)}
SECRETS = sorted(w for w in _WORDS if len(w) >= 6 and w.lower() not in ("abdomen", "schwester"))


def plant(path: Path, to: Path) -> None:
    """Copy a DICOM file with the planted tags."""
    ds = dcmread(path)
    ds.SpecificCharacterSet = "ISO_IR 192"
    for name, value in TAGS.items():
        setattr(ds, name, value)
    block = ds.private_block(0x0011, "PLANTED", create=True)
    block.add_new(0x01, "LO", "Krautwurm private")
    to.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(to)


def leaks(folder: Path) -> list[str]:
    """`file: secret` for each planted text found in any file below, packed or not, or in a name."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return [f"{p.relative_to(folder)}: {s}" for p in files for s in found_in(str(p.relative_to(folder)).encode(), p)]


def found_in(*parts: bytes | Path) -> list[str]:
    """Planted texts in bytes, in any case and in the encodings that software writes."""
    data = [x.lower() for part in parts for x in ([part] if isinstance(part, bytes) else _unpacked(part))]
    found = set()
    for secret in SECRETS:
        # lower() of bytes leaves what is not ASCII, so that both cases of an umlaut are looked for.
        forms = {f.lower() for case in (secret.lower(), secret.upper()) for f in _encoded(case)}
        if any(f in d for f in forms for d in data):
            found.add(secret)
    return sorted(found)


def _encoded(text: str) -> Iterator[bytes]:
    yield from (text.encode(e) for e in ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "unicode_escape"))
    yield quote(text).encode()
    yield "".join(f"\\u{ord(ch):04x}" if ord(ch) > 127 else ch for ch in text).encode()


def _unpacked(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    if data[:4] == b"PAR1":
        f = pq.ParquetFile(path)
        yield repr(f.schema_arrow.metadata).encode()
        yield "\n".join(map(repr, f.read().to_pylist())).encode()
    elif data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    elif data[:2] == b"PK":
        with zipfile.ZipFile(path) as z:
            for name in z.namelist():
                yield name.encode() + z.read(name)
    elif data[:4] == b"%PDF":
        for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.S):
            try:
                yield zlib.decompress(stream)
            except zlib.error:
                continue
    for png in re.findall(rb"data:image/png;base64,([A-Za-z0-9+/=]+)", data):
        with Image.open(io.BytesIO(base64.b64decode(png))) as im:
            im.load()
            yield repr(im.info).encode()
