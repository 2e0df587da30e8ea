"""The policy's picks of embedded scans: what it looked at, what it kept, and the bags that the models read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from osteo_ray.model.abstention import ScanView
from osteo_ray.model.acquisition import Acquisition
from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import Scans
from osteo_ray.model.policy import PolicyNet, select_each
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.selection import Selection, read_positions
from osteo_ray.progress import progress_bar
from osteo_ray.training.prepare import Prepared


@dataclass(frozen=True)
class Picks:
    """Of S scans, at most `keep` slices each; the models read K of them (`selection.read_positions`)."""

    bags: (
        np.ndarray
    )  # float32 [S, K, D], embeddings of the slices that are read, the kept ones first, as they were taken
    masks: np.ndarray  # bool [S, K]
    kept: np.ndarray  # int32 [S, keep], grid positions, -1 where there is none
    looked: np.ndarray  # bool [S, T], grid positions that were decoded

    def of_kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Bags float32 [S, keep, D] and masks bool [S, keep] of the kept slices alone."""
        kept = self.kept >= 0
        return np.where(kept[..., None], self.bags[:, : kept.shape[1]], np.float32(0)), kept

    def views(self, scans: Scans, scanned: Acquisition) -> list[ScanView]:
        """What the policy saw of each of the scans that these picks are of, as `abstention` asks for it."""
        out = []
        for i in range(len(scans)):
            embedding = np.where(self.looked[i][:, None], scans.embedding[i], 0.0)
            kept = self.kept[i][self.kept[i] >= 0].astype(int)
            kvp = float(scanned.kvp[i])
            view = Selection(kept, self.looked[i], embedding)
            out.append(ScanView(view, scans.z_mm[i][scans.valid[i]], kvp if np.isfinite(kvp) else None))
        return out


def picked(
    p: Prepared, policy: PolicyNet, scorers: list[AttentionPool], key: str, view: ViewConfig, quiet: bool = False
) -> Picks:
    """`pick_slices` of the run's scans as a step; `key` is the selection step's."""

    def work(folder: Path) -> None:
        found = pick_slices(p.people.scans, policy, scorers, view, quiet)
        save_file({k: getattr(found, k) for k in Picks.__dataclass_fields__}, folder / "picks.safetensors")

    return Picks(**load_file(p.stages.run("picks", key, work) / "picks.safetensors"))


def pick_slices(
    scans: Scans, policy: PolicyNet, scorers: list[AttentionPool], view: ViewConfig, quiet: bool = False
) -> Picks:
    """Run the policy over every scan."""
    n, t, dim = scans.embedding.shape
    most = view.keep if view.read == "kept" else t
    bags, masks = np.zeros((n, most, dim), np.float32), np.zeros((n, most), bool)
    kept = np.full((n, view.keep), -1, np.int32)
    looked = np.zeros((n, t), bool)
    with progress_bar("select slices", n, "scan", quiet) as advance:
        for i, s in enumerate(select_each(scans, policy, scorers, view)):
            read, k = read_positions(s, view), len(s.kept)
            bags[i, : len(read)], masks[i, : len(read)] = s.embedding[read], True
            kept[i, :k], looked[i] = s.kept, s.looked
            advance(1)
    most = max(view.keep, int(masks.sum(1).max(initial=0)))
    return Picks(bags[:, :most], masks[:, :most], kept, looked)
