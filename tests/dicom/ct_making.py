"""CT files made by code, for the tests of the catalogue package: nothing is stored."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from osteo_ray.catalogue.assembly import assemble
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.instances import digest, instance_rows
from osteo_ray.dicom.header import read_header
from osteo_ray.dicom.sources import Entry

ROOT = "1.2.826.0.1.3680043.10.1"


def pixels(seed: int, rows: int = 16, cols: int = 16) -> np.ndarray:
    """A round body of about 40 HU in air, stored with intercept -1024, int16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :cols]
    body = (y - rows / 2) ** 2 + (x - cols / 2) ** 2 < (min(rows, cols) / 3) ** 2
    return np.where(body, 1064, 24).astype(np.int16) + rng.integers(0, 20, (rows, cols), dtype=np.int16)


def dataset(i: int = 0, z: float | None = None, px: np.ndarray | None = None, **tags: Any) -> Dataset:
    """One axial slice as a pydicom data set; `tags` by keyword replace or, where None, delete."""
    px = pixels(i) if px is None else px
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"{ROOT}.3.{i + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.2"
    ds.FrameOfReferenceUID = f"{ROOT}.4"
    ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientID, ds.PatientName = "P-1", "Doe^Jane"
    ds.PatientAge, ds.PatientSex, ds.StudyDate = "064Y", "F", "20200102"
    ds.Manufacturer, ds.KVP, ds.ConvolutionKernel, ds.SliceThickness = "ACME", 120, "STANDARD", 2.0
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 2, 1, i + 1
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-100, -120, float(2 * i if z is None else z)]
    ds.ContrastBolusAgent = "NONE"
    ds.PixelSpacing = [20.0, 17.5]  # a field of view of 280 mm in 16 pixels
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = px.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = px.itemsize * 8, px.itemsize * 8, px.itemsize * 8 - 1
    ds.PixelRepresentation = int(px.dtype.kind == "i")
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelData = px.tobytes()
    for k, v in tags.items():
        if v is None:
            del ds[k]
        else:
            setattr(ds, k, v)
    return ds


def to_bytes(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = UID(ds.get("SOPInstanceUID", None) or f"{ROOT}.9")
    meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta, ds.preamble = meta, bytes(128)
    out = io.BytesIO()
    with pydicom.config.disable_value_validation():
        if UID(syntax).is_encapsulated:
            ds["PixelData"].is_undefined_length = True
        pydicom.dcmwrite(out, ds, enforce_file_format=False)
    return out.getvalue()


def file_bytes(i: int = 0, z: float | None = None, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> bytes:
    return to_bytes(dataset(i, z, **tags), syntax)


def compressed(ds: Dataset, frames: list[bytes], syntax: str, fragments: int = 1, table: bool = True) -> bytes:
    ds.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=table)
    return to_bytes(ds, syntax)


def stack(n: int = 100, spacing: float = 2.0, **tags: Any) -> list[bytes]:
    return [file_bytes(i, i * spacing, **tags) for i in range(n)]


def _first(data: bytes, n: int) -> bytes:
    return data[:n]


def header_rows(files: Iterable[bytes], cfg: IndexConfig | None = None) -> list[dict[str, Any]]:
    cfg = cfg or IndexConfig()
    out = []
    for k, data in enumerate(files):
        h = read_header(partial(_first, data), len(data), cfg.limits)
        out += instance_rows(Entry(f"mem://{k:05d}", len(data), ""), h, digest(data[:16384]), cfg)
    return out


def same_never(a: dict, b: dict) -> bool:
    raise AssertionError("pixels were asked for where no SOP instance UID repeats")


def series_of(files: Iterable[bytes], cfg: IndexConfig | None = None, same: Any = same_never) -> list[dict[str, Any]]:
    """Catalogue rows of one series' files, in memory."""
    return assemble(header_rows(files, cfg), cfg or IndexConfig(), same)[0]


def gate(row: dict[str, Any], name: str) -> dict[str, str]:
    """The verdict of one gate of a row."""
    found = [g for g in row["gates"] if g["gate"] == name]
    assert len(found) == 1, (name, row["gates"])
    return found[0]
