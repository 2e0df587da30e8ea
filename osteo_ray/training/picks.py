"""The policy's picks of embedded scans, as the models read them (plain torch)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import Scans
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.selection import Selection, select_each
from osteo_ray.progress import progress_bar
from osteo_ray.training.prepare import Prepared


def picked(
    p: Prepared, policy: PolicyNet, scorers: list[AttentionPool], key: str, view: ViewConfig, quiet: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """`pick_bags` of the run's scans as a stage; `key` is the selection stage's."""

    def work(folder: Path) -> None:
        bags, masks = pick_bags(p.people.scans, policy, scorers, view, quiet)
        save_file({"bags": bags, "masks": masks}, folder / "picks.safetensors")

    got = load_file(p.stages.run("picks", key, work) / "picks.safetensors")
    return got["bags"], got["masks"]


def selections(
    scans: Scans, policy: PolicyNet, scorers: list[AttentionPool], view: ViewConfig, quiet: bool = False
) -> Iterator[Selection]:
    """What the policy looks at and keeps, scan by scan."""
    with progress_bar("select slices", len(scans), "scan", quiet) as advance:
        for s in select_each(scans, policy, scorers, view):
            yield s
            advance(1)


def pick_bags(
    scans: Scans, policy: PolicyNet, scorers: list[AttentionPool], view: ViewConfig, quiet: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The policy's picks of every scan: embeddings float32 [S, keep, D] and mask bool [S, keep]."""
    bags = np.zeros((len(scans), view.keep, scans.embedding.shape[-1]), np.float32)
    masks = np.zeros(bags.shape[:2], bool)
    for i, s in enumerate(selections(scans, policy, scorers, view, quiet)):
        bags[i, : len(s.kept)] = s.embedding[s.kept]
        masks[i, : len(s.kept)] = True
    return bags, masks
