"""An archive or one study indexed in this process, without Ray: header index and series choice.

index = index_archive("study_folder/")
[(s["series_uid"], s["state"], s["code"]) for s in index.series]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from osteo_ray.catalogue.build import assemble_table
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.indexing import index_entries
from osteo_ray.catalogue.instances import INSTANCE
from osteo_ray.dicom.sources import roots
from osteo_ray.outcomes import InputError


@dataclass(frozen=True)
class Index:
    """Everything that was found: every series, excluded ones too, and every file that belongs to no series."""

    series: tuple[dict[str, Any], ...]
    """Catalogue rows (`catalogue.schema.CATALOGUE`); `state` is None for series that are fit, else why they are not."""
    files: tuple[dict[str, Any], ...]
    """Files in no series: `uri`, `code` and what else `catalogue.instances.FILE` holds."""

    @property
    def chosen(self) -> tuple[dict[str, Any], ...]:
        """The series that would be screened, one a study at most."""
        return tuple(s for s in self.series if s["chosen"] and s["state"] is None)


def index_archive(archive: str | Path, cfg: IndexConfig | None = None) -> Index:
    """Index a folder, file, zip, tar or URI in this process. For large archives use `osteo-ray index`.

    Raises:
        FileNotFoundError: where `archive` is not there.
    """
    cfg = cfg or IndexConfig()
    entries = (e for source in roots(str(archive), cfg.follow_links) for e in source.list())
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for is_image, row in index_entries(entries, cfg):
        (rows if is_image else refused).append(row)
    series, left = assemble_table(pa.Table.from_pylist(rows, schema=INSTANCE), cfg)
    return Index(tuple(series.to_pylist()), (*refused, *left.to_pylist()))


def index_study(uri: str | Path, cfg: IndexConfig | None = None) -> dict[str, Any]:
    """The catalogue row of the study's chosen series; where none is fit, the row of the best-ranked one.

    Raises:
        InputError: where `uri` holds no CT series that can be told, or more than one study.
        FileNotFoundError: where `uri` is not there.
    """
    index = index_archive(uri, cfg)
    found = index.series
    studies = {r["study_uid"] for r in found}
    if len(studies) > 1:
        raise InputError(f"{uri} holds {len(studies)} studies; give one, or use `osteo-ray screen` for an archive")
    if not found:
        codes = ", ".join(sorted({f["code"] for f in index.files})) or "nothing"
        raise InputError(f"{uri} holds no CT series; its {len(index.files)} files ended as {codes}")
    return min(found, key=lambda r: (r["state"] is not None, not r["chosen"], r["choice_rank"] or 0, -r["n_slices"]))
