"""Quality checks: pure functions value -> verdict. Those that need pixels or a model are called by screening.

A check that can't fire is a defect: each has a test that makes it fire.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from osteo_ray.catalogue.config import Action, QualityChecks
from osteo_ray.dicom.tags import date_of


@dataclass(frozen=True)
class QualityCheck:
    """One verdict; the fields of the GATE struct of the results table."""

    gate: str
    verdict: str  # pass | warn | fail
    value: str
    threshold: str

    def row(self) -> dict[str, str]:
        return asdict(self)


def judged(name: str, fired: bool, action: Action, value: Any, threshold: str, cfg: QualityChecks) -> QualityCheck:
    """The verdict of one check: `action` where it fired, failures for warnings under the strict policy."""
    verdict = "pass"
    if fired and action != "off":
        verdict = "fail" if action == "fail" or cfg.policy == "strict" else "warn"
    return QualityCheck(name, verdict, "absent" if value is None else str(value), threshold)


_SC_CLASS = "1.2.840.10008.5.1.4.1.1.7"
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_CT_CLASSES = frozenset(_STORAGE + n for n in ("2", "2.1", "2.2"))  # plain, enhanced, converted to enhanced


def q_modality(modality: str | None, cfg: QualityChecks, sop_class: str | None = None) -> QualityCheck:
    """CT, and no object of another standard class; secondary captures have a check of their own."""
    value = modality
    standard = (sop_class or "").startswith(_STORAGE) and not (sop_class or "").startswith(_SC_CLASS)
    if modality == "CT" and standard and sop_class not in _CT_CLASSES:
        value = f"CT, stored as {sop_class}"
    return judged("Q_MODALITY", value != "CT", "fail", value, "CT", cfg)


_NO_VOLUME = (
    "LOCALIZER",
    "SCOUT",
    "TOPOGRAM",
    "MIP",
    "MINIP",
    "SCREEN SAVE",
    "SCREENSAVE",
    "SECONDARY",
    "PROJECTION",
    "DOSE",
)


@cache
def no_volume_kind(image_type: str | None, sop_class: str | None) -> str | None:
    """LOCALIZER, MIP, SECONDARY ... where the images are no slices of a scan; else None."""
    values = [v.strip().upper() for v in (image_type or "").split("\\")]
    for v in values:
        for k in _NO_VOLUME:
            if v == k or v.startswith((k + " ", k + "_")):
                return k
    return "SECONDARY" if sop_class and (sop_class == _SC_CLASS or sop_class.startswith(_SC_CLASS + ".")) else None


def q_localizer(image_type: str | None, sop_class: str | None, cfg: QualityChecks) -> QualityCheck:
    kind = no_volume_kind(image_type, sop_class)
    return judged("Q_LOCALIZER", kind is not None, "fail", kind or image_type, "no " + "/".join(_NO_VOLUME[:4]), cfg)


def q_missing_slices(n_missing: int | None, cfg: QualityChecks, hopeless: bool = False) -> QualityCheck:
    """`hopeless`: no uniform run is long enough to be screened without the missing slices."""
    return judged("Q_MISSING_SLICES", bool(n_missing), "fail" if hopeless else cfg.missing_slices, n_missing, "0", cfg)


def q_dup_slices(n_duplicate: int | None, cfg: QualityChecks) -> QualityCheck:
    return judged("Q_DUP_SLICES", bool(n_duplicate), cfg.dup_slices, n_duplicate, "0", cfg)


def q_tilt(tilt_deg: float | None, cfg: QualityChecks) -> QualityCheck:
    t = abs(tilt_deg or 0.0)
    action: Action = "fail" if t > cfg.tilt_max_deg else "warn"
    value = None if tilt_deg is None else f"{tilt_deg:.2f}"
    return judged(
        "Q_TILT",
        t > cfg.tilt_ignore_deg,
        action,
        value,
        f"warn > {cfg.tilt_ignore_deg:g}, fail > {cfg.tilt_max_deg:g} deg",
        cfg,
    )


def q_thickness(thickness_mm: float | None, spacing_mm: float | None, cfg: QualityChecks) -> QualityCheck:
    """Thick slices, or thin ones so far apart that as much bone goes unseen."""
    known = [v for v in (thickness_mm, spacing_mm) if v is not None]
    worst = max(known) if known else None
    # 5 mm that was written as 5.000001 is 5 mm
    fired = worst is not None and worst > cfg.thickness_max_mm * (1 + 1e-4)
    return judged(
        "Q_THICKNESS", fired, "fail", None if worst is None else f"{worst:g}", f"<= {cfg.thickness_max_mm:g} mm", cfg
    )


def kernel_class(kernel: str | None, cfg: QualityChecks) -> str:
    """sharp | soft | unknown, by the patterns of the config."""
    if not kernel:
        return "unknown"
    first = kernel.split("\\")[0].strip()
    return "sharp" if any(re.search(p, first, re.I) for p in cfg.sharp_kernels) else "soft"


def q_kernel_sharp(kernel: str | None, cfg: QualityChecks) -> QualityCheck:
    return judged("Q_KERNEL_SHARP", kernel_class(kernel, cfg) == "sharp", cfg.kernel_sharp, kernel, "soft kernel", cfg)


KVP_RANGE = (70.0, 150.0)
"""Tube voltages of CT scanners, kVp, at which bone HU can be brought to 120 kVp; nothing else is scored. Others are
those of treatment beams, or photon energies written in their place."""


def q_kvp(kvp: float | None, cfg: QualityChecks) -> QualityCheck:
    fired = kvp is None or abs(kvp - cfg.kvp) > cfg.kvp_tolerance
    return judged(
        "Q_KVP",
        fired,
        cfg.kvp_action,
        None if kvp is None else f"{kvp:g}",
        f"{cfg.kvp:g} +- {cfg.kvp_tolerance:g}",
        cfg,
    )


def q_contrast(contrast: str | None, cfg: QualityChecks) -> QualityCheck:
    fired = contrast not in (None, "none", "unknown")
    return judged("Q_CONTRAST", fired, cfg.contrast, contrast, "unenhanced", cfg)


def q_contrast_unknown(contrast: str | None, cfg: QualityChecks) -> QualityCheck:
    """No header tag says whether agent was given: enhanced bone reads higher, which the model can't allow for."""
    fired = contrast in (None, "unknown")
    value = "unknown" if fired else contrast
    return judged("Q_CONTRAST_UNKNOWN", fired, cfg.contrast_unknown, value, "stated in the header", cfg)


