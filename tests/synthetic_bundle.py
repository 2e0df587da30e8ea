"""A small bundle with untrained networks and real calibrators: for the mechanics around the models."""

import numpy as np
import torch

from osteo_ray.model.bundle import Bundle
from osteo_ray.model.calibration import fit_calibrator
from osteo_ray.model.config import BundleConfig, EncoderConfig, ModelConfig, ViewConfig
from osteo_ray.model.encoder import SliceEncoder
from osteo_ray.model.networks import ImageTeacher, Student, TabularTeacher
from osteo_ray.model.novelty import Novelty
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.scoring_bundle import AnyCalibrator
from osteo_ray.model.standardise import Standardiser
from osteo_ray.patients.schema import FEATURES

PATTERNS = ("ct", "demographics+ct", "labs+ct", "demographics+labs+ct")


def synthetic_bundle(seed=0, patterns=PATTERNS, lumbar_threshold=0.0) -> Bundle:
    torch.manual_seed(seed)
    cfg = BundleConfig(
        encoder=EncoderConfig(width=8),
        view=ViewConfig(positions=16, coarse=4, keep=3, by_level=False),
        model=ModelConfig(tabular_width=16, tabular_k=4, hidden=8),
        policy_hidden=16,
    )
    n, dim = len(FEATURES), cfg.encoder.dim
    groups = [str(f.group) for f in FEATURES]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=200)
    y = np.where(x + rng.normal(size=200) > 0.5, 2, 0)
    student = Student(groups, cfg.features, cfg.model).eval()
    fitted = {p: fit_calibrator(p, x, y, seed) for p in patterns}
    calibrators: dict[str, AnyCalibrator] = {p: c for p, c in fitted.items() if c is not None}
    assert set(calibrators) == set(patterns)
    return Bundle(
        name="synthetic",
        version="0",
        config=cfg,
        standardiser=Standardiser(tuple(f.name for f in FEATURES), tuple(groups), (50.0,) * n, (20.0,) * n),
        encoder=SliceEncoder(cfg.encoder).eval(),
        policy=PolicyNet(dim, 16).eval(),
        reward_classifiers=[AttentionPool(dim, 3).eval() for _ in range(3)],
        tabular=TabularTeacher(n, cfg.model).eval(),
        image=ImageTeacher(cfg.features, cfg.model).eval(),
        student=student,
        background={
            "values": torch.randn(4, n).numpy(),
            "known": np.ones((4, n), np.float32),
            "ct": torch.randn(4, student.pool.width).numpy(),
        },
        calibrators=calibrators,
        scored_by={p: "image" if p == "ct" else "student" for p in patterns},
        conformal={p: [0.9, 0.9, 0.9] for p in patterns},
        conformal_level=0.9,
        novelty={k: Novelty(np.zeros(d), np.eye(d) * 1e4, 100.0) for k, d in (("image", dim), ("record", n))},
        threshold=0.4,
        operating_point="sensitivity 85% for osteoporosis on validation patients",
        lumbar_threshold=lumbar_threshold,
        metrics={"image_mean_log_odds": -0.5},
        card="# synthetic\n",
    )
