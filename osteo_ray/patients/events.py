"""Facts of one kind by patient and day, as sorted integers: what the timeline searches (plain numpy).

Several facts of one patient and day become one, whatever order the rows come in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from osteo_ray.patients.labels import CLASSES, NORMAL_T, OSTEOPOROSIS_T

SHIFT = 21  # a patient's number and a day in one integer: days lie within 2^20 of 1970
ZERO_DAY = 1 << 20
ANY_DAYS = 1 << SHIFT  # a window without an end
NAT = np.datetime64("NaT", "D")


@dataclass(frozen=True)
class Events:
    """Dated and undated facts of one kind, by patient; each patient and day once."""

    code: np.ndarray  # int64 [d], patient << SHIFT | day, ascending
    value: np.ndarray  # float64 [d]
    undated_of: np.ndarray  # int64 [u], patients with undated facts, ascending
    undated: np.ndarray  # float64 [u], what they agree on; NaN where they do not

    def nearest(self, query: np.ndarray, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
        """(value, day) of the fact nearest to each query (a code, or -1 for none) within so many days; the earlier one
        of two that are equally near."""
        n = len(self.code)
        value, day = np.full(len(query), np.nan), np.full(len(query), NAT)
        if not n or not len(query):
            return value, day
        k = np.searchsorted(self.code, query, side="right")
        left, right = np.maximum(k - 1, 0), np.minimum(k, n - 1)
        known = query >= 0
        gap_l, gap_r = query - self.code[left], self.code[right] - query
        same_l = (self.code[left] >> SHIFT == query >> SHIFT) & (k > 0) & known
        same_r = (self.code[right] >> SHIFT == query >> SHIFT) & (k < n) & known
        ok_l, ok_r = same_l & (gap_l <= before), same_r & (gap_r <= after)
        at = np.where(ok_l & (~ok_r | (gap_l <= gap_r)), left, right)
        hit = ok_l | ok_r
        value[hit] = self.value[at[hit]]
        day[hit] = day_of(self.code[at[hit]])
        return value, day

    def has_dated(self, patient: np.ndarray) -> np.ndarray:
        """Whether each patient (-1: nobody) has a dated fact at all."""
        if not len(self.code):
            return np.zeros(len(patient), bool)
        k = np.minimum(np.searchsorted(self.code, patient << SHIFT), len(self.code) - 1)
        return (patient >= 0) & (self.code[k] >> SHIFT == patient)

    def undated_at(self, patient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(what a patient's undated facts agree on, whether there are any)."""
        if not len(self.undated_of):
            return np.full(len(patient), np.nan), np.zeros(len(patient), bool)
        k = np.minimum(np.searchsorted(self.undated_of, patient), len(self.undated_of) - 1)
        there = self.undated_of[k] == patient
        return np.where(there, self.undated[k], np.nan), there


def days_of(dates: Any) -> np.ndarray:
    """Dates as days, datetime64[D] [n]: DICOM's YYYYMMDD, ISO text or timestamps; NaT for what is none of them."""
    column = pd.Series(dates).reset_index(drop=True)
    if pd.api.types.is_datetime64_any_dtype(column):
        return column.to_numpy("datetime64[D]")
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    plain = pd.to_datetime(text.where(text.str.fullmatch(r"\d{8}")), format="%Y%m%d", errors="coerce")
    iso = pd.to_datetime(text.where(text.str.match(r"\d{4}-\d{2}-\d{2}")).str[:10], format="%Y-%m-%d", errors="coerce")
    return plain.fillna(iso).to_numpy("datetime64[D]")


def class_of(t_score: np.ndarray) -> np.ndarray:
    """Index into CLASSES of T-scores, -1 for NaN: `labels.label_of` over an array."""
    t = np.asarray(t_score, np.float64)
    by = [np.isnan(t), t <= OSTEOPOROSIS_T, t >= NORMAL_T]
    return np.select(by, [-1, CLASSES.index("osteoporosis"), CLASSES.index("normal")], CLASSES.index("osteopenia"))


def code_of(patient: np.ndarray, day: np.ndarray) -> np.ndarray:
    """A patient and a day in one integer; undated ones have no meaning and must be masked."""
    number = np.where(np.isnat(day), 0, day.astype("datetime64[D]").astype(np.int64))
    return (patient << SHIFT) | (number + ZERO_DAY)


def day_of(code: np.ndarray) -> np.ndarray:
    return ((code & ((1 << SHIFT) - 1)) - ZERO_DAY).astype("datetime64[D]")


def events_of(patient: np.ndarray, day: np.ndarray, value: np.ndarray, of_one_day: str) -> Events:
    """Facts of one kind; several of one patient and day become one: their mean, the lowest, the highest, or none where
    they do not agree."""
    known = ~np.isnan(value)
    dated = known & ~np.isnat(day)
    code, v = code_of(patient[dated], day[dated]), value[dated]
    order = np.lexsort((v, code))  # by value too: a mean does not depend on the order of rows
    code, v = code[order], v[order]
    first = np.flatnonzero(np.r_[True, code[1:] != code[:-1]]) if len(code) else np.zeros(0, np.int64)
    if len(first) < len(code):
        low, high = np.minimum.reduceat(v, first), np.maximum.reduceat(v, first)
        mean = np.add.reduceat(v, first) / np.diff(np.r_[first, len(code)])
        agree = np.where(low == high, low, np.nan)
        v = {"low": low, "high": high, "mean": np.where(low == high, low, mean), "agree": agree}[of_one_day]
        code = code[first]
        keep = ~np.isnan(v)
        code, v = code[keep], v[keep]
    loose = known & np.isnat(day)
    people, u = patient[loose], value[loose]
    order = np.lexsort((u, people))
    people, u = people[order], u[order]
    first = np.flatnonzero(np.r_[True, people[1:] != people[:-1]]) if len(people) else np.zeros(0, np.int64)
    low, high = (np.minimum.reduceat(u, first), np.maximum.reduceat(u, first)) if len(first) else (u, u)
    if of_one_day == "low":  # T-scores: they agree where they mean the same class, and the lowest counts
        agreed = np.where(class_of(low) == class_of(high), low, np.nan)
    elif of_one_day == "high":
        agreed = high
    else:
        agreed = np.where(low == high, low, np.nan)
    return Events(code, v, people[first], agreed)
