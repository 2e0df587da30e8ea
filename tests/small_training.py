"""A training config that is done in a minute: every stage, no result worth a thing."""

from typing import Any

TRAIN: dict[str, Any] = {
    "seed": 2,
    "split": {"val": 0.3},
    "pretrain": {"steps": 40, "batch": 24},
    "encoder": {"width": 8},
    "selection": {
        "view": {"positions": 16, "coarse": 4, "keep": 3, "by_level": False},
        "scorer": {"steps": 30},
        "policy": {"env_steps": 300, "env_runners": 0, "envs_per_runner": 4, "batch": 150, "minibatch": 75, "epochs": 1,
                   "assess_every": 150},
    },
    "kdamm": {
        "model": {"tabular_width": 16, "tabular_k": 4, "hidden": 16},
        "tabular": {"epochs": 4},
        "image": {"epochs": 6},
        "student": {"epochs": 6},
        "distill": {"teacher_folds": 2},
    },
}  # fmt: skip
