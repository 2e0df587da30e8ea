"""Train a bundle from a catalogue and records: every stage, in order, each done once.

    summary = train("catalogue.parquet", "records.csv", "run/", cfg)      # -> run/bundle/

slices -> encoder -> embeddings -> selection (DRLIS) -> teachers and student (KDAMM) -> calibration -> bundle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from osteo_ray import rayenv
from osteo_ray.kdamm.encoder import SliceEncoder
from osteo_ray.kdamm.pooling import AttentionPool
from osteo_ray.kdamm.pretrain import SliceData, pretrain
from osteo_ray.outcomes import InputError
from osteo_ray.progress import stage
from osteo_ray.records.header import header_demographics
from osteo_ray.records.labels import CLASSES
from osteo_ray.records.table import RecordTable
from osteo_ray.selection.data import Scans
from osteo_ray.selection.policy import PolicyNet
from osteo_ray.selection.reward import fit_scorers
from osteo_ray.stages import Stages, digest
from osteo_ray.training import slices as sl
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.finish import finish
from osteo_ray.training.patients import Patients, acquisition_of, gather, records_at_ct, scans_of


@dataclass(frozen=True)
class TrainSummary:
    """What a training run made, for printing."""

    bundle: Path
    seconds: dict[str, float]
    reused: list[str]
    patients: dict[str, int]
    metrics: dict[str, float]
    failed: dict[str, str]

    def lines(self) -> list[str]:
        """A few lines for a terminal."""
        out = [
            f"{name:12s} {s:7.1f} s{'  (reused)' if name in self.reused else ''}" for name, s in self.seconds.items()
        ]
        out.append("patients     " + ", ".join(f"{k} {v}" for k, v in self.patients.items()))
        out += [f"{k:28s} {v:.3f}" for k, v in self.metrics.items()]
        if self.failed:
            codes = sorted(set(self.failed.values()))
            out.append(f"{len(self.failed)} series could not be read and were left out: {', '.join(codes)}")
        out.append(f"bundle       {self.bundle}")
        return out


def train(
    catalogue: str | Path,
    records: RecordTable,
    out: str | Path,
    cfg: TrainConfig,
    targets: str | Path | None = None,
    extra_slices: Sequence[str | Path] = (),
    quiet: bool = False,
) -> TrainSummary:
    """Train everything and write `<out>/bundle`. Stages whose inputs have not changed are reused.

    Args:
        records: demographics, labs and labels.
        targets: per-slice truth of the catalogue's series (see `slices.write_slice_set`), if there is any.
        extra_slices: slice sets of other archives to train on as well; their patients are never held out.

    Raises:
        InputError: where there is too little to train from; the text says what.
    """
    out = Path(out).absolute()
    catalogue, targets = Path(catalogue).absolute(), Path(targets).absolute() if targets else None
    extra = [Path(p).absolute() for p in extra_slices]
    run = Stages(out)
    rayenv.start()
    cat = pq.read_table(catalogue, columns=["series_uid", "patient_key", "study_date", "state", "age_y", "sex"])
    records = records_at_ct(records, cat.filter(pa.compute.is_null(cat["state"])).to_pandas(), cfg.window)
    open_rows = [i for i, s in enumerate(cat["state"].to_pylist()) if s is None]
    if not open_rows and not extra:
        raise InputError(f"{catalogue} has no series that is fit for training; `osteo-ray index` tells why")
    archive = {r["patient_key"]: header_demographics(r) for r in cat.take(pa.array(open_rows, pa.int64())).to_pylist()}

    # 1. slices
    key = digest(catalogue, cfg.crop.model_dump(), cfg.selection.view.positions, targets or "")

    def read_slices(folder: Path) -> None:
        with stage("read slices", len(open_rows), "series", quiet) as advance:
            failed = sl.write_slice_set(
                catalogue,
                open_rows,
                folder,
                cfg.crop,
                cfg.selection.view.positions,
                cfg.prepare.series_per_task,
                targets,
                advance,
            )
        (folder / "failed.json").write_text(json.dumps(failed))

    slice_set = run.run("slices", key, read_slices)
    failed = json.loads((slice_set / "failed.json").read_text())
    sets = [slice_set, *extra]
    who = sl.load_table(sets, ["patient_key", "series_uid"]).group_by(["patient_key", "series_uid"]).aggregate([])
    labels = _labels(records)

    # Split once, before anything is fitted.
    scan_patient = who.sort_by("series_uid")["patient_key"].to_pylist()  # the order of the scans
    people = gather(records, scan_patient, archive, cfg.seed, cfg.split.test, cfg.split.val)
    split = pa.table({"patient_key": people.key.tolist(), "part": people.part.tolist()})
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(split, out / "split.parquet")

    # 2. encoder
    key = digest(key, extra and [digest(p) for p in extra], split.to_pydict(), labels, cfg.encoder.model_dump(),
                 cfg.pretrain.model_dump(), cfg.seed)  # fmt: skip

    def fit_encoder(folder: Path) -> None:
        data = _slice_data(sets, people, cfg)
        enc, losses = pretrain(data, cfg.encoder, cfg.pretrain, cfg.seed, quiet)
        save_file(enc.state_dict(), folder / "encoder.safetensors")
        (folder / "losses.json").write_text(json.dumps(losses))

    folder = run.run("encoder", key, fit_encoder)
    encoder = SliceEncoder(cfg.encoder)
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    encoder.eval()

    # 3. embeddings
    def embed(folder: Path) -> None:
        with stage("embed slices", sl.count(sets), "slice", quiet) as advance:
            pq.write_table(sl.embed_slice_sets(sets, encoder, cfg.crop.size, 2, advance), folder / "embedded.parquet")

    folder = run.run("embeddings", key, embed)
    embedded = pq.read_table(folder / "embedded.parquet")
    scans = scans_of(embedded, labels, cfg.selection.view.positions)
    scanned = acquisition_of(embedded, scans.series)

    # 4. selection
    key = digest(key, cfg.selection.model_dump())
    folder = run.run("selection", key, lambda f: _fit_selection(f, scans, people, cfg, quiet))
    w = load_file(folder / "selection.safetensors")
    policy = PolicyNet(cfg.encoder.dim, cfg.selection.policy.hidden)
    policy.load_state_dict(_part(w, "policy."))
    scorers = []
    for i in range(cfg.selection.scorer.folds):
        s = AttentionPool(cfg.encoder.dim, len(CLASSES))
        s.load_state_dict(_part(w, f"scorer{i}."))
        scorers.append(s.eval())

    # 5. teachers, student, calibration, bundle
    parts = (cfg.kdamm, cfg.acquisition, cfg.calibration, cfg.novelty)
    key = digest(key, [p.model_dump() for p in parts], cfg.background, cfg.name, cfg.version,
                 people.values.tolist(), people.t_score.tolist())  # fmt: skip
    folder = run.run(
        "bundle",
        key,
        lambda f: finish(f, scans, scanned, people, encoder, policy.eval(), scorers, cfg, str(out / "ray"), quiet),
    )
    manifest = json.loads((folder / "bundle.json").read_text())
    complete = (people.scan >= 0) & np.isfinite(people.values).any(1)
    counts = {
        "all": len(people.key),
        "with CT": int((people.scan >= 0).sum()),
        "complete": int(complete.sum()),
        **{part: int((people.part == part).sum()) for part in ("train", "val", "test")},
    }
    metrics = {k: v for k, v in manifest["metrics"].items() if k.startswith("val_") and v is not None}
    return TrainSummary(folder, run.seconds, run.reused, counts, metrics, failed)


def _fit_selection(folder: Path, scans: Scans, people: Patients, cfg: TrainConfig, quiet: bool) -> None:
    from osteo_ray.selection.figures import learning_curves
    from osteo_ray.selection.train import train_policy

    train_scans = scans.take(np.isin(scans.patient, people.key[people.part == "train"]))
    sel = cfg.selection
    scorers = fit_scorers(train_scans, sel.scorer, sel.view.keep, cfg.seed, quiet)
    val_scans = scans.take(np.isin(scans.patient, people.key[people.part == "val"]) & (scans.label >= 0))
    policy, curve = train_policy(
        train_scans, scorers, sel, folder, cfg.seed, quiet, val_scans if len(val_scans) else None
    )
    weights = {f"policy.{k}": v.contiguous() for k, v in policy.state_dict().items()}
    for i, s in enumerate(scorers):
        weights |= {f"scorer{i}.{k}": v for k, v in s.state_dict().items()}
    save_file(weights, folder / "selection.safetensors")
    (folder / "curve.json").write_text(json.dumps(curve))
    learning_curves(curve, folder / "curve.png")


def _part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _labels(records: RecordTable) -> dict[str, str | None]:
    frame = records.frame.sort_values("record_date", kind="stable")
    return dict(zip(frame["patient_key"], frame["label"], strict=True))  # the latest record wins


def _slice_data(sets: list[Path], people: Patients, cfg: TrainConfig) -> SliceData:
    """Crops and targets of the training patients."""
    table = sl.load_table(sets)
    of = {k: p for p, k in enumerate(people.key.tolist())}
    patient = np.array([of[k] for k in table["patient_key"].to_pylist()])
    keep = people.part[patient] == "train"
    table = table.filter(pa.array(keep))
    return SliceData(
        crops=sl.decode_crops(table["crop"], cfg.crop.size),
        patient=patient[keep],
        region=table["region"].to_numpy().astype(np.int64),
        vertebra=table["vertebra"].to_numpy(),
        mid=table["mid"].to_numpy(),
        trabecular_hu=table["trabecular_hu"].to_numpy(),
        label=people.label,
    )
