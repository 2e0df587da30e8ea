"""`osteo-ray evaluate selection`: DRLIS and every control on synthetic cohorts, whose anatomy and labels are known.

    lines = evaluate_selection(SelectionStudyJob(out="study"))

Made once and reused: slice sets of each cohort, one encoder from people of its own, embeddings, policies. Writes
selection.md, selection.parquet, selection_curve.parquet, selection.png and learning_curves.png.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from safetensors.torch import load_file, save_file

from osteo_ray import ray_setup
from osteo_ray.config import narrow, need
from osteo_ray.drlis.figures import decoded_curve, learning_curves
from osteo_ray.io.step_cache import StepCache, digest
from osteo_ray.model.config import CropConfig, EncoderConfig
from osteo_ray.model.embedding import L1_NUMBER, LUMBAR
from osteo_ray.model.encoder import SliceEncoder
from osteo_ray.patients import load_records
from osteo_ray.patients.labels import class_index
from osteo_ray.progress import progress_bar
from osteo_ray.synthetic.config import CohortConfig, MissingnessConfig
from osteo_ray.synthetic.slice_set import write_slice_set
from osteo_ray.training import slices as sl
from osteo_ray.training.config import PretrainConfig
from osteo_ray.training.patients import acquisition_of, scans_of
from osteo_ray.training.pretrain import pretrain
from selection_study.study import Found, StudyConfig, StudySet, compare
from selection_study.table import judge, markdown


class SelectionStudyJob(StudyConfig):
    """`osteo-ray evaluate selection`."""

    out: str | None = None
    seeds: tuple[int, ...] = Field((101, 102, 103), description="training cohorts")
    people: int = Field(1000, ge=20)
    test_seed: int = 900
    test_people: int = Field(1200, ge=20)
    encoder_seed: int = 500
    encoder_people: int = Field(300, ge=10)
    crop: CropConfig = CropConfig()
    encoder: EncoderConfig = EncoderConfig()
    pretrain: PretrainConfig = PretrainConfig(steps=3000)


def whole_cohort(seed: int, people: int) -> CohortConfig:
    """Synthetic people of whom everything is known."""
    return CohortConfig(
        seed=seed, persons=people, missing=MissingnessConfig(complete_share=1.0, ct_only_share=0, no_labs_share=0)
    )


def slice_set(run: StepCache, cohort: CohortConfig, crop: CropConfig, positions: int) -> Path:
    """The cohort's slice set, rendered once into stage `slices-<seed>`."""
    key = digest(cohort.model_dump(mode="json"), crop.model_dump(), positions)

    def work(folder: Path) -> None:
        write_slice_set(folder, cohort, crop, positions)

    return run.run(f"slices-{cohort.seed}", key, work)


def slice_encoder(
    run: StepCache, cohort_dir: Path, arch: EncoderConfig, how: PretrainConfig, crop: CropConfig
) -> SliceEncoder:
    """An encoder pre-trained once on a slice set, into stage `encoder`."""

    def work(folder: Path) -> None:
        data = sl.slice_data([cohort_dir / "slices"], crop.size)
        save_file(pretrain(data, arch, how, 0)[0].state_dict(), folder / "encoder.safetensors")

    folder = run.run("encoder", digest(arch.model_dump(), how.model_dump(), cohort_dir / "done.json"), work)
    encoder = SliceEncoder(arch)
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    return encoder.eval()


def study_set(run: StepCache, cohort_dir: Path, encoder: SliceEncoder, crop: CropConfig, positions: int) -> StudySet:
    """A slice set embedded once (stage `embedded-...`), with its truth."""
    ray_setup.start()
    sets = [cohort_dir / "slices"]

    def embed(folder: Path) -> None:
        with progress_bar("embed slices", sl.count(sets), "slice", False) as advance:
            pq.write_table(sl.embed_slice_sets(sets, encoder, crop.size, 2, advance), folder / "embedded.parquet")

    weights = [v.numpy().tobytes().hex() for v in encoder.state_dict().values()]
    folder = run.run(cohort_dir.name.replace("slices", "embedded"), digest(weights, cohort_dir / "done.json"), embed)
    embedded = pq.read_table(folder / "embedded.parquet")
    frame = load_records(str(cohort_dir / "records.csv"), None, None).frame.set_index("patient_key")
    # One record and one scan a person.
    of = {k: class_index(v) for k, v in frame["label"].to_dict().items()}
    pairs = zip(embedded["patient_key"].to_pylist(), embedded["series_uid"].to_pylist(), strict=True)
    scans = scans_of(embedded, {p: of[p[0]] for p in pairs}, positions)
    t = sl.load_table(sets, ["series_uid", "z_mm", "region", "vertebra", "mid", "bytes"])
    t = t.sort_by([("series_uid", "ascending"), ("z_mm", "ascending")])  # the order of `scans_of`
    number = np.rint(np.nan_to_num(t["vertebra"].to_numpy()) - L1_NUMBER + 1)
    there = (t["region"].to_numpy() == LUMBAR) & (number >= 1) & (number <= 4)
    level, mid, size = (np.zeros(scans.valid.shape) for _ in range(3))
    level[scans.valid] = np.where(there, number, 0)
    mid[scans.valid] = np.nan_to_num(t["mid"].to_numpy())
    size[scans.valid] = t["bytes"].to_numpy() if "bytes" in t.column_names else np.nan
    scores = frame["t_score"].loc[scans.patient].to_numpy(np.float32)
    scanned = acquisition_of(embedded, scans)
    return StudySet(scans, scanned, scores, size.sum(1) / scans.valid.sum(1), level.astype(int), mid)


def evaluate_selection(job: SelectionStudyJob) -> list[str]:
    """Run what is missing, write tables and pictures; the table as lines for a terminal."""
    out = Path(need(job, "out")).absolute()
    run, positions = StepCache(out), job.selection.view.positions
    cohort_dir = slice_set(run, whole_cohort(job.encoder_seed, job.encoder_people), job.crop, positions)
    encoder = slice_encoder(run, cohort_dir, job.encoder, job.pretrain, job.crop)

    def embedded(seed: int, people: int) -> StudySet:
        at = slice_set(run, whole_cohort(seed, people), job.crop, positions)
        return study_set(run, at, encoder, job.crop, positions)

    test = embedded(job.test_seed, job.test_people)
    cfg = narrow(job, StudyConfig)
    which = digest(job.encoder.model_dump(), job.pretrain.model_dump(), job.encoder_seed, job.encoder_people)[:8]
    runs: dict[int, dict[str, Found]] = {}
    for seed in job.seeds:
        train = embedded(seed, job.people)
        at = out / f"policies-{seed}-{which}"
        first = seed == job.seeds[0]
        runs[seed] = compare(train, test, cfg, job.encoder.layout, at, seed, first, quiet=False)
    table, curve = judge(runs, test, cfg)
    pq.write_table(pa.Table.from_pandas(table), out / "selection.parquet")
    pq.write_table(pa.Table.from_pandas(curve), out / "selection_curve.parquet")
    spread = [a for a in table["arm"] if a.startswith(f"{next(iter(cfg.arms))}, seed")]
    decoded_curve(curve[~curve["arm"].isin(spread)], out / "selection.png")
    learned = {f"{arm}, cohort {s}": f.curve for s, r in runs.items() for arm, f in r.items() if f.curve}
    learning_curves(learned, out / "learning_curves.png")
    lines = markdown(table, job.seeds, job.people, job.test_seed, job.test_people, cfg.selection.view.keep)
    (out / "selection.md").write_text("\n".join(lines) + "\n")
    return [*lines, "", f"written  {out}"]
