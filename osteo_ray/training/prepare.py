"""From catalogue, records and slice sets to embedded scans and a selection policy: steps, each done once.

    p = prepare(Sources("catalogue.parquet", records), "run/", cfg)     # slices -> encoder -> embeddings
    policy, scorers = selection(p, cfg)                                 # DRLIS

Training goes on from here to a bundle, tuning to its trials.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from osteo_ray import ray_setup
from osteo_ray.drlis.reward import fit_scorers
from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.step_cache import StepCache, digest
from osteo_ray.io.uris import absolute
from osteo_ray.kdamm.train import FileKeeper
from osteo_ray.model import reference
from osteo_ray.model.acquisition import Acquisition
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.embedding import Scans
from osteo_ray.model.encoder import build_encoder
from osteo_ray.model.extension import identities
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.selection import selector_of
from osteo_ray.outcomes import InputError
from osteo_ray.patients.labels import CLASSES
from osteo_ray.patients.record_set import RecordSet
from osteo_ray.patients.table import RecordTable
from osteo_ray.progress import progress_bar
from osteo_ray.training import slices as sl
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.patients import Patients, acquisition_of, gather, scans_of
from osteo_ray.training.pretrain import pretrain
from osteo_ray.training.scalars import scalars


@dataclass(frozen=True)
class Sources:
    """What a bundle is trained from.

    Slice sets, targets and bundles may be paths or URIs.

    Attributes:
        catalogue: the archive's; None: slice sets alone.
        targets: per-slice truth of the catalogue's series (see `slices.write_slice_set`), if there is any.
        extra_slices: slice sets of other archives to train on as well; their patients are never held out.
        encoder_slices: slice sets whose targets teach the encoder beside the training patients' own slices.
        start: a bundle whose encoder pre-training goes on from; None: from random weights.
        heldout_slices: slice sets of people whom nothing is trained on, for the figures on the card.
    """

    catalogue: str | Path | None
    records: RecordTable | RecordSet
    targets: str | Path | None = None
    extra_slices: Sequence[str | Path] = ()
    encoder_slices: Sequence[str | Path] = ()
    start: str | Path | None = None
    heldout_slices: Sequence[str | Path] = ()
    heldout_records: RecordTable | RecordSet | None = None


@dataclass(frozen=True)
class People:
    """Scans and their patients: what the last steps work on."""

    scans: Scans
    scanned: Acquisition
    patients: Patients


@dataclass(frozen=True)
class Prepared:
    """Everything up to the embeddings."""

    stages: StepCache
    key: str  # of the embeddings
    people: People
    encoder: nn.Module
    heldout: People | None
    failed: dict[str, str]  # outcome code by series that could not be read


def prepare(src: Sources, out: str | Path, cfg: TrainConfig, quiet: bool = False) -> Prepared:
    """Slices, split, encoder, embeddings.

    Args:
        out: folder of the run's steps, a path or a URI (`StepCache`).

    Raises:
        InputError: where there is too little to train from; the text says what.
    """
    run = StepCache(out)
    extra, mixed, heldout = (
        sl.local_sets(s, run.out / "fetched") for s in (src.extra_slices, src.encoder_slices, src.heldout_slices)
    )
    _fit_the_view([*extra, *heldout], cfg)
    start = None if src.start is None else start_weights(src.start, cfg)
    ray_setup.start()
    archive: pd.DataFrame | None = None
    failed, sets, key = {}, extra, digest(cfg.crop.model_dump(), cfg.selection.view.positions)
    if src.catalogue is not None:
        archive, slice_set, key = _read_archive(run, src, cfg, bool(extra), quiet)
        failed = json.loads((slice_set / "failed.json").read_text())
        sets = [slice_set, *extra]
    if not sets:
        raise InputError("nothing to train from: give a catalogue, slice sets, or both")

    # Split once, by patient, before anything is fitted.
    scans_at, held = sl.scans_in(sets), []
    if archive is not None:
        headers = archive.drop_duplicates(["patient_key", "series_uid"])
        scans_at = scans_at.merge(headers, on=["patient_key", "series_uid"], how="left", validate="one_to_one")
        held = archive["patient_key"].tolist()
    people = gather(src.records, scans_at, held, cfg.seed, cfg.split, cfg.timeline)
    once = np.unique(people.key, return_index=True)[1]
    split = pa.table({"patient_key": people.key[once].tolist(), "part": people.part[once].tolist()})
    run.out.mkdir(parents=True, exist_ok=True)
    pq.write_table(split, run.out / "split.parquet")
    run.save("split.parquet")

    own = identities({"encoder": cfg.encoder.network} if cfg.encoder.network else {})
    begun = None if start is None else {k: v.tolist() for k, v in start.items() if v.numel() < 64}
    key = digest(key, [digest(p) for p in extra], [digest(p) for p in mixed], split.to_pydict(),
                 [people.series.tolist(), people.label.tolist()], begun,
                 cfg.encoder.model_dump(), own, cfg.pretrain.model_dump(), cfg.seed)  # fmt: skip

    def fit_encoder(folder: Path) -> None:
        data = sl.slice_data(sets, cfg.crop.size, people, mixed, cfg.pretrain.slices, cfg.seed)
        state = folder / "state.pt"
        keeper = FileKeeper(state, partial(run.save, "encoder"))
        with scalars(folder, "encoder", carried_on=state.exists()) as write:
            enc, losses = pretrain(data, cfg.encoder, cfg.pretrain, cfg.seed, quiet, start, write, keeper)
        save_file(enc.state_dict(), folder / "encoder.safetensors")
        (folder / "losses.json").write_text(json.dumps({"losses": losses, "slices with targets": data.targets()}))

    folder = run.run("encoder", key, fit_encoder)
    encoder = build_encoder(cfg.encoder)
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    encoder.eval()

    scans, scanned = _embedded(run, "embeddings", key, sets, encoder, people.labels, cfg, quiet)
    others = _heldout(run, key, src, heldout, encoder, cfg, quiet)
    return Prepared(run, key, People(scans, scanned, people), encoder, others, failed)


def selection(p: Prepared, cfg: TrainConfig, quiet: bool = False) -> tuple[PolicyNet, list[AttentionPool], str]:
    """The selection step: policy, the reward's classifiers, and the step's key."""
    selector = cfg.selection.view.selector
    key = digest(p.key, cfg.selection.model_dump(), identities({"selector": selector} if selector else {}))
    saved = partial(p.stages.save, "selection")
    folder = p.stages.run("selection", key, lambda f: _fit_selection(f, p.people, cfg, quiet, saved))
    w = load_file(folder / "selection.safetensors")
    policy = PolicyNet(cfg.encoder.dim, cfg.selection.policy.hidden)
    policy.load_state_dict(_part(w, "policy."))
    scorers = []
    for i in range(cfg.selection.scorer.folds):
        s = AttentionPool(cfg.encoder.dim, len(CLASSES))
        s.load_state_dict(_part(w, f"scorer{i}."))
        scorers.append(s.eval())
    return policy.eval(), scorers, key


def scans_in(people: People, part: str) -> Scans:
    """A part's scans."""
    p = people.patients
    return people.scans.take(np.isin(people.scans.patient, p.key[p.part == part]))


