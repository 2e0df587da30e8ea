"""Single observations (one patient, one day, one quantity) gathered into records of a patient and day.

    with Observations() as store:
        store.add(block)                    # any number, in any order
        for frame in store.records(): ...   # one row a patient and day

Memory is bounded: beyond `spill_rows` observations are kept on disk, in partitions by patient, and gathered one
partition at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from osteo_ray.patients.schema import NAMES

BLOCK = np.dtype(
    [
        ("patient", "u8"),  # patient key as a number, or the number of a FHIR subject
        ("what", "u1"),  # index into NAMES, T_SCORE, PRESENT or BIRTH
        ("rank", "u1"),  # 1 a final value, 0 a preliminary one
        ("site", "i2"),  # -1: none
        ("day", "i4"),  # since 1970-01-01, NO_DAY: undated
        ("second", "i4"),  # of the day
        ("order", "i8"),  # among equals, the last counts
        ("value", "f8"),
    ]
)
VERSIONED = np.dtype([*BLOCK.descr, ("source", "u8")])
"""Observations that know which resource they come from (0: none), for that may be replaced or withdrawn later."""
T_SCORE = len(NAMES)
_SEX = NAMES.index("sex_male")
PRESENT = len(NAMES) + 1
"""A patient of whom nothing was observed: a record without values."""
BIRTH = len(NAMES) + 2
"""A patient's birth month, as months since 1970-01."""
_MIX = 64
NO_DAY = np.iinfo(np.int32).min


