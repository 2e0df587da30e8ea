"""Pseudonyms: the only form in which a patient's identity leaves a header or a record.

    patient_key(" 0123 ", "hospital secret")        # '5d0c...', the same for the CT and for its record

What counts as the same number is stated in one place, `config.IdentityConfig`, and applied in one, `normalised`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

from osteo_ray.patients.config import DEFAULT_IDENTITY, IdentityConfig

# Three zeros behind up to three digits are a group of thousands (12,000 is another patient than 12), so they stay.
_DECIMAL_TAIL = re.compile(r"(?!\d{1,3}[.,]000$)(\d+)[.,]0+")
_BLANKS = re.compile(r"\s+")


# What systems and de-identifiers write where there is no number, so that many people share it; without case and signs.
_NO_NUMBER = frozenset(
    (
        *("anon", "anonym", "anonymous", "anonymus", "anonymized", "anonymised", "anonymisiert", "anonyme", "anonimo"),
        *("deidentified", "deidentifie", "removed", "redacted", "deleted", "masked", "hidden", "confidential"),
        *("unknown", "unk", "unbekannt", "inconnu", "desconocido", "sconosciuto", "onbekend", "unidentified"),
        *("none", "null", "nil", "nan", "na", "noid", "nopatientid", "missing", "undefined", "unspecified", "default"),
        *("test", "testpatient", "patient", "patientid", "id", "pid", "temp", "匿名", "未知", "不明"),
    )
)
_SIGNS = re.compile(r"[\W_]+")


def normalised(patient_id: str, rule: IdentityConfig = DEFAULT_IDENTITY) -> str:
    """A patient's number in the one form that its key is made of; '' where nothing is left, or a word for none."""
    text = patient_id if patient_id.isascii() else unicodedata.normalize("NFKC", patient_id)
    if not text.isprintable():
        # DICOM pads with NUL, exports carry byte order marks and zero-width characters; tabs and line ends are blanks.
        text = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    text = text.strip()
    if says_none(text, rule):
        return ""
    if rule.blanks == "remove":
        text = _BLANKS.sub("", text)
    if rule.decimal_tail == "drop" and (m := _DECIMAL_TAIL.fullmatch(text)):
        text = m[1]
    if rule.case == "upper":
        text = text.upper()
    if rule.leading_zeros == "drop":
        text = text.lstrip("0") or text[-1:]
    return text


def says_none(patient_id: str, rule: IdentityConfig = DEFAULT_IDENTITY) -> bool:
    """Whether a number is a word for there being none, which many people share."""
    return rule.placeholders == "drop" and _SIGNS.sub("", patient_id).casefold().lstrip("0") in _NO_NUMBER


@lru_cache(maxsize=4096)
def patient_key(
    patient_id: str, key: str | None, rule: IdentityConfig = DEFAULT_IDENTITY, site: str | None = None
) -> str:
    """Return 16 hex characters that stand for `patient_id`: keyed BLAKE2b, 64 bits.

    Without `key` the digest is a plain hash: stable, but anyone who can list the possible IDs can undo it; production
    sets a secret key. `site` (or issuer) is part of the key where it is given and `rule.site_in_key` holds.

    Raises:
        ValueError: the ID is empty (there is no pseudonym of nobody).
    """
    text = normalised(patient_id, rule)
    if not text:
        raise ValueError("patient_id is empty: a pseudonym needs an ID")
    if site and rule.site_in_key:
        text = f"{site.strip()}\x1f{text}"
    secret = b"" if key is None else key.encode()
    if len(secret) > hashlib.blake2b.MAX_KEY_SIZE:
        secret = hashlib.blake2b(secret).digest()
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8, key=secret).hexdigest()
