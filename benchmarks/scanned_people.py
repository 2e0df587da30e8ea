"""Synthetic people as the bundle that ships sees them: its policy's picks of every scan, records, truth.

    people = scanned_people(Path("runs/calibration"), cohort_of(311, 2210))

Only the slices that the policy asks for are rendered, so a scan takes half a second. The bundle's encoder and policy
saw none of these people. One file a cohort; a rerun reads it.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from osteo_ray.io.files import replaced
from osteo_ray.model import reference
from osteo_ray.model.acquisition import Acquisition, extend
from osteo_ray.model.density import at_120_kvp, hu_by_level
from osteo_ray.patients.labels import class_index
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.predictor import Predictor
from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig, MissingnessConfig
from osteo_ray.synthetic.population import Person

EVERYTHING = MissingnessConfig(complete_share=1.0, ct_only_share=0, no_labs_share=0)
KEEP = 6


def cohort_of(seed: int, people: int, whole: bool = False) -> CohortConfig:
    """A cohort with the source's missingness (11 % complete), or one of whom everything is known."""
    return CohortConfig(seed=seed, persons=people, missing=EVERYTHING if whole else MissingnessConfig())


@dataclass(frozen=True)
class ScannedPeople:
    """Arrays share the axis [n]."""

    values: np.ndarray  # float64 [n, F], NaN missing
    label: np.ndarray  # int, index into CLASSES
    t_score: np.ndarray  # float32
    age_y: np.ndarray  # float, of everyone, whatever the record holds
    male: np.ndarray  # bool, of everyone
    bmi: np.ndarray  # float, of everyone
    posterior: np.ndarray  # float, exact P(osteoporosis) of everyone given scan and record (record alone without CT)
    bag: np.ndarray  # float32 [n, KEEP, D], the policy's picks as networks are given them
    mask: np.ndarray  # bool [n, KEEP]; all False: no CT
    l1_l2_hu: np.ndarray  # float, mean HU at 120 kVp of L1 and L2, NaN where not read
    kvp: np.ndarray  # float, NaN without CT
    kernel: np.ndarray  # str, the scan's reconstruction kernel, "" without CT

    def take(self, rows: np.ndarray) -> ScannedPeople:
        """The people at `rows`."""
        return ScannedPeople(*(getattr(self, f.name)[rows] for f in fields(self)))


def scanned_people(folder: Path, cfg: CohortConfig, processes: int = 1) -> ScannedPeople:
    """The cohort's people, rendered and read once into `folder`."""
    path = folder / f"people-{cfg.seed}.npz"
    if path.exists():
        with np.load(path) as saved:
            return ScannedPeople(**dict(saved))
    folder.mkdir(parents=True, exist_ok=True)
    specs = fast.people(cfg)
    scanned = [i for i, p in enumerate(specs) if p.has_ct]
    text, began, read = cfg.model_dump_json(), time.perf_counter(), []
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for k, seen in enumerate(pool.map(_read, [specs[i] for i in scanned], [text] * len(scanned), chunksize=8), 1):
            read.append(seen)
            if k % 50 == 0:
                at = time.perf_counter() - began
                print(f"cohort {cfg.seed}: {k}/{len(scanned)} scans, {at:.0f} s", file=sys.stderr, flush=True)
    n, dim = len(specs), read[0][0].shape[1]
    bag, mask = np.zeros((n, KEEP, dim), np.float32), np.zeros((n, KEEP), bool)
    hu, kvp, contrast = (np.full(n, np.nan) for _ in range(3))
    kernel = np.full(n, "", dtype="<U16")
    for i, (picks, l1_l2, volts, injected, name) in zip(scanned, read, strict=True):
        bag[i, : len(picks)], mask[i, : len(picks)] = picks, True
        hu[i], kvp[i], contrast[i], kernel[i] = l1_l2, volts, injected, name
    b = _predictor().bundle
    frame = fast.records_of(specs, cfg).frame
    people = ScannedPeople(
        values=frame[list(NAMES)].to_numpy(float),
        label=np.array([class_index(p.label) for p in specs]),
        t_score=np.array([p.t_score for p in specs], np.float32),
        age_y=np.array([p.age_y for p in specs]),
        male=np.array([p.male for p in specs]),
        bmi=np.array([p.bmi for p in specs]),
        posterior=fast.posterior_of(specs, cfg).vs_rest,
        bag=extend(bag, b.config.encoder.layout, Acquisition(kvp, contrast), b.config.acquisition),
        mask=mask,
        l1_l2_hu=hu,
        kvp=kvp,
        kernel=kernel,
    )
    with replaced(path) as tmp, tmp.open("wb") as f:
        np.savez(f, **{x.name: getattr(people, x.name) for x in fields(people)})
    return people


@lru_cache(maxsize=1)
def _predictor() -> Predictor:
    torch.set_num_threads(1)
    return Predictor.load(Path(reference.__file__).parent / "bundle")


def _read(spec: Person, cohort: str) -> tuple[np.ndarray, float, float, float, str]:
    """Picks [k, D], HU of L1 and L2 at 120 kVp, tube voltage, contrast agent and kernel of one person's scan."""
    predictor = _predictor()
    b = predictor.bundle
    stack = fast.stack_of(spec, CohortConfig.model_validate_json(cohort))
    trace = predictor.see(stack)
    kept = trace.selection.kept
    picks, names, kvp = trace.selection.embedding[kept], trace.levels().level, float(stack.scan.kvp)
    levels = hu_by_level(picks, [names[k] for k in kept], b.config.encoder.layout)
    found = [m.hu for level, m in levels.items() if level in ("L1", "L2")]
    raw = float(np.mean(found)) if found else np.nan
    hu = float(at_120_kvp(np.array([raw]), np.array([kvp]), b.config.acquisition)[0])
    return picks, hu, kvp, float(stack.scan.contrast), str(stack.scan.kernel.name)
