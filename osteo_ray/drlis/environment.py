"""DRLIS environment: take slices of a CT until you know enough (gymnasium).

One environment, two views. In `view: all` every slice of the z-grid is seen from the start and an
action keeps one (the paper's selection from a full sequence). In `view: coarse` a few evenly spaced
slices are seen; an action decodes its slice, if it was not yet seen, and takes it. The last action
stops. Of the slices taken at most `keep` are kept: what a slice shows is known once it is decoded, so a
few may be spare, and those that show least of L1-L4 fall out.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from osteo_ray.drlis.config import RewardConfig
from osteo_ray.drlis.reward import class_target, decision, dr_dsn, fold_of, information_gain
from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import Scans, on_target
from osteo_ray.model.look import CONTEXT, SLOT_EXTRA, Look, first_positions, observe
from osteo_ray.model.policy import class_probs
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.patients.labels import CLASSES


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
