"""Reading records: CSV, XLSX, Parquet, long tables or FHIR, through a mapping, into a RecordTable.

    from osteo_ray.patients import load
    table = load("records.csv", mapping="default", pseudonym_key="hospital secret")

Nothing is guessed: a value that can't be used is an error that names it, or missing and listed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pydantic_core import from_json

from osteo_ray.io.store import local_file
from osteo_ray.io.uris import is_remote
from osteo_ray.patients import wide
from osteo_ray.patients.config import DEFAULT_IDENTITY, IdentityConfig
from osteo_ray.patients.findings import BMIS_DIFFER, Findings, RecordsError
from osteo_ray.patients.labels import label_of
from osteo_ray.patients.mapping import Mapping, load_mapping
from osteo_ray.patients.match import RecordPatients
from osteo_ray.patients.readers import FHIR, TABLES, Chunk, chunks, kind_of
from osteo_ray.patients.reading import Reading
from osteo_ray.patients.schema import NAMES
from osteo_ray.patients.table import RecordTable


def load(
    source: str | Path | Sequence[str | Path],
    mapping: str | Path | Mapping | None = None,
    pseudonym_key: str | None = None,
    on_bad: str = "raise",
    identity: IdentityConfig = DEFAULT_IDENTITY,
    site: str | None = None,
) -> RecordTable:
    """Read records from one or more paths or URIs (.csv, .tsv, .xlsx, .parquet, .ndjson, .json; folders of them).

    Args:
        mapping: a shipped mapping's name, a YAML's path or a Mapping; None is `default`. Not needed for FHIR whose
            patients have a number of type MR, or for a Parquet file that a RecordTable wrote.
        pseudonym_key: secret under which patient ids become patient keys; the same as for the CT catalogue.
        on_bad: "raise" ends with every bad value listed; "missing" makes them missing and lists them in `issues`.
        identity: when two patient numbers are one patient; the same as for the CT catalogue.
        site: hospital of rows of which neither the mapping nor a column names one; part of their patients' keys.

    Raises:
        RecordsError: naming file, row, column, value and remedy, or the column that is absent.
    """
    if on_bad not in ("raise", "missing"):
        raise ValueError(f"on_bad={on_bad!r}: 'raise' or 'missing'")
    found = Findings()
    frames = list(read(source, mapping, pseudonym_key, identity, found, site))
    if on_bad == "raise":
        found.check()
    if not frames:
        raise RecordsError(found.nothing(), total=found.total_problems or None)
    whole = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    table = RecordTable.of(whole, found.listed())
    report = found.report()
    for note in report.notes:
        logging.getLogger(__name__).warning(note)
    return RecordTable(table.frame, table.issues, report, found.ids)


def load_records(
    paths: str | Path | Sequence[str | Path],
    mapping: str | Path | Mapping | None = None,
    pseudonym_key: str | None = None,
    identity: IdentityConfig = DEFAULT_IDENTITY,
    site: str | None = None,
) -> RecordTable:
    """Records of one or more files as one table; any bad value is an error. See `load`."""
    return load(paths, mapping, pseudonym_key, "raise", identity, site)


def read(
    source: str | Path | Sequence[str | Path],
    mapping: str | Path | Mapping | None,
    pseudonym_key: str | None,
    identity: IdentityConfig,
    found: Findings,
    site: str | None = None,
) -> Iterator[pd.DataFrame]:
    """The same, piece by piece: frames in the schema's columns and units, whatever the size of the source.

    Problems and counts gather in `found`; nothing is raised for a single bad value (`found.check()` does). Long and
    FHIR sources are gathered by patient and day first, on disk where they are large.

    Raises:
        RecordsError: a file that can't be read, or that the mapping does not fit.
    """
    with ExitStack() as stack:
        files = [f for s in _listed(source) for f in _files(s, stack, found)]
        fhir = [f for f in files if kind_of(f[1]) in FHIR]
        pieces = [_fhir(fhir, mapping, pseudonym_key, identity, found, site)] if fhir else []
        tables = (f for f in files if kind_of(f[1]) not in FHIR)
        pieces += [_table(path, name, mapping, pseudonym_key, identity, found, site) for path, name in tables]
        for frame in chain.from_iterable(pieces):
            _count_contradictions(frame, found)
            yield frame


def _count_contradictions(frame: pd.DataFrame, found: Findings) -> None:
    """Count the patients of whom no timeline will use a fact, since a piece's rows contradict each other in it, and the
    records that contradict themselves."""
    if {"bmi", "height_cm", "weight_kg"} <= set(frame):
        by_both = frame["weight_kg"] / (frame["height_cm"] / 100) ** 2
        found.other_bmis += int(((frame["bmi"] - by_both).abs() > BMIS_DIFFER).sum())
    nowhere = pd.Series(pd.NaT, index=frame.index)
    undated = frame.get("record_date", nowhere).isna()
    several = frame[frame["patient_key"].notna() & frame["patient_key"].duplicated(keep=False)]
    if not len(several):
        return
    person, loose = several["patient_key"], undated.loc[several.index]
    if "sex_male" in several:
        found.both_sexes += int((several.groupby(person)["sex_male"].nunique() > 1).sum())
    for name in (n for n in NAMES if n in several and n != "sex_male"):
        values = several.loc[loose & several[name].notna(), name]
        found.undated[name] += int((values.groupby(person).nunique() > 1).sum())
    if "t_score" in several:  # T-scores agree where they mean the same class
        t = several["t_score"][loose & several.get("dxa_date", nowhere).isna()].dropna()
        found.undated["t_score"] += int((t.map(label_of).groupby(person).nunique() > 1).sum())
    found.undated += Counter()  # without the zeros


@dataclass(frozen=True)
class Converted:
    """What became of sources that were read and written piece by piece."""

    rows: int
    labels: Counter[str | None]
    patients: RecordPatients


def convert(
    source: str | Path | Sequence[str | Path],
    out: str | Path | None,
    mapping: str | Path | Mapping | None,
    pseudonym_key: str | None,
    identity: IdentityConfig,
    found: Findings,
    on_bad: str = "raise",
    site: str | None = None,
) -> Converted:
    """Read sources and write them as one Parquet file in the schema's columns; memory does not grow with their size.

    Raises:
        RecordsError: as `load`; what was written until then is to be thrown away.
    """
    kept = load_mapping(mapping).keep if mapping is not None else ()
    rows, labels, keys, writer = 0, Counter[str | None](), set[str](), None
    try:
        for frame in read(source, mapping, pseudonym_key, identity, found, site):
            table = RecordTable.of(frame)
            rows += len(table)
            labels.update(v if isinstance(v, str) else None for v in table.frame["label"])
            keys.update(k for k in table.frame["patient_key"].unique() if isinstance(k, str))
            if out is not None:
                piece = table.to_arrow(kept)
                writer = pq.ParquetWriter(out, piece.schema) if writer is None else writer
                writer.write_table(piece)
    finally:
        if writer is not None:
            writer.close()
    if on_bad == "raise":
        found.check()
    if not rows:
        raise RecordsError(found.nothing(), total=found.total_problems or None)
    return Converted(rows, labels, RecordPatients(frozenset(keys), found.ids))


def _listed(source: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [source] if isinstance(source, str | Path) else list(source)


def _is_manifest(path: Path) -> bool:
    """Whether a file of JSON is what a FHIR server says of a bulk export, beside the export itself."""
    if kind_of(path) != "json" or path.stat().st_size > 1 << 22:
        return False
    try:
        text = from_json(path.read_bytes())
    except ValueError:
        return False
    return isinstance(text, dict) and "resourceType" not in text and "transactionTime" in text


def _files(source: str | Path, stack: ExitStack, found: Findings) -> list[tuple[Path, str]]:
    """(path on this machine, name for errors) of a source; of a folder, those of its files that are records."""
    if not is_remote(source) and Path(source).is_dir():
        files = sorted(p for p in Path(source).rglob("*") if p.is_file() and not p.name.startswith((".", "~$")))
        there = [p for p in files if kind_of(p) in (*FHIR, *TABLES) and not _is_manifest(p)]
        found.dropped.update(f"file {p.relative_to(source)}" for p in files if p not in there)
        if not there:
            kinds = ", ".join(f".{k}" for k in (*FHIR, *TABLES))
            raise RecordsError([f"{source}: no file of records in this folder ({kinds})"])
        return [(p, str(p.relative_to(source))) for p in there]
    try:
        path = stack.enter_context(local_file(source))
        if not path.is_file():
            raise FileNotFoundError
    except FileNotFoundError:
        raise RecordsError([f"{source}: no such file"]) from None
    return [(path, Path(str(source)).name)]


def _fhir(
    files: list[tuple[Path, str]],
    mapping: str | Path | Mapping | None,
    pseudonym_key: str | None,
    identity: IdentityConfig,
    found: Findings,
    site: str | None,
) -> Iterator[pd.DataFrame]:
    from osteo_ray.patients.fhir import read_fhir

    m = Mapping(format="fhir") if mapping is None else load_mapping(mapping)
    if m.format != "fhir":
        raise RecordsError([f"{files[0][1]}: FHIR needs a mapping with `format: fhir` (or none), not {m.format}"])
    yield from read_fhir(files, Reading(_of_site(m, site), pseudonym_key, identity, found))


def _of_site(m: Mapping, site: str | None) -> Mapping:
    """The mapping, of rows of `site` where neither it nor they name one."""
    return m if site is None or m.site is not None else m.model_copy(update={"site": site})


def _table(
    path: Path,
    name: str,
    mapping: str | Path | Mapping | None,
    pseudonym_key: str | None,
    identity: IdentityConfig,
    found: Findings,
    site: str | None,
) -> Iterator[pd.DataFrame]:
    if kind_of(name) == "parquet" and mapping is None and is_own(path):
        for chunk in chunks(path, Mapping(format="fhir"), name):
            found.rows += len(chunk.frame)
            for f in (*NAMES, "t_score"):
                # The columns are always there: one without a value is given by nothing.
                if f in chunk.frame and chunk.frame[f].notna().any():
                    found.values(f, chunk.frame[f].to_numpy(np.float64))
                    found.source(f, f)
            found.births += int(chunk.frame["birth_month"].notna().sum()) if "birth_month" in chunk.frame else 0
            yield chunk.frame
        return
    m = _of_site(load_mapping(mapping), site)
    if m.format == "fhir":
        raise RecordsError([f"{name}: the mapping is of `format: fhir`, the file a table; give a wide or long mapping"])
    reading = Reading(m, pseudonym_key, identity, found)
    pieces = (_noted(chunk, found).named(wide.columns_of(m)) for chunk in chunks(path, m, name))
    if m.format == "long":
        yield from _long(pieces, reading)
        return
    for k, chunk in enumerate(pieces):
        if k == 0:
            wide.check_columns(chunk, reading)
        wide.look_at_unused(chunk, reading)
        yield wide.map_chunk(wide.records_of(chunk, reading, k == 0), reading)


def _noted(chunk: Chunk, found: Findings) -> Chunk:
    for note in chunk.notes:
        found.note(note)
    return chunk


def _long(table: Iterable, reading: Reading) -> Iterator[pd.DataFrame]:
    from osteo_ray.patients import long
    from osteo_ray.patients.observations import Observations

    names, start = long.TestNames(reading.mapping), 0
    sites: dict[str, int] = {}
    with Observations() as store:
        for k, chunk in enumerate(table):
            if k == 0:
                wide.check_columns(chunk, reading)
            wide.look_at_unused(chunk, reading)
            rows = wide.records_of(chunk, reading, k == 0)
            store.add(long.map_chunk(rows, reading, names, sites, start))
            start += len(rows.frame)
        for frame in store.records(list(sites)):
            if "birth_month" in frame:
                reading.found.births += int(frame["birth_month"].notna().sum())
            yield frame


def is_own(path: Path) -> bool:
    """Whether a Parquet file is one that a RecordTable wrote."""
    try:
        return {"patient_key", "record_date", *NAMES} <= set(pq.read_schema(path).names)
    except (OSError, ValueError):
        return False
