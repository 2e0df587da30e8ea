"""Vertebra masks as segmentation tools and PACS write them: NIfTI and DICOM SEG, read into one form.

    files, unread = find_masks(["masks/"])
    mask = read_mask(files[0])          # labels [I, J, K], their levels, voxel -> patient coordinates

What a label means follows from the tool's own naming (SEG segment names and codes, the label table in a NIfTI header,
one file a label) or from its numbering; never from where the file lies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from osteo_ray.outcomes import InputError

Numbering = Literal["totalsegmentator", "verse"]

VERSE = {
    **{i: f"C{i}" for i in range(1, 8)},
    **{i + 7: f"T{i}" for i in range(1, 13)},
    **{i + 19: f"L{i}" for i in range(1, 7)},
    26: "S",
    28: "T13",
}
"""VerSe (Sekuboyina 2021): C1-C7, T1-T12, L1-L6, sacrum, T13; 27 is the coccyx."""
TOTALSEGMENTATOR = {
    25: "S",
    26: "S",  # S1
    **{27 + i: f"L{5 - i}" for i in range(5)},
    **{32 + i: f"T{12 - i}" for i in range(12)},
    **{44 + i: f"C{7 - i}" for i in range(7)},
}
"""TotalSegmentator 2, task `total` (117 labels); the other labels are other organs."""
_NUMBERINGS = {"totalsegmentator": TOTALSEGMENTATOR, "verse": VERSE}
BODY = 1
"""The label of vertebral bodies in TotalSegmentator's vertebral-body task (2: discs)."""

_FILE = re.compile(r"^vertebrae_([CTLS]\d{1,2})\.nii(\.gz)?$")
_LEVEL = re.compile(r"(?:^|[^A-Z])([CTL])\s*0?(\d{1,2})(?:[^0-9A-Z]|$)")
_XML_LABEL = re.compile(rb'<Label[^>]*Key="(\d+)"[^>]*>\s*(?:<!\[CDATA\[)?([^<\]]+)')
_WORDS = {"cervical": "C", "thoracic": "T", "lumbar": "L"}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
             "twelfth")  # fmt: skip


@dataclass(frozen=True)
class MaskFiles:
    """The files of one mask, and its grid as far as headers say it."""

    kind: Literal["nifti", "one file a label", "seg"]
    files: tuple[str, ...]
    affine: np.ndarray | None  # [4, 4], voxel -> LPS mm; None: a SEG's frames say it
    shape: tuple[int, ...] | None
    frame_of_reference_uid: str | None

    @property
    def source(self) -> str:
        """The file, or the folder of one file a label."""
        return self.files[0] if len(self.files) == 1 else str(Path(self.files[0]).parent)


@dataclass(frozen=True)
class Mask:
    """Labels on a grid; `levels` is empty for a map of vertebral bodies (label `BODY`) without their names."""

    labels: np.ndarray  # uint8 [I, J, K]
    affine: np.ndarray  # [4, 4], voxel -> LPS mm
    levels: dict[int, str]


def find_masks(roots: Sequence[str | Path]) -> tuple[list[MaskFiles], dict[str, str]]:
    """Every mask under `roots`, and why other files that look like one can't be used.

    Raises:
        FileNotFoundError: where a root is not there.
    """
    found: list[MaskFiles] = []
    unread: dict[str, str] = {}
    for root in roots:
        if not Path(root).exists():
            raise FileNotFoundError(f"masks {root}: not there")
        folders = os.walk(root) if Path(root).is_dir() else [(str(Path(root).parent), [], [Path(root).name])]
        for folder, _, names in folders:
            parts = sorted(n for n in names if _FILE.match(n))
            rest = sorted(set(names) - set(parts))
            if len(parts) == 1 and not Path(root).is_dir():
                parts, rest = [], names
            for group, kind in [(parts, "one file a label"), *(([n], "file") for n in rest)]:
                if not group:
                    continue
                paths = [str(Path(folder) / n) for n in group]
                try:
                    files = _files_of(paths, kind)
                except Exception as e:  # whatever a broken file makes its reader raise
                    unread[paths[0]] = f"{type(e).__name__}: {e}"[:300]
                    continue
                if files is not None:
                    found.append(files)
    return found, unread


def _files_of(paths: list[str], kind: str) -> MaskFiles | None:
    if paths[0].endswith((".nii", ".nii.gz")):
        import nibabel as nib

        image: Any = nib.load(paths[0])
        affine = _lps(np.asarray(image.affine, float))
        known: Literal["nifti", "one file a label"] = "one file a label" if kind == "one file a label" else "nifti"
        return MaskFiles(known, tuple(paths), affine, tuple(image.shape), None)
    import pydicom

    with open(paths[0], "rb") as f:
        if f.read(132)[128:] != b"DICM":
            return None
    ds = pydicom.dcmread(paths[0], stop_before_pixels=True)
    if ds.get("Modality") != "SEG" or str(ds.SOPClassUID) != "1.2.840.10008.5.1.4.1.1.66.4":
        return None
    return MaskFiles("seg", tuple(paths), None, None, str(ds.FrameOfReferenceUID))


