"""A simulated archive for measurements: many small studies, headers like a scanner's, pixels as holes or zeros.

    python benchmarks/archive_tree.py OUT --instances 10000 [--zips]

Each study has one series of 100 slices of 512 x 512 at 2 mm. As files, pixels are holes (no disk used); as zips (one a
study), the members are deflated.
"""

from __future__ import annotations

import argparse
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

PER_STUDY = 100
SIDE = 512
_UID = "1.2.826.0.1.3680043.10.99"


def template(side: int = SIDE) -> bytes:
    """Header bytes up to the pixels' value: about 130 elements, 4 KB; UIDs and position have fixed widths to patch."""
    ds = Dataset()
    ds.SpecificCharacterSet, ds.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{_UID}.3.1000000000"
    ds.StudyDate, ds.SeriesDate, ds.ContentDate, ds.StudyTime = "20200102", "20200102", "20200102", "101112.000"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", "ACME MEDICAL", "Scanner 64"
    ds.InstitutionName, ds.StudyDescription, ds.SeriesDescription = "Hospital", "CT ABDOMEN", "Abdomen 2.0 Br38"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Doe^Jane", "P000000000000", "19500101"
    ds.PatientSex, ds.PatientAge = "F", "070Y"
    ds.BodyPartExamined, ds.SliceThickness, ds.KVP = "ABDOMEN", 2.0, 120
    ds.ConvolutionKernel, ds.PatientPosition, ds.ExposureTime, ds.XRayTubeCurrent = "Br38f", "HFS", 500, 210
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{_UID}.1.1000000000", f"{_UID}.2.1000000000"
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 2, 1, 1
    ds.ImagePositionPatient = ["-180", "-180", "-000000000.0"]
    ds.ImageOrientationPatient, ds.FrameOfReferenceUID = [1, 0, 0, 0, 1, 0], f"{_UID}.4.1000000000"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", side, side
    ds.PixelSpacing, ds.BitsAllocated, ds.BitsStored, ds.HighBit = [0.7, 0.7], 16, 12, 11
    ds.PixelRepresentation, ds.RescaleIntercept, ds.RescaleSlope, ds.WindowCenter = 0, -1024, 1, 40
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, f"{_UID}.5.1"
    ds.ReferencedImageSequence = Sequence([item, item])
    for group in (0x0009, 0x0019, 0x0021, 0x0029):  # private blocks, as scanners write them
        ds.add_new((group, 0x0010), "LO", "ACME PRIVATE 01")
        for k in range(14):
            ds.add_new((group, 0x1000 + k), "LO" if k % 3 else "OB", b"\1" * 40 if k % 3 == 0 else f"private value {k}")
    ds.PixelData = bytes(8)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID(f"{_UID}.3.1000000000")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta, ds.preamble = meta, bytes(128)
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    data = out.getvalue()[:-8]
    return data[:-4] + (side * side * 2).to_bytes(4, "little")


def headers(n: int, data: bytes | None = None):
    """(study, slice, header bytes) of n instances; positions of a study are 2 mm apart."""
    data = data or template()
    for i in range(n):
        study, k = divmod(i, PER_STUDY)
        h = data.replace(b".3.1000000000", b".3.%010d" % i).replace(b"-000000000.0", b"-%09d.0" % (2 * k))
        h = h.replace(b".1.1000000000", b".1.%010d" % study).replace(b".2.1000000000", b".2.%010d" % study)
        yield study, k, h.replace(b"P000000000000", b"P%012d" % (study // 2))


def write_files(out: Path, n: int) -> None:
    size = SIDE * SIDE * 2
    for study, k, h in headers(n):
        folder = out / f"{study // 1000:04d}" / f"{study:06d}"
        if k == 0:
            folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / f"IM{k:04d}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, h)
        os.ftruncate(fd, len(h) + size)
        os.close(fd)


def write_zips(out: Path, n: int, side: int = SIDE) -> None:
    pixels = np.zeros(side * side, np.uint16).tobytes()
    archive, at = None, -1
    for study, k, h in headers(n, template(side)):
        if archive is None or study != at:
            if archive:
                archive.close()
            folder = out / f"{study // 1000:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            archive, at = zipfile.ZipFile(folder / f"{study:06d}", "w", zipfile.ZIP_DEFLATED, compresslevel=1), study
        archive.writestr(f"IM{k:04d}", h + pixels)
    if archive:
        archive.close()


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path)
    p.add_argument("--instances", type=int, default=10_000)
    p.add_argument("--zips", action="store_true")
    p.add_argument("--side", type=int, default=SIDE, help="rows and columns, of zips only")
    a = p.parse_args()
    write_zips(a.out, a.instances, a.side) if a.zips else write_files(a.out, a.instances)
