"""A CT of a few box-like vertebrae with known cores, as DICOM files, and masks of it in every form that is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ct_making import ROOT, dataset, to_bytes
from pydicom import dcmread
from pydicom.uid import generate_uid

SPACING, STEP, SIZE, SLICES = 1.5, 2.5, 96, 62
CORES = {"L4": 80.0, "L3": 110.0, "L2": 140.0, "L1": 95.0}
LEVELS = tuple(CORES)  # from foot to head
TOTAL = {"L4": 28, "L3": 29, "L2": 30, "L1": 31}
VERSE = {"L4": 23, "L3": 22, "L2": 21, "L1": 20}
PITCH, HEIGHT, FIRST = 40.0, 26.0, 8.0


@dataclass
class Spine:
    """[slices, rows, cols], toward the head, the back and the left."""

    hu: np.ndarray
    level: np.ndarray  # index into LEVELS + 1, 0 none
    body: np.ndarray  # bool
    origin: tuple[float, float, float] = (-70.0, -60.0, -900.0)
    uid: str = f"{ROOT}.2"
    frame: str = f"{ROOT}.4"
    patient: str = "P-1"
    files: list[Path] = field(default_factory=list)


def spine(seed: int = 0, **over) -> Spine:
    """Four lumbar vertebrae; the top one is cut by the scan's upper edge."""
    rng = np.random.default_rng(seed)
    z = np.arange(SLICES) * STEP
    y, x = np.mgrid[:SIZE, :SIZE] * SPACING
    hu = np.full((SLICES, SIZE, SIZE), 40.0) + rng.normal(0, 8, (SLICES, SIZE, SIZE))
    level = np.zeros(hu.shape, np.uint8)
    body = np.zeros(hu.shape, bool)
    oval = ((x - 72) / 22) ** 2 + ((y - 60) / 17) ** 2
    pedicles = (np.abs(np.abs(x - 72) - 13) < 4) & (y > 70) & (y < 92)
    arch = pedicles | ((np.abs(y - 96) < 4) & (np.abs(x - 72) < 17)) | ((np.abs(x - 72) < 3) & (y > 98) & (y < 120))
    for k, name in enumerate(LEVELS):
        low = FIRST + k * PITCH
        for i in np.flatnonzero((z >= low) & (z <= low + HEIGHT)):
            rim = min(z[i] - low, low + HEIGHT - z[i]) < 3
            hu[i][oval <= 1] = 350.0
            if not rim:
                inside = oval <= 0.72
                hu[i][inside] = CORES[name] + rng.normal(0, 12, inside.sum())
            hu[i][arch] = 400.0
            body[i] = oval <= 1
            level[i][(oval <= 1) | arch] = k + 1
    return Spine(hu.round(), level, body & (level > 0), **over)


def write_dicom(s: Spine, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(s.hu):
        ds = dataset(
            i, px=(image + 1024).astype(np.int16), SOPInstanceUID=f"{s.uid}.{i + 1}", SeriesInstanceUID=s.uid,
            FrameOfReferenceUID=s.frame, PatientID=s.patient, StudyInstanceUID=f"{s.uid}.9",
            ImagePositionPatient=[s.origin[0], s.origin[1], s.origin[2] + i * STEP],
            PixelSpacing=[SPACING, SPACING], SliceThickness=STEP, BodyPartExamined="ABDOMEN",
        )  # fmt: skip
        ds.AccessionNumber = ds.StudyID = ds.StudyTime = ds.PatientBirthDate = ds.ReferringPhysicianName = ""
        path = folder / f"{i:04d}.dcm"
        path.write_bytes(to_bytes(ds))
        s.files.append(path)
    return s.files


def affine_ras(s: Spine, shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Of an array [x to the right, y to the front, z]: what nibabel's canonical files have."""
    a = np.diag([SPACING, SPACING, STEP, 1.0])
    far = (SIZE - 1) * SPACING
    a[:3, 3] = [-(s.origin[0] + far) + shift[0], -(s.origin[1] + far) + shift[1], s.origin[2] + shift[2]]
    return a


def write_nifti(s: Spine, values: np.ndarray, path: Path, shift=(0.0, 0.0, 0.0)) -> Path:
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    ras = np.transpose(values, (2, 1, 0))[::-1, ::-1]
    nib.save(nib.Nifti1Image(ras.astype(np.uint8), affine_ras(s, shift)), path)
    return path


def numbered(s: Spine, numbers: dict[str, int]) -> np.ndarray:
    return np.array([0, *(numbers[n] for n in LEVELS)], np.uint8)[s.level]


def write_seg(s: Spine, path: Path) -> Path:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    images = [dcmread(f) for f in s.files]
    algorithm = hd.AlgorithmIdentificationSequence("made", codes.DCM.ArtificialIntelligence, "1")
    segments = [
        hd.seg.SegmentDescription(
            k + 1, f"vertebrae_{name}", hd.sr.CodedConcept("91723000", "SCT", "Anatomical structure"),
            hd.sr.CodedConcept("51282000", "SCT", "Vertebra"), hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm,
        )
        for k, name in enumerate(LEVELS)
    ]  # fmt: skip
    seg = hd.seg.Segmentation(
        images, s.level, hd.seg.SegmentationTypeValues.BINARY, segments, generate_uid(), 1, generate_uid(), 1, "made",
        "made", "1", "1",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)
    return path