def read_mask(files: MaskFiles, numbering: Numbering | None = None) -> Mask:
    """The labels of a mask.

    Raises:
        InputError: no vertebra among its labels, or labels that more than one numbering has.
    """
    if files.kind == "seg":
        return _read_seg(files.files[0])
    import nibabel as nib

    assert files.affine is not None
    if files.kind == "one file a label":
        labels, levels = np.zeros(files.shape or (), np.uint8), {}
        for value, path in enumerate(files.files, 1):
            one: Any = nib.load(path)
            part = np.asanyarray(one.dataobj)
            if part.shape != labels.shape:
                raise InputError(f"{path}: its grid is not that of the other labels beside it")
            labels[part > 0.5] = value
            name = _FILE.match(Path(path).name)
            assert name is not None
            levels[value] = "S" if name[1].startswith("S") else name[1]
        return Mask(labels, files.affine, levels)
    image: Any = nib.load(files.files[0])
    stored = np.asanyarray(image.dataobj)
    if stored.ndim != 3 or stored.size == 0:
        raise InputError(f"{files.source}: a mask has three dimensions, this file has shape {stored.shape}")
    rounded = np.rint(stored)
    if not np.array_equal(rounded, stored) or rounded.min() < 0 or rounded.max() > 255:
        raise InputError(f"{files.source}: its values are no labels (whole numbers of 0-255); is it the CT itself?")
    labels = rounded.astype(np.uint8)
    present = [int(v) for v in np.unique(labels) if v]
    levels = _named_in_header(image) or levels_of(present, numbering, files.source)
    return Mask(labels, files.affine, {v: levels[v] for v in present if v in levels})


def levels_of(present: Sequence[int], numbering: Numbering | None, source: str) -> dict[int, str]:
    """Level by label, by the numbering; {} for a map of vertebral bodies (labels 1, or 1 and 2).

    Raises:
        InputError: where the labels don't say which numbering they are of, and none is given.
    """
    if not present:
        raise InputError(f"{source}: the mask is empty")
    if set(present) <= {BODY, 2}:
        return {}
    if numbering is None:
        # Above 28 VerSe has no label; below 25 TotalSegmentator has other organs, and then up to 117 of them.
        if max(present) > 28:
            numbering = "totalsegmentator"
        elif min(present) < 25:
            numbering = "verse"
        else:
            raise InputError(
                f"{source}: labels {list(present)} mean different vertebrae in TotalSegmentator and VerSe; "
                "say which: --numbering totalsegmentator, or verse"
            )
    known = _NUMBERINGS[numbering]
    if not set(present) & set(known):
        raise InputError(f"{source}: none of its labels {list(present)[:20]} is a vertebra of {numbering}")
    return {v: known[v] for v in present if v in known}


def _named_in_header(image) -> dict[int, str]:
    """Levels by the label table in a NIfTI header extension, where there is one."""
    out = {}
    for extension in getattr(image.header, "extensions", []):
        content = extension.get_content()
        data = content if isinstance(content, bytes) else str(content).encode()
        for key, name in _XML_LABEL.findall(data):
            level = level_named(name.decode(errors="replace"))
            if level:
                out[int(key)] = level
    return out


def level_named(text: str) -> str | None:
    """The level that a label's name says ('vertebrae_L1', 'L1 vertebra', 'First lumbar vertebra'); None: none."""
    low = text.lower()
    if "sacrum" in low or re.search(r"(?:^|[^a-z])s1(?:[^0-9]|$)", low):
        return "S"
    for word, letter in _WORDS.items():
        if word in low:
            for i, ordinal in enumerate(_ORDINALS, 1):
                if ordinal in low.replace("-", " ").split():
                    return f"{letter}{i}"
    found = _LEVEL.search(text.upper())
    if not found:
        return None
    letter, number = found[1], int(found[2])
    return f"{letter}{number}" if 1 <= number <= {"C": 7, "T": 13, "L": 6}[letter] else None


def _read_seg(path: str) -> Mask:
    """A DICOM SEG through highdicom: segments by their label, else by the meaning of their property type."""
    import highdicom as hd

    seg = hd.seg.segread(path)
    levels = {}
    for number in seg.segment_numbers:
        d = seg.get_segment_description(number)
        level = level_named(str(d.segment_label)) or level_named(str(d.segmented_property_type.meaning))
        if level:
            levels[int(number)] = level
    if not levels:
        raise InputError(f"{path}: no segment is named as a vertebra (as L1, vertebrae_L1, First lumbar vertebra are)")
    volume = seg.get_volume(segment_numbers=list(levels), combine_segments=True, skip_overlap_checks=True)
    return Mask(np.asarray(volume.array).astype(np.uint8), np.asarray(volume.affine, float), levels)


def _lps(ras: np.ndarray) -> np.ndarray:
    """NIfTI's affine points to the right, front and head; DICOM's to the left, back and head."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ ras