def q_fov(field_of_view_mm: float | None, cfg: QualityChecks) -> QualityCheck:
    """A reconstruction too small to hold a body, as spine and heart reconstructions are."""
    fired = field_of_view_mm is not None and field_of_view_mm < cfg.fov_min_mm
    value = None if field_of_view_mm is None else f"{field_of_view_mm:.0f}"
    return judged("Q_FOV", fired, cfg.fov, value, f">= {cfg.fov_min_mm:g} mm", cfg)


def q_crop(outside: float, cfg: QualityChecks) -> QualityCheck:
    """`outside`: the share of the spine crop that the reconstruction does not hold, of the worst slice."""
    fired = outside > cfg.crop_outside_max
    return judged("Q_CROP", fired, cfg.crop, f"{outside:.2f}", f"<= {cfg.crop_outside_max:g} outside", cfg)


def q_age(age_y: float | None, cfg: QualityChecks) -> QualityCheck:
    """An unknown age warns: nothing is excluded for what a header lacks."""
    if age_y is None:
        return judged("Q_AGE", True, "off" if cfg.age == "off" else "warn", None, f">= {cfg.age_min_y:g}", cfg)
    return judged("Q_AGE", age_y < cfg.age_min_y, cfg.age, f"{age_y:g}", f">= {cfg.age_min_y:g}", cfg)


def q_date(study: str | None, acquired: str | None, cfg: QualityChecks) -> QualityCheck:
    """Whether a study is of the day on which its images were acquired (YYYYMMDD): else it is not known which of the two
    records and DXA belong beside.
    """
    a, b = date_of(study), date_of(acquired)
    apart = None if a is None or b is None else abs((a - b).days)
    fired = apart is not None and apart > cfg.date_days
    return judged("Q_DATE", fired, cfg.date, apart, f"<= {cfg.date_days} days apart", cfg)


