"""Header rows from the order of the archive to the order of studies, with opens that grow as the archive does. Pure.

Assembly needs all rows of a study together; header tasks read them wherever files lie, in the worst case one row of a
study to a part. If each of P assembly tasks opened each of M header files, opens would grow with the square of the
archive. So rows pass through levels of merging, as in a merge sort: a task takes some header files (or pieces of the
level before), sorts their rows by the hash of the study, and writes one file with a row group for each of at most 2^7
ranges of the hash. Each piece is read once at the next level, by one task. Levels are added as the archive grows: none
up to one assembly task, one up to 2^7 of them, two up to 2^14 (some 600 million instances).

What an assembly task gets is known by the sum of its rows' hashes, whatever files they came through: its result has a
name that depends on the rows alone, and is kept where they did not change.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from osteo_ray.catalogue.indexing import INDEXED, ORDER, PartRecord, digest_sum
from osteo_ray.io.parquet_set import KEY_BITS
from osteo_ray.io.store import Store
from osteo_ray.outcomes import InputError

MERGE_ROWS = 100_000  # rows in memory of one merging task
DIGIT_BITS = 7
_PIECES = 512  # files open to one merging task
_FACTS = b"osteo-ray.pieces"


@dataclass(frozen=True)
class Piece:
    """A row group of a file of header rows (all of it where `group` is None)."""

    name: str
    group: int | None
    rows: int
    digest: int


@dataclass(frozen=True)
class Merge:
    """One merging task: pieces of one range of the hash -> `name`, a row group for each of 2^digit ranges in it."""

    name: str
    prefix: int  # the first `known` bits that all rows share
    known: int
    digit: int
    pieces: tuple[Piece, ...]


def partition_bits(rows: int, bucket_rows: int) -> int:
    """2^bits assembly tasks of at most `bucket_rows` rows, were all equal; a power of two, so that growth moves few."""
    return max(0, (max(1, -(-rows // bucket_rows)) - 1).bit_length())


def digits(bits: int) -> list[int]:
    """The levels of merging, in bits: as few as there can be, of about one size."""
    levels = -(-bits // DIGIT_BITS)
    return [bits * (i + 1) // levels - bits * i // levels for i in range(levels)]


def of_parts(records: Iterable[PartRecord]) -> list[Piece]:
    """The header files of all parts, as pieces."""
    return [Piece(r.name, None, r.rows, r.digest) for record in records for r in record.runs]


def merges(nodes: dict[int, list[Piece]], known: int, digit: int, folder: str) -> Iterator[Merge]:
    """The tasks of one level. `nodes`: pieces by the `known` bits that their rows share."""
    for prefix, pieces in sorted(nodes.items()):
        for chunk in _chunks(pieces):
            text = f"{prefix}|{known}|{digit}|{INDEXED.to_string()}|" + ";".join(f"{p.name}:{p.group}" for p in chunk)
            name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
            yield Merge(f"{folder}{name}.merged.parquet", prefix, known, digit, tuple(chunk))


def _chunks(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Runs of pieces that fit in memory together, cut by content where they may be: a new file moves few of them."""
    chunk: list[Piece] = []
    rows = 0
    for p in pieces:
        if chunk and (rows + p.rows > MERGE_ROWS or len(chunk) >= _PIECES):
            yield chunk
            chunk, rows = [], 0
        chunk.append(p)
        rows += p.rows
        if 2 * rows > MERGE_ROWS and zlib.crc32(f"{p.name}:{p.group}".encode()) % 16 == 0:
            yield chunk
            chunk, rows = [], 0
    if chunk:
        yield chunk


def merge(store: Store, task: Merge) -> dict[int, Piece]:
    """Do one task, unless it was done: the pieces it gives, by their first `known + digit` bits."""
    try:
        with store.parquet(task.name) as f:
            return _pieces(task, f.schema_arrow.metadata[_FACTS])
    except FileNotFoundError:
        pass
    table = pa.concat_tables([read_piece(store, p) for p in task.pieces]).sort_by(ORDER)
    shift = KEY_BITS - task.known - task.digit
    child = table["study_hash"].to_numpy() >> shift
    present, starts = np.unique(child, return_index=True)
    tables = [table.slice(a, b - a) for a, b in zip(starts, [*starts[1:], table.num_rows], strict=True)]
    facts = [[int(c), t.num_rows, digest_sum(t)] for c, t in zip(present, tables, strict=True)]
    text = json.dumps(facts).encode()
    with store.parquet_writer(task.name, INDEXED.with_metadata({_FACTS: text})) as w:
        for t in tables:
            w.write_table(t, row_group_size=t.num_rows)
    return _pieces(task, text)


def _pieces(task: Merge, facts: bytes) -> dict[int, Piece]:
    return {c: Piece(task.name, i, rows, digest) for i, (c, rows, digest) in enumerate(json.loads(facts))}


def read_piece(store: Store, piece: Piece) -> pa.Table:
    """The rows of a piece.

    Raises:
        InputError: the file is damaged; it was removed, and a new run writes it again.
    """
    try:
        with store.parquet(piece.name) as f:
            table = f.read() if piece.group is None else f.read_row_group(piece.group)
    except pa.ArrowInvalid as e:
        done = piece.name.partition(".")[0] + ".done.json"  # of a header file's part
        store.remove([piece.name, done])
        raise InputError(f"{store.path(piece.name)} was damaged ({e}) and is removed: run the index again") from e
    return table.replace_schema_metadata(None)
