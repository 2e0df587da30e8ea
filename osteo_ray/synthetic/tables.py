"""Anatomical tables of the synthetic body: sizes, densities, places, enhancement and scan ranges, with their sources.

Lengths in mm of a person of 160 cm (they grow with height), HU at 120 kVp. `frame.py` and the builders of the regions
turn the rows into one person's body.
"""

from __future__ import annotations

from typing import NamedTuple


class VertebraRow(NamedTuple):
    """One level of the column."""

    height: float  # of the body
    disc: float  # below it
    half_width: float
    half_depth: float
    density: float  # trabecular, relative to L1


# Sizes: Panjabi, Spine 1991 (cervical; thoracic) and 1992 (lumbar), women, with discs between. Densities: thoracic
# above lumbar, L3 lowest; cervical 1.49 and T1 1.13 times the mean of L2-L4 (256.0, 194.3 and 172.2 mg/cm3; Yoganandan,
# Bone 2006, n=57), C5 highest of the neck (J Comput Assist Tomogr 2001;25:146, n=50).
VERTEBRAE: dict[str, VertebraRow] = {
    "C3": VertebraRow(13.0, 4.8, 8.6, 7.6, 1.38),
    "C4": VertebraRow(12.8, 4.8, 8.8, 7.6, 1.44),
    "C5": VertebraRow(12.6, 4.9, 9.2, 7.7, 1.46),
    "C6": VertebraRow(12.6, 5.0, 9.9, 7.9, 1.34),
    "C7": VertebraRow(13.6, 4.8, 11.2, 8.1, 1.17),
    "T1": VertebraRow(15.4, 4.0, 13.2, 8.8, 1.04),
    "T2": VertebraRow(16.4, 3.6, 12.9, 9.3, 1.10),
    "T3": VertebraRow(16.8, 3.4, 12.6, 10.0, 1.18),
    "T4": VertebraRow(17.2, 3.4, 12.8, 10.8, 1.25),
    "T5": VertebraRow(17.5, 3.6, 13.5, 11.5, 1.30),
    "T6": VertebraRow(18.0, 3.8, 14.0, 12.5, 1.27),
    "T7": VertebraRow(18.5, 4.0, 14.5, 13.0, 1.23),
    "T8": VertebraRow(19.0, 4.2, 15.0, 13.5, 1.19),
    "T9": VertebraRow(19.7, 4.5, 15.6, 14.0, 1.15),
    "T10": VertebraRow(21.0, 4.8, 16.6, 14.3, 1.12),
    "T11": VertebraRow(22.0, 5.3, 18.0, 14.6, 1.08),
    "T12": VertebraRow(23.5, 6.0, 19.3, 14.9, 1.04),
    "L1": VertebraRow(25.0, 7.3, 20.2, 15.2, 1.00),
    "L2": VertebraRow(25.8, 8.6, 21.0, 15.6, 0.97),
    "L3": VertebraRow(26.0, 9.6, 22.2, 16.0, 0.945),
    "L4": VertebraRow(26.0, 10.4, 23.4, 16.3, 0.955),
    "L5": VertebraRow(25.5, 10.0, 24.6, 16.5, 1.00),
    "L6": VertebraRow(24.5, 7.0, 25.0, 16.5, 1.00),  # a lumbarised first sacral vertebra
}
LEVELS = tuple(VERTEBRAE)


class OrganRow(NamedTuple):
    """An ellipsoid of the upper abdomen: x and rx in half widths of the cavity, y and ry in half depths, z in mm below
    the diaphragm's dome, HU (mean and SD between people), and the share of the organs' enhancement that it takes."""

    name: str
    x: float
    y: float
    z: float
    rx: float
    ry: float
    rz: float
    hu: float
    sd: float
    enhances: float


# Unenhanced liver 55-60 HU, spleen about 10 less, pancreas 40, bile 0-20 (any radiology text).
ORGANS = (
    OrganRow("liver", -0.45, 0.05, 72, 0.52, 0.80, 78, 56, 7, 1.0),
    OrganRow("left lobe of the liver", -0.02, -0.45, 55, 0.45, 0.42, 45, 56, 4, 1.0),
    OrganRow("spleen", 0.68, 0.42, 60, 0.24, 0.34, 48, 48, 4, 1.0),
    OrganRow("stomach", 0.42, -0.25, 75, 0.30, 0.40, 45, 32, 6, 0.0),
    OrganRow("pancreas", 0.12, -0.15, 115, 0.42, 0.16, 18, 40, 5, 1.0),
)
STOMACH = 3

# Chambers in half-axes of the heart (x to the left, y to the back, z up): centre, half-axes, which blood fills them.
CHAMBERS = (
    ("left ventricle", (0.36, 0.16, -0.10), (0.40, 0.40, 0.50), "aorta"),
    ("right ventricle", (-0.08, -0.50, -0.15), (0.58, 0.34, 0.48), "right"),
    ("right atrium", (-0.62, 0.02, 0.05), (0.33, 0.42, 0.50), "right"),
    ("left atrium", (0.05, 0.62, 0.25), (0.48, 0.28, 0.36), "aorta"),
)

