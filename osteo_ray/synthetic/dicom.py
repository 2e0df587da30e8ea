"""Step 4a: valid DICOM CT files of a synthetic scan.

    paths = write_series(folder, person, anatomy, scan, study)

12-bit unsigned pixels with intercept -1024; vendor-like tags; deterministic UIDs (2.25, from the seed).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.uid import UID, CTImageStorage

from osteo_ray.synthetic.anatomy import Anatomy
from osteo_ray.synthetic.encode import SYNTAXES, encode
from osteo_ray.synthetic.population import Person
from osteo_ray.synthetic.scanner import Scan, slice_hu
from osteo_ray.synthetic.tables import PROTOCOLS

INTERCEPT = -1024
_IMPLEMENTATION = "2.25.198467204215087541263950412765231940771"
_ROWS, _COLUMNS, _PIXEL_DATA = 0x00280010, 0x00280011, 0x7FE00010
_GROUP_LENGTH = struct.Struct("<HH2sHI")
"""The element that begins file meta information: its bytes after this element."""


def uid(*parts: object) -> str:
    """A UID (2.25.<128 bits>) that follows from `parts`."""
    h = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return f"2.25.{int.from_bytes(h, 'big')}"


@dataclass(frozen=True)
class Study:
    """One examination: what all its series share."""

    study_uid: str
    frame_uid: str
    date: dt.date
    time: dt.time
    accession: str
    z_offset: float  # table position: patient z of the anatomy's zero


def study_of(p: Person, cohort_seed: int, repeat: int = 0) -> Study:
    """The examination number `repeat` of a person."""
    rng = np.random.default_rng([p.seed, 30, repeat])
    day = dt.date(2021, 1, 4) + dt.timedelta(days=int(rng.integers(0, 1400)) + 60 * repeat)
    key = (cohort_seed, p.index, p.seed, repeat)
    return Study(
        uid("study", *key),
        uid("frame", *key),
        day,
        dt.time(int(rng.integers(7, 19)), int(rng.integers(60)), int(rng.integers(60))),
        f"A{int(rng.integers(10**7)):07d}",
        round(float(rng.uniform(-900, 200)), 1),
    )


def series_uid(study: Study, kind: str) -> str:
    return uid(study.study_uid, kind)


SERIES_NUMBER = {"scout": 1, "primary": 2, "repeat": 2, "thick": 3, "sharp": 4, "reformat": 5}


def base_dataset(p: Person, scan: Scan, study: Study, kind: str) -> Dataset:
    """Tags that are the same in every instance of a series."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CTImageStorage
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study.study_uid, series_uid(study, kind)
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = study.frame_uid, "XY"
    day, clock = study.date.strftime("%Y%m%d"), study.time.strftime("%H%M%S")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = clock
    ds.AccessionNumber, ds.StudyID = study.accession, str(p.index)
    ds.StudyDescription = PROTOCOLS[scan.protocol].study
    ds.Modality = "CT"
    ds.Manufacturer, ds.ManufacturerModelName = scan.kernel.vendor, scan.kernel.model
    ds.InstitutionName, ds.StationName = "MADE HOSPITAL", f"CT{p.seed % 4 + 1}"
    ds.DeviceSerialNumber, ds.SoftwareVersions = f"{100000 + p.seed % 4}", "1.0"
    ds.ReferringPhysicianName = ""
    ds.PatientID, ds.PatientName = p.patient_id, f"MADE^{p.patient_id}"
    ds.PatientSex = "M" if p.male else "F"
    born = study.date - dt.timedelta(days=round(p.age_y * 365.25))
    ds.PatientBirthDate, ds.PatientAge = born.strftime("%Y%m%d"), f"{int(p.age_y):03d}Y"
    ds.PatientSize, ds.PatientWeight = round(p.height_cm / 100, 3), p.weight_kg
    ds.PatientPosition = "FFS"
    ds.BodyPartExamined = PROTOCOLS[scan.protocol].body_part
    ds.SeriesNumber, ds.AcquisitionNumber = SERIES_NUMBER[kind], 1
    ds.SeriesDescription = {
        "primary": f"Body {scan.thickness:g} {scan.kernel.name}",
        "repeat": f"Body {scan.thickness:g} {scan.kernel.name}",
        "thick": f"Body thick {scan.thickness:g}",
        "sharp": f"Bone {scan.thickness:g} {scan.kernel.name}",
        "scout": "Scout",
        "reformat": "Coronal MPR",
    }[kind]
    ds.ProtocolName = "6.1 Abdomen routine"
    ds.ScanOptions = "HELICAL MODE" if not scan.tilt else "AXIAL MODE"
    ds.KVP, ds.XRayTubeCurrent, ds.ExposureTime, ds.Exposure = scan.kvp, scan.ma, 500, scan.ma // 2
    ds.ConvolutionKernel = scan.kernel.name
    ds.GantryDetectorTilt = scan.tilt
    ds.DataCollectionDiameter, ds.ReconstructionDiameter = 500, round(scan.size * scan.pixel, 3)
    ds.SliceThickness = scan.thickness
    if scan.contrast:
        ds.ContrastBolusAgent, ds.ContrastBolusRoute = "IOHEXOL 350", "IV"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = INTERCEPT, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
    return ds


