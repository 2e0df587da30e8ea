"""Environment steps a second: RLlib against a bare loop over the same environments with the same network.

    python benchmarks/selection.py --set rounds=5

Synthetic scans of the production shape (the speed does not depend on what they show). Sampling alone and sampling with
PPO's updates are timed in turns, one core each; the bare loop makes the same forward passes, draws from the same masked
distribution, and for updates takes the same number of gradient steps on minibatches of the same size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from osteo_ray import ray_setup
from osteo_ray.config import Section, load
from osteo_ray.drlis.config import PolicyConfig, ScorerConfig, SelectionConfig
from osteo_ray.drlis.environment import SliceSelectionEnv
from osteo_ray.drlis.reward import fit_scorers, posteriors
from osteo_ray.drlis.rllib import build_algorithm
from osteo_ray.model.config import EncoderConfig
from osteo_ray.model.embedding import Scans
from osteo_ray.model.policy import PolicyNet


class Speed(Section):
    """What is timed."""

    scans: int = 200
    rounds: int = 5
    selection: SelectionConfig = SelectionConfig(
        scorer=ScorerConfig(steps=20), policy=PolicyConfig(env_runners=0, env_steps=1)
    )


def drawn_scans(n: int, t: int, dim: int) -> Scans:
    """Scans of the right shape; their content is noise."""
    rng = np.random.default_rng(0)
    z = np.broadcast_to(np.arange(t) * 5.0, (n, t)).astype(np.float32)
    names = np.array([f"p{i}" for i in range(n)])
    label = rng.integers(0, 3, n)
    return Scans(rng.normal(size=(n, t, dim)).astype(np.float32), np.ones((n, t), bool), z, label, names, names)


def stacked(obs: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Observations of several environments as one batch."""
    return {k: torch.from_numpy(np.stack([o[k] for o in obs])) for k in obs[0]}


class Bare:
    """Environments stepped by hand."""

    def __init__(self, cfg: SelectionConfig, env_config: dict[str, Any], dim: int):
        self.p = cfg.policy
        self.net = PolicyNet(dim, self.p.hidden)
        self.opt = torch.optim.Adam(self.net.parameters(), lr=self.p.lr)
        self.envs: list[gym.Env] = [SliceSelectionEnv(env_config | {"seed": i}) for i in range(self.p.envs_per_runner)]
        self.obs = [e.reset()[0] for e in self.envs]

    def sample(self, steps: int) -> list[dict[str, torch.Tensor]]:
        """`steps` environment steps; what was seen."""
        seen = []
        for _ in range(steps // len(self.envs)):
            batch = stacked(self.obs)
            with torch.no_grad():
                logits, _ = self.net(batch)
                action = torch.distributions.Categorical(logits=logits).sample()
            for i, env in enumerate(self.envs):
                o, _, done, *_ = env.step(int(action[i]))
                self.obs[i] = env.reset()[0] if done else o
            seen.append(batch | {"action": action})
        return seen

    def train(self) -> None:
        """One batch sampled, and as many gradient steps as PPO takes on it."""
        seen = self.sample(self.p.batch)
        data = {k: torch.cat([s[k] for s in seen]) for k in seen[0]}
        for _ in range(self.p.epochs):
            for rows in torch.randperm(self.p.batch).split(self.p.minibatch):
                part = {k: v[rows] for k, v in data.items()}
                logits, value = self.net(part)
                chosen = torch.distributions.Categorical(logits=logits)
                loss = -chosen.log_prob(part["action"]).mean() - chosen.entropy().mean() + value.square().mean()
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()


def main() -> None:
    """Time both in turns and print steps a second and the ratio."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--set", nargs="+", action="extend", default=[])
    cfg = load(Speed, None, p.parse_args().set)
    torch.set_num_threads(1)
    ray_setup.start(num_cpus=2)
    sel, dim = cfg.selection, EncoderConfig().dim
    scans = drawn_scans(cfg.scans, sel.view.positions, dim)
    scorers = fit_scorers(scans, sel.scorer, sel.view.keep, 0, quiet=True)
    algo = build_algorithm(scans, scorers, sel, 0)
    beliefs = posteriors(scans, scorers, sel.scorer.posterior_slices)
    config = {"scans": scans, "scorers": scorers, "posteriors": beliefs, "view": sel.view, "reward": sel.reward}
    bare = Bare(sel, config, dim)
    n = sel.policy.batch
    timed: dict[str, Callable[[], Any]] = {
        "sampling, bare loop": lambda: bare.sample(n),
        "sampling, RLlib": lambda: algo.env_runner.sample(num_timesteps=n, random_actions=False),
        "training, bare loop": bare.train,
        "training, RLlib": algo.train,
    }
    rate: dict[str, list[float]] = {k: [] for k in timed}
    for r in range(cfg.rounds + 1):
        for name, work in timed.items():
            t = time.perf_counter()
            work()
            if r:  # the first round warms up
                rate[name].append(n / (time.perf_counter() - t))
    for name, values in rate.items():
        print(f"{name:22s} {np.median(values):7.0f} steps/s  ({min(values):.0f} to {max(values):.0f})")
    for what in ("sampling", "training"):
        each = np.array(rate[f"{what}, RLlib"]) / np.array(rate[f"{what}, bare loop"])
        print(f"{what}: RLlib / bare loop {np.median(each):.2f} ({each.min():.2f} to {each.max():.2f})")
    algo.stop()


if __name__ == "__main__":
    main()
