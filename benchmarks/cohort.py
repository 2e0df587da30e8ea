"""Rates of the cohort's maker.

    python benchmarks/cohort.py [--people 200] [--slices 64] [--archive 60]

Prints: rendering on one core, one 100-slice 512 x 512 series as DICOM on one core for each transfer syntax, slices of
N people through Ray Data, and a whole archive through Ray Data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from osteo_ray import ray_setup
from osteo_ray.synthetic import dicom, fast
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.encode import SYNTAXES
from osteo_ray.synthetic.write import person_of, write_cohort


def rendering() -> None:
    """Milliseconds a slice on one core, by size (median over slices)."""
    for size in (256, 512):
        cfg = CohortConfig.model_validate({"scan": {"size_512_share": float(size == 512)}})
        times = []
        for p in fast.people(cfg, 12, 1):
            s = fast.stack_of(p, cfg)
            s.axial(0)  # the noise bank is made once a worker
            for i in range(0, s.n, 4):
                t = time.process_time()
                s.axial(i)
                times.append(time.process_time() - t)
        mid, high = 1e3 * np.quantile(times, (0.5, 0.95))
        print(f"render {size} x {size}: median {mid:.1f} ms, p95 {high:.1f} ms a slice")


def through_ray(people: int, slices: int) -> None:
    """`people` scans, `slices` evenly spaced slices of each, through Ray Data; whole slices are rendered."""
    ray_setup.start()
    import ray

    cfg = CohortConfig()
    text = cfg.model_dump_json()

    def work(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        c = CohortConfig.model_validate_json(text)
        n = []
        for person in batch["person"]:
            s = fast.stack_of(person_of(str(person)), c)
            index = np.unique(np.linspace(0, s.n - 1, slices).round().astype(int))
            n.append(sum(int(s.axial(int(i)).shape[0] > 0) for i in index))
        return {"n": np.array(n)}

    rows = [{"person": json.dumps(asdict(p.complete()))} for p in fast.people(cfg, people, 2)]
    t = time.perf_counter()
    ds = ray.data.from_items(rows, override_num_blocks=max(2, people // 8)).map_batches(work, batch_size=None)
    n_slices = int(sum(b["n"].sum() for b in ds.iter_batches(batch_size=None, batch_format="numpy")))
    s = time.perf_counter() - t
    minutes = 2000 / people * s / 60
    print(
        f"Ray Data: {people} people, {n_slices} slices in {s:.1f} s ({n_slices / s:.0f}/s); "
        f"2,000 people: {minutes:.1f} min"
    )


def series() -> None:
    """Seconds of one core for a 100-slice 512 x 512 series, rendered, encoded and written."""
    cfg = CohortConfig.model_validate({"scan": {"size_512_share": 1, "tilt_share": 0}})
    p = fast.people(cfg, 3, 3)[0]
    s = fast.stack_of(p, cfg)
    s.axial(0)
    z = tuple(float(v) for v in np.round(np.linspace(s.scan.z[0], s.scan.z[-1], 100), 3))
    for transfer in SYNTAXES:
        scan = replace(s.scan, z=z, transfer=transfer)
        with tempfile.TemporaryDirectory() as folder:
            t = time.process_time()
            instances = dicom.write_series(Path(folder), p, s.anatomy, scan, dicom.study_of(p, 0), "primary")
            cpu = time.process_time() - t
            size = sum(m.bytes for m in instances) / 2**20
            print(f"DICOM {transfer:<12} 100 x 512 x 512: {cpu:.2f} s of a core, {size:.0f} MiB")


def archive(persons: int) -> None:
    """A whole archive with about 0.14 x `persons` scanned people."""
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(write_cohort(Path(folder), CohortConfig(persons=persons)).lines()))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--people", type=int, default=200)
    p.add_argument("--slices", type=int, default=64)
    p.add_argument("--archive", type=int, default=440, help="persons of the archive; 0 leaves it out")
    a = p.parse_args()
    rendering()
    series()
    through_ray(a.people, a.slices)
    if a.archive:
        archive(a.archive)


if __name__ == "__main__":
    main()
