"""DICOMweb as a source: QIDO-RS lists series, their metadata gives all headers in one answer, WADO-RS one instance.

    open_source("dicomweb+https://pacs.example/dicom-web")

An entry is a series, stamped by its number of instances. User and password come from ~/.netrc (or the file that NETRC
names), never from the URI, because URIs are written into the catalogue. A redirect is an error: a service must not send
its reader elsewhere. The service decides which transfer syntax it sends, so rows say "as retrieved" and the slice
reader looks at what came.
"""

from __future__ import annotations

import errno
import json
import time
import zlib
from collections.abc import Iterator
from typing import Any

from osteo_ray.dicom.codecs import AS_RETRIEVED
from osteo_ray.dicom.sources import Entry
from osteo_ray.dicom.tags import FREE_TEXT, IN_ITEMS, SEQUENCES, TAGS, Header, name_digest
from osteo_ray.io.uris import refuse_password

_PAGE = 200
_TIMEOUT = (10.0, 120.0)  # seconds to connect, and between two packets
ANSWER_S = 900.0
"""Longest time that one answer may take as a whole: a service that drips bytes never runs into the time above."""
MOST_BYTES = 4 << 30
"""Largest answer: one instance, or the headers of one series."""
MOST_PAGES = 100_000
"""Pages of one list, each of up to 200 items."""
_CHUNK = 1 << 20
_US = frozenset(("US", "SS", "UL"))


