"""Who is trained on: records and scans brought together by patient, and split once (pure)."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
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
from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.header import fill_from_header, header_demographics
from osteo_ray.patients.record_set import Records, RecordSet, records_of
from osteo_ray.patients.table import RecordTable
from osteo_ray.patients.timeline import Examples, Timelines, training_examples
from osteo_ray.training.config import SplitConfig

PARTS = ("train", "val", "test")


def part_of(patient_key: str, seed: int, test: float, val: float) -> str:
    """Train, val or test: a function of the patient's key and the seed alone."""
    u = zlib.crc32(f"split|{seed}|{patient_key}".encode()) / 2**32
    if u < test:
        return "test"
    return "val" if u < test + (1 - test) * val else "train"


def scans_of(embedded: pa.Table, labels: Mapping[tuple[str, str], int], positions: int) -> Scans:
    """Embedded slices -> scans padded to the z-grid, ordered by series UID and patient.

    Args:
        embedded: columns patient_key, series_uid, z_mm, embedding; any row order.
        labels: class index by (patient, series); absent: unknown.
    """
    embedded = embedded.sort_by([("series_uid", "ascending"), ("patient_key", "ascending"), ("z_mm", "ascending")])
    series = np.array(embedded["series_uid"].to_pylist(), dtype=object)
    patient = np.array(embedded["patient_key"].to_pylist(), dtype=object)
    z = embedded["z_mm"].to_numpy()
    column = embedded["embedding"].combine_chunks()
    e = column.flatten().to_numpy(zero_copy_only=False).reshape(len(series), -1)
    # Two patients under one series UID are two scans.
    first = np.flatnonzero(np.r_[True, (series[1:] != series[:-1]) | (patient[1:] != patient[:-1])])
    size = np.diff(np.r_[first, len(series)])
    n = len(first)
    emb = np.zeros((n, positions, e.shape[1]), np.float32)
    valid = np.zeros((n, positions), bool)
    heights = np.zeros((n, positions), np.float32)
    for k, (f, s) in enumerate(zip(first, size, strict=True)):
        emb[k, :s], valid[k, :s], heights[k, :s] = e[f : f + s], True, z[f : f + s]
    keys, uids = patient[first].astype(str), series[first].astype(str)
    label = np.array([labels.get(k, -1) for k in zip(keys.tolist(), uids.tolist(), strict=True)], np.int64)
    return Scans(emb, valid, heights, label, keys, uids)


@dataclass
class Patients:
    """Training examples: every CT with what belongs to it, and one example of each patient without a CT.

    Arrays share the axis [E]; a patient with several CTs has several examples, always in the same part.
    """

    key: np.ndarray  # str, the patient
    part: np.ndarray  # str, of PARTS
    label: np.ndarray  # int64, -1 unknown
    t_score: np.ndarray  # float32, NaN unknown
    values: np.ndarray  # float64 [E, F], NaN missing
    scan: np.ndarray  # int64, row of Scans, -1: no CT
    series: np.ndarray  # str, "" without a CT
    day: np.ndarray  # datetime64[D] of the CT
    judged: np.ndarray  # bool: the one example by which its patient counts in a figure
    site: np.ndarray  # object, None unknown
    pairing: tuple[str, ...] = ()  # what met what, for a terminal

    def rows(self, part: str, labelled: bool = True) -> np.ndarray:
        """Indices of a part's examples. In validation and test a patient counts once."""
        once = self.judged | (part == "train")
        return np.flatnonzero((self.part == part) & once & ((self.label >= 0) | (not labelled)))

    @property
    def labels(self) -> dict[tuple[str, str], int]:
        """Class index by (patient, series)."""
        return dict(zip(zip(self.key.tolist(), self.series.tolist(), strict=True), self.label.tolist(), strict=True))

    @property
    def number(self) -> np.ndarray:
        """A number for each patient, in the order of their keys, int64 [E]."""
        return np.unique(self.key, return_inverse=True)[1].astype(np.int64)


def gather(
    records: RecordTable | RecordSet,
    scans: pd.DataFrame,
    archive: Collection[str],
    seed: int,
    split: SplitConfig,
    timeline: TimelineConfig,
) -> Patients:
    """Training examples of records and scans. Only patients of the archive itself can be held out.

    Args:
        scans: in the order of the scans: patient_key, series_uid, study_date; where known, site, and what the CT's
            header says (age_y, sex) for those whose record doesn't.
        archive: keys of the archive's patients.
    """
    e = all_examples(records_of(records), scans, timeline)
    values = e.values.astype(np.float32).astype(np.float64)  # as the records' matrix and a scorer's input are
    for i in np.flatnonzero(e.scan >= 0).tolist():
        header = {c: v for c in ("age_y", "sex") if c in scans and not pd.isna(v := scans[c].iloc[e.scan[i]])}
        values[i] = fill_from_header(values[i], header_demographics(header))
    known = np.flatnonzero(e.scan >= 0)
    site = np.full(len(e), None, object)
    if "site" in scans:
        site[known] = scans["site"].astype(object).where(scans["site"].notna(), None).to_numpy()[e.scan[known]]
    held = set(archive)
    out_of = {k for k, s in zip(e.patient.tolist(), site.tolist(), strict=True) if s in split.test_sites}
    part = np.array(
        ["test" if k in out_of else part_of(k, seed, split.test if k in held else 0.0, split.val)
         for k in e.patient.tolist()],
        dtype=str,
    )  # fmt: skip
    return Patients(
        e.patient, part, e.label, e.t_score.astype(np.float32), values, e.scan, e.series, e.day, e.judged, site,
        tuple(e.lines()),
    )  # fmt: skip


def all_examples(records: Records, scans: pd.DataFrame, timeline: TimelineConfig) -> Examples:
    """`training_examples` of records that need not fit one timeline: part by part, a patient's all in one."""
    parts, at = [], np.arange(len(scans))
    left = np.ones(len(scans), bool)
    for t in records.parts():
        own = left & (t.find(scans["patient_key"]) >= 0)
        parts.append(training_examples(t, scans[own], timeline).moved(at[own]))
        left &= ~own
    parts.append(training_examples(Timelines.of(None), scans[left], timeline).moved(at[left]))
    return Examples.concat(parts)


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


def acquisition_of(embedded: pa.Table, scans: Scans) -> Acquisition:
    """How each scan was made, from its embedded slices (columns patient_key, series_uid, kvp, contrast)."""
    keys = zip(embedded["patient_key"].to_pylist(), embedded["series_uid"].to_pylist(), strict=True)
    first = dict(zip(keys, range(embedded.num_rows), strict=True))
    rows = [first[k] for k in zip(scans.patient.tolist(), scans.series.tolist(), strict=True)]
    return Acquisition(*(embedded[c].to_numpy().astype(float)[rows] for c in ("kvp", "contrast")))
