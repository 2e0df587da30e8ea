"""Records as the scorers read them: plain arrays, shared by all scorers of a node, joined to a CT when it is scored.

book = Records.of(table, cfg.window)
book.take(rows)              # values [n, F] at the time of each CT
book.digests().take(keys)  # what a row key depends on
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from osteo_ray.patients.config import WindowConfig
from osteo_ray.patients.schema import NAMES
from osteo_ray.patients.table import RecordTable
from osteo_ray.patients.window import nearest


@dataclass(frozen=True)
class Records:
    """Every record, by patient."""

    patients: np.ndarray  # str [n], sorted
    dates: np.ndarray  # datetime64[D] [n]
    values: np.ndarray  # float64 [n, F], NaN missing
    window: WindowConfig

    @classmethod
    def of(cls, table: RecordTable | None, window: WindowConfig) -> Records:
        """The records of a table; None: of nobody."""
        if table is None or len(table) == 0:
            return cls(np.zeros(0, "U1"), np.zeros(0, "datetime64[D]"), np.zeros((0, len(NAMES))), window)
        f = table.frame[table.frame["patient_key"].notna()]
        order = np.argsort(patients := f["patient_key"].to_numpy(str), kind="stable")
        dates = f["record_date"].to_numpy("datetime64[D]")
        return cls(patients[order], dates[order], f[list(NAMES)].to_numpy(np.float64)[order], window)

    def take(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Values float32 [n, F] of catalogue rows as they were at the CT (`records.window`); NaN without a record."""
        out = np.full((len(rows), len(NAMES)), np.nan, np.float32)
        for i, row in enumerate(rows):
            if row["patient_key"] is None:
                continue
            a, b = (np.searchsorted(self.patients, row["patient_key"], side) for side in ("left", "right"))
            if a < b:
                out[i] = nearest(self.dates[a:b], self.values[a:b], _day(row["study_date"]), self.window)[0]
        return out

    def digests(self) -> Digests:
        """A digest of each patient's records: what a result depends on."""
        names, first, counts = np.unique(self.patients, return_index=True, return_counts=True)
        rows = [
            hashlib.blake2b(v.tobytes() + d.tobytes(), digest_size=8).digest()
            for v, d in zip(self.values, self.dates.astype("int64"), strict=True)
        ]
        flat = np.frombuffer(b"".join(rows), np.uint64) if rows else np.zeros(0, np.uint64)
        # A sum, modulo 2^64: the order of a patient's records means nothing.
        total = np.add.reduceat(flat, first) if len(first) else flat
        return Digests(names, total + counts.astype(np.uint64))


def _day(dicom: str | None) -> np.datetime64:
    """A DICOM date (YYYYMMDD) as a day; NaT where there is none that can be read."""
    try:
        return np.datetime64(datetime.strptime(dicom or "", "%Y%m%d").date())
    except ValueError:
        return np.datetime64("NaT", "D")


@dataclass(frozen=True)
class Digests:
    """Digest of each patient's records."""

    patients: np.ndarray  # str, sorted
    sums: np.ndarray  # uint64

    def take(self, keys: Iterable[str | None]) -> np.ndarray:
        """uint64 [n]; 0 for a patient without a record."""
        wanted = np.array([k or "" for k in keys], dtype=str)
        out = np.zeros(len(wanted), np.uint64)
        if len(self.patients) and len(wanted):
            i = np.minimum(np.searchsorted(self.patients, wanted), len(self.patients) - 1)
            hit = self.patients[i] == wanted
            out[hit] = self.sums[i[hit]]
        return out