# Great vessels and airways as tubes: two ends (x in mm from the spine, y in mm from the vertebral bodies' centre,
# z in mm above the aortic arch), radius, which blood. The arch lies at T4, the tracheal bifurcation at T5.
CHEST_TUBES = (
    ("ascending aorta", (-14, -62, -50), (-14, -52, -4), 16.0, "aorta"),
    ("arch", (-14, -52, 0), (13, -10, -6), 13.0, "aorta"),
    ("pulmonary trunk", (14, -74, -58), (16, -52, -38), 14.0, "right"),
    ("right pulmonary artery", (14, -52, -38), (-48, -36, -44), 10.5, "right"),
    ("left pulmonary artery", (16, -52, -36), (46, -26, -32), 10.5, "right"),
    ("superior vena cava", (-31, -50, -62), (-29, -52, 22), 9.0, "cava"),
    ("left brachiocephalic vein", (-27, -54, 22), (40, -58, 44), 6.5, "cava"),
    ("brachiocephalic artery", (-10, -50, 4), (-26, -34, 62), 6.0, "aorta"),
    ("left common carotid", (6, -36, 4), (24, -32, 62), 3.8, "aorta"),
    ("left subclavian", (14, -20, 2), (34, -22, 60), 4.5, "aorta"),
    ("right subclavian vein", (-29, -54, 30), (-80, -42, 60), 6.5, "cava"),
    ("left subclavian vein", (40, -58, 44), (85, -42, 62), 6.5, "cava"),
)
AIRWAYS = (
    ((0, -34, 62), (-2, -34, -18), 8.5),
    ((-2, -34, -18), (-34, -26, -46), 6.5),
    ((-2, -34, -18), (36, -26, -56), 6.0),
)


class PhaseRow(NamedTuple):
    """HU that intravenous contrast adds: mean and SD for each tissue, and the phase's share of enhanced scans."""

    share: float
    chest_share: float  # among scans of the chest or neck
    aorta: tuple[float, float]
    vein: tuple[float, float]
    right: tuple[float, float]  # right heart and pulmonary arteries
    cava: tuple[float, float]  # superior vena cava and the veins that the bolus comes through
    organ: tuple[float, float]
    kidney: tuple[float, float]
    bone: float  # at L1; 11 HU in the portal phase (Pickhardt, AJR 2014)
    urine: tuple[float, float]  # excreted into renal pelvis, ureters and bladder


# Typical values of routine protocols (350 mg I/ml, 80-100 ml).
PHASES: dict[str, PhaseRow] = {
    "portal": PhaseRow(0.62, 0.30, (110, 15), (110, 15), (105, 15), (115, 20), (50, 8), (130, 15), 11.0, (0, 0)),
    "arterial": PhaseRow(0.23, 0.30, (260, 40), (60, 15), (230, 50), (330, 130), (18, 6), (100, 20), 7.0, (0, 0)),
    "pulmonary": PhaseRow(0.02, 0.40, (150, 60), (15, 8), (340, 70), (700, 250), (6, 3), (25, 10), 4.0, (0, 0)),
    "excretory": PhaseRow(0.13, 0.00, (70, 12), (70, 12), (70, 12), (70, 12), (35, 7), (100, 15), 7.0, (500, 200)),
}


class ProtocolRow(NamedTuple):
    """Where a scan begins and ends: a level of the column and mm above its centre (a range drawn from)."""

    top: tuple[str, ...]
    top_mm: tuple[float, float]
    bottom: str  # a level, or "sacrum": the sacrum's upper end
    bottom_mm: tuple[float, float]
    study: str  # StudyDescription
    body_part: str  # BodyPartExamined


PROTOCOLS: dict[str, ProtocolRow] = {
    "abdomen": ProtocolRow(("T8", "T9", "T10"), (0, 15), "sacrum", (-90, -5), "CT ABDOMEN", "ABDOMEN"),
    "abdomen_pelvis": ProtocolRow(
        ("T8", "T9", "T10"), (0, 15), "sacrum", (-185, -150), "CT ABDOMEN PELVIS", "ABDOMENPELVIS"
    ),
    "trunk": ProtocolRow(
        ("C6", "C7", "T1"), (-5, 15), "sacrum", (-190, -150), "CT CHEST ABDOMEN PELVIS", "CHESTABDPELVIS"
    ),
    "chest": ProtocolRow(("C7", "T1", "T2"), (-5, 10), "T12", (-45, 10), "CT CHEST", "CHEST"),
    "neck_chest": ProtocolRow(("C3",), (0, 12), "T12", (-30, 15), "CT NECK CHEST", "NECKCHEST"),
    "neck": ProtocolRow(("C3",), (0, 12), "T5", (-25, 30), "CT NECK", "NECK"),
    "pelvis": ProtocolRow(("L4", "L5"), (-10, 12), "sacrum", (-205, -170), "CT PELVIS", "PELVIS"),
}  # fmt: skip