def _read_archive(
    run: StepCache, src: Sources, cfg: TrainConfig, more: bool, quiet: bool
) -> tuple[pd.DataFrame, Path, str]:
    """What the headers of the archive's open series say of the patient, the archive's slices, and their key."""
    assert src.catalogue is not None
    catalogue = absolute(src.catalogue)
    found = open_set(catalogue)
    targets = absolute(src.targets) if src.targets else None
    cat = found.read(["series_uid", "patient_key", "state", "age_y", "sex"])
    open_rows = [i for i, s in enumerate(cat["state"].to_pylist()) if s is None]
    if not open_rows and not more:
        raise InputError(f"{catalogue} has no series that is fit for training; `osteo-ray index` tells why")
    archive = cat.take(pa.array(open_rows, pa.int64())).drop_columns(["state"]).to_pandas()
    positions = cfg.selection.view.positions
    truth = open_set(targets).fingerprint() if targets else ""
    key = digest(found.fingerprint(), cfg.crop.model_dump(), positions, truth, sl.SLICES.names)

    def read_slices(folder: Path) -> None:
        per_task = cfg.prepare.series_per_task
        with progress_bar("read slices", len(open_rows), "series", quiet) as advance:
            failed = sl.write_slice_set(catalogue, open_rows, folder, cfg.crop, positions, per_task, targets, advance)
        (folder / "failed.json").write_text(json.dumps(failed))

    return archive, run.run("slices", key, read_slices), key


