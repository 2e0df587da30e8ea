"""Who is trained on: records and scans brought together by patient, and split once (pure)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from osteo_ray.kdamm.objective import Rows
from osteo_ray.model.acquisition import Acquisition
from osteo_ray.model.embedding import Scans
from osteo_ray.model.networks import Batch
from osteo_ray.model.standardise import Standardiser
from osteo_ray.patients.config import WindowConfig
from osteo_ray.patients.header import fill_from_header
from osteo_ray.patients.labels import class_index
from osteo_ray.patients.table import RecordTable
from osteo_ray.patients.window import join

PARTS = ("train", "val", "test")


def part_of(patient_key: str, seed: int, test: float, val: float) -> str:
    """Train, val or test: a function of the patient's key and the seed alone."""
    u = zlib.crc32(f"split|{seed}|{patient_key}".encode()) / 2**32
    if u < test:
        return "test"
    return "val" if u < test + (1 - test) * val else "train"


def scans_of(embedded: pa.Table, labels: dict[str, str | None], positions: int) -> Scans:
    """Embedded slices -> scans padded to the z-grid, ordered by series UID.

    Args:
        embedded: columns patient_key, series_uid, z_mm, embedding; any row order.
    """
    embedded = embedded.sort_by([("series_uid", "ascending"), ("z_mm", "ascending")])
    series = np.array(embedded["series_uid"].to_pylist(), dtype=object)
    patient = np.array(embedded["patient_key"].to_pylist(), dtype=object)
    z = embedded["z_mm"].to_numpy()
    column = embedded["embedding"].combine_chunks()
    e = column.flatten().to_numpy(zero_copy_only=False).reshape(len(series), -1)
    first = np.flatnonzero(np.r_[True, series[1:] != series[:-1]])
    size = np.diff(np.r_[first, len(series)])
    n = len(first)
    emb = np.zeros((n, positions, e.shape[1]), np.float32)
    valid = np.zeros((n, positions), bool)
    heights = np.zeros((n, positions), np.float32)
    for k, (f, s) in enumerate(zip(first, size, strict=True)):
        emb[k, :s], valid[k, :s], heights[k, :s] = e[f : f + s], True, z[f : f + s]
    keys = patient[first].astype(str)
    label = np.array([class_index(labels.get(k)) for k in keys], np.int64)
    return Scans(emb, valid, heights, label, keys, series[first].astype(str))


def records_at_ct(records: RecordTable, studies: pd.DataFrame, window: WindowConfig) -> RecordTable:
    """Records in which patients with a CT appear once, as they were at their first study (`records.join`).

    Args:
        studies: columns patient_key, study_date.
    """
    known = studies[studies["patient_key"].isin(records.frame["patient_key"])]
    first = known.sort_values("study_date").groupby("patient_key", sort=True).head(1)
    dates = pd.to_datetime(first["study_date"], errors="coerce")
    at_ct = join(records, first.assign(study_date=dates)[["patient_key", "study_date"]], **window.model_dump())
    others = records.frame[~records.frame["patient_key"].isin(first["patient_key"])]
    return RecordTable.of(pd.concat([at_ct.frame, others], ignore_index=True))


@dataclass
class Patients:
    """Everybody with a record or a CT. Arrays share the patient axis [P]."""

    key: np.ndarray  # str
    part: np.ndarray  # str, of PARTS
    label: np.ndarray  # int64, -1 unknown
    t_score: np.ndarray  # float32, NaN unknown
    values: np.ndarray  # float64 [P, F], NaN missing
    scan: np.ndarray  # int64, row of Scans, -1: no CT

    def rows(self, part: str, labelled: bool = True) -> np.ndarray:
        """Indices of a part's patients."""
        return np.flatnonzero((self.part == part) & ((self.label >= 0) | (not labelled)))


def gather(
    records: RecordTable,
    scan_patient: Sequence[str],
    archive: dict[str, dict[str, float]],
    seed: int,
    test: float,
    val: float,
) -> Patients:
    """Union of records and scans by patient. Only patients of the archive itself can be held out.

    A patient's record is the one with the latest date; a patient's scan is the first by series UID.

    Args:
        scan_patient: the patient of each scan, in the scans' order.
        archive: the archive's patients, and what their CT headers say (`age_y`, `sex_male`) for those
            whose record doesn't.
    """
    frame = records.frame.sort_values("record_date", kind="stable").groupby("patient_key", sort=True).tail(1)
    table = RecordTable.of(frame.reset_index(drop=True))
    row = {k: i for i, k in enumerate(table.frame["patient_key"])}
    scan: dict[str, int] = {}
    for i, k in enumerate(scan_patient):
        scan.setdefault(k, i)
    keys = sorted(set(row) | set(scan))
    matrix = table.matrix()[0]
    values = np.full((len(keys), matrix.shape[1]), np.nan)
    label = np.full(len(keys), -1, np.int64)
    names = table.frame["label"].tolist()
    measured = table.frame["t_score"].to_numpy(np.float32)
    t_score = np.full(len(keys), np.nan, np.float32)
    for p, k in enumerate(keys):
        if k in row:
            values[p] = matrix[row[k]]
            label[p] = class_index(names[row[k]])
            t_score[p] = measured[row[k]]
        values[p] = fill_from_header(values[p], archive.get(k, {}))
    part = np.array([part_of(k, seed, test if k in archive else 0.0, val) for k in keys])
    return Patients(np.array(keys), part, label, t_score, values, np.array([scan.get(k, -1) for k in keys]))


def batch_of(p: Patients, rows: np.ndarray, standardise: Standardiser, bags: np.ndarray, masks: np.ndarray) -> Batch:
    """Model input for some patients; `bags` [S, K, D] and `masks` [S, K] are per scan."""
    values, known = standardise(p.values[rows])
    scan = p.scan[rows]
    has = scan >= 0
    bag = np.where(has[:, None, None], bags[np.maximum(scan, 0)], 0.0).astype(np.float32)
    mask = has[:, None] & masks[np.maximum(scan, 0)]
    return Batch(*(torch.from_numpy(a) for a in (values, known, bag, mask)))


def rows_of(p: Patients, rows: np.ndarray, standardise: Standardiser, bags: np.ndarray, masks: np.ndarray) -> Rows:
    """What some patients train with."""
    label, t_score = torch.from_numpy(p.label[rows]), torch.from_numpy(p.t_score[rows])
    return Rows(batch_of(p, rows, standardise, bags, masks), label, t_score)


def acquisition_of(embedded: pa.Table, series: np.ndarray) -> Acquisition:
    """How each of `series` was scanned, from their embedded slices (columns series_uid, kvp, contrast)."""
    first = dict(zip(embedded["series_uid"].to_pylist(), range(embedded.num_rows), strict=True))
    rows = [first[s] for s in series.tolist()]
    return Acquisition(*(embedded[c].to_numpy().astype(float)[rows] for c in ("kvp", "contrast")))
