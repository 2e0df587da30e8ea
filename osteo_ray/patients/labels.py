"""Classes by DXA T-score (WHO): the one definition of the label."""

from __future__ import annotations

import math

CLASSES = ("normal", "osteopenia", "osteoporosis")
"""In the order of every class axis in this project."""
NORMAL, OSTEOPENIA, OSTEOPOROSIS = range(len(CLASSES))

OSTEOPOROSIS_T = -2.5
NORMAL_T = -1.0


def label_of(t_score: float | None) -> str | None:
    """Class of a T-score: osteoporosis at or below -2.5, normal at or above -1; None where it is missing."""
    if t_score is None or math.isnan(t_score):
        return None
    if t_score <= OSTEOPOROSIS_T:
        return "osteoporosis"
    return "normal" if t_score >= NORMAL_T else "osteopenia"


def class_index(label: str | None) -> int:
    """Index into CLASSES, -1 where the label is missing.

    Raises:
        ValueError: for a label that is none of CLASSES.
    """
    if label is None or label != label:  # NaN is how tables say missing
        return -1
    if label not in CLASSES:
        raise ValueError(f"label {label!r} is none of {', '.join(CLASSES)}")
    return CLASSES.index(label)