def q_lossy(lossy: bool, cfg: QualityChecks) -> QualityCheck:
    """A compression that changes values, now or once before: noise and texture are no longer the scanner's."""
    return judged("Q_LOSSY", lossy, cfg.lossy, "lossy" if lossy else "lossless", "lossless", cfg)


OLDEST_STATED_Y = 89.0
"""De-identified headers state every age beyond this as 90 (HIPAA, 45 CFR 164.514): such ages can't be compared."""


def q_identity(header: Mapping[str, float], record: Mapping[str, float], cfg: QualityChecks) -> QualityCheck:
    """Whether header and record can be one patient: the same sex, and ages within `identity_age_y` years.

    Where they differ it is most often the wrong patient's record, or an age without the date on which it was true.

    Args:
        header, record: `age_y` and `sex_male`, as far as they are known.
    """
    known = [k for k in ("age_y", "sex_male") if k in header and k in record]
    differ = []
    if "age_y" in known:
        a, b = (min(float(x["age_y"]), OLDEST_STATED_Y) for x in (header, record))
        if abs(a - b) > cfg.identity_age_y:
            differ.append(f"age {header['age_y']:.0f} in the header, {record['age_y']:.0f} in the record")
    if "sex_male" in known and header["sex_male"] != record["sex_male"]:
        words = ["F" if x["sex_male"] < 0.5 else "M" for x in (header, record)]
        differ.append(f"sex {words[0]} in the header, {words[1]} in the record")
    value = "; ".join(differ) if differ else "no conflict" if known else None
    wanted = f"one sex, ages within {cfg.identity_age_y:g} years"
    return judged("Q_IDENTITY", bool(differ), cfg.identity, value, wanted, cfg)


def q_metal(hu: np.ndarray, cfg: QualityChecks) -> QualityCheck:
    """Share of body voxels (> -300 HU) above `metal_hu` in one slice, or several stacked."""
    # A float would have integers compared as floats, in six times the time.
    metal = math.floor(cfg.metal_hu) if hu.dtype.kind == "i" else cfg.metal_hu
    body = int(np.count_nonzero(hu > -300))
    share = int(np.count_nonzero(hu > metal)) / body if body else 0.0
    return judged(
        "Q_METAL",
        share > cfg.metal_fraction,
        cfg.metal,
        f"{share:.4f}",
        f"<= {cfg.metal_fraction:g} above {cfg.metal_hu:g} HU",
        cfg,
    )


def q_coverage(levels_seen: int | None, cfg: QualityChecks) -> QualityCheck:
    """`levels_seen`: lumbar levels that the model saw."""
    fired = levels_seen is None or levels_seen < cfg.coverage_levels
    return judged("Q_COVERAGE", fired, cfg.coverage, levels_seen, f">= {cfg.coverage_levels} lumbar levels", cfg)


def air_hu(hu: np.ndarray) -> float | None:
    """Median HU of the air around the patient, [rows, cols] axial: the corners' values between -1200 and -800.

    None where no corner shows air. A corrupt codestream or a wrong rescale moves it far from -1000.
    """
    k = max(min(hu.shape) // 16, 2)
    corners = np.concatenate([hu[:k, :k].ravel(), hu[:k, -k:].ravel(), hu[-k:, :k].ravel(), hu[-k:, -k:].ravel()])
    pool = corners if -1500 < np.median(corners) < -200 else hu[hu < -200]
    pool = pool[pool > -1500]
    return float(np.median(pool)) if pool.size >= 32 else None


def q_air_calib(hu: np.ndarray, cfg: QualityChecks) -> QualityCheck:
    """Air near -1000 HU; no air at all fires too."""
    a = air_hu(hu)
    fired = a is None or abs(a - cfg.air_hu) > cfg.air_tolerance_hu
    return judged(
        "Q_AIR_CALIB",
        fired,
        cfg.air_calib,
        None if a is None else f"{a:.0f}",
        f"{cfg.air_hu:g} +- {cfg.air_tolerance_hu:g} HU",
        cfg,
    )


def q_modality_missing(missing: list[str], cfg: QualityChecks) -> QualityCheck:
    """`missing`: modalities (demographics, labs, ct) that the record of this patient lacks."""
    return judged(
        "Q_MODALITY_MISSING", bool(missing), cfg.modality_missing, ",".join(missing) or "none", "all present", cfg
    )
