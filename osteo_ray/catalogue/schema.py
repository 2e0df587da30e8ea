"""The catalogue: one Arrow schema, one row per series, its instances in order of z."""

from __future__ import annotations

import pyarrow as pa

GATE = pa.struct(
    [
        ("gate", pa.string()),  # Q_KVP, Q_TILT, ...
        ("verdict", pa.string()),  # pass | warn | fail
        ("value", pa.string()),
        ("threshold", pa.string()),
    ]
)

INSTANCE_OF_SERIES = pa.struct(
    [
        ("uri", pa.string()),
        ("z_mm", pa.float64()),
        ("sop_uid", pa.string()),
        ("frame", pa.int32()),
        ("transfer_syntax", pa.string()),
        ("bytes", pa.int64()),
        ("position", pa.list_(pa.float64())),
        ("offset", pa.int64()),  # of PixelData's value in the file; -1 where it has to be looked for
        ("length", pa.int64()),  # -1: encapsulated
        ("slope", pa.float64()),
        ("intercept", pa.float64()),
        ("bits_allocated", pa.int32()),
        ("bits_stored", pa.int32()),
        ("high_bit", pa.int32()),
        ("signed", pa.bool_()),
        ("big_endian", pa.bool_()),
        ("padding", pa.int32()),
        ("padding_limit", pa.int32()),
    ]
)
CATALOGUE = pa.schema(
    [
        ("study_uid", pa.string()),
        ("series_uid", pa.string()),
        ("split", pa.string()),  # which part of the series, where it had to be split
        ("content_hash", pa.string()),
        ("sop_count", pa.int32()),
        ("n_slices", pa.int32()),
        ("patient_key", pa.string()),
        ("site", pa.string()),  # hospital or issuer that is part of the key, null: not given
        ("age_y", pa.float64()),
        ("sex", pa.string()),
        ("study_date", pa.string()),
        ("modality", pa.string()),
        ("series_number", pa.int64()),
        ("frame_of_reference_uid", pa.string()),
        ("body_part", pa.string()),
        ("kvp", pa.float64()),
        ("convolution_kernel", pa.string()),
        ("slice_thickness_mm", pa.float64()),
        ("spacing_z_median_mm", pa.float64()),
        ("spacing_z_max_dev_mm", pa.float64()),
        ("z_min_mm", pa.float64()),
        ("z_max_mm", pa.float64()),
        ("n_missing_slices", pa.int32()),
        ("n_duplicate_positions", pa.int32()),
        ("n_copies_dropped", pa.int32()),  # slices that were there twice with the same pixels
        ("gantry_tilt_deg", pa.float64()),
        ("image_type", pa.string()),
        ("contrast", pa.string()),
        ("special", pa.string()),  # a kind of pixels other than plain HU: catalogue/not_hu.yaml
        ("rescale_type", pa.string()),
        ("recon_diameter_mm", pa.float64()),  # of the reconstructed circle; null where it is not stated
        ("field_of_view_mm", pa.float64()),  # the smaller side of the image, or of that circle
        ("manufacturer", pa.string()),
        ("model", pa.string()),
        ("orientation", pa.list_(pa.float64())),
        ("pixel_spacing_row_mm", pa.float64()),
        ("pixel_spacing_col_mm", pa.float64()),
        ("rows", pa.int32()),
        ("cols", pa.int32()),
        ("transfer_syntax", pa.string()),
        ("lossy", pa.bool_()),
        ("bytes", pa.int64()),
        ("gates", pa.list_(GATE)),
        ("chosen", pa.bool_()),
        ("choice_rank", pa.int32()),
        ("choice_score", pa.float64()),
        ("choice_reason", pa.string()),
        ("state", pa.string()),
        ("code", pa.string()),
        ("stage", pa.string()),
        ("message", pa.string()),
        ("instances", pa.list_(INSTANCE_OF_SERIES)),
    ]
)
