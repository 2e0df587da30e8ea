"""Pseudonyms: the only form in which a patient's identity leaves a header or a record."""

from __future__ import annotations

import hashlib
from functools import lru_cache


@lru_cache(maxsize=4096)
def patient_key(patient_id: str, key: str | None) -> str:
    """Return 16 hex characters that stand for `patient_id`: keyed BLAKE2b, 64 bits.

    DICOM pads IDs with spaces and NULs, tables often don't: both are stripped, so that the key of a CT
    and the key of its record agree. Without `key` the digest is a plain hash: stable, but anyone who can list the
    possible IDs can undo it; production sets a secret key.

    Raises:
        ValueError: the ID is empty (there is no pseudonym of nobody).
    """
    text = patient_id.strip(" \x00\t\r\n")
    if not text:
        raise ValueError("patient_id is empty: a pseudonym needs an ID")
    secret = b"" if key is None else key.encode()
    if len(secret) > hashlib.blake2b.MAX_KEY_SIZE:
        secret = hashlib.blake2b(secret).digest()
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8, key=secret).hexdigest()
