"""Series that an examination carries beside its axial ones: the scout and a coronal reformat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from osteo_ray.synthetic.anatomy import Anatomy
from osteo_ray.synthetic.dicom import Instance, SeriesWriter, Study, base_dataset, uid
from osteo_ray.synthetic.population import Person
from osteo_ray.synthetic.scanner import HU_MAX, HU_MIN, Scan, clean_hu, slice_hu

CORONAL = [1, 0, 0, 0, 0, -1]
SCOUT_PIXEL = 1.5
REFORMATS = 6
REFORMAT_STEP = 8.0


def scout_hu(a: Anatomy, scan: Scan) -> np.ndarray:
    """Front view as a localizer shows it, int16 [rows from the head down, columns to the left]; not true HU."""
    step = 4
    lines = []
    for z in scan.z:
        hu = clean_hu(a, scan, z, slice(None, None, step), slice(None, None, 2))
        lines.append(np.maximum(hu + 1000, 0).sum(0) * (step * scan.pixel / 10))
    thick = np.array(lines)[::-1]  # water-equivalent thickness in units of 10 um, head first
    top, bottom = scan.z[-1], scan.z[0]
    rows = np.arange(top, bottom, -SCOUT_PIXEL)
    x = scan.x0 + scan.pixel * 2 * np.arange(thick.shape[1])
    cols = np.arange(x[0], x[-1], SCOUT_PIXEL)
    along = np.stack([np.interp(cols, x, line) for line in thick])
    image = np.stack([np.interp(rows, np.array(scan.z), along[::-1, c]) for c in range(len(cols))], 1)
    return np.clip(np.rint(image / max(image.max(), 1) * 1400 - 700), HU_MIN, HU_MAX).astype(np.int16)


def write_scout(folder: Path, p: Person, a: Anatomy, scan: Scan, study: Study) -> list[Instance]:
    """Write the localizer of an examination."""
    folder.mkdir(parents=True, exist_ok=True)
    base = base_dataset(p, scan, study, "scout")
    base.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    base.ImageOrientationPatient, base.PixelSpacing = CORONAL, [SCOUT_PIXEL, SCOUT_PIXEL]
    base.ScanOptions, base.SliceThickness = "SCOUT MODE", None
    base.RescaleType = "US"  # a projection has no Hounsfield numbers
    for tag in ("ContrastBolusAgent", "ContrastBolusRoute"):
        if tag in base:
            delattr(base, tag)
    inst = Dataset()
    inst.SOPInstanceUID, inst.InstanceNumber = uid(base.SeriesInstanceUID, 0), 1
    top = scan.z[-1] + study.z_offset
    inst.ImagePositionPatient = [scan.x0, 0, round(top, 4)]
    inst.SliceLocation = 0
    path = folder / "0001.dcm"
    size = SeriesWriter(base, "explicit-le").save(path, inst, scout_hu(a, scan))
    return [Instance(base.SeriesInstanceUID, inst.SOPInstanceUID, 0, top, str(path), size)]


def write_reformat(folder: Path, p: Person, a: Anatomy, scan: Scan, study: Study) -> list[Instance]:
    """Write a few coronal planes through the spine, derived from the main series (upright gantry only)."""
    folder.mkdir(parents=True, exist_ok=True)
    base = base_dataset(p, scan, study, "reformat")
    base.ImageType = ["DERIVED", "SECONDARY", "REFORMATTED"]
    base.ImageOrientationPatient, base.PixelSpacing = CORONAL, [scan.pixel, scan.pixel]
    base.SliceThickness = REFORMAT_STEP
    top, bottom = scan.z[-1], scan.z[0]
    rows = np.arange(top, bottom, -scan.pixel)
    writer = SeriesWriter(base, scan.transfer)
    out = []
    middle = a.frame.spine_base - a.frame.lordosis
    deep = [middle + REFORMAT_STEP * (k - REFORMATS // 2) for k in range(REFORMATS)]
    at_row = [int(np.clip(round((y - scan.y0) / scan.pixel), 0, scan.size - 1)) for y in deep]
    first = at_row[0]
    slab = np.stack([slice_hu(a, scan, i, slice(first, at_row[-1] + 1))[np.array(at_row) - first]
                     for i in range(len(scan.z))]).astype(np.float32)  # [n, planes, cols]  # fmt: skip
    for k, r in enumerate(at_row):
        plane = slab[:, k]
        at = (rows - bottom) / scan.spacing
        low = np.clip(at.astype(int), 0, len(scan.z) - 2)
        w = (at - low)[:, None]
        image = np.clip(np.rint(plane[low] * (1 - w) + plane[low + 1] * w), HU_MIN, HU_MAX).astype(np.int16)
        inst = Dataset()
        inst.SOPInstanceUID, inst.InstanceNumber = uid(base.SeriesInstanceUID, k), k + 1
        inst.ImagePositionPatient = [scan.x0, round(scan.y0 + r * scan.pixel, 4), round(top + study.z_offset, 4)]
        inst.SliceLocation = round(scan.y0 + r * scan.pixel, 3)
        path = folder / f"{k + 1:04d}.dcm"
        size = writer.save(path, inst, image)
        out.append(Instance(base.SeriesInstanceUID, inst.SOPInstanceUID, k, float(inst.SliceLocation), str(path), size))
    return out
