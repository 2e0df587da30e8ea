"""Internal calibration: the scan's own HU scale, from air, fat and muscle, and bone density with its error (numpy).

    scale = tissue_scale(fat=-88.0, muscle=63.0, air=-985.0, contrast=0.0, factor=1.0, cfg=TissueScaleConfig())
    hu, sd = scale.at_120_kvp(131.0)
    density, density_sd = vbmd(hu, sd, cfg)                      # mg/cm3 of hydroxyapatite

Three things move a scan's HU: an offset, a gain, and a beam that is not that of the stated tube voltage. Each has a
prior; air, fat and muscle are measurements of them, each with how much it differs from person to person. The estimate
is the mean of the Gaussian posterior. Published methods map two tissues onto fixed values, so that a person whose
muscle is infiltrated by fat (20 instead of 50 HU) is given a fifth more bone; here muscle weighs by what it tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.model.config import TissueScaleConfig

HU_PER_VBMD = 1.31
"""HU of bone at 120 kVp to 1 mg/cm3 of hydroxyapatite (ratio to dipotassium phosphate: Goodsitt 1992)."""


@dataclass(frozen=True)
class TissueScale:
    """What a scan's tissues say of its scale: measured HU = offset + (1 + gain) * HU."""

    mean: np.ndarray
    """[3]: offset in HU, gain, and the natural logarithm of the bone factor beyond that of the stated kVp."""
    covariance: np.ndarray
    """[3, 3] of the same."""
    factor: float
    """Bone factor of the stated kVp (`acquisition.bone_factor`)."""

    def at_120_kvp(self, hu: float) -> tuple[float, float]:
        """Bone HU, given as scanned, as it would read at 120 kVp on a scanner without error; the SD of the scale in it.

        NaN where the tube voltage is not known.
        """
        offset, gain, beam = self.mean
        out = (hu - offset) / ((1 + gain) * self.factor * np.exp(beam))
        slope = np.array([-1 / ((1 + gain) * self.factor * np.exp(beam)), -out / (1 + gain), -out])
        return float(out), float(np.sqrt(slope @ self.covariance @ slope))


def tissue_scale(
    fat: float | None, muscle: float | None, air: float | None, contrast: float, factor: float, cfg: TissueScaleConfig
) -> TissueScale:
    """The scale that a scan's tissues speak for; the prior alone where none of them was seen.

    Args:
        fat, muscle, air: HU of the commonest values; None: not seen.
        contrast: 1 with contrast agent, 0 without, NaN: not known.
        factor: bone factor of the stated kVp.
    """
    log_factor = np.log(factor)
    prior = np.diag([cfg.offset_sd**2, cfg.gain_sd**2, cfg.beam_sd**2])
    given = 0.5 if np.isnan(contrast) else contrast
    muscle_hu = cfg.muscle_hu + given * cfg.muscle_enhancement
    muscle_sd = np.hypot(cfg.muscle_sd, cfg.muscle_enhancement / 2 if np.isnan(contrast) else 0.0)
    seen = [
        (value - typical, (1.0, typical, per_beam), sd)
        for value, typical, per_beam, sd in (
            (fat, cfg.fat_hu + cfg.fat_per_beam * log_factor, cfg.fat_per_beam, cfg.fat_sd),
            (muscle, muscle_hu + cfg.muscle_per_beam * log_factor, cfg.muscle_per_beam, muscle_sd),
            (air, -1000.0, 0.0, cfg.air_sd),
        )
        if value is not None
    ]
    if not seen or np.isnan(factor):
        return TissueScale(np.zeros(3), prior, factor)
    y, a, sd = (np.array(x, float) for x in zip(*seen, strict=True))
    gain = prior @ a.T @ np.linalg.inv(a @ prior @ a.T + np.diag(sd**2))
    return TissueScale(gain @ y, prior - gain @ a @ prior, factor)


def vbmd(hu_120_kvp: float, sd: float, cfg: TissueScaleConfig) -> tuple[float, float]:
    """Volumetric density of trabecular bone, mg/cm3 of hydroxyapatite, and its SD: scale, reading and marrow together.

    Args:
        hu_120_kvp: without contrast agent.
        sd: what the scale leaves in it, HU.
    """
    error = np.hypot(np.hypot(sd, cfg.reading_sd) / HU_PER_VBMD, cfg.marrow_sd)
    return hu_120_kvp / HU_PER_VBMD, float(error)
