"""Results of a screening that goes on: parts as they come, shards as they are finished, rows counted by state."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from typing import Any

import pyarrow as pa

from osteo_ray.io.parquet_set import MANIFEST, open_set
from osteo_ray.io.store import Store, open_parquet, read_table
from osteo_ray.screening.schema import FOOTER


def parts_of(store: Store, out: str) -> list[tuple[str, int]]:
    """Path or URI of each file with results so far, and when it was written."""
    found = store.written(f"{out}/parts/") | store.written(f"{out}/shards/")
    return [(store.path(n), at) for n, at in found.items() if n.endswith(".parquet")]


def part(uri: str, **kw: Any) -> pa.Table | None:
    """What is asked for of a file with results; None where it became a shard meanwhile: the next reading has it."""
    with suppress(FileNotFoundError):
        return read_table(uri, **kw).replace_schema_metadata(None)
    return None


@lru_cache(maxsize=100_000)
def scored(uri: str, stamp: int) -> Counter[str | None]:
    """Rows of a part or shard that went through a scorer, by state; a shard also holds what the index had ended."""
    try:
        with open_parquet(uri) as f:
            facts = (f.metadata.metadata or {}).get(FOOTER)
        return Counter(json.loads(facts)["scored"]) if facts else states(uri, stamp)
    except FileNotFoundError:
        return Counter()


def first_of_each(table: pa.Table) -> pa.Table:
    """Each row key once: a batch whose worker died may have been written twice."""
    first: dict[str, int] = {}
    for i, k in enumerate(table["row_key"].to_pylist()):
        first.setdefault(k, i)
    return table.take(pa.array(list(first.values()), pa.int64()))


@lru_cache(maxsize=100_000)
def states(uri: str, stamp: int) -> Counter[str | None]:
    """Rows of a results file or a catalogue by state (None: to score); a file never changes under one stamp."""
    whole = uri.removesuffix(f"/{MANIFEST}")
    return Counter(open_set(whole).read(["state"])["state"].to_pylist())