class Observations:
    """A store of observations."""

    def __init__(self, spill_rows: int = 2_000_000, partitions: int = _MIX, dtype: np.dtype = BLOCK):
        self._dtype = dtype
        self._blocks: list[np.ndarray] = []
        self._held = 0
        self._spill_rows, self._partitions = spill_rows, partitions
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.total = 0

    def __enter__(self) -> Observations:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, block: np.ndarray) -> None:
        """Add observations (of the store's dtype)."""
        if len(block):
            self._blocks.append(block)
            self._held += len(block)
            self.total += len(block)
        if self._held >= self._spill_rows:
            self._spill()

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="osteo-ray-records-")
        block = np.concatenate(self._blocks)
        self._blocks, self._held = [], 0
        which = block["patient"] % self._partitions
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(self._partitions + 1))
        for p in range(self._partitions):
            with open(Path(self._folder.name) / f"{p}.bin", "ab") as f:
                block[order[ends[p] : ends[p + 1]]].tofile(f)

    def partitions(self) -> Iterator[np.ndarray]:
        """All observations, each patient's in one partition."""
        if self._folder is None:
            if self._blocks:
                block, self._blocks = np.concatenate(self._blocks), []
                yield from _by_patient(block)
            return
        if self._blocks:
            self._spill()
        for p in range(self._partitions):
            yield from _by_patient(np.fromfile(Path(self._folder.name) / f"{p}.bin", self._dtype))

    def records(
        self, sites: list[str] | None = None, resolve: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Iterator[pd.DataFrame]:
        """One row a patient and day: patient_key, record_date, features, t_score, dxa_date, birth_month, site (where
        known).

        Args:
            sites: names that `site` counts in.
            resolve: turns a partition's subjects into patient keys before it is gathered; None: they are.
        """
        for block in self.partitions():
            block = block if resolve is None else resolve(block)
            if len(block):
                yield gather(block, sites or [])


def _by_patient(block: np.ndarray, most: int = 250_000) -> Iterator[np.ndarray]:
    """A partition cut further, by patient: a record takes more memory than its observations."""
    parts = -(-len(block) // most)
    # The remainder that partitions go by is the same for all of a partition: what is above it is mixed instead.
    which = (block["patient"] // np.uint64(_MIX)) % np.uint64(max(parts, 1))
    for p in range(parts):
        yield block if parts == 1 else block[which == p]


def gather(block: np.ndarray, sites: list[str]) -> pd.DataFrame:
    """Records of a partition's observations. Of one quantity on one day the latest final value counts; of T-scores the
    lowest, since the diagnosis is that of the lowest site.

    Where nothing says which of several values counts (two sexes, birth months, values without a date), another row
    holds the other:
    the timeline uses neither.
    """
    is_t = block["what"] == T_SCORE
    # The one that counts is the last of its group.
    lowest = np.where(is_t, -block["value"], 0.0)
    order = np.lexsort(
        (block["order"], block["second"], lowest, block["rank"], block["what"], block["day"], block["patient"])
    )
    block = block[order]
    new_row = np.ones(len(block), bool)
    new_row[1:] = (block["patient"][1:] != block["patient"][:-1]) | (block["day"][1:] != block["day"][:-1])
    new_group = new_row.copy()
    new_group[1:] |= block["what"][1:] != block["what"][:-1]
    last = np.append(new_group[1:], True)
    row_of = np.cumsum(new_row) - 1
    values = np.full((row_of[-1] + 1, BIRTH + 1), np.nan)
    values[row_of[last], block["what"][last]] = block["value"][last]
    first = np.flatnonzero(new_row)
    day = block["day"][first].astype("int64")
    date = day.astype("datetime64[D]")
    date[day == NO_DAY] = np.datetime64("NaT")
    frame = pd.DataFrame({"patient_key": [f"{k:016x}" for k in block["patient"][first].tolist()]})
    frame["patient_key"] = frame["patient_key"].astype(object)
    frame["record_date"] = date.astype("datetime64[s]")
    used = set(np.unique(block["what"]).tolist())
    for i, name in enumerate(NAMES):
        if i in used:
            frame[name] = values[:, i]
    if T_SCORE in used:
        t = values[:, T_SCORE]
        frame["t_score"] = t
        frame["dxa_date"] = np.where(np.isnan(t), np.datetime64("NaT", "s"), date.astype("datetime64[s]"))
    if BIRTH in used:
        frame["birth_month"] = _months(values[:, BIRTH])
    if sites:
        frame["site"] = np.array([*sites, None], object)[block["site"][first]]
    starts, ends = np.flatnonzero(new_group), np.flatnonzero(last)
    others = _others(block, starts, ends)
    if not len(others):
        return frame
    rows = frame.iloc[row_of[ends[others.index]]][[c for c in _OF_ROW if c in frame]].reset_index(drop=True)
    names = np.array([*NAMES, "t_score", "", "birth_month"])[block["what"][ends[others.index]]]
    for name in np.unique(names).tolist():
        own = np.where(names == name, others.to_numpy(), np.nan)
        rows[name] = _months(own) if name == "birth_month" else own
    return pd.concat([frame, rows], ignore_index=True)


def _months(number: np.ndarray) -> np.ndarray:
    """Months since 1970-01 (NaN: not known) as days [n]."""
    month = np.nan_to_num(number).astype("int64").astype("datetime64[M]").astype("datetime64[s]")
    return np.where(np.isnan(number), np.datetime64("NaT", "s"), month)


_OF_ROW = ("patient_key", "record_date", "site")


def _others(block: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pd.Series:
    """The values that contradict the one that counts, by number of their group (of one patient, day and quantity, from
    a row to another), where none is later than the other."""
    what = block["what"][ends]
    undecided = (what == _SEX) | (what == BIRTH) | ((block["day"][ends] == NO_DAY) & (what < T_SCORE))
    undecided &= ends > starts
    if not undecided.any():
        return pd.Series(dtype=float)
    group = np.cumsum(np.isin(np.arange(len(block)), starts)) - 1
    values = np.where(block["rank"] == block["rank"][ends][group], block["value"], np.nan)
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    which = np.flatnonzero(undecided & (low != high))
    return pd.Series(np.where(block["value"][ends] == low, high, low)[which], index=which)
