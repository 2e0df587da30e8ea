"""A table of whose numbers in records are whose numbers in CTs: of a pseudonymised archive, or of merged patients.

ct_numbers(KeyTable(path="keys.csv", number="MRN", ct="pseudonym"), identity)      # {"0012345": "P-0001", ...}
"""

from __future__ import annotations

from pathlib import Path

from osteo_ray.io.store import local_file
from osteo_ray.patients.config import IdentityConfig
from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.identity import normalised
from osteo_ray.patients.mapping import KeyTable, Mapping
from osteo_ray.patients.readers import chunks
from osteo_ray.patients.values import no_id, plain

_PLAIN = Mapping(format="fhir")  # nothing of a mapping but how a file is opened


def ct_numbers(table: KeyTable, rule: IdentityConfig) -> dict[str, str]:
    """Number in records, normalised -> number in CTs. Of several numbers in records one in CTs may be given.

    Raises:
        RecordsError: a file, or a column of it, that is not there; a number that is no number; a number that is given
            two numbers in CTs.
    """
    out: dict[str, str] = {}
    name = Path(table.path).name
    try:
        with local_file(table.path) as path:
            if not path.is_file():
                raise FileNotFoundError
            for chunk in chunks(path, _PLAIN, name):
                chunk = chunk.named((table.number, table.ct))
                for column in (table.number, table.ct):
                    if column not in chunk.frame:
                        there = ", ".join(map(str, chunk.frame.columns))
                        raise RecordsError([f"{name}: key_table: no column {column!r}; it has: {there}"])
                pairs = zip(chunk.frame[table.number], chunk.frame[table.ct], strict=True)
                for i, (own, ct) in enumerate(pairs):
                    for column, cell in ((table.number, own), (table.ct, ct)):
                        if why := no_id(cell):
                            raise RecordsError([f"{chunk.at(i, column)}: {why}"])
                    number, of_ct = normalised(plain(own), rule), plain(ct)
                    if not number or not normalised(of_ct, rule):
                        continue  # nobody, or somebody without a CT
                    if normalised(out.setdefault(number, of_ct), rule) != normalised(of_ct, rule):
                        raise RecordsError(
                            [f"{chunk.at(i, table.ct)}: the same {table.number} stands above with another {table.ct}"]
                        )
    except FileNotFoundError:
        raise RecordsError([f"{table.path}: key_table: no such file"]) from None
    return out
