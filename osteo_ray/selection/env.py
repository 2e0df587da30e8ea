"""DRLIS environment: take slices of a CT until you know enough (gymnasium).

One environment, two views. In `view: all` every slice of the z-grid is seen from the start and an
action keeps one (the paper's selection from a full sequence). In `view: coarse` a few evenly spaced
slices are seen; an action decodes its slice, if it was not yet seen, and takes it. The last action
stops. Of the slices taken at most `keep` are kept: what a slice shows is known once it is decoded, so a
few may be spare, and those that show least of L1-L4 fall out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field

from osteo_ray.config import Section
from osteo_ray.kdamm.pooling import AttentionPool
from osteo_ray.records.labels import CLASSES
from osteo_ray.selection.data import Scans, coarse_positions, on_target
from osteo_ray.selection.reward import RewardConfig, class_target, decision, dr_dsn, fold_of, information_gain

SLOT_EXTRA = 5  # looked, kept, valid, mm above the scan's foot end, mm below its head end
CONTEXT = 2 + len(CLASSES)  # taken share of the budget, looked share of the scan, class probabilities


class ViewConfig(Section):
    """What the policy sees and how much it may take; ships in the bundle."""

    view: Literal["all", "coarse"] = "coarse"
    positions: int = Field(64, ge=8, le=512, description="length T of the z-grid")
    coarse: int = Field(12, ge=1, description="slices seen at the start of the coarse view")
    keep: int = Field(6, ge=1, le=64, description="most slices kept")
    spare: int = Field(
        4,
        ge=0,
        le=64,
        description="slices taken beyond `keep`; those that the encoder believes least to show the middle of one of "
        "L1-L4 fall out. 0 where the encoder was pre-trained without slice targets",
    )


@dataclass
class Look:
    """State of looking at one scan: which grid positions were decoded, taken, kept."""

    embedding: np.ndarray  # float32 [T, D], 0 where not looked at
    valid: np.ndarray  # bool [T]
    z_mm: np.ndarray  # float32 [T]
    view: ViewConfig
    looked: np.ndarray = field(init=False)
    taken: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.looked = np.zeros(len(self.valid), bool)

    def take(self, position: int) -> int | None:
        """Take a slice that was looked at; returns what falls out for it (it may be the slice itself)."""
        self.taken.append(position)
        self.kept.append(position)
        if len(self.kept) <= self.view.keep:
            return None
        least = int(np.argmin(on_target(self.embedding[self.kept])))
        return self.kept.pop(least)

    @property
    def full(self) -> bool:
        """Whether nothing more may be taken."""
        return len(self.taken) >= min(self.view.keep + self.view.spare, int(self.valid.sum()))


def observe(look: Look, probs: np.ndarray) -> dict[str, np.ndarray]:
    """What the policy sees: the one definition for training and for screening.

    Returns:
        slots float32 [T, D + SLOT_EXTRA], context float32 [CONTEXT], action_mask float32 [T + 1].
    """
    n = int(look.valid.sum())
    kept = np.zeros(len(look.valid), np.float32)
    kept[look.kept] = 1.0
    z = look.z_mm
    low, high = (float(z[0]), float(z[n - 1])) if n else (0.0, 0.0)
    extra = np.stack(
        [
            look.looked.astype(np.float32),
            kept,
            look.valid.astype(np.float32),
            np.where(look.valid, (z - low) / 500.0, 0.0),
            np.where(look.valid, (high - z) / 500.0, 0.0),
        ],
        axis=1,
    )
    emb = np.where(look.looked[:, None], look.embedding, 0.0)
    mask = np.zeros(len(look.valid) + 1, np.float32)
    mask[:-1] = look.valid
    mask[look.taken] = 0.0
    # Nothing kept yet: stopping would decide from nothing.
    mask[-1] = float(bool(look.kept) or not mask[:-1].any())
    budget = look.view.keep + look.view.spare
    context = np.array([len(look.taken) / budget, look.looked.sum() / max(n, 1), *probs])
    return {
        "slots": np.concatenate([emb, extra], axis=1).astype(np.float32),
        "context": context.astype(np.float32),
        "action_mask": mask,
    }


def first_positions(n_valid: int, view: ViewConfig) -> np.ndarray:
    """Grid positions that are seen before the first action."""
    return np.arange(n_valid) if view.view == "all" else coarse_positions(n_valid, view.coarse)


@torch.no_grad()
def class_probs(scorers: Sequence[AttentionPool], look: Look) -> np.ndarray:
    """Mean class probabilities [3] of `scorers` from the kept slices; with none kept, from an empty bag."""
    k = max(len(look.kept), 1)
    bag = torch.zeros(1, k, look.embedding.shape[1])
    mask = torch.zeros(1, k, dtype=torch.bool)
    if look.kept:
        bag[0] = torch.from_numpy(look.embedding[look.kept])
        mask[:] = True
    return torch.stack([s(bag, mask).logits.softmax(-1)[0] for s in scorers]).mean(0).numpy()


class SliceSelectionEnv(gym.Env):
    """Episodes over labelled scans.

    env_config: `scans` (`Scans`), `scorers` (one per fold), `posteriors` [n, 3] (see `reward.posteriors`; may be
    absent where the reward's `posterior` is 0), `view`, `reward`, `seed`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, env_config: dict[str, Any]):
        self.scans: Scans = env_config["scans"]
        self.scorers: list[AttentionPool] = env_config["scorers"]
        self.view: ViewConfig = env_config["view"]
        self.reward: RewardConfig = env_config["reward"]
        self.posteriors: np.ndarray | None = env_config.get("posteriors")
        if self.posteriors is None and self.reward.posterior > 0:
            raise ValueError("the reward's target mixes in posteriors: give them, or set reward.posterior to 0")
        self.labelled = np.flatnonzero(self.scans.label >= 0)
        if self.labelled.size == 0:
            raise ValueError("no labelled scan to train the selection policy on")
        # Runners of one algorithm must not replay the same patients.
        worker = getattr(env_config, "worker_index", 0) * 1000 + getattr(env_config, "vector_index", 0)
        self._rng = np.random.default_rng([int(env_config.get("seed", 0)), worker])
        t, d = self.scans.embedding.shape[1:]
        self.observation_space = gym.spaces.Dict(
            {
                "slots": gym.spaces.Box(-np.inf, np.inf, (t, d + SLOT_EXTRA), np.float32),
                "context": gym.spaces.Box(-np.inf, np.inf, (CONTEXT,), np.float32),
                "action_mask": gym.spaces.Box(0.0, 1.0, (t + 1,), np.float32),
            }
        )
        self.action_space = gym.spaces.Discrete(t + 1)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin with a random labelled scan, or with scan `options["scan"]`."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.i = int((options or {}).get("scan", self._rng.choice(self.labelled)))
        s = self.scans
        share = self.reward.posterior
        posterior = self.posteriors[self.i] if self.posteriors is not None else np.zeros(len(CLASSES))
        self.target = class_target(int(s.label[self.i]), posterior, share)
        # Only the scorer that never saw this patient speaks here.
        self.judge = [self.scorers[fold_of(str(s.patient[self.i]), len(self.scorers))]]
        self.look = Look(s.embedding[self.i], s.valid[self.i], s.z_mm[self.i], self.view)
        self.look.looked[first_positions(int(self.look.valid.sum()), self.view)] = True
        self.probs = class_probs(self.judge, self.look)
        return observe(self.look, self.probs), {}

    def step(self, action: int):
        """Take grid position `action` (decode and keep), or stop with the last action."""
        stop = int(action) == len(self.look.valid)
        cfg, reward = self.reward, 0.0
        if not stop:
            if not self.look.valid[action] or action in self.look.taken:
                raise ValueError(f"action {action} is masked: not a slice, or taken already")
            if not self.look.looked[action]:
                reward -= cfg.look_cost
                self.look.looked[action] = True
            before = self.probs
            out = self.look.take(int(action))
            self.probs = class_probs(self.judge, self.look)
            reward += cfg.gain * information_gain(before, self.probs, self.target)
            gone = 0.0 if out is None else on_target(self.look.embedding[out])
            reward += cfg.level * float(on_target(self.look.embedding[action]) - gone)
        done = stop or self.look.full
        if done:
            reward += cfg.terminal * decision(self.probs, self.target)
            if cfg.dr_dsn:
                n = int(self.look.valid.sum())
                reward += cfg.dr_dsn * dr_dsn(self.look.embedding[:n], np.array(self.look.kept, int))
        return observe(self.look, self.probs), reward, done, False, {}
