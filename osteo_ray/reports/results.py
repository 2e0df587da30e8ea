"""Columns and chosen rows of a results file.

listed = columns_of("out/results.parquet", ["series_uid"])
rows = by_risk("out/results.parquet", top=10)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from osteo_ray.io.parquet_set import open_set
from osteo_ray.screening.schema import RESULTS

ORDER = [("risk_prob", "descending"), ("series_uid", "ascending"), ("row_key", "ascending")]
BATCH = 50_000
"""Rows looked at at once."""


def columns_of(results: str | Path, columns: Sequence[str], asked: pc.Expression | None = None) -> pa.Table:
    """These columns of all rows, or of those asked for; null where an earlier version wrote no such column."""
    return pads.dataset(results, schema=RESULTS).to_table(columns=list(columns), filter=asked)


def by_risk(results: str | Path, asked: pc.Expression | None = None, top: int | None = None) -> list[dict[str, Any]]:
    """Rows of the results file, of highest risk first; only the row groups that hold them are read whole.

    Args:
        asked: over `state`, `series_uid`, `row_key` and `risk_prob`.
        top: so many at most; None: all.
    """
    light = ["state", "series_uid", "row_key", "risk_prob"]
    found = pa.table([pa.array([], RESULTS.field(c).type) for c in light], light)
    found, begin = found.append_column("number", pa.array([], pa.int64())), 0
    file = open_set(results)
    for batch in file.batches(light, BATCH):
        table = pa.Table.from_batches([batch])
        table = table.append_column("number", pa.array(np.arange(begin, begin + len(table))))
        begin += len(table)
        found = pa.concat_tables([found, table if asked is None else table.filter(asked)])
        if top is not None:
            found = found.sort_by(ORDER)[:top].combine_chunks()
    found = found.sort_by(ORDER)[:top]
    rows = file.take(found["number"].to_numpy())
    return [dict.fromkeys(RESULTS.names) | row for row in rows.to_pylist()]
