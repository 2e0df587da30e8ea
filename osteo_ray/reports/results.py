"""A run's results as reports read them: some columns of every row, whole rows of few.

    listed = columns_of("out/results.parquet", WORKLIST_COLUMNS)
    rows = by_risk("out/results.parquet", top=10)

Slices, SHAP and checks are most of a results file: nobody holds them for a million rows.
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


def columns_of(results: str | Path, columns: Sequence[str], asked: pc.Expression | None = None) -> pa.Table:
    """These columns of all rows, or of those asked for; null where an earlier version wrote no such column."""
    return pads.dataset(results, schema=RESULTS).to_table(columns=list(columns), filter=asked)


def by_risk(results: str | Path, asked: pc.Expression | None = None, top: int | None = None) -> list[dict[str, Any]]:
    """Rows of the results file, of highest risk first; only the row groups that hold them are read whole.

    Args:
        asked: over `state`, `series_uid`, `row_key` and `risk_prob`.
        top: so many at most; None: all.
    """
    light = columns_of(results, ["state", "series_uid", "row_key", "risk_prob"])
    light = light.append_column("number", pa.array(np.arange(len(light))))
    found = (light if asked is None else light.filter(asked)).sort_by(ORDER)[:top]
    rows = open_set(results).take(found["number"].to_numpy())
    return [dict.fromkeys(RESULTS.names) | row for row in rows.to_pylist()]
