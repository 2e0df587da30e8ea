"""RLlib: train the slice-selection policy across env runners (new API stack; PPO or DQN with action masking).

    policy, curve = train_policy(scans, scorers, cfg, out="run/selection")

The scans lie once in Ray's object store and every env runner reads them there. What comes back is
plain torch; screening never imports RLlib.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.dqn.default_dqn_rl_module import QF_PREDS
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.schedules.scheduler import Scheduler
from sklearn.metrics import roc_auc_score

from osteo_ray.drlis.config import PolicyConfig, SelectionConfig
from osteo_ray.drlis.environment import SliceSelectionEnv
from osteo_ray.drlis.reward import posteriors
from osteo_ray.io.files import replaced
from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import Scans, on_target
from osteo_ray.model.look import SLOT_EXTRA
from osteo_ray.model.policy import MASKED, PolicyNet, select_each
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.patients.labels import CLASSES
from osteo_ray.progress import progress_bar

CHECKPOINT = "checkpoint.json"
"""Names the folder of the last whole checkpoint; the learning curve up to it."""


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


class MaskedDQNModule(DefaultDQNTorchRLModule):
    """Double DQN with `PolicyNet`'s logits as action values, -inf where masked. `model_config`: `hidden`, `epsilon`."""

    def setup(self) -> None:
        space: Any = self.observation_space
        config: Any = self.model_config
        self.uses_dueling, self.uses_double_q, self.num_atoms = False, True, 1
        self.epsilon_schedule = Scheduler(fixed_value_or_schedule=config["epsilon"], framework="torch")
        self.net = PolicyNet(space["slots"].shape[1] - SLOT_EXTRA, config["hidden"])

    def make_target_networks(self) -> None:
        self._target_net = make_target_network(self.net)

    def get_non_inference_attributes(self) -> list[str]:
        return ["_target_net"]

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        return [(self.net, self._target_net)]

    def get_initial_state(self) -> dict:
        return {}

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self._values(self.net, batch)

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self._values(self._target_net, batch)

    def _values(self, net: Any, batch: dict[str, Any]) -> dict[str, Any]:
        q = net.logits_and_summary(batch[Columns.OBS])[0]
        return {QF_PREDS: q.masked_fill(q <= MASKED, float("-inf"))}


def make_env(env_config: Any) -> SliceSelectionEnv:
    """Build the environment in a runner, reading scans and scorers from the object store."""
    for key in ("scans", "scorers", "posteriors"):
        if isinstance(env_config[key], ray.ObjectRef):
            env_config[key] = ray.get(env_config[key])
    return SliceSelectionEnv(env_config)


def build_algorithm(scans: Scans, scorers: list[AttentionPool], cfg: SelectionConfig, seed: int) -> Any:
    """The RLlib algorithm, ready for `.train()`; Ray must be running."""
    from ray.rllib.algorithms.dqn import DQNConfig
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
    # Sampling and shuffling draw from the process-wide generators.
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (RLlib's own draws)
    torch.manual_seed(seed)
    model: dict[str, Any] = {"hidden": p.hidden}
    algo: Any
    if p.algorithm == "ppo":
        module = MaskedPPOModule
        algo = PPOConfig().training(
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
    else:
        module = MaskedDQNModule
        epsilon = [(0, 1.0), (p.explore_steps, 0.05)]
        model["epsilon"] = epsilon
        algo = DQNConfig().training(
            train_batch_size_per_learner=p.minibatch,
            lr=p.lr,
            gamma=p.gamma,
            double_q=True,
            dueling=False,
            num_atoms=1,
            epsilon=epsilon,
            target_network_update_freq=p.target_every,
            num_steps_sampled_before_learning_starts=p.minibatch,
            replay_buffer_config={"type": "PrioritizedEpisodeReplayBuffer", "capacity": p.replay},
            training_intensity=p.minibatch / 4,  # an update every four steps
            grad_clip=1,
        )
    return (
        algo.environment("slice_selection", env_config=env_config)
        .env_runners(num_env_runners=_runners(p), num_envs_per_env_runner=p.envs_per_runner)
        .learners(num_learners=p.learners, num_gpus_per_learner=p.learner_gpus)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=module, model_config=model))
        .debugging(seed=seed, log_level="ERROR")
        .build_algo()
    )


def _runners(p: PolicyConfig) -> int:
    """Sampling actors: as configured, or one for each core that nothing uses yet, less those of remote learners."""
    if p.env_runners is not None:
        return p.env_runners
    free = int(ray.available_resources().get("CPU", 0.0))
    return max(1, free - max(1, p.learners))


