"""Slice targets from vertebra masks: what `osteo-ray targets` writes and `osteo-ray train --targets` takes.

    summary = write_targets("catalogue.parquet", ["masks/"], "targets.parquet")

Masks are matched to the catalogue's series by geometry: the grid of a NIfTI file is the series' own, a SEG shares its
frame of reference. One Ray Data task reads one mask and its series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from osteo_ray.dicom.geometry import to_axial
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.store import new_file
from osteo_ray.io.uris import absolute
from osteo_ray.outcomes import InputError, Rejected
from osteo_ray.progress import progress_bar
from osteo_ray.training.masks import BODY, Mask, MaskFiles, Numbering, find_masks, read_mask
from osteo_ray.training.vertebrae import Labelled, MaskRefused, SliceTargets, measure

TARGETS = pa.schema(
    [
        ("series_uid", pa.string()),
        ("sop_uid", pa.string()),
        ("index", pa.int32()),  # in the z-ordered stack
        ("z_mm", pa.float64()),
        ("level", pa.string()),  # 'C1'..'L6', 'S', 'disc', 'none' (no spine); null: unknown
        ("mid", pa.float32()),  # 1 at the middle of a body, 0 at its endplates and outside; null: unknown
        ("trabecular_hu", pa.float32()),  # mean of the eroded core, as scanned; null: unknown
    ]
)
"""One row a slice: the one schema of slice targets, from masks or from a synthetic cohort."""
MASKS = pa.schema(
    [
        ("source", pa.string()),
        ("series_uid", pa.string()),
        ("patient_key", pa.string()),
        ("code", pa.string()),  # null: used
        ("message", pa.string()),
        ("levels", pa.string()),  # with whole bodies, from head to foot
        ("left_out", pa.string()),  # levels left out, and why
        ("slices", pa.int32()),  # with a trabecular HU
    ]
)
"""One row a mask and series: what became of it."""
LEAST_BODY = 0.2
"""Share of the labelled voxels that a map of vertebral bodies must hold; bodies are about half of a vertebra."""
MARGIN_MM = 25.0
"""Kept around a mask's voxels, to compare it with its surroundings."""


@dataclass(frozen=True)
class TargetsSummary:
    """What was written, for printing."""

    out: Path
    masks: pa.Table
    slices: int

    def lines(self) -> list[str]:
        """A few lines for a terminal."""
        codes = Counter(self.masks["code"].to_pylist())
        used = codes.pop(None, 0)
        out = [f"{self.masks.num_rows} masks: {used} used" + "".join(f", {n} {c}" for c, n in sorted(codes.items()))]
        for r in self.masks.to_pylist():
            if r["code"]:
                out.append(f"  {r['code']:17s} {r['source']}: {r['message']}")
        why = Counter(w.rpartition(" ")[2] for t in self.masks["left_out"].to_pylist() if t for w in t.split(", "))
        if why:
            out.append("vertebrae left out: " + ", ".join(f"{n} {w}" for w, n in sorted(why.items())))
        return [*out, f"written  {self.out} ({self.slices} slices with a trabecular HU)"]


