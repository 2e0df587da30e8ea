"""One study, in this process: header index and series choice without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from osteo_ray.catalogue.build import assemble_table
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.indexing import INDEXED, index_entries
from osteo_ray.dicom.sources import roots
from osteo_ray.outcomes import InputError


def index_study(uri: str | Path, cfg: IndexConfig | None = None) -> dict[str, Any]:
    """The catalogue row of the study's chosen series; where none is fit, the row of the best-ranked one.

    Raises:
        InputError: where `uri` holds no CT series that can be told, or more than one study.
        FileNotFoundError: where `uri` is not there.
    """
    cfg = cfg or IndexConfig()
    entries = (e for source in roots(str(uri), cfg.follow_links) for e in source.list())
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for is_image, row in index_entries(entries, cfg):
        (rows if is_image else refused).append(row)
    series, _ = assemble_table(pa.Table.from_pylist(rows, schema=INDEXED), cfg)
    found = series.to_pylist()
    studies = {r["study_uid"] for r in found}
    if len(studies) > 1:
        raise InputError(f"{uri} holds {len(studies)} studies; give one, or use `osteo-ray screen` for an archive")
    if not found:
        codes = sorted({r["code"] for r in refused})
        raise InputError(f"{uri} holds no CT series; its {len(refused)} files ended as {', '.join(codes) or 'nothing'}")
    return min(found, key=lambda r: (r["state"] is not None, not r["chosen"], r["choice_rank"] or 0, -r["n_slices"]))
