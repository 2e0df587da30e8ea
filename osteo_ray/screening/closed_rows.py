"""The result row of a series that ends without a score: what is known of it, state and code (no model)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from osteo_ray.outcomes import Outcome
from osteo_ray.patients.header import used_demographics
from osteo_ray.screening.schema import ACQUISITION, RESULTS

COPIED = (
    "study_uid",
    "series_uid",
    "patient_key",
    "site",
    "study_date",
    *ACQUISITION,
    "gates",
)
"""Columns that a result takes from its catalogue row."""


def closed_row(
    row: Mapping[str, Any], outcome: Outcome, record: np.ndarray | None = None, **model: str
) -> dict[str, Any]:
    """The result row of a series that ends without a score.

    Args:
        record: the patient's, where one was joined, float [F].
        model: the columns that name the model.
    """
    out: dict[str, Any] = dict.fromkeys(RESULTS.names)
    out.update({k: row.get(k) for k in COPIED})
    out.update(used_demographics(row, record).columns())
    out.update(
        state=str(outcome.state),
        code=outcome.code,
        stage=str(outcome.stage),
        message=outcome.message,
        attempt=outcome.attempt,
        slices_total=row.get("n_slices"),
        **model,
    )
    return out
