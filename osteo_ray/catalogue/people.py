"""Several people under one patient number, or under none: whom the images of a study belong to. Pure.

    for members in people(rows, of, by_name=True): ...                 # the rows of one person each

Numbers are left out, reused and mistyped ("ANON", an emergency's number), so that equal ones do not make one person.
What else a header states of a person (name, birth date, sex, age) tells two apart. Of the name the index holds 16 bits
of a keyed digest, of the birth date 5: the age stands beside it, and with more bits most dates could be computed from
the two. What whoever has the key can compute all the same: docs/decisions/privacy.md.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple, TypeVar

from osteo_ray.dicom.tags import date_of

T = TypeVar("T")

_AGE_Y = 2.0  # ages of one person, as different writers state them, lie within this


class Person(NamedTuple):
    """What an image states of a person beside the number; None where it is silent."""

    name: int | None
    birth: int | None
    sex: str | None
    age_y: float | None


@lru_cache(maxsize=4096)
def name_mark(digest: bytes | None, key: str | None) -> int | None:
    """16 bits that stand for a name, of which a header keeps a digest (`dicom.tags.name_digest`); None: no name."""
    return _mark(b"name" + digest, key) if digest else None


@lru_cache(maxsize=4096)
def birth_mark(birth_date: str | None, key: str | None) -> int | None:
    """5 bits that stand for a birth date, in either form in which DICOM writes it; None: no date, or a placeholder."""
    born = date_of(birth_date)
    return _mark(b"birth" + born.isoformat().encode(), key) & 0b11111 if born else None


def _mark(text: bytes, key: str | None) -> int:
    secret = hashlib.blake2b((key or "").encode()).digest()
    return int.from_bytes(hashlib.blake2b(text, digest_size=2, key=secret).digest())


STATED = ("name_mark", "birth_mark", "sex", "age_y")
"""The columns of a header row that make a `Person`, in its order."""


def differ(a: Person, b: Person, by_name: bool) -> bool:
    """Whether two images can't be of one person.

    Args:
        by_name: whether names count. Under one number they don't: people marry, and names are written anew.
    """
    if a.birth is not None and b.birth is not None and a.birth != b.birth:
        return True
    # also where the marks of the birth dates are equal: one in 32 pairs of dates share theirs
    if a.age_y is not None and b.age_y is not None and abs(a.age_y - b.age_y) > _AGE_Y:
        return True
    if a.sex is not None and b.sex is not None and a.sex != b.sex:
        return True
    return by_name and a.name is not None and b.name is not None and a.name != b.name


def people(rows: Sequence[T], of: Callable[[T], Person], by_name: bool) -> list[list[T]]:
    """`rows` by person, in an order that does not depend on theirs; one list where nothing says that they are several.

    Args:
        of: what a row states of its person.
        by_name: as in `differ`.
    """
    found: dict[Person, list[T]] = defaultdict(list)
    for r in rows:
        found[of(r) if by_name else of(r)._replace(name=None)].append(r)
    if not any(differ(a, b, by_name) for a, b in combinations(found, 2)):
        return [list(rows)]
    return [found[p] for p in sorted(found, key=str)]
