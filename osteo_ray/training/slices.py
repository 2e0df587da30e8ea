"""Ray Data: the archive's slices as crops on the z-grid, and crops as embeddings.

A slice set is a folder of Parquet files, one row a slice. Every model is trained from slice sets, so
a site reads its archive once, and sets of several archives can be trained on together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import nn

from osteo_ray import ray_setup
from osteo_ray.dicom.stack import SliceStack, Stack
from osteo_ray.io.step_cache import digest
from osteo_ray.io.store import Store, read_table
from osteo_ray.io.uris import absolute, is_remote
from osteo_ray.model.acquisition import Acquisition
from osteo_ray.model.config import CropConfig, EncoderConfig
from osteo_ray.model.crops import grid_positions, spine_crop
from osteo_ray.model.encoder import build_encoder
from osteo_ray.model.inference import ENCODER, onnx_parts
from osteo_ray.model.torch_networks import torch_encode
from osteo_ray.outcomes import InputError, Rejected
from osteo_ray.progress import Advance
from osteo_ray.training.patients import Patients
from osteo_ray.training.pretrain import SliceData, region_of, vertebrae_of

SLICES = pa.schema(
    [
        ("patient_key", pa.string()),
        ("series_uid", pa.string()),
        ("study_date", pa.string()),  # YYYYMMDD, null unknown
        ("site", pa.string()),  # null unknown
        ("index", pa.int32()),  # in the z-ordered stack
        ("z_mm", pa.float64()),
        ("crop", pa.binary()),  # int16 HU, little-endian, [size, size]
        ("region", pa.int8()),  # model.embedding.REGIONS, -1 unknown
        ("vertebra", pa.float32()),  # kdamm.pretrain.vertebrae_of, NaN unknown
        ("mid", pa.float32()),  # 0..1, NaN unknown
        ("trabecular_hu", pa.float32()),  # NaN unknown
        ("kvp", pa.float32()),  # of the scan, NaN unknown
        ("contrast", pa.float32()),  # of the scan: 1 with contrast agent, 0 without, NaN unknown
        ("bytes", pa.float64()),  # read to decode the slice
        ("failed", pa.string()),  # outcome code where the series could not be read; such a row has no crop
    ]
)


class Ids(NamedTuple):
    """Whose scan it is, and of when."""

    patient_key: str
    series_uid: str
    study_date: str | None  # YYYYMMDD
    site: str | None


@dataclass(frozen=True)
class Target:
    """What is known of one slice."""

    level: str | None
    mid: float
    trabecular_hu: float


Targets = Mapping[int, Target]
"""Targets of one series by slice index."""


def slice_rows(
    stack: Stack,
    ids: Ids,
    crop: CropConfig,
    positions: int,
    targets: Targets,
    scan: Acquisition,
) -> pa.Table:
    """Decode the z-grid of one stack into rows of SLICES; `scan` holds one scan."""
    index = grid_positions(np.asarray(stack.z_mm), positions)
    rows: dict[str, list] = {name: [] for name in SLICES.names}
    known = [targets.get(i) for i in index.tolist()]
    vertebra = vertebrae_of([t.level if t else None for t in known])
    for i, t, number in zip(index.tolist(), known, vertebra, strict=True):
        before = stack.bytes_read
        hu = spine_crop(stack.axial(i), stack.axial_spacing_mm, crop)
        values = (
            *ids,
            i,
            float(stack.z_mm[i]),
            hu.astype("<i2").tobytes(),
            region_of(t.level) if t else -1,
            number,
            t.mid if t else np.nan,
            t.trabecular_hu if t else np.nan,
            float(scan.kvp[0]),
            float(scan.contrast[0]),
            float(stack.bytes_read - before),
            None,
        )
        for name, v in zip(SLICES.names, values, strict=True):
            rows[name].append(v)
    return pa.table(rows, schema=SLICES)


def write_slice_set(
    catalogue: str | Path,
    rows: list[int],
    out: Path,
    crop: CropConfig,
    positions: int,
    per_task: int,
    targets: str | None,
    advance: Advance,
) -> dict[str, str]:
    """Read the series at `rows` of the catalogue and write a slice set to `out`.

    Args:
        targets: Parquet of `targets.TARGETS`, a path or URI that every node reads; or None.

    Returns:
        Outcome code by series UID, for the series that could not be read.
    """
    from osteo_ray.catalogue.dataset import arrow_batches, read_series

    def read(table: pa.Table) -> pa.Table:
        parts = [pa.table({n: [] for n in SLICES.names}, schema=SLICES)]
        known = _read_targets(targets, table["series_uid"].to_pylist()) if targets else {}
        for row in table.to_pylist():
            try:
                with SliceStack.from_row(row) as stack:
                    t = known.get(row["series_uid"], {})
                    scan = Acquisition.of_rows([row])
                    ids = Ids(row["patient_key"], row["series_uid"], row["study_date"], row.get("site"))
                    parts.append(slice_rows(stack, ids, crop, positions, t, scan))
            except Rejected as e:
                bad = dict.fromkeys(SLICES.names) | {"series_uid": row["series_uid"], "failed": e.outcome.code}
                parts.append(pa.Table.from_pylist([bad], schema=SLICES))
        return pa.concat_tables(parts)

    with ray_setup.retries_given():
        ds = read_series(catalogue, rows, per_task).map_batches(
            read, batch_format="pyarrow", batch_size=None, zero_copy_batch=True, max_retries=1
        )
    return write_parts(arrow_batches(ds), out, advance)


def write_parts(tables: Iterator[pa.Table], out: Path, advance: Advance) -> dict[str, str]:
    """Write tables of SLICES as they come, one file each; outcome codes of the series that failed."""
    out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    for k, table in enumerate(tables):
        bad = table.filter(pa.compute.is_valid(table["failed"]))
        failed |= dict(zip(bad["series_uid"].to_pylist(), bad["failed"].to_pylist(), strict=True))
        good = table.filter(pa.compute.is_null(table["failed"]))
        if good.num_rows:
            pq.write_table(good, out / f"part-{k:06d}.parquet", compression="zstd")
        advance(len(set(table["series_uid"].to_pylist())))
    return failed


def _read_targets(uri: str, series: list[str]) -> dict[str, dict[int, Target]]:
    columns = ["series_uid", "index", "level", "mid", "trabecular_hu"]
    table = read_table(uri, columns=columns, filters=pc.field("series_uid").isin(series))
    out: dict[str, dict[int, Target]] = {}
    for r in table.to_pylist():
        hu = np.nan if r["trabecular_hu"] is None else r["trabecular_hu"]
        mid = np.nan if r["mid"] is None else r["mid"]
        out.setdefault(r["series_uid"], {})[r["index"]] = Target(r["level"], mid, hu)
    return out


SCANS = ["patient_key", "series_uid", "study_date", "site"]
"""What says of a slice whose scan it is of."""
EMBEDDED = ["patient_key", "series_uid", "index", "z_mm", "kvp", "contrast"]
"""What an embedded slice keeps of its slice."""
TORCH_BATCH, ONNX_BATCH = 128, 16
"""Crops that are embedded at once; ONNX Runtime takes a third less for each where its intermediate results are few."""


class EmbedSlices:
    """Ray Data actor: crops -> embeddings, to the last bit those of screening (`inference.networks_of`).

    ONNX Runtime takes half of torch's CPU; an encoder of one's own, or one on a GPU, runs in torch.
    """

    def __init__(
        self,
        weights: dict[str, torch.Tensor],
        arch: EncoderConfig,
        size: int,
        device: str = "cpu",
        model: bytes | None = None,
    ):
        if model is None:
            encoder = build_encoder(arch)
            encoder.load_state_dict(weights)
            self.encode, self.batch = torch_encode(encoder.eval(), device), TORCH_BATCH
        else:
            self.encode, self.batch = onnx_parts({ENCODER: model}, 1)["encode"], ONNX_BATCH
        self.size = size

    def __call__(self, table: pa.Table) -> pa.Table:
        crops = decode_crops(table["crop"], self.size)
        batches = (crops[i : i + self.batch] for i in range(0, len(crops), self.batch))
        e = np.concatenate([self.encode(b)[0] for b in batches]).astype(np.float32, copy=False)
        column = pa.FixedSizeListArray.from_arrays(pa.array(e.ravel()), e.shape[1])
        return table.select(EMBEDDED).append_column("embedding", column)


def embed_slice_sets(
    sets: list[Path], encoder: nn.Module, size: int, actors: int | None, advance: Advance, gpus: float = 0.0
) -> pa.Table:
    """Embed every slice of the sets; columns EMBEDDED and embedding.

    Args:
        actors: at most so many; None: as many as fit.
        gpus: of each actor; 0: on CPU.
    """
    import ray.data

    from osteo_ray.catalogue.dataset import arrow_batches, read_files
    from osteo_ray.model.onnx_export import encoder_model

    files = [str(f) for s in sets for f in sorted(s.glob("part-*.parquet"))]
    columns = [*EMBEDDED, "crop"]
    blocks = max(1, min(len(files), 256))
    fit = sum(ray_setup.fitting(n, cpus=1.0, gpus=gpus) for n in ray_setup.nodes())
    most = min(blocks, actors or (blocks if ray_setup.joined() else max(1, fit)))  # a cluster may grow
    arch: Any = encoder.cfg
    in_torch = gpus or arch.network is not None
    model = None if in_torch else encoder_model(encoder, size)
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=max(1, min(most, fit)))
    ds = read_files(files, columns, blocks).map_batches(
        EmbedSlices,
        fn_constructor_args=(encoder.state_dict(), arch, size, "cuda" if gpus else "cpu", model),
        batch_format="pyarrow",
        batch_size=TORCH_BATCH,
        num_cpus=1.0,
        num_gpus=gpus or None,
        compute=pool,
    )
    parts = []
    for t in arrow_batches(ds):
        parts.append(t)
        advance(t.num_rows)
    return pa.concat_tables(parts)


def decode_crops(column: pa.ChunkedArray | pa.Array, size: int) -> np.ndarray:
    """Binary column of SLICES -> int16 HU [n, size, size]."""
    flat = b"".join(column.to_pylist())
    return np.frombuffer(flat, "<i2").reshape(-1, size, size).astype(np.int16)


def local_sets(sets: Sequence[str | Path], into: Path) -> list[Path]:
    """Slice sets as folders of this machine; those in an object store are copied to folders in `into`.

    Raises:
        InputError: what is no slice set.
    """
    out = []
    for s in sets:
        store = Store(s)
        parts = store.names("", "part-")
        if not parts:
            raise InputError(f"{s} is no slice set: it has no part-*.parquet; `osteo-ray cohort slices` makes one")
        folder = into / digest(store.uri) if is_remote(s) else Path(absolute(s))
        if is_remote(s):
            for name in parts:
                store.download(name, folder / name)
        out.append(folder)
    return out


def count(sets: list[Path]) -> int:
    """Slices in the sets, from Parquet footers."""
    return sum(pq.read_metadata(f).num_rows for s in sets for f in s.glob("part-*.parquet"))


def scans_in(sets: list[Path]) -> pd.DataFrame:
    """The scans of the sets, in the order that `patients.scans_of` gives them: columns SCANS.

    Raises:
        InputError: a set of an earlier version, whose scans have no dates.
    """
    for s in sets:
        for f in sorted(s.glob("part-*.parquet"))[:1]:
            if "study_date" not in pq.read_schema(f).names:
                raise InputError(
                    f"{s}: a slice set without study dates, of an earlier version; which record and DXA belong to a "
                    "scan cannot be told: write the set anew"
                )
    keys = load_table(sets, SCANS).group_by(SCANS).aggregate([])
    return keys.sort_by([("series_uid", "ascending"), ("patient_key", "ascending")]).to_pandas()


def load_table(sets: list[Path], columns: list[str] | None = None) -> pa.Table:
    """The sets' rows, in file order."""
    files: list[Any] = [f for s in sets for f in sorted(s.glob("part-*.parquet"))]
    # Sets of an earlier version may lack a column that came later.
    return pa.concat_tables([pq.read_table(f, columns=columns) for f in files], promote_options="default")


