"""Step 4: the archive on disk, through Ray Data: one task writes one patient.

    summary = write_cohort(Path("demo"), CohortConfig(persons=440))

    out/archive/<patient>/<study>/<series>/*.dcm    CT, as a PACS would export it
    out/records.csv                                 records, as a hospital would deliver them
    out/truth/patients.parquet, slices.parquet      what is known because it was made

The same config writes the same files, byte for byte.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray import ray_setup
from osteo_ray.synthetic import dicom, fast, views
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.population import Person
from osteo_ray.synthetic.scanner import SHARP, Scan, draw_scan
from osteo_ray.synthetic.truth import SliceTruth, slice_truth
from osteo_ray.training.targets import TARGETS


@dataclass(frozen=True)
class CohortSummary:
    """What was written."""

    persons: int
    with_ct: int
    complete: int
    studies: int
    series: int
    files: int
    bytes: int
    seconds: float

    def lines(self) -> list[str]:
        return [
            f"{self.persons} persons, {self.with_ct} with CT, {self.complete} complete "
            f"({self.complete / max(self.persons, 1):.0%})",
            f"{self.studies} studies, {self.series} series, {self.files} files, {self.bytes / 2**20:.0f} MiB "
            f"in {self.seconds:.0f} s",
        ]


SLICE_COLUMNS = ("series_uid", "sop_uid", "index", "z_mm", "level", "mid", "trabecular_hu", "bytes", "study_uid")


def person_of(text: str) -> Person:
    d = json.loads(text)
    return Person(**{**d, "labs": tuple(d["labs"]), "lab_mask": tuple(d["lab_mask"])})


def plan(p: Person, cfg: CohortConfig) -> list[tuple[int, str, Scan]]:
    """Axial series of a person: (examination, kind, scan), the primary one first."""
    a = fast.body_of(p, cfg)
    rng = np.random.default_rng([p.seed, 40])
    first = draw_scan(p, a, cfg, 0)
    out = [(0, "primary", first)]
    if rng.random() < cfg.scan.extra_series_share:
        if first.kernel.sharp or (first.thickness < 3 and len(first.z) > 30):
            step = max(2, round(5 / first.spacing))
            out.append((0, "thick", replace(
                first, kind="thick", seed=first.seed + 1, z=first.z[::step], thickness=first.spacing * step,
                spacing=first.spacing * step, sigma=first.sigma / np.sqrt(step),
            )))  # fmt: skip
        else:
            sharp = SHARP[first.kernel.vendor]
            out.append((0, "sharp", replace(
                first, kind="sharp", seed=first.seed + 2, kernel=sharp,
                sigma=first.sigma * sharp.noise / first.kernel.noise,
            )))  # fmt: skip
    if rng.random() < cfg.scan.repeat_share:
        out.append((1, "repeat", draw_scan(p, a, cfg, 1)))
    return out


def write_patient(p: Person, cfg: CohortConfig, archive: Path) -> dict[str, list]:
    """Write one person's examinations; columns `SLICE_COLUMNS` with one entry a file.

    Scouts and reformats have no spine level: their rows carry level None and are left out of slices.parquet.
    """
    a = fast.body_of(p, cfg)
    cols: dict[str, list] = {k: [] for k in SLICE_COLUMNS}

    def note(instances: list[dicom.Instance], study: dicom.Study, t: SliceTruth | None) -> None:
        n = len(instances)
        for k in ("series_uid", "sop_uid", "index", "z_mm", "bytes"):
            cols[k] += [getattr(m, k) for m in instances]
        cols["study_uid"] += [study.study_uid] * n
        cols["level"] += [""] * n if t is None else [str(v) for v in t.level]
        cols["mid"] += [0.0] * n if t is None else [float(v) for v in t.mid]
        cols["trabecular_hu"] += [float("nan")] * n if t is None else [float(v) for v in t.trabecular_hu]

    rng = np.random.default_rng([p.seed, 41])
    scout, reformat = rng.random(2) < (cfg.scan.scout_share, cfg.scan.reformat_share)
    for exam, kind, scan in plan(p, cfg):
        study = dicom.study_of(p, cfg.seed, exam)
        root = archive / p.patient_id / study.study_uid
        instances = dicom.write_series(root / _folder(kind), p, a, scan, study, kind)
        note(instances, study, slice_truth(a, scan))
        if kind == "primary" and scout:
            note(views.write_scout(root / _folder("scout"), p, a, scan, study), study, None)
        if kind == "primary" and reformat and not scan.tilt:
            note(views.write_reformat(root / _folder("reformat"), p, a, scan, study), study, None)
    return cols


def _folder(kind: str) -> str:
    return f"{dicom.SERIES_NUMBER[kind]:02d}_{kind}"


def write_cohort(out: Path, cfg: CohortConfig, progress: Callable[[int, int], None] | None = None) -> CohortSummary:
    """Write the cohort under `out` (files of an earlier run with the same names are overwritten).

    `progress(done, total)` is called after each patient with CT.
    """
    ray_setup.start()
    import ray

    start = time.perf_counter()
    out = Path(out).resolve()
    archive, truth = out / "archive", out / "truth"
    archive.mkdir(parents=True, exist_ok=True)
    truth.mkdir(exist_ok=True)
    specs = fast.people(cfg)
    scanned = [p for p in specs if p.has_ct]
    write_records(out / "records.csv", specs, cfg)
    tables: list[pd.DataFrame] = []
    if scanned:
        rows = [{"person": json.dumps(asdict(p))} for p in scanned]
        text = cfg.model_dump_json()

        def work(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            c = CohortConfig.model_validate_json(text)
            cols: dict[str, list] = {}
            for person in batch["person"]:
                for k, v in write_patient(person_of(str(person)), c, archive).items():
                    cols.setdefault(k, []).extend(v)
            return {k: np.array(v) for k, v in cols.items()}

        ds = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            work, batch_size=1, concurrency=cfg.concurrency
        )
        for done, batch in enumerate(ds.iter_batches(batch_size=None, batch_format="numpy"), 1):
            tables.append(pd.DataFrame(batch))
            if progress:
                progress(min(done, len(scanned)), len(scanned))
    slices = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    files, size = len(slices), int(slices["bytes"].sum()) if len(slices) else 0
    n_series = slices["series_uid"].nunique() if len(slices) else 0
    n_studies = slices["study_uid"].nunique() if len(slices) else 0
    if len(slices):
        axial = slices[slices["level"] != ""]
        keep = axial.sort_values(["series_uid", "index"])[TARGETS.names]
        pq.write_table(pa.Table.from_pandas(keep, TARGETS, preserve_index=False), truth / "slices.parquet")
    patients_truth(specs, cfg).to_parquet(truth / "patients.parquet", index=False)
    complete = sum(p.has_ct and p.has_demographics and p.has_labs for p in specs)
    return CohortSummary(
        len(specs), len(scanned), complete, n_studies, n_series, files, size, time.perf_counter() - start
    )


def patients_truth(specs: list[Person], cfg: CohortConfig) -> pd.DataFrame:
    """One row a person: label, latent density, and what a perfect reader would say."""
    post = fast.posterior_of(specs, cfg)
    return pd.DataFrame({
        "patient_key": [fast.key_of(p, cfg) for p in specs],
        "t_score": [p.t_score for p in specs],
        "label": [p.label for p in specs],
        "vbmd": [p.vbmd for p in specs],
        "degeneration": [p.degeneration for p in specs],
        "p_bayes": post.vs_normal,
        "p_bayes_rest": post.vs_rest,
        "has_ct": [p.has_ct for p in specs],
        "has_demographics": [p.has_demographics for p in specs],
        "has_labs": [p.has_labs for p in specs],
    })  # fmt: skip


def write_records(path: Path, specs: list[Person], cfg: CohortConfig) -> None:
    """records.csv: one row a person, dated up to two months before the CT."""
    f = fast.record_frame(specs)
    days = []
    for p in specs:
        lag = int(np.random.default_rng([p.seed, 50]).integers(0, 60))
        days.append((dicom.study_of(p, cfg.seed).date - dt.timedelta(days=lag)).isoformat())
    f.insert(1, "record_date", days)
    f["smoker"] = f["smoker"].map({1.0: "1", 0.0: "0"})
    f.to_csv(path, index=False)
