"""Typed configs of DRLIS: reward, the reward's classifiers, policy training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteo_ray.config import Section
from osteo_ray.model.config import ViewConfig


class RewardConfig(Section):
    """Weights of the reward's terms."""

    gain: float = Field(1.0, description="weight of each step's gain in expected log probability of the class, per nat")
    terminal: float = Field(0.1, ge=0, description="+ for a right, - for a wrong decision at the end")
    level: float = Field(
        0.1,
        ge=0,
        description="per slice kept: times the encoder's belief that it shows the middle of one of L1-L4. Other bones "
        "carry nearly the same signal in a scan, but only these levels have published thresholds. 0 where the encoder "
        "was pre-trained without slice targets",
    )
    look_cost: float = Field(0.001, ge=0, description="cost of each slice decoded")
    posterior: float = Field(
        0.9,
        ge=0,
        le=1,
        description="share of the class target that is the scorer's own cross-fitted posterior from the scan's best "
        "slices; 0: the DXA label alone, whose noise hides what one slice adds",
    )
    dr_dsn: float = Field(
        0.0, ge=0, description="weight of diversity + representativeness at the end (0.1 in the literature)"
    )


class ScorerConfig(Section):
    """The reward's scorer and its cross-fitting."""

    folds: int = Field(
        3, ge=2, le=20, description="parts of the patients; a part is scored by the classifier trained on the others"
    )
    steps: int = Field(400, ge=1, description="gradient steps of each fold's classifier")
    batch: int = Field(64, ge=2, description="scans of one gradient step")
    lr: float = Field(2e-3, gt=0, description="highest learning rate of the schedule")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's weight decay")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of hidden units dropped in training")
    posterior_slices: int = Field(16, ge=1, description="slices behind the posterior in the reward's target")


class PolicyConfig(Section):
    """The algorithm, its budget and knobs."""

    algorithm: Literal["ppo", "dqn"] = Field("ppo", description="RLlib's algorithm: PPO, or double DQN")
    hidden: int = Field(48, ge=8, description="width of the policy's layers")
    env_steps: int = Field(40_000, ge=1, description="slices looked at in the whole training")
    env_runners: int | None = Field(
        1,
        ge=0,
        description="remote sampling actors; 0 samples in the learner's process, null: as many as the cluster has free "
        "cores when training starts",
    )
    learners: int = Field(0, ge=0, description="remote learner actors; 0 learns in the driver's process")
    learner_gpus: float = Field(0.0, ge=0, description="GPUs of each learner; 0: on CPU")
    envs_per_runner: int = Field(16, ge=1, description="episodes that each sampling actor runs side by side")
    batch: int = Field(2048, ge=64, description="ppo: steps of one update")
    minibatch: int = Field(256, ge=16, description="steps of one gradient step")
    epochs: int = Field(8, ge=1, description="ppo: passes over each batch")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    entropy: float = Field(0.01, ge=0, description="ppo: weight of the policy's entropy in the loss")
    gamma: float = Field(0.99, gt=0, le=1, description="discount of a reward one step later")
    gae_lambda: float = Field(0.95, gt=0, le=1, description="ppo: lambda of generalised advantage estimation")
    assess_every: int = Field(5000, ge=1, description="env steps between looks at the validation scans")
    checkpoint_every: int = Field(
        5000, ge=1, description="env steps between checkpoints; a training that was cut short goes on from the last one"
    )
    replay: int = Field(20_000, ge=256, description="dqn: steps kept for replay")
    explore_steps: int = Field(10_000, ge=1, description="dqn: steps over which random actions fall from 100 to 5 %")
    target_every: int = Field(500, ge=1, description="dqn: steps between updates of the target network")


class SelectionConfig(Section):
    """DRLIS: everything that selecting slices needs."""

    view: ViewConfig = ViewConfig()
    reward: RewardConfig = RewardConfig()
    scorer: ScorerConfig = ScorerConfig()
    policy: PolicyConfig = PolicyConfig()


class GumbelConfig(Section):
    """The learned control: per-slice scores trained with their classifier through Gumbel top-k."""

    steps: int = Field(600, ge=1, description="gradient steps")
    batch: int = Field(64, ge=2, description="scans of one gradient step")
    lr: float = Field(2e-3, gt=0, description="highest learning rate of the schedule")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's weight decay")
    temperature: float = Field(0.5, gt=0, description="of the relaxed draw; lower is nearer to a hard choice")
    hidden: int = Field(32, ge=4, description="width of the score's hidden layer")