def write_targets(
    catalogue: str | Path,
    masks: Sequence[str | Path],
    out: str | Path,
    numbering: Numbering | None = None,
    quiet: bool = False,
) -> TargetsSummary:
    """Write `out` (TARGETS) and, beside it, `<out>.masks.parquet` (MASKS).

    Raises:
        InputError: no mask under `masks`, or none that can be used.
        FileNotFoundError: a path that is not there.
    """
    from osteo_ray import ray_setup
    from osteo_ray.catalogue.dataset import arrow_batches

    fit = open_set(catalogue).read(filters=pc.field("state").is_null())
    series = [r for r in fit.to_pylist() if r["instances"]]
    files, unread = find_masks(masks)
    if not files and not unread:
        raise InputError(f"no mask in {', '.join(map(str, masks))}: NIfTI files or DICOM SEG are expected")
    jobs, rows = _matched(files, series)
    rows += [_row(source, None, "MASK_UNREADABLE", why) for source, why in unread.items()]

    ray_setup.start()
    import ray.data

    def work(batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([_done(jobs[i], numbering) for i in batch["item"].to_pylist()], schema=_DONE)

    targets, per_patient = [], []
    if jobs:
        with ray_setup.retries_given():
            ds = ray.data.from_items(list(range(len(jobs))), override_num_blocks=len(jobs)).map_batches(
                work, batch_format="pyarrow", batch_size=None, max_retries=1
            )
        with progress_bar("measure masks", len(jobs), "mask", quiet) as advance:
            for table in arrow_batches(ds):
                per_patient += table.to_pylist()
                advance(table.num_rows)
    ambiguous = _of_many_patients(per_patient)
    for r in per_patient:
        report = {k: r[k] for k in MASKS.names}
        if r["source"] in ambiguous and report["code"] is None:
            report |= {"code": "MASK_AMBIGUOUS", "message": "it fits the CT of more than one patient"}
        elif report["code"] is None:
            targets += r["targets"]
        rows.append(report)
    table = pa.Table.from_pylist(sorted(rows, key=lambda r: (r["source"], r["series_uid"] or "")), schema=MASKS)
    if not targets:
        reasons = "; ".join(f"{r['source']}: {r['code']}, {r['message']}" for r in table.to_pylist()[:5])
        raise InputError(f"no mask could be used: {reasons}")
    path = Path(absolute(out))
    target_table = pa.Table.from_pylist(targets, schema=TARGETS).sort_by(
        [("series_uid", "ascending"), ("index", "ascending")]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    for where, content in ((path, target_table), (path.with_suffix(".masks.parquet"), table)):
        with new_file(where) as new:
            pq.write_table(content, new)
    return TargetsSummary(path, table, target_table.num_rows - target_table["trabecular_hu"].null_count)


def targets_table(series_uid: str, sop_uids: Sequence[str], z_mm: np.ndarray, t: SliceTargets) -> pa.Table:
    """One series' targets as rows of TARGETS."""
    n = len(z_mm)
    unknown = [None if np.isnan(v) else float(v) for v in np.concatenate([t.mid, t.trabecular_hu])]
    return pa.table(
        {
            "series_uid": [series_uid] * n,
            "sop_uid": list(sop_uids),
            "index": list(range(n)),
            "z_mm": np.asarray(z_mm, float),
            "level": [str(v) or None for v in t.level],
            "mid": unknown[:n],
            "trabecular_hu": unknown[n:],
        },
        schema=TARGETS,
    )


def targets_of(row: Mapping[str, Any], mask: Mask, bodies: Mask | None) -> SliceTargets:
    """Targets of one catalogue row by a mask.

    Raises:
        MaskRefused: naming what does not fit.
        Rejected: the series can't be read.
    """
    with SliceStack.from_row(row) as stack:
        grid = _SliceGrid.of(row)
        window = grid.window(mask)
        if window is None:
            raise MaskRefused("MASK_EMPTY", "no labelled voxel lies inside the CT")
        turn = to_axial(grid.orientation)
        hu, labels, inside = [], [], []
        for i in range(stack.n):
            hu.append(turn(stack.hu(i)[window]))
            labels.append(turn(grid.sampled(mask, i, window)))
            if bodies is not None:
                inside.append(turn(grid.sampled(bodies, i, window) == BODY))
        volume, named = np.stack(hu), np.stack(labels)
        body = np.stack(inside) if inside else None
        if body is not None and body[named > 0].mean() < LEAST_BODY:
            body = None  # a map of other vertebrae than these
        return measure(Labelled(volume, named, mask.levels, body, np.asarray(stack.z_mm), stack.axial_spacing_mm))


@dataclass(frozen=True)
class _SliceGrid:
    """Where a series' voxels lie in the patient (LPS, mm)."""

    positions: np.ndarray  # [n, 3], centre of each slice's first pixel, toward the head
    orientation: np.ndarray  # [6]
    spacing: tuple[float, float]  # row, column pitch
    shape: tuple[int, int]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> _SliceGrid:
        return cls(
            np.array([i["position"] for i in row["instances"]], float),
            np.array(row["orientation"], float),
            (float(row["pixel_spacing_row_mm"]), float(row["pixel_spacing_col_mm"])),
            (int(row["rows"]), int(row["cols"])),
        )

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps in mm [3] of a row and of a column."""
        return self.orientation[3:] * self.spacing[0], self.orientation[:3] * self.spacing[1]

    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner [3] of the box around all voxels, edges included."""
        down, right = self.axes
        edges = [r * down + c * right for r in (-0.5, self.shape[0] - 0.5) for c in (-0.5, self.shape[1] - 0.5)]
        step = np.abs(np.diff(self.positions, axis=0).mean(0)) / 2 if len(self.positions) > 1 else np.zeros(3)
        corners = (self.positions[[0, -1]][:, None] + np.array(edges)[None]).reshape(-1, 3)
        return corners.min(0) - step, corners.max(0) + step

    def voxel_mm(self) -> np.ndarray:
        """Size of a voxel along the patient's axes [3]."""
        down, right = self.axes
        step = np.diff(self.positions, axis=0).mean(0) if len(self.positions) > 1 else np.zeros(3)
        return np.maximum(np.maximum(np.abs(down), np.abs(right)), np.abs(step))

    def window(self, mask: Mask) -> tuple[slice, slice] | None:
        """Rows and columns that hold every labelled voxel, with a margin; None where none lies in the image."""
        at = np.argwhere(mask.labels > 0)
        if at.size == 0:
            return None
        low, high = at.min(0), at.max(0)
        corners = np.array([[x, y, z, 1] for x in (low[0], high[0]) for y in (low[1], high[1])
                            for z in (low[2], high[2])], float)  # fmt: skip
        offsets = (mask.affine @ corners.T).T[:, :3][:, None] - self.positions[[0, -1]][None]
        slices = []
        for axis, pitch, n in ((self.orientation[3:], self.spacing[0], self.shape[0]),
                               (self.orientation[:3], self.spacing[1], self.shape[1])):  # fmt: skip
            pixel = offsets @ axis / pitch
            margin = MARGIN_MM / pitch
            first, last = int(max(0, np.floor(pixel.min() - margin))), int(min(n, np.ceil(pixel.max() + margin) + 1))
            if last - first < 2:
                return None
            slices.append(slice(first, last))
        return slices[0], slices[1]

    def sampled(self, mask: Mask, i: int, window: tuple[slice, slice]) -> np.ndarray:
        """The mask's nearest labels on a window of slice i, uint8; 0 outside the mask's grid."""
        inverse = np.linalg.inv(mask.affine)
        down, right = (inverse[:3, :3] @ a for a in self.axes)
        start = inverse[:3, :3] @ self.positions[i] + inverse[:3, 3]
        rows, cols = (np.arange(w.start, w.stop) for w in window)
        inside = np.ones((len(rows), len(cols)), bool)
        index = []
        for d in range(3):
            at = np.rint(start[d] + rows[:, None] * down[d] + cols[None] * right[d]).astype(int)
            inside &= (at >= 0) & (at < mask.labels.shape[d])
            index.append(np.clip(at, 0, mask.labels.shape[d] - 1))
        return np.where(inside, mask.labels[tuple(index)], 0).astype(np.uint8)


@dataclass(frozen=True)
class _Job:
    files: MaskFiles
    row: dict[str, Any]
    bodies: tuple[MaskFiles, ...]  # that may be the map of vertebral bodies


def _matched(files: list[MaskFiles], series: list[dict[str, Any]]) -> tuple[list[_Job], list[dict[str, Any]]]:
    """Masks with the series that they fit, and rows for those that fit none."""
    grids = [_SliceGrid.of(r) for r in series]
    jobs, unmatched = [], []
    for f in files:
        fitting = [i for i, (r, g) in enumerate(zip(series, grids, strict=True)) if _fits(f, r, g)]
        if not fitting:
            what = "frame of reference" if f.kind == "seg" else "grid"
            unmatched.append(_row(f.source, None, "MASK_UNMATCHED", f"no open series of the catalogue has its {what}"))
        for i in fitting:
            others = tuple(o for o in files if o is not f and o.kind == "nifti" and _fits(o, series[i], grids[i]))
            jobs.append(_Job(f, series[i], others))
    return jobs, unmatched


def _fits(f: MaskFiles, row: Mapping[str, Any], grid: _SliceGrid) -> bool:
    """Whether a mask's grid covers the series' box, to within a voxel; a SEG: whether it shares the frame."""
    if f.affine is None or f.shape is None:
        return f.frame_of_reference_uid is not None and f.frame_of_reference_uid == row["frame_of_reference_uid"]
    if len(f.shape) != 3:
        return False
    size = np.array(f.shape, float)
    corners = np.array([[x, y, z, 1] for x in (-0.5, size[0] - 0.5) for y in (-0.5, size[1] - 0.5)
                        for z in (-0.5, size[2] - 0.5)])  # fmt: skip
    at = (f.affine @ corners.T).T[:, :3]
    low, high = grid.extent()
    tolerance = 0.6 * np.maximum(np.maximum(np.abs(f.affine[:3, :3]).max(1), grid.voxel_mm()), 0.5)
    return bool((np.abs(at.min(0) - low) <= tolerance).all() and (np.abs(at.max(0) - high) <= tolerance).all())


_DONE = pa.schema([*MASKS, pa.field("targets", pa.list_(pa.struct(list(TARGETS))))])


def _done(job: _Job, numbering: Numbering | None) -> dict[str, Any]:
    """One mask on one series, as a row of _DONE; a failure is a row."""
    source, row = job.files.source, job.row
    try:
        mask = read_mask(job.files, numbering)
        if not mask.levels:
            why = "a map of bodies or discs: it serves beside a mask that names levels"
            return _row(source, row, "BODIES_ONLY", why) | {"targets": []}
        t = targets_of(row, mask, _bodies_of(job))
    except MaskRefused as e:
        return _row(source, row, e.code, e.message) | {"targets": []}
    except Rejected as e:
        return _row(source, row, e.outcome.code, e.outcome.message or "") | {"targets": []}
    except InputError as e:
        return _row(source, row, "MASK_UNREADABLE", str(e)) | {"targets": []}
    sop_uids = [i["sop_uid"] for i in row["instances"]]
    table = targets_table(row["series_uid"], sop_uids, np.array([i["z_mm"] for i in row["instances"]]), t)
    left_out = ", ".join(f"{k} {why.replace(' ', '-')}" for k, why in t.left_out.items())
    report = _row(source, row, None, None, " ".join(t.used), left_out, int(np.isfinite(t.trabecular_hu).sum()))
    return report | {"targets": table.to_pylist()}


def _bodies_of(job: _Job) -> Mask | None:
    for f in job.bodies:
        try:
            mask = read_mask(f)
        except InputError:
            continue
        if not mask.levels:
            return mask
    return None


def _row(
    source: str, row: Mapping[str, Any] | None, code: str | None, message: str | None, levels: str = "",
    left_out: str = "", slices: int = 0,
) -> dict[str, Any]:  # fmt: skip
    series = None if row is None else row["series_uid"]
    patient = None if row is None else row["patient_key"]
    return dict(zip(MASKS.names, (source, series, patient, code, message, levels, left_out, slices), strict=True))


def _of_many_patients(rows: list[dict[str, Any]]) -> set[str]:
    patients: dict[str, set[str]] = {}
    for r in rows:
        if r["code"] is None:
            patients.setdefault(r["source"], set()).add(r["patient_key"])
    return {s for s, p in patients.items() if len(p) > 1}