def _embedded(
    run: StepCache, name: str, key: str, sets: list[Path], encoder: nn.Module, labels: dict, cfg: TrainConfig, quiet
) -> tuple[Scans, Acquisition]:
    def embed(folder: Path) -> None:
        with progress_bar("embed slices", sl.count(sets), "slice", quiet) as advance:
            how = cfg.prepare
            embedded = sl.embed_slice_sets(sets, encoder, cfg.crop.size, how.embed_actors, advance, how.embed_gpus)
            pq.write_table(embedded, folder / "embedded.parquet")

    table = pq.read_table(run.run(name, key, embed) / "embedded.parquet")
    scans = scans_of(table, labels, cfg.selection.view.positions)
    return scans, acquisition_of(table, scans)


def _heldout(
    run: StepCache, key: str, src: Sources, sets: list[Path], encoder: nn.Module, cfg: TrainConfig, quiet: bool
) -> People | None:
    if not sets:
        return None
    if src.heldout_records is None:
        raise InputError("heldout_slices need heldout_records: their labels are what the card's figures rest on")
    records = src.heldout_records
    key = digest(key, [digest(p) for p in sets])
    people = gather(records, sl.scans_in(sets), (), cfg.seed, cfg.split, cfg.timeline)
    scans, scanned = _embedded(run, "heldout", key, sets, encoder, people.labels, cfg, quiet)
    return People(scans, scanned, people)


def _fit_selection(folder: Path, people: People, cfg: TrainConfig, quiet: bool, saved: Callable[[], object]) -> None:
    from osteo_ray.drlis.figures import learning_curves
    from osteo_ray.drlis.rllib import train_policy

    train, val = scans_in(people, "train"), scans_in(people, "val")
    val = val.take(val.label >= 0)
    sel = cfg.selection
    scorers = fit_scorers(train, sel.scorer, sel.view.keep, cfg.seed, quiet)
    if selector_of(sel.view) is None:
        judged = val if len(val) else None
        policy, curve = train_policy(train, scorers, sel, folder, cfg.seed, quiet, judged, saved=saved)
    else:  # the policy is not asked; the bundle holds an untrained one
        torch.manual_seed(cfg.seed)
        policy, curve = PolicyNet(cfg.encoder.dim, sel.policy.hidden), []
    weights = {f"policy.{k}": v.contiguous() for k, v in policy.state_dict().items()}
    for i, s in enumerate(scorers):
        weights |= {f"scorer{i}.{k}": v for k, v in s.state_dict().items()}
    save_file(weights, folder / "selection.safetensors")
    (folder / "curve.json").write_text(json.dumps(curve))
    if curve:
        learning_curves({"policy": curve}, folder / "curve.png")


def _part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def start_weights(bundle: str | Path, cfg: TrainConfig) -> dict[str, torch.Tensor]:
    """The encoder weights of a bundle ("reference": the one that ships), for pre-training to go on from.

    Raises:
        BundleError: where it is no bundle.
        InputError: where its crops or its encoder are not the config's.
    """
    folder = reference.bundle() if str(bundle) == "reference" else bundle
    b = Bundle.load(folder)
    for name, of_bundle, of_config in (("crop", b.config.crop, cfg.crop), ("encoder", b.config.encoder, cfg.encoder)):
        if of_bundle != of_config:
            raise InputError(
                f"start: the {name} of {bundle} is {of_bundle.model_dump()}, the config's {of_config.model_dump()}; "
                f"set {name} to the bundle's, or train without start"
            )
    return {k: v.clone() for k, v in b.encoder.state_dict().items()}


def _fit_the_view(sets: Sequence[Path], cfg: TrainConfig) -> None:
    positions = cfg.selection.view.positions
    for s in sets:
        most = sl.most_slices([s])
        if most > positions:
            raise InputError(
                f"{s} has up to {most} slices a scan, selection.view.positions is {positions}: set it to {most}, or "
                f"make the set again with positions={positions}"
            )
