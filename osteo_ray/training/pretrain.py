"""Pre-train the slice encoder (plain torch; in-process).

With slice targets (from a synthetic cohort, or from any segmentation that a site has) it learns where
along the spine a slice lies, how near it is to the middle of a vertebral body, and to put its first
region of interest on the trabecular core. Without them it learns from the patients' DXA labels
through attention over a bag of slices, the weaker signal that every site has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from osteo_ray.model.config import EncoderConfig
from osteo_ray.model.encoder import L1_NUMBER, REGIONS, SliceEncoder, height_of
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.outcomes import InputError
from osteo_ray.progress import progress_bar
from osteo_ray.training.config import PretrainConfig

BAG = 8  # slices of one patient that a patient-level step sees


@dataclass
class SliceData:
    """Crops of the training patients and what is known of each; unknown is NaN or -1."""

    crops: np.ndarray  # int16 HU [n, S, S], may be a memory map
    patient: np.ndarray  # int [n], index of the patient
    region: np.ndarray  # int [n], index into REGIONS, -1 unknown
    vertebra: np.ndarray  # float [n], vertebra number (`vertebrae_of`), NaN unknown
    mid: np.ndarray  # float [n], 0..1, NaN unknown
    trabecular_hu: np.ndarray  # float [n], NaN unknown
    label: np.ndarray  # int [n_patients], class of the patient, -1 unknown


def pretrain(
    data: SliceData, arch: EncoderConfig, cfg: PretrainConfig, seed: int, quiet: bool = False
) -> tuple[SliceEncoder, dict[str, float]]:
    """Train and return the encoder in eval mode, and the mean losses of the last tenth of the steps.

    Raises:
        InputError: where the data lack the targets that `cfg.supervision` needs.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    enc = SliceEncoder(arch)
    pool = AttentionPool(arch.dim, 3) if cfg.supervision == "patients" else None
    draw = _slice_sampler(data, cfg, rng) if pool is None else _bag_sampler(data, cfg, rng)
    params = [*enc.parameters(), *(pool.parameters() if pool else [])]
    opt = torch.optim.AdamW(params, lr=cfg.lr, weight_decay=1e-4)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, cfg.lr, total_steps=cfg.steps)
    log: list[dict[str, float]] = []
    enc.train()
    with progress_bar("pre-train encoder", cfg.steps, "step", quiet) as advance:
        for _ in range(cfg.steps):
            rows = draw()
            f = enc(_augment(torch.from_numpy(data.crops[rows]), cfg))
            losses = _slice_losses(f, data, rows) if pool is None else _bag_losses(pool, f, data, rows)
            total = torch.stack(list(losses.values())).sum()
            opt.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(params, 5.0)
            opt.step()
            sched.step()
            log.append({k: float(v.detach()) for k, v in losses.items()})
            advance(1)
    tail = log[-max(1, cfg.steps // 10) :]
    return enc.eval(), {k: float(np.mean([r[k] for r in tail if k in r])) for k in tail[-1]}


def _slice_sampler(data: SliceData, cfg: PretrainConfig, rng: np.random.Generator):
    known = np.flatnonzero(data.region >= 0)
    if known.size == 0:
        raise InputError("no slice has a target: set encoder supervision to 'patients', or give slice targets")
    # A third of each batch from slices with a measurable core, which teach the density, and a third from discs and
    # endplates: few slices of a scan show them, and taking one for a mid-vertebra is the costly mistake.
    core = np.flatnonzero(np.isfinite(data.trabecular_hu))
    between = np.flatnonzero(np.isfinite(data.vertebra) & (data.mid < 1 / 3))
    third = [rows for rows in (core, between) if rows.size]
    n = cfg.batch // 3
    return lambda: np.sort(
        np.concatenate([rng.choice(known, cfg.batch - n * len(third)), *(rng.choice(rows, n) for rows in third)])
    )


def _bag_sampler(data: SliceData, cfg: PretrainConfig, rng: np.random.Generator):
    labelled = [p for p in range(len(data.label)) if data.label[p] >= 0]
    if len({int(data.label[p]) for p in labelled}) < 2:
        raise InputError("the training patients with CT have fewer than two classes of DXA label")
    rows_of = {p: np.flatnonzero(data.patient == p) for p in labelled}
    labelled = [p for p in labelled if rows_of[p].size]
    n = max(2, cfg.batch // BAG)
    return lambda: np.concatenate([rng.choice(rows_of[p], BAG) for p in rng.choice(labelled, n)])


def _slice_losses(f, data: SliceData, rows: np.ndarray) -> dict[str, torch.Tensor]:
    region = torch.from_numpy(data.region[rows]).long()
    mid = torch.from_numpy(data.mid[rows]).float()
    hu = torch.from_numpy(data.trabecular_hu[rows]).float()
    out = {"region": F.cross_entropy(f.region_logits, region, ignore_index=-1)}
    number = torch.from_numpy(data.vertebra[rows]).float()
    ok = number.isfinite()
    if ok.any():
        out["vertebra"] = F.smooth_l1_loss(height_of(f.vertebra[ok]), height_of(number[ok]), beta=0.2)
    ok = mid.isfinite()
    if ok.any():
        out["mid"] = F.binary_cross_entropy_with_logits(f.mid_logit[ok], mid[ok])
    ok = hu.isfinite()
    if ok.any():
        out["trabecular"] = F.smooth_l1_loss(f.trabecular_hu[ok] / 25.0, hu[ok] / 25.0)
    return out


def _bag_losses(pool: AttentionPool, f, data: SliceData, rows: np.ndarray) -> dict[str, torch.Tensor]:
    bags = f.embedding.unflatten(0, (-1, BAG))
    logits = pool(bags, torch.ones(bags.shape[:2], dtype=torch.bool)).logits
    label = torch.from_numpy(data.label[data.patient[rows[::BAG]]]).long()
    return {"patient": F.cross_entropy(logits, label)}


def _augment(crops: torch.Tensor, cfg: PretrainConfig) -> torch.Tensor:
    """Shift, mirror and noise. HU is left alone: density is what is to be measured."""
    x = crops.float()
    if cfg.shift_px:
        k = cfg.shift_px
        dy, dx = (int(v) for v in torch.randint(-k, k + 1, (2,)))
        x = torch.roll(F.pad(x, (k, k, k, k), value=-1024.0), (dy, dx), (1, 2))[:, k:-k, k:-k]
    if torch.rand(()) < 0.5:
        x = x.flip(2)
    if cfg.noise_hu:
        x = x + cfg.noise_hu * torch.rand(len(x), 1, 1) * torch.randn_like(x)
    return x


def region_of(level: str | None) -> int:
    """Index into REGIONS of a vertebral level name ('T9', 'L3', 'S', 'none'); -1 where it is not known."""
    if not level:
        return -1
    if level == "none":
        return REGIONS.index("none")
    return {"T": 0, "L": 1, "S": 2, "C": 3}.get(level[0], -1)


def vertebrae_of(levels: Sequence[str | None]) -> np.ndarray:
    """Vertebra numbers of a scan's slices in z order, float32 [n]; NaN where there is none.

    Slices between two named levels ('disc', None) get a number between theirs.
    """
    number = np.array([_number(level) for level in levels], float)
    known = np.flatnonzero(np.isfinite(number))
    between = np.array([level in (None, "", "disc") for level in levels], bool)
    if known.size > 1:
        at = np.flatnonzero(between)
        number[at] = np.interp(at, known, number[known], left=np.nan, right=np.nan)
    return number.astype(np.float32)


def _number(level: str | None) -> float:
    if level == "S":
        return L1_NUMBER + 5.0
    if level and level[0] in "TL" and level[1:].isdigit():
        n = int(level[1:])
        if n <= (12 if level[0] == "T" else 5):  # T13 and L6 would take another vertebra's number
            return n + (L1_NUMBER - 1.0 if level[0] == "L" else 0.0)
    return np.nan
