"""Pre-train the slice encoder (plain torch; in-process).

Slices with targets (a synthetic cohort's, or those of vertebra masks) teach it where along the spine a slice lies, how
near it is to the middle of a vertebral body, and to put its first region of interest on the trabecular core. Where
patients have a DXA T-score, their slices teach as well: through attention over the slices that the encoder itself
believes to show the middle of a lumbar vertebra.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from osteo_ray.kdamm.train import Keeper
from osteo_ray.model.config import EncoderConfig
from osteo_ray.model.embedding import L1_NUMBER, LUMBAR, REGIONS, height_of
from osteo_ray.model.encoder import SliceFeatures, build_encoder
from osteo_ray.model.ordinal import LatentHead
from osteo_ray.outcomes import InputError
from osteo_ray.progress import progress_bar
from osteo_ray.training.augment import augment
from osteo_ray.training.config import PretrainConfig

BAG = 8  # slices of one patient that a step sees
PATIENTS = 3  # patients that a step sees
WARM_LR = 1 / 3  # of the learning rate, where weights are there already
LEAST_BELIEF = 0.3  # lumbar belief that must come together over a bag before its T-score teaches


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
    t_score: np.ndarray  # float [n_patients], NaN unknown
    own: np.ndarray  # bool [n], of the archive that is trained on; False: of a set that is mixed in

    def targets(self) -> dict[str, int]:
        """How many slices teach what."""
        return {
            "region": int((self.region >= 0).sum()),
            "vertebra": int(np.isfinite(self.vertebra).sum()),
            "mid": int(np.isfinite(self.mid).sum()),
            "trabecular_hu": int(np.isfinite(self.trabecular_hu).sum()),
        }


def pretrain(
    data: SliceData,
    arch: EncoderConfig,
    cfg: PretrainConfig,
    seed: int,
    quiet: bool = False,
    start: Mapping[str, torch.Tensor] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    keeper: Keeper | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Train and return the encoder in eval mode, and the mean losses of the last tenth of the steps.

    Args:
        start: weights to go on from; None: from random ones.
        on_step: told each step's number and losses.
        keeper: of the state between steps; one that is there already is carried on, with the same result on a CPU.

    Raises:
        InputError: where no slice has a target, and there are no weights to start from.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    enc = build_encoder(arch)
    if start is not None:
        enc.load_state_dict(dict(start))
    slices = _slice_sampler(data, cfg, rng)
    bags = _bag_sampler(data, rng) if cfg.patient_weight else None
    if slices is None and (start is None or bags is None):
        raise InputError(
            "no slice has a target, so nothing teaches the encoder where the lumbar spine is: give targets "
            "(`osteo-ray targets` makes them from vertebra masks), a slice set that has them (encoder_slices, "
            "synthetic_scans), or weights to start from (start: reference)"
        )
    device = torch.device(cfg.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("pretrain.device: cuda, but torch sees no GPU here; use cpu")
    head = LatentHead(arch.dim)
    enc, head = enc.to(device), head.to(device)
    if arch.network is None:  # with the channels last its steps take three quarters of the CPU
        enc.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    params = [*enc.parameters(), *head.parameters()]
    lr = cfg.lr * (WARM_LR if start is not None else 1.0)
    opt = torch.optim.AdamW(params, lr=lr, weight_decay=1e-4)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, lr, total_steps=cfg.steps)
    log: list[dict[str, float]] = []
    parts: dict[str, Any] = {"encoder": enc, "head": head, "optimiser": opt, "schedule": sched}
    if keeper and (state := keeper.load()):
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["rng"])
        rng.bit_generator.state = json.loads(state["draws"])
        log = state["log"]
    enc.train()
    with progress_bar("pre-train encoder", cfg.steps, "step", quiet) as advance:
        advance(len(log))
        for step in range(len(log), cfg.steps):
            targeted = slices() if slices else np.zeros(0, int)
            bagged = bags() if bags else np.zeros(0, int)
            crops = torch.from_numpy(data.crops[np.concatenate([targeted, bagged])]).to(device)
            x, gain, offset = augment(crops, cfg.augment)
            f = enc(x)
            k = len(targeted)
            losses = _slice_losses(_part(f, slice(0, k)), data, targeted, gain[:k], offset[:k]) if k else {}
            if len(bagged):
                losses |= _patient_loss(head, _part(f, slice(k, None)), data, bagged, cfg.patient_weight)
            if losses:
                total = torch.stack(list(losses.values())).sum()
                opt.zero_grad()
                total.backward()
                nn.utils.clip_grad_norm_(params, 5.0)
                opt.step()
            sched.step()
            log.append({name: float(v.detach()) for name, v in losses.items()})
            if on_step:
                on_step(step, log[-1])
            if keeper and (step + 1) % cfg.checkpoint_every == 0 and step + 1 < cfg.steps:
                rest = {"rng": torch.get_rng_state(), "draws": json.dumps(rng.bit_generator.state), "log": log}
                keeper.save({name: part.state_dict() for name, part in parts.items()} | rest)
            advance(1)
    tail = log[-max(1, cfg.steps // 10) :]
    names = sorted({k for r in tail for k in r})
    enc = enc.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return enc.eval(), {k: float(np.mean([r[k] for r in tail if k in r])) for k in names}


def _slice_sampler(data: SliceData, cfg: PretrainConfig, rng: np.random.Generator) -> Callable[[], np.ndarray] | None:
    """Rows of slices with targets: of the archive's own and of sets that are mixed in, by `own_share`."""
    draws = []
    for rows in (np.flatnonzero(data.own), np.flatnonzero(~data.own)):
        known = rows[data.region[rows] >= 0]
        if known.size:
            # A third of each batch from slices with a measurable core, which teach the density, and a third from discs
            # and endplates: few slices of a scan show them, and taking one for a mid-vertebra is the costly mistake.
            core = rows[np.isfinite(data.trabecular_hu[rows])]
            between = rows[np.isfinite(data.vertebra[rows]) & (data.mid[rows] < 1 / 3)]
            draws.append((known, [r for r in (core, between) if r.size]))
    if not draws:
        return None
    first = round(cfg.batch * cfg.own_share) if len(draws) == 2 else cfg.batch
    sizes = [first, cfg.batch - first][: len(draws)]

    def draw() -> np.ndarray:
        out = []
        for (known, thirds), size in zip(draws, sizes, strict=True):
            n = size // 3
            out += [rng.choice(known, size - n * len(thirds)), *(rng.choice(r, n) for r in thirds)]
        return np.concatenate(out)

    return draw