def slice_data(
    sets: list[Path], size: int, people: Patients | None = None, mixed: Sequence[Path] = (), most: int = 40_000,
    seed: int = 0,
) -> SliceData:  # fmt: skip
    """Crops and targets of the training patients of `sets`, and of everybody in `mixed`, who are unlabelled.

    Args:
        people: who trains, and their labels; None: everybody in the sets, unlabelled.
        mixed: slice sets of others (synthetic ones, say) that teach by their targets alone.
        most: slices kept, drawn evenly from both parts.
    """
    rng = np.random.default_rng(seed)
    parts, patients, own = [], [], []
    label = np.full(0, -1) if people is None else people.label
    t_score = np.full(0, np.nan) if people is None else people.t_score
    total = count(list(sets)) + count(list(mixed))
    for group, archive in ((list(sets), True), (list(mixed), False)):
        if not group:
            continue
        known = people if archive else None
        for f in (f for s in group for f in sorted(s.glob("part-*.parquet"))):
            table = pq.read_table(f)
            keep = rng.random(table.num_rows) < most / max(total, 1)
            if known is not None:
                # By scan: two CTs of a patient are two bags, each with its own label.
                of = {k: p for p, k in enumerate(zip(known.key.tolist(), known.series.tolist(), strict=True))}
                scans = zip(table["patient_key"].to_pylist(), table["series_uid"].to_pylist(), strict=True)
                index = np.array([of[k] for k in scans], np.int64)
                keep &= known.part[index] == "train"
            else:
                index = np.full(table.num_rows, -1)
                if not archive:
                    keep &= table["region"].to_numpy() >= 0
            parts.append(table.filter(pa.array(keep)))
            patients.append(index[keep])
            own.append(np.full(int(keep.sum()), archive))
    # Sets of an earlier version may lack a column that came later.
    table = pa.concat_tables(parts, promote_options="default")
    return SliceData(
        crops=decode_crops(table["crop"], size),
        patient=np.concatenate(patients),
        region=table["region"].to_numpy().astype(np.int64),
        vertebra=table["vertebra"].to_numpy(),
        mid=table["mid"].to_numpy(),
        trabecular_hu=table["trabecular_hu"].to_numpy(),
        label=label,
        t_score=t_score,
        own=np.concatenate(own),
    )


def most_slices(sets: Sequence[Path]) -> int:
    """Slices of the scan that has most of them."""
    most = 0
    for f in (f for s in sets for f in sorted(s.glob("part-*.parquet"))):
        column = pq.read_table(f, columns=["series_uid"])
        counted = column.group_by("series_uid").aggregate([("series_uid", "count")])
        most = max(most, max(counted["series_uid_count"].to_pylist(), default=0))
    return most
