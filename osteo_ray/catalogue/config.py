"""Typed config of `osteo-ray index`: what is read, how far, which series are fit and which one is chosen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteo_ray.config import Section
from osteo_ray.dicom.limits import Limits
from osteo_ray.patients.config import SitePatientKeys

Action = Literal["off", "warn", "fail"]


class Geometry(Section):
    """Tolerances of series assembly."""

    iop_tolerance: float = Field(1e-4, gt=0, description="unit length and orthogonality of ImageOrientation")
    spacing_rel: float = Field(0.01, gt=0, description="spacing is uniform within max(rel * median, abs)")
    spacing_abs_mm: float = Field(
        0.02, gt=0, description="deviation of one slice spacing from the median that still counts as uniform, mm"
    )
    same_position_mm: float = Field(1e-3, gt=0, description="two slices closer than this share a position")
    drift_mm: float = Field(0.5, gt=0, description="in-plane position off a straight line: not one volume")
    axial_max_deg: float = Field(
        20.0, gt=0, lt=90, description="slice normal against the patient's long axis; beyond it, slices are oblique"
    )
    min_slices: int = Field(3, ge=3, description="slice positions that a series needs to be a volume")
    variable_spacing: Literal["use", "reject"] = Field(
        "use",
        description="series whose slice spacing is not uniform: use them with their true positions, or reject them",
    )


class HuLimits(Section):
    """Limits of the HU at which air, fat and muscle are found in decoded slices (catalogue/tissue.py)."""

    fat_low: float = Field(-117.0, description="HU; lowest peak of subcutaneous fat at 110 kVp and more, or unknown")
    fat_low_below_110_kvp: float = Field(-132.0, description="HU; the same at lower tube voltages, where fat is darker")
    fat_high: float = Field(-83.0, description="HU; highest peak of subcutaneous fat")
    fat_typical: float = Field(-102.0, description="HU; peak of subcutaneous fat from which a common shift is measured")
    muscle_low: float = Field(0.0, description="HU; lowest peak beside the spine (old muscle is infiltrated by fat)")
    muscle_high: float = Field(105.0, description="HU; highest peak beside the spine (enhanced muscle reads higher)")
    air_tolerance: float = Field(60.0, gt=0, description="HU; how far below air_hu the air around the body may lie")
    shift: float = Field(14.0, gt=0, description="HU; common shift of fat and air from which Q_HU fires")
    slice_shift: float = Field(
        20.0,
        gt=0,
        description="HU; common shift of the tissues between two slices of a series from which Q_HU fires",
    )
    shift_agreement: float = Field(12.0, gt=0, description="HU; within this, shifts of fat and air are one shift")


class QualityChecks(Section):
    """Quality checks: thresholds, and what a check that fires does."""

    policy: Literal["strict", "lenient"] = Field("lenient", description="strict: every warning is a failure")
    tilt_ignore_deg: float = Field(0.1, ge=0, description="gantry tilt up to this is none, degrees")
    tilt_max_deg: float = Field(
        5.0, ge=0, description="gantry tilt beyond this fails the series (Q_TILT); between the two it warns, degrees"
    )
    thickness_max_mm: float = Field(
        5.0, gt=0, description="slices thicker or farther apart than this fail the series (Q_THICKNESS), mm"
    )
    kvp: float = Field(120.0, gt=0, description="tube voltage that the published HU thresholds belong to, kVp")
    kvp_tolerance: float = Field(5.0, ge=0, description="deviation from `kvp` without Q_KVP, kVp")
    age_min_y: float = Field(
        40.0, ge=0, description="patients younger than this are no case for screening (Q_AGE), years"
    )
    missing_slices: Action = Field(
        "warn",
        description="Q_MISSING_SLICES: positions are missing within the series; off, warn, or fail: the "
        "series is not screened",
    )
    dup_slices: Action = Field(
        "fail",
        description="Q_DUP_SLICES: two different slices share a position; off, warn, or fail: the series "
        "is not screened",
    )
    kernel_sharp: Action = Field(
        "warn",
        description="Q_KERNEL_SHARP: reconstruction kernel for bone or lung; off, warn, or fail: the "
        "series is not screened",
    )
    kvp_action: Action = Field(
        "warn",
        description="Q_KVP: tube voltage off `kvp`, or not known; off, warn, or fail: the series is not screened",
    )
    contrast: Action = Field(
        "warn", description="Q_CONTRAST: contrast agent was given; off, warn, or fail: the series is not screened"
    )
    contrast_unknown: Action = Field(
        "warn", description="what a header does that states neither agent nor its absence (Q_CONTRAST_UNKNOWN)"
    )
    fov: Action = Field("warn", description="what a reconstruction too small for a body does (Q_FOV)")
    fov_min_mm: float = Field(
        250.0, gt=0, description="mm; smallest field of view, or reconstruction circle, that holds a body"
    )
    age: Action = Field(
        "fail",
        description="Q_AGE: the patient is younger than `age_min_y`; off, warn, or fail: the series is not screened",
    )
    date: Action = Field(
        "warn",
        description="Q_DATE: StudyDate and AcquisitionDate are more than `date_days` apart, as after an import from "
        "elsewhere; off: StudyDate counts; warn: the study has no date, so that nothing is paired by it; fail: the "
        "series is not screened",
    )
    date_days: int = Field(30, ge=0, description="StudyDate and AcquisitionDate may be this far apart, days")
    lossy: Action = Field(
        "warn",
        description="Q_LOSSY: the images were compressed with loss, now or once before; off, warn, or fail: the series "
        "is not screened",
    )
    identity: Action = Field(
        "fail",
        description="Q_IDENTITY: header and record differ in sex, or in age by more than `identity_age_y`, most often "
        "because the record is another patient's; off, warn, or fail: the series is not scored",
    )
    identity_age_y: float = Field(
        2.0, ge=0, description="ages of header and record may differ by this much without Q_IDENTITY, years"
    )
    metal: Action = Field(
        "warn",
        description="Q_METAL: more metal in the slices than `metal_fraction`; off, warn, or fail: the "
        "series is not screened",
    )
    metal_hu: float = Field(2500.0, description="voxels above this are metal")
    metal_fraction: float = Field(0.002, ge=0, description="share of body voxels above metal_hu that fires Q_METAL")
    coverage_levels: int = Field(2, ge=0, description="lumbar levels that have to be seen")
    coverage: Action = Field(
        "fail",
        description="Q_COVERAGE: fewer lumbar levels seen than `coverage_levels`; off, warn, or fail: the "
        "series is not screened",
    )
    air_hu: float = Field(-1000.0, description="HU that air around the patient should have")
    air_tolerance_hu: float = Field(60.0, gt=0, description="deviation from `air_hu` without Q_AIR_CALIB, HU")
    air_calib: Action = Field(
        "warn",
        description="Q_AIR_CALIB: air around the patient is off, or none is seen; off, warn, or fail: the "
        "series is not screened",
    )
    modality_missing: Action = Field(
        "warn",
        description="Q_MODALITY_MISSING: the patient has no demographics or no labs; off, warn, or fail: "
        "the series is not screened",
    )
    hu: HuLimits = Field(default_factory=HuLimits, description="limits of tissues' HU (Q_HU)")
    hu_action: Action = Field("fail", description="what tissues with HU other than those of CT do (Q_HU)")
    bone_behind_min: float = Field(
        0.4, ge=0, le=1, description="least share of midline bone in the back half of the body (Q_ORIENTATION)"
    )
    crop: Action = Field("fail", description="what a spine crop does that leaves the reconstruction (Q_CROP)")
    crop_outside_max: float = Field(
        0.05, ge=0, le=1, description="largest share of the spine crop outside the reconstructed picture"
    )
    sharp_kernels: tuple[str, ...] = Field(
        (
            r"^(LUNG|BONE|BONEPLUS|EDGE|ULTRA|CHST)\b",  # GE
            r"^(B|H|I|J|Br|Hr|Bl|Bv|Qr|Ur|Hc)[6-9]\d",  # Siemens: the number is the cut-off
            r"^Bl\d\d",  # Siemens: lung
            r"^(YB|YC|YD|YE|L|D|E|EB|EC)$",  # Philips
            r"^FC(30|31|5\d|8\d)",  # Canon / Toshiba: bone and lung
        ),
        description="regular expressions on ConvolutionKernel, any case",
    )


class Choice(Section):
    """Which fit series of a study is screened: hard limits, then a weighted score in 0..1 parts."""

    min_coverage_mm: float = Field(
        150.0, ge=0, description="series that cover less of the body from head to foot are not screened, mm"
    )
    coverage_full_mm: float = Field(350.0, gt=0, description="more coverage than this earns no more")
    thickness_low_mm: float = Field(1.0, gt=0, description="thinner slices than this score less: noise, mm")
    thickness_high_mm: float = Field(3.0, gt=0, description="thicker slices than this score less: partial volume, mm")
    weight_original: float = Field(8.0, description="weight of ImageType ORIGINAL, against derived images")
    weight_fov: float = Field(6.0, description="weight of a field of view that holds a whole body (gates.fov_min_mm)")
    weight_kernel: float = Field(4.0, description="weight of the kernel: soft 1, unknown 0.5, sharp 0")
    weight_phase: float = Field(2.0, description="weight of the contrast phase's rank (`phase_rank`)")
    weight_thickness: float = Field(
        1.0, description="weight of a slice thickness between `thickness_low_mm` and `thickness_high_mm`"
    )
    weight_coverage: float = Field(1.0, description="weight of coverage, as a share of `coverage_full_mm`")
    weight_kvp: float = Field(0.5, description="weight of a tube voltage within `gates.kvp_tolerance` of `gates.kvp`")
    phase_rank: dict[str, float] = Field(
        default_factory=lambda: {
            "none": 1.0,
            "unknown": 0.8,
            "delayed": 0.5,
            "portal": 0.5,
            "contrast": 0.4,
            "arterial": 0.0,
        },
        description="score of each contrast phase, 0 to 1; a phase that is not listed scores 0",
    )


class NiftiConfig(Section):
    """What NIfTI volumes say of patient and scan, beside their JSON sidecars."""

    patient_id: str | None = Field(
        r"(?:^|/)(sub-[A-Za-z0-9]+)",
        description="regular expression on a volume's path; its first group is the patient's number where the sidecar "
        "has no PatientID. Default: the subject of BIDS. null: sidecars alone",
    )
    tags: dict[str, str | float] = Field(
        {}, description="DICOM keyword: value, for what a sidecar does not state (KVP: 120, ContrastBolusAgent: none)"
    )


class IndexConfig(SitePatientKeys):
    """`osteo-ray index`."""

    num_cpus: int | None = Field(None, ge=1, description="cores Ray may use; null: all")
    part_entries: int = Field(2000, ge=1, description="files of one header task, on average")
    part_bytes: int = Field(2 << 30, ge=1, description="bytes of files after which a header task is cut")
    bucket_rows: int = Field(40_000, ge=1, description="instances of one assembly task, at most about")
    store_patience_s: float = Field(
        300.0, ge=0, description="seconds to try again where the folder of the index can't be read or written"
    )
    read_patience_s: float = Field(
        30.0, ge=0, description="seconds to try again, in one part, where archive files can't be read for the moment"
    )
    walk_archives: bool = Field(True, description="look inside zip and tar files")
    follow_links: bool = Field(True, description="follow symbolic links (loops are cut)")
    nifti: NiftiConfig = NiftiConfig()
    limits: Limits = Limits()
    geometry: Geometry = Geometry()
    gates: QualityChecks = QualityChecks()
    choice: Choice = Choice()
