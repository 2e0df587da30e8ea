"""Pictures for the reports: chosen slices and a sagittal overview, decoded from the archive on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from osteo_ray.dicom.stack import SliceStack
from osteo_ray.io.parquet_set import open_set
from osteo_ray.model.crops import grid_positions
from osteo_ray.outcomes import Rejected
from osteo_ray.reports.background import NOTHING_LOOKED_AT, Background, backgrounds
from osteo_ray.reports.pictures import Overview, Roi, Thumbnail
from osteo_ray.reports.results import by_risk
from osteo_ray.reports.study_view import StudyView
from osteo_ray.screening.config import PatientConfig

OVERVIEW_SLICES = 48


def study_views(
    results: str | Path, catalogue: str | Path, n: int, people: PatientConfig, patients: Path | None = None
) -> list[StudyView]:
    """The n studies of highest risk, with pictures of their chosen slices, and what else is known of the patients.

    Args:
        results: results.parquet of the run.
        patients: patients.parquet of the run.
        catalogue: of which these studies' rows alone are read. A series that can't be read any more is shown without
            pictures.
    """
    rows = by_risk(results, pc.field("risk_prob").is_valid(), n)
    wanted = pa.array([r["series_uid"] for r in rows], pa.string())
    # A split series has several rows under one UID; the screened one is the row that the index left open.
    screened = pc.field("series_uid").isin(wanted) & pc.field("state").is_null()
    found = open_set(catalogue).of_key([r["study_uid"] for r in rows], screened).to_pylist() if rows else []
    by_uid = {c["series_uid"]: c for c in found}
    known = backgrounds(results, rows, people, patients)
    return [study_view(r, by_uid.get(r["series_uid"]), known[r["row_key"]]) for r in rows]


def study_view(
    row: Mapping[str, Any], catalogue_row: Mapping[str, Any] | None, background: Background = NOTHING_LOOKED_AT
) -> StudyView:
    """One result row with the pictures of its chosen slices, as far as they can be read."""
    if catalogue_row is None or catalogue_row.get("state"):  # what the index closed may have no geometry at all
        return StudyView(row, background=background)
    try:
        with SliceStack.from_row(catalogue_row) as stack:
            thumbs = [_thumbnail(stack, s) for s in row["selected"] or ()]
            return StudyView(row, thumbs, _sagittal(stack, row["selected"] or ()), background)
    except (Rejected, OSError):
        return StudyView(row, background=background)


def _thumbnail(stack: SliceStack, s: Mapping[str, Any]) -> Thumbnail:
    hu = stack.axial(s["index"])
    row, col, radius_mm = (s.get(k) for k in ("roi_row", "roi_col", "roi_radius_mm"))
    roi = None if row is None or col is None or radius_mm is None else Roi(row, col, radius_mm)
    return Thumbnail(hu, stack.axial_spacing_mm, s["z_mm"], s["weight"], s["sop_uid"], s["index"], roi)


def _sagittal(stack: SliceStack, selected: Sequence[Mapping[str, Any]]) -> Overview | None:
    """A coarse sagittal slab through the spine, head up; few slices are decoded for it."""
    if stack.n < 2:
        return None
    index = grid_positions(np.asarray(stack.z_mm), OVERVIEW_SLICES)
    hu = stack.axial(int(index[len(index) // 2]))
    # The densest 20 mm wide strip near the middle is where the spine stands.
    pitch = stack.axial_spacing_mm[1]
    half = max(1, min(round(10 / pitch), hu.shape[1] // 2))
    bone = np.clip(hu.astype(np.float32) - 100, 0, 600).sum(0)
    strip = np.convolve(bone, np.ones(2 * half), "same")
    mid = len(strip) // 2
    reach = max(1, round(40 / pitch))
    first = max(0, mid - reach)
    column = first + int(strip[first : mid + reach].argmax())
    lines = [stack.axial(int(i))[:, max(0, column - half) : column + half].astype(np.float32).mean(1) for i in index]
    z = np.asarray(stack.z_mm)[index]
    even = np.linspace(z[-1], z[0], len(z))
    picture = np.stack([np.array([np.interp(h, z, col) for h in even]) for col in np.stack(lines, 1)], 1)
    step = float(z[-1] - z[0]) / (len(z) - 1)
    return Overview(picture.astype(np.float32), (step, stack.axial_spacing_mm[0]), float(z[-1]), float(z[0]))