def _bag_sampler(data: SliceData, rng: np.random.Generator) -> Callable[[], np.ndarray] | None:
    """Rows of `PATIENTS` patients with a DXA label, `BAG` slices each; None where nobody has one."""
    rows_of = {p: np.flatnonzero(data.patient == p) for p in np.flatnonzero(data.label >= 0)}
    labelled = [p for p, rows in rows_of.items() if rows.size]
    if not labelled:
        return None
    return lambda: np.concatenate([rng.choice(rows_of[p], BAG) for p in rng.choice(labelled, PATIENTS)])


def _slice_losses(
    f: SliceFeatures, data: SliceData, rows: np.ndarray, gain: torch.Tensor, offset: torch.Tensor
) -> dict[str, torch.Tensor]:
    device = f.embedding.device
    region = torch.from_numpy(data.region[rows]).long().to(device)
    mid = torch.from_numpy(data.mid[rows]).float().to(device)
    hu = torch.from_numpy(data.trabecular_hu[rows]).float().to(device) * gain + offset
    out = {"region": F.cross_entropy(f.region_logits, region, ignore_index=-1)}
    number = torch.from_numpy(data.vertebra[rows]).float().to(device)
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


def _patient_loss(
    head: LatentHead, f: SliceFeatures, data: SliceData, rows: np.ndarray, weight: float
) -> dict[str, torch.Tensor]:
    """The T-score's loss from each bag's mean embedding, slices weighed by the belief that they show lumbar middles."""
    belief = (f.region_logits.softmax(-1)[:, LUMBAR] * (0.1 + f.mid_logit.sigmoid())).detach()
    w = belief.unflatten(0, (-1, BAG))
    seen = w.sum(1) >= LEAST_BELIEF
    if not seen.any():
        return {}
    bags = f.embedding.unflatten(0, (-1, BAG))
    pooled = (w[..., None] * bags).sum(1) / w.sum(1, keepdim=True).clamp_min(1e-6)
    patient = data.patient[rows[::BAG]]
    label = torch.from_numpy(data.label[patient]).long().to(pooled.device)
    t_score = torch.from_numpy(data.t_score[patient]).float().to(pooled.device)
    return {"patient": weight * head(pooled[seen]).loss(label[seen], t_score[seen], 0.9).mean()}


def _part(f: SliceFeatures, rows: slice) -> SliceFeatures:
    return SliceFeatures(*(getattr(f, name)[rows] for name in SliceFeatures.__dataclass_fields__))


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