class SeriesWriter:
    """Writes the instances of a series; what they share is encoded once, which takes pydicom as long as a rendering.

    The files are those of `pydicom.dcmwrite`, byte for byte.
    """

    def __init__(self, base: Dataset, transfer: str):
        self.transfer, self.syntax = transfer, SYNTAXES[transfer]
        self.charset = base.SpecificCharacterSet
        self.shared = {int(e.tag): self._encoded(e) for e in base}
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID("0.0")
        meta.TransferSyntaxUID, meta.ImplementationClassUID = self.syntax, UID(_IMPLEMENTATION)
        head = DicomBytesIO()
        write_file_meta_info(head, meta)
        before, _, self.meta_after = head.getvalue().partition(_instance_uid("0.0"))
        self.meta_before = before[_GROUP_LENGTH.size :]

    def _encoded(self, element: DataElement) -> bytes:
        """An element as it is written."""
        fp = DicomBytesIO()
        fp.is_little_endian, fp.is_implicit_VR = True, self.syntax.is_implicit_VR
        write_data_element(fp, element, self.charset)
        return fp.getvalue()

    def _head(self, sop_uid: str) -> bytes:
        """All of a file that comes before the data set."""
        meta = self.meta_before + _instance_uid(sop_uid) + self.meta_after
        return b"\0" * 128 + b"DICM" + _GROUP_LENGTH.pack(0x0002, 0x0000, b"UL", 4, len(meta)) + meta

    def save(self, path: Path, instance: Dataset, hu: np.ndarray) -> int:
        """Write one instance; HU int16 [rows, cols] within -1024..3071. Returns the file's bytes."""
        packed = self.syntax.is_encapsulated
        pixels = encode((hu - np.int16(INTERCEPT)).view(np.uint16), self.transfer)
        own = [
            *instance,
            *(DataElement(tag, "US", n) for tag, n in zip((_ROWS, _COLUMNS), hu.shape, strict=True)),
            DataElement(_PIXEL_DATA, "OB" if packed else "OW", pixels, is_undefined_length=packed),
        ]
        elements = self.shared | {int(e.tag): self._encoded(e) for e in own}
        body = b"".join(elements[tag] for tag in sorted(elements))
        if self.syntax.is_deflated:
            deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            body = deflate.compress(body) + deflate.flush()
            body += b"\0" * (len(body) % 2)
        return path.write_bytes(self._head(instance.SOPInstanceUID) + body)


def _instance_uid(uid: str) -> bytes:
    """MediaStorageSOPInstanceUID as file meta information has it (explicit VR, little endian)."""
    fp = DicomBytesIO()
    fp.is_little_endian, fp.is_implicit_VR = True, False
    write_data_element(fp, DataElement(0x00020003, "UI", uid))
    return fp.getvalue()


@dataclass(frozen=True)
class Instance:
    """One written file."""

    series_uid: str
    sop_uid: str
    index: int
    z_mm: float
    path: str
    bytes: int


def write_series(folder: Path, p: Person, a: Anatomy, scan: Scan, study: Study, kind: str) -> list[Instance]:
    """Write the axial series of a scan; one file a slice, named by its place in z order from the feet."""
    folder.mkdir(parents=True, exist_ok=True)
    base = base_dataset(p, scan, study, kind)
    base.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    t = np.deg2rad(scan.tilt)
    base.ImageOrientationPatient = [1, 0, 0, 0, round(float(np.cos(t)), 6), round(float(np.sin(t)), 6)]
    base.PixelSpacing = [scan.pixel, scan.pixel]
    writer = SeriesWriter(base, scan.transfer)
    out = []
    n = len(scan.z)
    for i, z in enumerate(scan.z):
        inst = Dataset()
        inst.SOPInstanceUID = uid(base.SeriesInstanceUID, i)
        inst.InstanceNumber = n - i  # scanned from the head down
        corner_y, corner_z = scan.y0 * np.cos(t), z + study.z_offset + scan.y0 * np.sin(t)
        inst.ImagePositionPatient = [round(scan.x0, 4), round(float(corner_y), 4), round(float(corner_z), 4)]
        inst.SliceLocation = round(z + study.z_offset, 3)
        path = folder / f"{i + 1:04d}.dcm"
        size = writer.save(path, inst, slice_hu(a, scan, i))
        out.append(Instance(base.SeriesInstanceUID, inst.SOPInstanceUID, i, float(inst.SliceLocation), str(path), size))
    return out
