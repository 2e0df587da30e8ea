"""A study of nobody, made by rule: what `/v1/ready` has scored to see that scoring works.

    write_study(Path("built-in.zip"))

An ellipse of soft tissue with a rim of fat and a column of bone: enough for every step from the zip to the decision,
and nothing that a model should call a patient. What it is scored as means nothing.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

FOV_MM, STEP_MM = 384.0, 5.0
UID = "2.25.271828182845904523536028747135266249"
AIR, FAT, MUSCLE, BONE, CORTEX = -1000, -100, 55, 160, 600  # HU


def write_study(path: Path, side: int = 128, slices: int = 48) -> Path:
    """Write the study as a zip of DICOM files, `side` x `side` pixels each; the same bytes each time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for i in range(slices):
            z.writestr(zipfile.ZipInfo(f"{i}.dcm"), _file(i, side), zipfile.ZIP_DEFLATED)
    return path


def _pixels(i: int, side: int) -> np.ndarray:
    """HU of slice i, int16 [rows, cols]."""
    y, x = (np.mgrid[:side, :side] / side - 0.5) * FOV_MM
    r = np.hypot(x / 160, y / 115)
    back = np.hypot(x, y - 55)
    hu = np.full((side, side), AIR, np.int16)
    hu[r < 1] = FAT
    hu[r < 0.87] = MUSCLE
    hu[back < 24] = CORTEX
    hu[back < 20] = BONE
    hu[(np.abs(x) < 5) & (y > 75) & (y < 95)] = CORTEX
    return hu + np.random.default_rng(i).integers(-8, 9, hu.shape, np.int16)


def _file(i: int, side: int) -> bytes:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{UID}.3.{i + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = f"{UID}.1", f"{UID}.2", f"{UID}.4"
    ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = "CT", "osteo-ray", 1, i + 1
    ds.PatientID = ds.PatientName = "BUILT-IN"
    ds.PatientSex, ds.PatientAge, ds.StudyDate, ds.SeriesDescription = "O", "070Y", "20000101", "built-in study"
    ds.ImageType, ds.BodyPartExamined, ds.PatientPosition = ["ORIGINAL", "PRIMARY", "AXIAL"], "ABDOMEN", "HFS"
    ds.KVP, ds.ConvolutionKernel, ds.SliceThickness, ds.ReconstructionDiameter = 120, "B30f", STEP_MM, FOV_MM
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-FOV_MM / 2, -FOV_MM / 2, i * STEP_MM]
    ds.PixelSpacing = [FOV_MM / side, FOV_MM / side]
    ds.Rows = ds.Columns = side
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
    ds.PixelData = _pixels(i, side).astype("<i2").tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()
