"""Whether the files that a catalogue names are there: an archive may be unmounted long after it was indexed.

some_files("runs/index/catalogue.parquet")               # paths and URIs of a few series' first files
check_mounted("runs/index/catalogue.parquet", pending)   # InputError where none of them is there
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from osteo_ray.dicom.sources import file_path
from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.uris import is_remote
from osteo_ray.outcomes import InputError

SERIES = 3
"""Series whose first file is looked for."""


def some_files(catalogue: str | Path, rows: Sequence[int] | np.ndarray | None = None) -> list[str]:
    """Paths and URIs of the files (archives, where they lie inside of one) that a few series begin with.

    Args:
        rows: numbers of the catalogue's rows to choose among; None: all.
    """
    table = open_set(catalogue)
    among = np.arange(len(table)) if rows is None else np.asarray(rows)
    some = among[np.unique(np.linspace(0, len(among) - 1, min(SERIES, len(among))).astype(int))]
    found: dict[str, None] = {}
    for group in table.locate(some):
        for instances in group.read(["instances"])["instances"].to_pylist():
            if instances:
                outer = instances[0]["uri"].rpartition("::")[2]
                found[file_path(outer) if outer.startswith("file://") else outer] = None
    return list(found)


def check_mounted(catalogue: str | Path, rows: Sequence[int] | np.ndarray) -> None:
    """Look for a few files of these rows on this machine's disks; single ones may be gone, not all.

    Raises:
        InputError: none is there. No path of the archive is in the text: folders are named after patients.
    """
    paths = [p for p in some_files(catalogue, rows) if not is_remote(p)]
    if paths and not any(os.path.exists(p) for p in paths):
        raise InputError(
            f"{catalogue}: none of {len(paths)} files that were looked for is where this catalogue says; is the "
            "archive's volume mounted? If it moved, index it again"
        )
