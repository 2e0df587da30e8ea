"""NHANES: DXA T-scores from bone densities (the mapping `nhanes` covers demographics and labs).

Femoral neck: NHANES III reference of non-Hispanic white women aged 20-29, mean 0.858, SD 0.120 g/cm2 (Looker 1998;
used for men too, as the WHO and ISCD advise). Spine L1-L4: Hologic's reference for white women, mean 1.047, SD 0.110 g/cm2,
where all of L1-L4 are valid.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from osteo_ray.records.table import RecordsError

NECK_MEAN, NECK_SD = 0.858, 0.120
SPINE_MEAN, SPINE_SD = 1.047, 0.110


def t_scores(raw: pd.DataFrame) -> pd.DataFrame:
    """Columns t_score (femoral neck, which labels the record), t_score_spine; NaN where the scan is not valid.

    Raises:
        RecordsError: the bone densities' columns are absent.
    """
    absent = [c for c in ("DXXNKBMD", "DXXOSBMD") if c not in raw.columns]
    if absent:
        raise RecordsError([f"column {c!r}: needed for the T-score, not in the table" for c in absent])
    neck = (raw["DXXNKBMD"].to_numpy(np.float64) - NECK_MEAN) / NECK_SD
    spine = (raw["DXXOSBMD"].to_numpy(np.float64) - SPINE_MEAN) / SPINE_SD
    return pd.DataFrame({"t_score": neck, "t_score_spine": spine})
