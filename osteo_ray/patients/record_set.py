"""Records of any number of patients, found by patient: in memory, or as a folder of Parquet files partitioned by a hash
of the patient key, of which a task reads only what it needs.

    write_record_set(table, "records/", partitions=64)   # part-00000.parquet ... and a digest of each patient's records
    records = open_record_set("records/")
    records.take(keys)                                    # Timelines of these patients, from their row groups alone
    records.digests(keys)                                 # uint64 a patient: what a result depends on

The hash is CRC-32 of the key's UTF-8, modulo the number of partitions: it never changes with a library's version. Rows
of a file are sorted by patient, so that a patient is found by the row groups' own statistics. No Ray here.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from osteo_ray.io.store import Store, open_parquet
from osteo_ray.patients.config import PatientKeys, TimelineConfig
from osteo_ray.patients.events import NAT, days_of
from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.schema import NAMES
from osteo_ray.patients.table import RecordTable
from osteo_ray.patients.timeline import Timelines

FACTS = "records.json"
VERSION = 2  # version 1 had no birth months
ROWS_PER_GROUP = 1024
"""Rows that are read to find one patient."""
ROWS_PER_PARTITION = 50_000
"""Records that fit one partition; fewer are one file, which every task reads for itself."""
COLUMNS = (
    *("patient_key", "site", "record_date", *NAMES, "t_score", "dxa_date", "osteoporosis_treatment"),
    "birth_month",
)
LABEL_COLUMNS = ("patient_key", "site", "record_date", "t_score", "dxa_date", "osteoporosis_treatment")
"""What labels are made of."""
SCHEMA = pa.schema(
    [
        ("patient_key", pa.string()),
        ("site", pa.string()),
        ("record_date", pa.timestamp("ms")),
        *[(n, pa.float64()) for n in NAMES],
        ("t_score", pa.float64()),
        ("dxa_date", pa.timestamp("ms")),
        ("osteoporosis_treatment", pa.float64()),
        ("birth_month", pa.timestamp("ms")),
    ]
)


class Records(Protocol):
    """Records that are found by patient."""

    def take(self, keys: Iterable[Any]) -> Timelines:
        """The facts of these patients; the others' are left out."""

    def digests(self, keys: Iterable[Any]) -> np.ndarray:
        """uint64 [n], a digest of each patient's values and dates; 0 for a patient without a record."""

    def parts(self) -> Iterator[Timelines]:
        """Everybody, a patient's facts all in one part."""

    def __len__(self) -> int:
        """Records."""


class MemoryRecords:
    """The records of a table; None: of nobody."""

    def __init__(self, table: RecordTable | None):
        frame = pd.DataFrame({"patient_key": []}) if table is None else table.frame
        frame = frame[frame["patient_key"].notna()]
        keys = frame["patient_key"].to_numpy(str)
        order = np.argsort(keys, kind="stable")
        self._frame, self._keys = frame.iloc[order].reset_index(drop=True), keys[order]

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def frame(self) -> pd.DataFrame:
        """Ordered by patient."""
        return self._frame

    def take(self, keys: Iterable[Any]) -> Timelines:
        wanted = np.unique(_text(keys))
        first, last = (np.searchsorted(self._keys, wanted, side) for side in ("left", "right"))
        rows = [np.arange(a, b) for a, b in zip(first, last, strict=True) if b > a]
        return Timelines.of(self._frame.iloc[np.concatenate(rows) if rows else np.zeros(0, int)])

    def digests(self, keys: Iterable[Any]) -> np.ndarray:
        return _look_up(_text(keys), *digests_of(self._frame))

    def parts(self) -> Iterator[Timelines]:
        yield Timelines.of(self._frame)


