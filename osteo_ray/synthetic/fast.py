"""The fast path: slice stacks and records straight from the scanner step, without DICOM.

    specs = people(cfg, n=2000, seed=1)
    stack = stack_of(specs[0], cfg)          # lazily rendered, HU as the DICOM files would decode to
    stack.axial(12)                          # int16 [rows, cols]
    truth = truth_of(specs[0], cfg)
    table = records_of(specs, cfg)

Everything follows from the config and the seed; specs are small and can be sent to workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pandas as pd

from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.table import RecordTable
from osteo_ray.synthetic import labs
from osteo_ray.synthetic.anatomy import Anatomy, build
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.population import Person, Posterior, draw_people, posterior
from osteo_ray.synthetic.scanner import Scan, draw_scan, slice_hu
from osteo_ray.synthetic.truth import SliceTruth, seen_hu, slice_truth


@dataclass
class SyntheticStack:
    """A synthetic scan behind the interface of a z-ordered stack: nothing is rendered before it is asked for."""

    anatomy: Anatomy
    scan: Scan
    decoded: int = 0
    bytes_read: int = 0
    _seen: set[int] = field(default_factory=set, repr=False)

    @property
    def n(self) -> int:
        return len(self.scan.z)

    @property
    def z_mm(self) -> np.ndarray:
        """Slice centres, ascending toward the head, float64 [n]."""
        return np.array(self.scan.z)

    @property
    def axial_spacing_mm(self) -> tuple[float, float]:
        """(row, column) spacing."""
        return (self.scan.pixel, self.scan.pixel)

    def axial(self, i: int) -> np.ndarray:
        """HU int16 [rows, cols] of slice i; rows grow to the back, columns to the patient's left."""
        if not 0 <= i < self.n:
            raise IndexError(f"slice {i} of a stack of {self.n}")
        if i not in self._seen:
            self._seen.add(i)
            self.decoded += 1
            self.bytes_read += 2 * self.scan.size**2
        return slice_hu(self.anatomy, self.scan, i)

    def patch(self, i: int, rows: slice, cols: slice) -> np.ndarray:
        """HU int16 of a rectangle of slice i, equal to that part of `axial(i)` and much cheaper."""
        return slice_hu(self.anatomy, self.scan, i, rows, cols)


@dataclass(frozen=True)
class Truth:
    """What is known about one synthetic person and the scan of `stack_of`."""

    patient_key: str
    t_score: float
    label: str
    vbmd: float
    p_bayes: float  # P(osteoporosis) against normal, given images and records
    p_bayes_rest: float  # P(osteoporosis) against everyone else
    slices: SliceTruth


def people(cfg: CohortConfig, n: int | None = None, seed: int | None = None) -> list[Person]:
    """`n` people with the cohort's missingness decided (`has_ct`, `has_demographics`, `lab_mask`).

    `Person.complete()` is the same person with nothing missing.
    """
    return draw_people(cfg, n, seed)


@lru_cache(maxsize=8)
def _body(p: Person, cfg_json: str) -> Anatomy:
    return build(p, CohortConfig.model_validate_json(cfg_json))


def body_of(spec: Person, cfg: CohortConfig) -> Anatomy:
    """The anatomy of a person (the last few are kept)."""
    return _body(spec, cfg.model_dump_json())


def stack_of(spec: Person, cfg: CohortConfig | None = None, repeat: int = 0) -> SyntheticStack:
    """The primary series of a person's examination; `repeat` > 0 is another examination of the same body."""
    cfg = cfg or CohortConfig()
    a = body_of(spec, cfg)
    return SyntheticStack(a, draw_scan(spec, a, cfg, repeat))


def truth_of(spec: Person, cfg: CohortConfig | None = None) -> Truth:
    """Labels, posterior and per-slice truth of a person and the scan that `stack_of` gives."""
    cfg = cfg or CohortConfig()
    s = stack_of(spec, cfg)
    post = posterior_of([spec], cfg)
    return Truth(
        key_of(spec, cfg), spec.t_score, spec.label, spec.vbmd, float(post.vs_normal[0]), float(post.vs_rest[0]),
        slice_truth(s.anatomy, s.scan),
    )  # fmt: skip


def posterior_of(specs: list[Person], cfg: CohortConfig, use_ct: bool = True) -> Posterior:
    """P(osteoporosis) of a perfect reader of each person's primary scan and record (see `population.posterior`).

    People without a CT are judged from their record alone. NaN for a population resampled from real people.
    """
    if cfg.population.source != "published":
        # Real people's T-scores follow no known law of their records: there is no exact posterior.
        unknown = np.full(len(specs), np.nan)
        return Posterior(unknown, unknown)
    tab = posterior(specs, np.zeros(len(specs)), cfg.scan.repeat_cv, cfg.population.dxa_noise, use_ct=False)
    if not use_ct:
        return tab
    ct = np.array([p.has_ct for p in specs])
    seen = np.array([_seen(p, cfg) if p.has_ct else 1.0 for p in specs])
    both = posterior(specs, seen, cfg.scan.repeat_cv, cfg.population.dxa_noise)
    return Posterior(np.where(ct, both.vs_normal, tab.vs_normal), np.where(ct, both.vs_rest, tab.vs_rest))


def _seen(p: Person, cfg: CohortConfig) -> float:
    s = stack_of(p, cfg)
    return seen_hu(s.anatomy, s.scan)


def key_of(spec: Person, cfg: CohortConfig) -> str:
    """The patient key under which catalogue and records know a person."""
    return patient_key(spec.patient_id, cfg.pseudonym_key)


def record_frame(specs: list[Person]) -> pd.DataFrame:
    """Records as delivered: patient_id, sex, schema columns with what is missing left out, t_score."""
    rows = pd.DataFrame({"patient_id": [p.patient_id for p in specs]})
    known = np.array([p.has_demographics for p in specs])

    def column(values: list[float]) -> np.ndarray:
        return np.where(known, np.array(values, float), np.nan)

    rows["sex"] = [("M" if p.male else "F") if p.has_demographics else None for p in specs]
    rows["age_y"] = column([p.age_y for p in specs])
    rows["height_cm"] = column([p.height_cm for p in specs])
    rows["weight_kg"] = column([p.weight_kg for p in specs])
    rows["smoker"] = column([p.smoker for p in specs])
    values = np.array([p.labs for p in specs]).reshape(len(specs), len(labs.NAMES))
    mask = np.array([p.lab_mask or (True,) * len(labs.NAMES) for p in specs]).reshape(values.shape)
    mask = mask & np.array([p.has_labs for p in specs])[:, None]
    for j, name in enumerate(labs.NAMES):
        rows[name] = np.where(mask[:, j], values[:, j], np.nan)
    rows["t_score"] = [p.t_score for p in specs]
    return rows


def records_of(specs: list[Person], cfg: CohortConfig | None = None) -> RecordTable:
    """The people's records as `records.load` would read them."""
    cfg = cfg or CohortConfig()
    f = record_frame(specs)
    f["patient_key"] = [key_of(p, cfg) for p in specs]
    f["sex_male"] = f["sex"].map({"M": 1.0, "F": 0.0}).astype(float)
    return RecordTable.of(f.drop(columns=["patient_id", "sex"]))
