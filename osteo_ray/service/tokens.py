"""Tokens with roles, stored hashed.

    secret = Tokens("tokens.json").add("ward 3", Role.READ)     # shown once, never stored
    Tokens("tokens.json").holder(secret).role

A token is 256 random bits, so its SHA-256 can't be searched for and a slow hash would add nothing but load: scrypt
and argon2 exist for passwords, which people choose. The file is read again when it changes: a revoked token stops
working within a second, without a restart.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from osteo_ray.config import ConfigError
from osteo_ray.io.files import replaced

PREFIX = "osr_"


class Role(StrEnum):
    """What a token may do; each role may do what those before it may."""

    READ = "read"  # see screenings and results, give feedback
    SUBMIT = "submit"  # start screenings, cancel one's own, score studies
    ADMIN = "admin"  # cancel anybody's, swap the model, read the audit log


def allows(has: Role, needs: Role) -> bool:
    order = list(Role)
    return order.index(has) >= order.index(needs)


@dataclass(frozen=True)
class TokenHolder:
    """The name and role of a token."""

    name: str
    role: Role


class Tokens:
    """A token file: JSON, a list of {name, role, sha256, created}, readable by its owner alone."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._stamp: tuple[int, int] | None = None
        self._by_hash: dict[str, TokenHolder] = {}

    def add(self, name: str, role: Role) -> str:
        """Make a token and return it; this is the only time it can be seen.

        Raises:
            ConfigError: the name is taken or empty.
        """
        rows = self._rows()
        if not name or any(r["name"] == name for r in rows):
            raise ConfigError(f"name: {name!r} is {'taken; revoke it first' if name else 'empty'}")
        secret = PREFIX + secrets.token_urlsafe(32)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write([*rows, {"name": name, "role": str(role), "sha256": _hash(secret), "created": created}])
        return secret

    def revoke(self, name: str) -> None:
        """Remove a token by its name.

        Raises:
            ConfigError: there is none of that name.
        """
        rows = self._rows()
        if not any(r["name"] == name for r in rows):
            raise ConfigError(f"name: no token is called {name!r}; there are: {', '.join(r['name'] for r in rows)}")
        self._write([r for r in rows if r["name"] != name])

    def any(self) -> bool:
        return bool(self._rows())

    def names(self) -> list[tuple[str, str, str]]:
        """(name, role, created) of each token."""
        return [(r["name"], r["role"], r["created"]) for r in self._rows()]

    def holder(self, secret: str) -> TokenHolder | None:
        """Whose token this is. The look-up is by hash, so its time tells nothing about a secret."""
        with self._lock:
            if time.monotonic() - self._read_at > 1.0:
                self._refresh()
            return self._by_hash.get(_hash(secret))

    def _refresh(self) -> None:
        self._read_at = time.monotonic()
        try:
            st = self.path.stat()
            stamp = (st.st_mtime_ns, st.st_ino)
        except FileNotFoundError:
            self._stamp, self._by_hash = None, {}
            return
        if stamp != self._stamp:
            self._by_hash = {r["sha256"]: TokenHolder(r["name"], Role(r["role"])) for r in self._rows()}
            self._stamp = stamp

    def _rows(self) -> list[dict[str, str]]:
        try:
            return json.loads(self.path.read_text())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as e:
            raise ConfigError(f"tokens: {self.path} can't be read: {e}") from None

    def _write(self, rows: list[dict[str, str]]) -> None:
        with replaced(self.path) as tmp:
            tmp.touch(mode=0o600)  # before anything is in it
            tmp.write_text(json.dumps(rows, indent=1))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
