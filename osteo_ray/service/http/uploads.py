"""Where uploads lie while they are scored, and that none is left behind.

    spool = local_spool(store)       # a folder of this machine
    sweep(store, spool, older_s)     # what a replica that died has left

Where the screenings lie on a disk, all replicas share a folder beside them. Where they lie in a bucket, an upload is
checked on its replica's machine and handed to a scorer through the bucket.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path

from osteo_ray.io.files import private_folder
from osteo_ray.io.store import Store

SPOOL = ".spool"
_PREFIX = "osteo-ray-spool-"


def local_spool(store: Store) -> Path:
    """The folder, the owner's alone, to which a replica writes what it receives."""
    if store.remote:
        return Path(tempfile.mkdtemp(prefix=_PREFIX))
    spool = Path(store.path(SPOOL))
    private_folder(spool)
    return spool


def sweep(store: Store, spool: Path, older_s: float) -> None:
    """Remove uploads that nobody is waiting for any more."""
    for folder in spool.parent.glob(f"{_PREFIX}*") if store.remote else (spool,):
        for p in folder.glob("*.zip"):
            with suppress(OSError):  # another replica was faster
                if time.time() - p.stat().st_mtime > older_s:
                    p.unlink()
    if store.remote:
        written = store.written(f"{SPOOL}/")
        store.remove([n for n, at in written.items() if time.time() - at / 1e9 > older_s])
