"""Paths of this machine and URIs of object stores, as text."""

from __future__ import annotations

import os
from urllib.parse import urlsplit


def is_remote(uri: str | os.PathLike[str]) -> bool:
    """Whether `uri` names an object store, not a path of this machine."""
    text = os.fspath(uri)
    return "://" in text and not text.startswith("file://")


def absolute(uri: str | os.PathLike[str]) -> str:
    """A path made absolute, so that a worker with another working directory finds it; a URI as it is."""
    text = os.fspath(uri)
    return text if is_remote(text) else os.path.abspath(text.removeprefix("file://"))


def join(uri: str | os.PathLike[str], *names: str) -> str:
    """`uri/name/...`, for paths and URIs."""
    return "/".join([os.fspath(uri).rstrip("/"), *names])


def refuse_password(uri: str) -> None:
    """URIs end up in tables and logs, so one that carries a password is refused."""
    if "@" in urlsplit(uri).netloc:
        raise ValueError(
            "the URI carries a user name or password: give them to the store's own configuration, not the URI"
        )