@torch.no_grad()
def assess(policy: PolicyNet, scorers: list[AttentionPool], scans: Scans, view: ViewConfig) -> dict[str, float]:
    """How the greedy policy does on scans that the scorers never saw.

    Returns:
        val_decoded: slices decoded a scan. val_kept: slices kept. val_on_target: mean belief that a kept slice shows
        the middle of one of L1-L4. val_auc: osteoporosis against normal by the scorers' mean; NaN without both.
    """
    decoded, kept, target, log_odds = [], [], [], []
    for s in select_each(scans, policy, scorers, view):
        e = s.embedding[s.kept]
        bag = torch.from_numpy(e)[None]
        p = torch.stack([j(bag, torch.ones(1, len(e), dtype=torch.bool)).logits[0] for j in scorers]).mean(0)
        decoded.append(int(s.looked.sum()))
        kept.append(len(s.kept))
        target.append(float(on_target(e).mean()))
        log_odds.append(float(p[CLASSES.index("osteoporosis")] - p[CLASSES.index("normal")]))
    y = scans.label
    two = (y == CLASSES.index("osteoporosis")) | (y == CLASSES.index("normal"))
    sick = y[two] == CLASSES.index("osteoporosis")
    auc = roc_auc_score(sick, np.array(log_odds)[two]) if 0 < sick.sum() < len(sick) else np.nan
    return {
        "val_decoded": float(np.mean(decoded)),
        "val_kept": float(np.mean(kept)),
        "val_on_target": float(np.mean(target)),
        "val_auc": float(auc),
    }


def train_policy(
    scans: Scans,
    scorers: list[AttentionPool],
    cfg: SelectionConfig,
    out: str | Path,
    seed: int,
    quiet: bool = False,
    val: Scans | None = None,
    watch: Callable[[int, PolicyNet], None] | None = None,
    saved: Callable[[], object] = lambda: None,
) -> tuple[PolicyNet, list[dict[str, float]]]:
    """Train until `env_steps`, with a checkpoint in `out` every `checkpoint_every` steps; one that is there is carried
    on. The learning curve goes to TensorBoard files in `<out>/tensorboard` as well.

    Args:
        val: scans of patients that neither policy nor scorers are trained on, looked at every `assess_every` steps.
        watch: given the steps done and a copy of the policy, as often.
        saved: called when a checkpoint has been written.

    Returns:
        The policy as plain torch in eval mode, and one row per iteration: env_steps, episode_return,
        episode_length, and where `val` was looked at what `assess` says.
    """
    from tensorboardX import SummaryWriter

    folder = Path(out).absolute()
    algo = build_algorithm(scans, scorers, cfg, seed)
    p = cfg.policy
    try:
        curve = _carried_on(algo, folder)
        steps = int(curve[-1]["env_steps"]) if curve else 0
        with (
            progress_bar("train selection policy", p.env_steps, "step", quiet) as advance,
            SummaryWriter(str(folder / "tensorboard")) as board,
        ):
            advance(min(steps, p.env_steps))
            while steps < p.env_steps:
                r = algo.train()
                now = int(r["num_env_steps_sampled_lifetime"])
                advance(min(now, p.env_steps) - min(steps, p.env_steps))
                runners = r["env_runners"]
                row = {
                    "env_steps": now,
                    "episode_return": float(runners.get("episode_return_mean", np.nan)),
                    "episode_length": float(runners.get("episode_len_mean", np.nan)),
                }
                due = now // p.assess_every > steps // p.assess_every or now >= p.env_steps
                if val is not None and due:
                    row |= assess(_plain(algo), scorers, val, cfg.view)
                if watch is not None and due:
                    watch(now, _plain(algo))
                before, steps = steps, now
                for name, value in row.items():
                    board.add_scalar(f"selection/{name}", value, steps)
                curve.append(row)
                if now // p.checkpoint_every > before // p.checkpoint_every or now >= p.env_steps:
                    _keep(algo, curve, folder)
                    saved()
        policy = _plain(algo)
    finally:
        algo.stop()
    return policy, curve


def _keep(algo: Any, curve: list[dict[str, float]], out: Path) -> None:
    """Write a checkpoint; whoever is killed meanwhile, or copies the folder file by file, has the one before."""
    folder = out / f"checkpoint-{curve[-1]['env_steps']}"
    algo.save_to_path(folder)
    with replaced(out / CHECKPOINT) as tmp:
        tmp.write_text(json.dumps({"folder": folder.name, "curve": curve}))
    for old in out.glob("checkpoint-*"):
        if old != folder:
            shutil.rmtree(old)


def _carried_on(algo: Any, out: Path) -> list[dict[str, float]]:
    """Put an algorithm where its checkpoint was written; the learning curve up to there, [] without a checkpoint."""
    if not (out / CHECKPOINT).exists():
        return []
    kept = json.loads((out / CHECKPOINT).read_text())
    algo.restore_from_path(out / kept["folder"])
    return kept["curve"]


def _plain(algo: Any) -> PolicyNet:
    """A copy of the algorithm's network, without RLlib, in eval mode (a copy: making one anew would draw weights)."""
    return copy.deepcopy(algo.get_module().net).cpu().eval()