@dataclass(frozen=True)
class RecordSet:
    """A partitioned folder of records, by path or URI. It holds no records itself and travels to tasks as its name."""

    uri: str
    partitions: int
    rows: int
    patients: int
    id: str  # another one each time that a set is written

    def __len__(self) -> int:
        return self.rows

    def take(self, keys: Iterable[Any]) -> Timelines:
        return Timelines.of(self.rows_of(keys).to_pandas())

    def rows_of(self, keys: Iterable[Any]) -> pa.Table:
        """The rows of these patients, in COLUMNS; only the row groups that may hold them are read."""
        wanted = np.unique(_text(keys))
        wanted = wanted[wanted != ""]
        parts = partition_of(wanted, self.partitions)
        found = [_read_rows(self, p, wanted[parts == p]) for p in np.unique(parts).tolist()]
        return pa.concat_tables([SCHEMA.empty_table(), *found], promote_options="default")

    def digests(self, keys: Iterable[Any]) -> np.ndarray:
        wanted = _text(keys)
        out, parts = np.zeros(len(wanted), np.uint64), partition_of(wanted, self.partitions)
        for p in np.unique(parts).tolist():  # one partition in memory at a time
            with open_parquet(f"{self.uri}/{_digests_file(p)}") as f:
                t = f.read()
            rows = parts == p
            names = np.array(t["patient_key"].to_pylist(), dtype=str)
            out[rows] = _look_up(wanted[rows], names, t["digest"].to_numpy())
        return out

    def parts(self) -> Iterator[Timelines]:
        for p in range(self.partitions):
            yield Timelines.of(read_partition(self.uri, p))

    def label_facts(self) -> pd.DataFrame:
        """The rows with a T-score or a statement on treatment, in LABEL_COLUMNS; one partition in memory at a time."""
        found = []
        for p in range(self.partitions):
            with open_parquet(f"{self.uri}/{_part_file(p)}") as f:
                t = f.read(columns=list(LABEL_COLUMNS))
            states = pc.or_(pc.is_valid(t["t_score"]), pc.is_valid(t["osteoporosis_treatment"]))
            found.append(t.filter(states))
        return pa.concat_tables(found).to_pandas()


def open_record_set(uri: str) -> RecordSet:
    """The set in a folder.

    Raises:
        RecordsError: the folder holds no set, or one of another version.
    """
    store = Store(uri)
    if not store.is_file(FACTS):
        raise RecordsError([f"{uri}: no record set; `osteo-ray records` writes one where `partitions` is given"])
    facts = json.loads(store.get(FACTS))
    if facts["version"] not in (1, VERSION):
        raise RecordsError([f"{uri}: record set of version {facts['version']}, {VERSION} is read; write it anew"])
    return RecordSet(store.uri, facts["partitions"], facts["rows"], facts["patients"], facts["id"])


def is_record_set(uri: str) -> bool:
    """Whether a path or URI is the folder of a record set."""
    return not str(uri).endswith((".csv", ".gz", ".tsv", ".parquet", ".ndjson", ".json", ".xlsx")) and Store(
        uri
    ).is_file(FACTS)


def open_records(
    sources: str | Sequence[str], mapping: str | None, keys: PatientKeys, site: str | None = None
) -> RecordTable | RecordSet:
    """Records by path or URI: a record set as it lies, anything else read into memory (`source.load_records`)."""
    from osteo_ray.patients.source import load_records

    only = sources if isinstance(sources, str) else sources[0] if len(sources) == 1 else None
    if only is not None and is_record_set(only):
        return open_record_set(only)
    return load_records(sources, mapping, keys.pseudonym_key, keys.identity, site)


def records_of(records: RecordTable | RecordSet | None) -> Records:
    """Whatever holds records, as records that are found by patient."""
    return records if isinstance(records, RecordSet) else MemoryRecords(records)


def values_at_ct(records: Records, keys: Sequence[Any], dates: Sequence[Any], cfg: TimelineConfig) -> np.ndarray:
    """What a scorer is given: each patient's values as known at their CT, float32 [n, F], NaN missing.

    Args:
        keys: patient keys; dates: of the CTs, as a catalogue has them (YYYYMMDD).
    """
    return records.take(keys).values_at(keys, days_of(dates), cfg).values.astype(np.float32)


