"""NHANES: what the mapping `nhanes` can't say in a column: T-scores from bone densities, and who never smoked.

Femoral neck: NHANES III reference of non-Hispanic white women aged 20-29, mean 0.858, SD 0.120 g/cm2 (Looker 1998; used
for men too, as the WHO and ISCD advise). Spine: Hologic's reference for white women at L1-L4, mean 1.047, SD 0.110
g/cm2, where all of L1-L4 are valid.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from osteo_ray.patients.findings import RecordsError

NECK_MEAN, NECK_SD = 0.858, 0.120
SPINE_MEAN, SPINE_SD = 1.047, 0.110


def derive(raw: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with t_score (femoral neck, which labels the record), t_score_spine, and smoker = 0 for never-smokers.

    Raises:
        RecordsError: the bone densities' columns are absent.
    """
    absent = [c for c in ("DXXNKBMD", "DXXOSBMD") if c not in raw.columns]
    if absent:
        raise RecordsError([f"column {c!r}: needed for the T-score, not in the table" for c in absent])
    out = frame.copy()
    out["t_score"] = (raw["DXXNKBMD"].to_numpy(np.float64) - NECK_MEAN) / NECK_SD
    out["t_score_spine"] = (raw["DXXOSBMD"].to_numpy(np.float64) - SPINE_MEAN) / SPINE_SD
    if "SMQ020" in raw and "smoker" in out:
        out.loc[(raw["SMQ020"] == 2).to_numpy() & out["smoker"].isna(), "smoker"] = 0.0
    return out
