"""The plain rule beside the model: mean HU of L1 and L2 at 120 kVp, low is bad, with the published cut-offs.

    rule = judge(y, l1_l2_hu(results["hu_by_level"]), score, level=0.95)

What a radiologist measures with one circle is the rival that a model has to beat, on the same patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from osteo_ray.evaluation import metrics as m
from osteo_ray.evaluation.reference_hu import cut_offs

LEVELS = ("L1", "L2")


@dataclass(frozen=True)
class HuRule:
    """The rule on one task. Its AUC, the model's on the same patients, and what it finds at each published cut-off."""

    auc: m.Estimate
    model_auc: m.Estimate
    difference: m.Comparison  # model less rule, paired (DeLong)
    at_cut_offs: tuple[tuple[float, m.Confusion], ...]  # HU at and below which it calls osteoporosis


def l1_l2_hu(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float64]:
    """Mean HU at 120 kVp of L1 and L2, [n], of results' `hu_by_level`; one of them will do, NaN without either."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    n = len(lists)
    if pa.types.is_null(lists.type):
        return np.full(n, np.nan)
    levels = pc.list_flatten(lists)
    row = pc.list_parent_indices(lists).to_numpy()
    hu = pc.struct_field(levels, "hu_120_kvp").to_numpy(zero_copy_only=False).astype(float)
    asked = pc.is_in(pc.struct_field(levels, "level"), pa.array(LEVELS)).to_numpy(zero_copy_only=False)
    asked &= np.isfinite(hu)
    count = np.bincount(row[asked], minlength=n)
    total = np.bincount(row[asked], hu[asked], minlength=n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def judge(y: NDArray[np.bool_], hu: NDArray[np.float64], score: NDArray[np.float64], level: float) -> HuRule | None:
    """The rule against a model's score; None where nobody's HU is known.

    Args:
        y: [n], whether osteoporosis; hu: [n], NaN where not known; score: [n], the model's, grows with risk.
    """
    known = np.isfinite(hu)
    if not known.any():
        return None
    y, low, score = y[known], -hu[known], score[known]
    published = cut_offs()
    return HuRule(
        m.auc_delong(y, low, level),
        m.auc_delong(y, score, level),
        m.delong_test(y, score, low, level),
        tuple((hu, m.confusion_at(y, low, -hu, level)) for hu in (published.specific, published.sensitive)),
    )
