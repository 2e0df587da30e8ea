"""The results table: one Arrow schema, one row per indexed series.

`results.parquet` holds these columns in this order; `result.json` is one row of it as nested JSON.
Rows of series that were not scored carry nulls in the score columns and always a state and a code.
"""

from __future__ import annotations

import pyarrow as pa

from osteo_ray.catalogue.schema import GATE
from osteo_ray.outcomes import State

RESULT_VERSION = "1.5"

ACQUISITION = (
    "manufacturer",
    "kvp",
    "convolution_kernel",
    "slice_thickness_mm",
    "spacing_z_median_mm",
    "contrast",
)
"""Columns that say how a scan was made."""
SELECTED = pa.struct(
    [
        ("sop_uid", pa.string()),
        ("index", pa.int32()),  # position in the z-ordered stack
        ("z_mm", pa.float64()),
        ("weight", pa.float32()),  # attention weight in the score, sums to 1 over the picks
        ("p_lumbar", pa.float32()),  # the encoder's belief that the slice shows L1-L5
        ("level", pa.string()),  # 'L3', by the column of slices looked at; null: not known
        ("level_confidence", pa.float32()),  # probability of the most probable level
        ("hu", pa.float32()),  # trabecular HU in this slice, as scanned
        # Where the weights of that mean are at least half of the largest, as a circle. Pixels of the axial view, in
        # which the patient's back is down.
        ("roi_row", pa.float32()),
        ("roi_col", pa.float32()),
        ("roi_radius_mm", pa.float32()),
    ]
)
LEVEL_HU = pa.struct(
    [
        ("level", pa.string()),
        ("hu", pa.float64()),  # mean over the level's picks, as scanned
        ("hu_120_kvp", pa.float64()),  # null where the tube voltage is not known
        ("slices", pa.int32()),
        ("spread", pa.float64()),  # largest less smallest of its picks; null for one pick
    ]
)
SHAP = pa.struct(
    [
        ("feature", pa.string()),
        ("group", pa.string()),  # demographics | labs | ct
        ("value", pa.float64()),  # null where the record lacks it
        ("unit", pa.string()),
        ("shap", pa.float64()),  # in log-odds of osteoporosis
    ]
)
RESULTS = pa.schema(
    [
        # identity of the row
        ("row_key", pa.string()),
        ("run_id", pa.string()),
        ("study_uid", pa.string()),
        ("series_uid", pa.string()),
        ("patient_key", pa.string()),
        ("study_date", pa.string()),
        # outcome: exactly one state per indexed series
        ("state", pa.string()),
        ("code", pa.string()),
        ("stage", pa.string()),
        ("message", pa.string()),
        ("attempt", pa.int32()),
        # score
        ("risk_prob", pa.float64()),  # calibrated P(osteoporosis)
        ("risk_low", pa.float64()),  # interval at the bundle's stated level
        ("risk_high", pa.float64()),
        ("risk_class", pa.string()),  # high | low, at the operating point
        ("p_normal", pa.float64()),
        ("p_osteopenia", pa.float64()),
        ("p_osteoporosis", pa.float64()),
        ("conformal_set", pa.list_(pa.string())),  # classes that can't be ruled out at the bundle's stated level
        ("log_odds", pa.float64()),  # osteoporosis against normal, before calibration
        ("operating_point", pa.string()),
        ("threshold", pa.float64()),
        ("calibrator", pa.string()),  # which missingness pattern's calibrator
        ("modalities", pa.list_(pa.string())),
        # evidence
        ("selected", pa.list_(SELECTED)),
        ("slices_total", pa.int32()),
        ("slices_decoded", pa.int32()),
        ("bytes_read", pa.int64()),
        ("trabecular_hu", pa.float64()),  # of the picks, as scanned: model.density
        ("trabecular_hu_120_kvp", pa.float64()),  # null where the tube voltage is not known
        ("hu_by_level", pa.list_(LEVEL_HU)),
        # with scoring.internal_calibration: model.tissue_scale
        ("trabecular_hu_calibrated", pa.float64()),  # at 120 kVp
        ("vbmd_mg_cm3", pa.float64()),  # hydroxyapatite; null with contrast agent
        ("vbmd_sd_mg_cm3", pa.float64()),
        ("shap_base", pa.float64()),
        ("shap", pa.list_(SHAP)),
        ("gates", pa.list_(GATE)),
        # what subgroups are cut by
        ("site", pa.string()),
        ("age_y", pa.float64()),  # age and sex that the score rests on; for unscored rows what is known
        ("sex", pa.string()),
        ("age_from", pa.string()),  # record | header; null: not known
        ("sex_from", pa.string()),
        ("manufacturer", pa.string()),
        ("kvp", pa.float64()),
        ("convolution_kernel", pa.string()),
        ("slice_thickness_mm", pa.float64()),
        ("spacing_z_median_mm", pa.float64()),
        ("contrast", pa.string()),
        # provenance
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("model_sha256", pa.string()),
        ("open_s", pa.float64()),
        ("select_s", pa.float64()),
        ("score_s", pa.float64()),
    ]
)

VOLATILE = ("run_id", "open_s", "select_s", "score_s")
"""Columns in which two runs over the same input differ; all others are bit-identical."""

FOOTER = b"osteo_ray"
"""Key in the footer of finished files: JSON with `rows`, `states`, `codes`, `scored` (the states of scored rows)."""
SCORED_SQL = f"state IN ('{State.SCORED}', '{State.SCORED_WARN}') AND risk_prob IS NOT NULL"
"""Condition on results in SQL: the series has a score."""
