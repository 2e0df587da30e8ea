"""The selection reward and its scorer (pure; torch for the scorer).

Each term is its own function so that an episode's return can be computed by hand. The scorer that
turns kept slices into class probabilities is cross-fitted by patient: a patient's reward never comes
from a scorer that saw that patient's label.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from osteo_ray.drlis.config import ScorerConfig
from osteo_ray.model.embedding import Scans, p_lumbar, p_mid
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.outcomes import InputError
from osteo_ray.patients.labels import CLASSES
from osteo_ray.progress import progress_bar


def class_target(label: int, posterior: np.ndarray, share: float) -> np.ndarray:
    """What the reward takes for true [3]: the label as a one-hot vector, mixed with a posterior [3]."""
    return (1 - share) * np.eye(len(CLASSES))[label] + share * posterior


def information_gain(before: np.ndarray, after: np.ndarray, target: np.ndarray) -> float:
    """Gain in the expected log p(class) under `target`, clipped so that one slice can't dwarf the decision."""
    gain = target @ (np.log(np.maximum(after, 1e-6)) - np.log(np.maximum(before, 1e-6)))
    return float(np.clip(gain, -2.0, 2.0))


def decision(probs: np.ndarray, target: np.ndarray) -> float:
    """Expected outcome of deciding for the most probable class: +1 where right, -1 where wrong."""
    return float(2 * target[int(np.argmax(probs))] - 1)


def dr_dsn(embedding: np.ndarray, kept: np.ndarray) -> float:
    """Diversity-representativeness of the picks (Zhou et al. 2018, arXiv 1801.00054).

    Args:
        embedding: [n, D], every slice of the scan.
        kept: indices of the picks.

    Returns:
        (mean pairwise 1 - cosine among picks + exp(-mean distance of a slice to its nearest pick)) / 2.
    """
    if len(kept) == 0:
        return 0.0
    picks = embedding[kept]
    unit = picks / np.maximum(np.linalg.norm(picks, axis=1, keepdims=True), 1e-8)
    k = len(kept)
    diversity = float((1 - unit @ unit.T).sum() / (k * (k - 1))) if k > 1 else 0.0
    nearest = np.linalg.norm(embedding[:, None] - picks[None], axis=2).min(axis=1)
    return (diversity + float(np.exp(-nearest.mean()))) / 2


def fold_of(patient: str, folds: int) -> int:
    """A patient's cross-fitting fold, a function of the key alone: all scans of a patient share it."""
    return zlib.crc32(f"fold|{patient}".encode()) % folds


def fit_scorers(scans: Scans, cfg: ScorerConfig, max_keep: int, seed: int, quiet: bool = False) -> list[AttentionPool]:
    """One scorer per fold, each trained on the labelled patients of the other folds.

    Raises:
        InputError: where a fold's training part has fewer than two classes.
    """
    folds = np.array([fold_of(p, cfg.folds) for p in scans.patient])
    scorers = []
    with progress_bar("fit reward scorers", cfg.folds * cfg.steps, "step", quiet) as advance:
        for f in range(cfg.folds):
            rows = np.flatnonzero((folds != f) & (scans.label >= 0))
            if len(np.unique(scans.label[rows])) < 2:
                raise InputError(
                    f"cross-fitting fold {f}: its {len(rows)} labelled training scans have fewer than two classes; "
                    "give more labelled patients with CT, or fewer folds"
                )
            scorers.append(_fit_one(scans.take(rows), cfg, max_keep, seed * 1000 + f, advance))
    return scorers


@torch.no_grad()
def posteriors(scans: Scans, scorers: Sequence[AttentionPool], k: int) -> np.ndarray:
    """Class posterior [n, 3] of each scan from its k most promising slices; nobody by a scorer that saw the label."""
    worth = np.where(scans.valid, p_lumbar(scans.embedding) * (p_mid(scans.embedding) + 0.05), -1.0)
    best = np.argsort(-worth, axis=1)[:, :k]
    bag = torch.from_numpy(np.take_along_axis(scans.embedding, best[..., None], 1))
    mask = torch.from_numpy(np.take_along_axis(scans.valid, best, 1))
    fold = torch.tensor([fold_of(str(p), len(scorers)) for p in scans.patient])
    each = torch.stack([s(bag, mask).logits.softmax(-1) for s in scorers])
    return each[fold, torch.arange(len(scans))].numpy()


def random_bags(
    scans: Scans, rows: np.ndarray, max_keep: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bags of 1..max_keep slices: half drawn evenly over the scan, half where the lumbar spine is believed.

    Returns:
        bag float32 [len(rows), max_keep, D], mask bool [len(rows), max_keep].
    """
    n = len(rows)
    emb, valid = scans.embedding[rows], scans.valid[rows]
    weight = np.where(rng.random((n, 1)) < 0.5, 1.0, p_lumbar(emb) + 0.02)
    # Gumbel top-k draws without replacement in one go.
    keys = np.log(np.maximum(weight, 1e-9)) + rng.gumbel(size=valid.shape)
    order = np.argsort(-np.where(valid, keys, -np.inf), axis=1)[:, :max_keep]
    size = rng.integers(1, max_keep + 1, (n, 1))
    mask = (np.arange(max_keep)[None] < size) & np.take_along_axis(valid, order, 1)
    bag = np.take_along_axis(emb, order[..., None], 1) * mask[..., None]
    return torch.from_numpy(bag.astype(np.float32)), torch.from_numpy(mask)


def _fit_one(scans: Scans, cfg: ScorerConfig, max_keep: int, seed: int, advance) -> AttentionPool:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = AttentionPool(scans.embedding.shape[-1], len(CLASSES), dropout=cfg.dropout)
    opt = torch.optim.AdamW(net.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, cfg.lr, total_steps=cfg.steps)
    net.train()
    for _ in range(cfg.steps):
        rows = rng.integers(0, len(scans), cfg.batch)
        bag, mask = random_bags(scans, rows, max_keep, rng)
        loss = F.cross_entropy(net(bag, mask).logits, torch.from_numpy(scans.label[rows]))
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        advance(1)
    return net.eval()
