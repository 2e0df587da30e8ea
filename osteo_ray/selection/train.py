"""RLlib: train the slice-selection policy across env runners (new API stack, PPO with action masking).

    policy, curve = train_policy(scans, scorers, cfg, out="run/selection")

The scans lie once in Ray's object store and every env runner reads them there. What comes back is
plain torch; screening never imports RLlib.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule

from osteo_ray.config import Section
from osteo_ray.kdamm.pooling import AttentionPool
from osteo_ray.progress import stage
from osteo_ray.selection.data import Scans
from osteo_ray.selection.env import SLOT_EXTRA, SliceSelectionEnv, ViewConfig
from osteo_ray.selection.policy import PolicyNet
from osteo_ray.selection.reward import RewardConfig, ScorerConfig, posteriors


class PolicyConfig(Section):
    """PPO's budget and knobs."""

    hidden: int = Field(48, ge=8)
    env_steps: int = Field(40_000, ge=1)
    env_runners: int = Field(1, ge=0, description="remote sampling actors; 0 samples in the learner's process")
    envs_per_runner: int = Field(16, ge=1)
    batch: int = Field(2048, ge=64)
    minibatch: int = Field(256, ge=16)
    epochs: int = Field(8, ge=1)
    lr: float = Field(1e-3, gt=0)
    entropy: float = Field(0.01, ge=0)
    gamma: float = Field(0.99, gt=0, le=1)
    gae_lambda: float = Field(0.95, gt=0, le=1)


class SelectionConfig(Section):
    """DRLIS: everything that selecting slices needs."""

    view: ViewConfig = ViewConfig()
    reward: RewardConfig = RewardConfig()
    scorer: ScorerConfig = ScorerConfig()
    policy: PolicyConfig = PolicyConfig()


class MaskedPPOModule(TorchRLModule, ValueFunctionAPI):
    """Actor-critic whose masked actions have probability 0. `model_config`: `hidden`."""

    def setup(self) -> None:
        space: Any = self.observation_space
        config: Any = self.model_config
        self.net = PolicyNet(space["slots"].shape[1] - SLOT_EXTRA, config["hidden"])

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        logits, summary = self.net.logits_and_summary(batch[Columns.OBS])
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.EMBEDDINGS: summary}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Any:
        if embeddings is None:
            embeddings = self.net.logits_and_summary(batch[Columns.OBS])[1]
        return self.net.value(embeddings)[:, 0]


def make_env(env_config: Any) -> SliceSelectionEnv:
    """Build the environment in a runner, reading scans and scorers from the object store."""
    import ray

    for key in ("scans", "scorers", "posteriors"):
        if isinstance(env_config[key], ray.ObjectRef):
            env_config[key] = ray.get(env_config[key])
    return SliceSelectionEnv(env_config)


def build_algorithm(scans: Scans, scorers: list[AttentionPool], cfg: SelectionConfig, seed: int) -> Any:
    """The RLlib algorithm, ready for `.train()`; Ray must be running."""
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.tune.registry import register_env

    register_env("slice_selection", make_env)
    p = cfg.policy
    env_config = {
        "scans": ray.put(scans),
        "scorers": ray.put(scorers),
        "posteriors": ray.put(posteriors(scans, scorers, cfg.scorer.posterior_slices)),
        "view": cfg.view,
        "reward": cfg.reward,
        "seed": seed,
    }
    return (
        PPOConfig()
        .environment("slice_selection", env_config=env_config)
        .env_runners(num_env_runners=p.env_runners, num_envs_per_env_runner=p.envs_per_runner)
        .learners(num_learners=0)
        .training(
            train_batch_size_per_learner=p.batch,
            minibatch_size=p.minibatch,
            num_epochs=p.epochs,
            lr=p.lr,
            entropy_coeff=p.entropy,
            gamma=p.gamma,
            lambda_=p.gae_lambda,
            vf_clip_param=10.0,
            grad_clip=1.0,
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=MaskedPPOModule, model_config={"hidden": p.hidden}))
        .debugging(seed=seed, log_level="ERROR")
        .build_algo()
    )


def train_policy(
    scans: Scans,
    scorers: list[AttentionPool],
    cfg: SelectionConfig,
    out: str | Path,
    seed: int,
    quiet: bool = False,
) -> tuple[PolicyNet, list[dict[str, float]]]:
    """Train until `env_steps`; a checkpoint in `out`, if there is one, is carried on.

    Returns:
        The policy as plain torch in eval mode, and one row per iteration: env_steps, episode_return,
        episode_length.
    """
    folder = Path(out).absolute() / "checkpoint"
    algo = build_algorithm(scans, scorers, cfg, seed)
    curve: list[dict[str, float]] = []
    try:
        steps = 0
        if (folder / "rllib_checkpoint.json").exists():
            algo.restore_from_path(folder)
            steps = int(algo.metrics.peek("num_env_steps_sampled_lifetime", default=0))
        with stage("train selection policy", cfg.policy.env_steps, "step", quiet) as advance:
            advance(min(steps, cfg.policy.env_steps))
            while steps < cfg.policy.env_steps:
                r = algo.train()
                now = int(r["num_env_steps_sampled_lifetime"])
                advance(min(now, cfg.policy.env_steps) - min(steps, cfg.policy.env_steps))
                steps = now
                runners = r["env_runners"]
                curve.append(
                    {
                        "env_steps": steps,
                        "episode_return": float(runners["episode_return_mean"]),
                        "episode_length": float(runners["episode_len_mean"]),
                    }
                )
        algo.save_to_path(folder)
        net = algo.get_module().net
        policy = PolicyNet(scans.embedding.shape[-1], cfg.policy.hidden)
        policy.load_state_dict({k: torch.as_tensor(v).cpu() for k, v in net.state_dict().items()})
    finally:
        algo.stop()
    return policy.eval(), curve
