"""Ray Data: a synthetic cohort as a slice set and records, without DICOM in between, for training and experiments."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from osteo_ray import ray_setup
from osteo_ray.catalogue.dataset import arrow_batches
from osteo_ray.model.acquisition import Acquisition
from osteo_ray.model.config import CropConfig
from osteo_ray.progress import progress_bar
from osteo_ray.synthetic import dicom, fast
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.write import patients_truth, person_of, write_records
from osteo_ray.training.slices import Ids, Target, Targets, slice_rows, write_parts


def write_slice_set(out: Path, cfg: CohortConfig, crop: CropConfig, positions: int, quiet: bool = False) -> list[str]:
    """Write `<out>/slices/` (see `training.slices.SLICES`), `<out>/records.csv` and `<out>/truth/patients.parquet`.

    Each scanned person's primary series is rendered on its z-grid only. Returns lines for a terminal.
    """
    ray_setup.start()
    import ray.data

    t = time.perf_counter()
    specs = fast.people(cfg)
    scanned = [p for p in specs if p.has_ct]
    out.mkdir(parents=True, exist_ok=True)
    write_records(out / "records.csv", specs, cfg)
    (out / "truth").mkdir(exist_ok=True)
    patients_truth(specs, cfg).to_parquet(out / "truth" / "patients.parquet", index=False)
    text = cfg.model_dump_json()

    def work(batch: pa.Table) -> pa.Table:
        c = CohortConfig.model_validate_json(text)
        return pa.concat_tables(_rows(str(p), c, crop, positions) for p in batch["person"].to_pylist())

    rows = [{"person": json.dumps(asdict(p))} for p in scanned]
    blocks = max(1, -(-len(rows) // 8))
    ds = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        work, batch_format="pyarrow", batch_size=None, zero_copy_batch=True
    )
    with progress_bar("render slices", len(scanned), "scan", quiet) as advance:
        write_parts(arrow_batches(ds), out / "slices", advance)
    seconds = time.perf_counter() - t
    rate = len(scanned) / seconds
    return [
        f"{len(specs)} persons, {len(scanned)} with CT, in {seconds:.0f} s ({rate:.1f} scans/s)",
        f"slices   {out / 'slices'}",
    ]


def _rows(person: str, cfg: CohortConfig, crop: CropConfig, positions: int) -> pa.Table:
    p = person_of(person)
    stack = fast.stack_of(p, cfg)
    t = fast.slice_truth(stack.anatomy, stack.scan)
    targets: Targets = {i: Target(str(t.level[i]), float(t.mid[i]), float(t.trabecular_hu[i])) for i in range(stack.n)}
    scan = Acquisition(np.array([stack.scan.kvp], float), np.array([stack.scan.contrast], float))
    date = dicom.study_of(p, cfg.seed).date.strftime("%Y%m%d")
    ids = Ids(fast.key_of(p, cfg), f"made.{p.patient_id}", date, None)
    return slice_rows(stack, ids, crop, positions, targets, scan)