def partitions_for(rows: int) -> int:
    """As many partitions as so many records need."""
    return max(1, -(-rows // ROWS_PER_PARTITION))


def write_record_set(table: RecordTable, uri: str, partitions: int | None = None) -> RecordSet:
    """Write a table that is in memory as a record set; for more than memory holds see `patients.partition`."""
    frame = MemoryRecords(table).frame
    n = partitions or partitions_for(len(frame))
    store, of = Store(uri), partition_of(frame["patient_key"].to_numpy(str), n)
    patients = sum(write_partition(store, p, frame[of == p]) for p in range(n))
    return write_facts(store, n, len(frame), patients)


def write_facts(store: Store, partitions: int, rows: int, patients: int) -> RecordSet:
    """The file that says that a set is whole; it is written last."""
    record_set = RecordSet(store.uri, partitions, rows, patients, uuid.uuid4().hex)
    facts = {"version": VERSION, "hash": "crc32"} | {k: v for k, v in asdict(record_set).items() if k != "uri"}
    store.put(FACTS, (json.dumps(facts) + "\n").encode())
    return record_set


def write_partition(store: Store, p: int, frame: pd.DataFrame) -> int:
    """Write one partition and its digests; the number of its patients."""
    frame = frame.sort_values(["patient_key", "record_date"], kind="stable", ignore_index=True)
    store.put_table(_part_file(p), to_arrow(frame), row_group_size=ROWS_PER_GROUP)
    names, sums = digests_of(frame)
    store.put_table(_digests_file(p), pa.table({"patient_key": names.tolist(), "digest": sums}))
    return len(names)


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    """A records frame in SCHEMA; columns that it lacks are missing, others are left behind."""
    columns = {}
    for f in SCHEMA:
        if f.name in frame:
            columns[f.name] = pa.array(frame[f.name], f.type, from_pandas=True)
        else:
            columns[f.name] = pa.nulls(len(frame), f.type)
    return pa.table(columns, schema=SCHEMA)


def remove_record_set(uri: str) -> None:
    """Delete a set's files."""
    store = Store(uri)
    store.remove([FACTS])
    store.remove([n for prefix in ("part-", "digests-") for n in store.names("", prefix)])


def read_partition(uri: str, p: int) -> pd.DataFrame:
    """All rows of one partition."""
    with open_parquet(f"{uri}/{_part_file(p)}") as f:
        return f.read().to_pandas()


def partition_of(keys: np.ndarray, n: int) -> np.ndarray:
    """Partition of each patient key, int64 [n]."""
    if n == 1:
        return np.zeros(len(keys), np.int64)
    return np.fromiter((zlib.crc32(k.encode()) % n for k in keys.tolist()), np.int64, len(keys))


def digests_of(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(patients ascending, digest uint64) of a frame that is ordered by patient."""
    patients = frame["patient_key"].to_numpy(str)
    names, first, counts = np.unique(patients, return_index=True, return_counts=True)
    if not len(frame):
        return names, np.zeros(0, np.uint64)
    values = np.ascontiguousarray(frame[list(NAMES)].to_numpy(np.float64))
    days = frame["record_date"].to_numpy("datetime64[D]").astype("int64")
    born = frame["birth_month"].to_numpy("datetime64[D]") if "birth_month" in frame else np.full(len(frame), NAT)
    month = [b"" if none else b.tobytes() for b, none in zip(born, np.isnat(born), strict=True)]
    rows = [
        hashlib.blake2b(v.tobytes() + d.tobytes() + b, digest_size=8).digest()
        for v, d, b in zip(values, days, month, strict=True)
    ]
    # A sum, modulo 2^64: the order of a patient's records means nothing.
    return names, np.add.reduceat(np.frombuffer(b"".join(rows), np.uint64), first) + counts.astype(np.uint64)


def _look_up(wanted: np.ndarray, names: np.ndarray, sums: np.ndarray) -> np.ndarray:
    out = np.zeros(len(wanted), np.uint64)
    if len(names) and len(wanted):
        i = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
        hit = names[i] == wanted
        out[hit] = sums[i[hit]]
    return out


def _text(keys: Iterable[Any]) -> np.ndarray:
    return np.array(["" if k is None or k != k else str(k) for k in keys], dtype=str)


def _part_file(p: int) -> str:
    return f"part-{p:05d}.parquet"


def _digests_file(p: int) -> str:
    return f"digests-{p:05d}.parquet"


@lru_cache(maxsize=1024)
def _groups(records: RecordSet, p: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last patient of each row group; kept by the process, some hundred bytes a group."""
    with open_parquet(f"{records.uri}/{_part_file(p)}") as f:
        stats = [f.metadata.row_group(g).column(0).statistics for g in range(f.metadata.num_row_groups)]
    return np.array([s.min for s in stats], dtype=str), np.array([s.max for s in stats], dtype=str)


def _read_rows(records: RecordSet, p: int, wanted: np.ndarray) -> pa.Table:
    first, last = _groups(records, p)
    if not len(first):
        return SCHEMA.empty_table()
    # A patient's rows may go on in the next group.
    start, stop = np.searchsorted(last, wanted, "left"), np.searchsorted(first, wanted, "right")
    groups = sorted({g for a, b in zip(start.tolist(), stop.tolist(), strict=True) for g in range(a, b)})
    if not groups:
        return SCHEMA.empty_table()
    with open_parquet(f"{records.uri}/{_part_file(p)}") as f:
        table = f.read_row_groups(groups)
    return table.filter(pc.is_in(table["patient_key"], pa.array(wanted.tolist(), pa.string())))