class DicomWebSource:
    """A DICOMweb service root (the URI's part before /studies/), or one of its studies or series."""

    def __init__(self, uri: str):
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util.retry import Retry

        refuse_password(uri)
        self.root = uri
        base, _, below = uri.partition("/studies/")
        self.base = base.rstrip("/")
        self.study, _, self.series = below.strip("/").partition("/series/")
        self._session = requests.Session()
        retry = Retry(3, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), allowed_methods=("GET",))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def _get(self, uri: str, accept: str, **params: Any) -> tuple[bytes, str]:
        """(body, content type) of an answer, bounded in time and bytes.

        Raises:
            OSError: no answer, another status than 2xx, a redirect, an answer beyond its bounds.
        """
        url = uri.removeprefix("dicomweb+")
        end = time.monotonic() + ANSWER_S
        with self._session.get(
            url, params=params, headers={"Accept": accept}, timeout=_TIMEOUT, allow_redirects=False, stream=True
        ) as r:
            if r.status_code >= 300:
                raise OSError(r.status_code, f"HTTP {r.status_code} {r.reason}")
            return _bounded(r, end), r.headers.get("Content-Type", "")

    def _json(self, uri: str, **params: Any) -> list[dict[str, Any]]:
        body, _ = self._get(uri, "application/dicom+json", **params)
        return json.loads(body) if body else []

    def _paged(self, uri: str, **params: Any) -> Iterator[dict[str, Any]]:
        offset, before = 0, None
        for _ in range(MOST_PAGES):
            page = self._json(uri, limit=_PAGE, offset=offset, **params)
            if page and page == before:  # it ignores `offset`, and would go on for ever
                raise OSError(errno.EIO, "the service answers every page of its list with the same one")
            yield from page
            if len(page) < _PAGE:
                return
            offset, before = offset + len(page), page
        raise OSError(errno.EFBIG, f"the service's list has more than {MOST_PAGES * _PAGE} items")

    def list(self) -> Iterator[Entry]:
        studies = [self.study] if self.study else (_value(s, "0020000D") for s in self._paged(f"{self.base}/studies"))
        for study in studies:
            at = f"{self.base}/studies/{study}/series"
            for series in self._paged(at, includefield="00201209"):
                if self.series and _value(series, "0020000E") != self.series:
                    continue
                yield Entry(f"{at}/{_value(series, '0020000E')}", 0, str(_value(series, "00201209")))

    def series_headers(self, uri: str) -> Iterator[tuple[Entry, Header, int]]:
        """(entry, header, checksum of its metadata) of every instance of one series."""
        for item in self._json(f"{uri}/metadata"):
            text = json.dumps(item, sort_keys=True).encode()
            sop = _value(item, "00080018")
            yield Entry(f"{uri}/instances/{sop}", 0, ""), header_of_json(item), zlib.crc32(text)

    def header(self, uri: str, n: int) -> bytes:
        return self.read(uri, 0, n)

    def read(self, uri: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of one instance as the service holds it; the service can't send a part."""
        whole = first_part(*self._get(uri, 'multipart/related; type="application/dicom"; transfer-syntax=*'))
        return whole[offset : None if length is None else offset + length]

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> DicomWebSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _bounded(answer: Any, end: float) -> bytes:
    """The body of a streamed answer.

    Raises:
        OSError: it is longer than `MOST_BYTES`, or still coming at `end` (of time.monotonic).
    """
    from urllib3.exceptions import HTTPError

    parts: list[bytes] = []
    size = 0
    try:
        # One read returns what is there, so that a drip is seen as one; `iter_content` would wait for a whole chunk.
        while part := answer.raw.read1(_CHUNK, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise OSError(errno.EFBIG, f"the service's answer is longer than {MOST_BYTES} bytes")
            if time.monotonic() > end:
                raise OSError(errno.ETIMEDOUT, f"the service's answer did not end within {ANSWER_S:g} s")
    except HTTPError as e:
        raise OSError(errno.EIO, f"the service's answer was cut short ({type(e).__name__})") from None
    return b"".join(parts)


def _value(item: dict[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value") or [None]
    return values[0]


def first_part(body: bytes, content_type: str) -> bytes:
    """The first part of a multipart/related answer; the body itself where it is not multipart.

    Raises:
        OSError: no boundary, or no part within it.
    """
    if not content_type.lower().startswith("multipart/"):
        return body
    _, _, boundary = content_type.partition("boundary=")
    mark = b"--" + boundary.split(";")[0].strip(' "').encode()
    start = body.find(mark)
    head_end = body.find(b"\r\n\r\n", start)
    if len(mark) == 2 or start < 0 or head_end < 0:
        raise OSError(5, "the service's multipart answer has no part")
    end = body.find(b"\r\n" + mark, head_end)
    return body[head_end + 4 : end if end >= 0 else len(body)]


def header_of_json(item: dict[str, Any]) -> Header:
    """DICOM JSON of one instance -> the same Header that the byte parser gives."""
    h = Header(transfer_syntax=AS_RETRIEVED, has_meta=True)
    h.has_pixels = "7FE00010" in item or "00280010" in item
    for key, element in item.items():
        tag = _little(key)
        name = TAGS.get(tag)
        if name is None:
            continue
        if tag in SEQUENCES:
            h.groups[name] = [_item(x) for x in element.get("Value", [])]
        else:
            h.values[name] = _bytes(element, name)
    h.values["character_set"] = b"ISO_IR 192"  # JSON is UTF-8, whatever the object was
    return h


def _little(key: str) -> int:
    return int(key[4:], 16) << 16 | int(key[:4], 16)


def _item(item: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, element in item.items():
        tag = _little(key)
        name = IN_ITEMS.get(tag)
        if name is not None:
            out[name] = [_item(x) for x in element.get("Value", [])] if tag in SEQUENCES else _bytes(element, name)
    return out


def _bytes(element: dict[str, Any], name: str) -> bytes:
    """A JSON element's value as the bytes of an explicit little-endian file."""
    values = element.get("Value") or []
    if element.get("vr") in _US:
        size = 4 if element["vr"] == "UL" else 2
        return b"".join((int(v) & (256**size - 1)).to_bytes(size, "little") for v in values)
    if element.get("vr") == "PN":
        names = [str(v.get("Alphabetic", "") if isinstance(v, dict) else v) for v in values]
        return name_digest("".join(names).encode())
    text = "\\".join("" if v is None else repr(v) if isinstance(v, float) else str(v) for v in values)
    return text.encode("utf-8" if name in FREE_TEXT else "latin-1", "replace")
