"""What a command looks at before any work: that `out` can be written, and that what it is to read is there and whole.

look_first("screen", job)     # seconds; StoreError (exit code 5), InputError, RecordsError or BundleError (3)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from osteo_ray.config import ConfigError, Section, need
from osteo_ray.outcomes import InputError

READ = (
    *("archive", "source", "study", "catalogue", "records", "patients", "masks", "targets"),
    *("extra_slices", "encoder_slices", "heldout_slices", "heldout_records"),
    *("results", "labels", "truth", "against", "baseline", "split", "answers"),
)
"""Keys of jobs that name files or folders to read."""
WRITTEN = {"listen": "spool"}
"""Keys that name what is written, where it is not `out`."""
ONE_FILE = ("records", "targets", "drift", "checklist")
"""Commands whose `out` is a file."""
BESIDE_RESULTS = ("evaluate", "drift", "report")
"""Commands that write beside the results where `out` is not given."""
NEED_OUT = ("index", "targets", "train", "tune", "screen", "retry", "recalibrate", "cohort", "checklist")
"""Commands that do nothing without `out`."""
LATER = ("serve", "doctor")
"""`serve` looks at its own places when it starts; `doctor` reads and writes nothing."""


def look_first(name: str, job: Section) -> None:
    """Look at everything that a job names.

    Raises:
        StoreError: what is to be written can't be.
        ConfigError: `out` of a command that writes a file is a folder.
        InputError, RecordsError, BundleError: what is to be read is not there, is empty, or can't be used.
    """
    if name in LATER:
        return
    _look_at_out(name, job)
    for key, path in named_paths(job, READ):
        _look_at_input(key, path)
    if mapping := getattr(job, "mapping", None):
        from osteo_ray.patients.mapping import load_mapping

        load_mapping(mapping)
    if bundle := getattr(job, "bundle", None):
        from osteo_ray.screening.ledger import model_of

        model_of(bundle)


def _look_at_out(name: str, job: Section) -> None:
    from osteo_ray.io.store import Store
    from osteo_ray.io.uris import is_remote

    if name in NEED_OUT and not getattr(job, "dry_run", False):
        need(job, "out")
    out = getattr(job, WRITTEN.get(name, "out"), None)
    if out is not None and (name in ONE_FILE and not getattr(job, "partitions", None)):
        if not is_remote(out) and os.path.isdir(out):
            raise ConfigError(f"out: {out} is a folder; name the file to write")
        out = os.path.dirname(str(out).rstrip("/")) or "."
    elif out is None and name in BESIDE_RESULTS and isinstance(results := getattr(job, "results", None), str):
        out = results if _is_folder(results) else os.path.dirname(results) or "."
    if out is not None and not getattr(job, "dry_run", False) and not getattr(job, "explain", None):
        Store(out).check_writable()


def _is_folder(path: str) -> bool:
    from osteo_ray.io.uris import is_remote

    return not Path(path).suffix if is_remote(path) else os.path.isdir(path)


def named_paths(job: Section, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(key, path) of whatever a job names under these keys."""
    for key in keys:
        value = getattr(job, key, None)
        # Under the same name some jobs have a section (`split` of a training).
        for path in (value,) if isinstance(value, str) else value if isinstance(value, list | tuple) else ():
            yield key, path


def _look_at_input(key: str, path: str) -> None:
    if "://" in path and not path.startswith("file://"):
        _look_at_uri(key, path)
        return
    local = path.removeprefix("file://")
    of_a_run = key in ("results", "against", "baseline")
    hint = "name a finished run's folder, or its results" if of_a_run else "is its volume mounted?"
    if any(c in local for c in "*?["):
        return
    if not os.path.exists(local):
        raise InputError(f"{key}: {local} is not there; {hint}")
    if os.path.isdir(local):
        try:
            with os.scandir(local) as entries:
                if next(entries, None) is None:
                    raise InputError(f"{key}: {local} is an empty folder; is its volume mounted?")
        except PermissionError as e:
            raise InputError(f"{key}: {local} can't be read: {e.strerror}") from None


def _look_at_uri(key: str, uri: str) -> None:
    """A store is asked for the thing itself; services (DICOMweb) and archives inside of others are left to the work."""
    if "::" in uri or uri.startswith("dicomweb+") or any(c in uri for c in "*?["):
        return
    import fsspec

    from osteo_ray.io.trouble import StoreError
    from osteo_ray.io.uris import refuse_password

    refuse_password(uri)
    fs, path = fsspec.core.url_to_fs(uri)
    try:
        there = fs.exists(path)
    except Exception as e:  # stores raise their own kinds of error
        raise StoreError(f"{key}: {uri} can't be looked at: {type(e).__name__}: {e}"[:400]) from e
    if not there:
        raise InputError(f"{key}: {uri} is not there")
