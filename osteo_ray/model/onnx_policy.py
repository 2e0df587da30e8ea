"""The slice policy and the reward's classifiers as one ONNX model: a step of the selection in a tenth of torch's time.

    bundle.policy_onnx = exported(bundle.policy, bundle.reward_classifiers, view, dim)    # when a bundle is trained
    step = step_of(bundle, threads=1)                                                     # when a scorer starts
    logits = step(look)                                                                   # float32 [T + 1]

These networks are small: torch spends most of a step on calling them. A bundle of before runs in torch.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from osteo_ray.model.bundle_files import BundleError
from osteo_ray.model.config import ViewConfig
from osteo_ray.model.look import Look, observe
from osteo_ray.model.onnx_encoder import OPSET, session
from osteo_ray.model.policy import MASKED, PolicyNet
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.selection import Step, torch_step
from osteo_ray.patients.labels import CLASSES

if TYPE_CHECKING:
    from osteo_ray.model.bundle import Bundle

SAME_LOGITS = 1e-3
"""Largest difference of a logit from torch's; the logits of one step spread over several units."""
NAMES = ("slots", "shares", "action_mask", "bag", "bag_mask")


class _Step(nn.Module):
    def __init__(self, policy: PolicyNet, scorers: Sequence[AttentionPool]):
        super().__init__()
        self.policy, self.scorers = policy, nn.ModuleList(scorers)

    def forward(
        self,
        slots: torch.Tensor,
        shares: torch.Tensor,
        action_mask: torch.Tensor,
        bag: torch.Tensor,
        bag_mask: torch.Tensor,
    ) -> torch.Tensor:
        probs = torch.stack([s(bag, bag_mask).logits.softmax(-1) for s in self.scorers]).mean(0)
        seen = {"slots": slots, "context": torch.cat([shares, probs], 1), "action_mask": action_mask}
        return self.policy.logits_and_summary(seen)[0]


def exported(policy: PolicyNet, scorers: Sequence[AttentionPool], view: ViewConfig, dim: int) -> bytes:
    """The ONNX model of one step.

    Args:
        dim: of an embedding.

    Raises:
        ValueError: what the model computes is not what torch computes.
    """
    inputs = _inputs(looks(view, dim)[0])
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "policy.onnx"
        warnings.simplefilter("ignore", DeprecationWarning)  # as for the encoder
        torch.onnx.export(
            _Step(policy, scorers).eval(), tuple(torch.from_numpy(inputs[n]) for n in NAMES), out, dynamo=False,
            opset_version=OPSET, input_names=list(NAMES), output_names=["logits"],
        )  # fmt: skip
        model = out.read_bytes()
    _same(torch_step(policy, scorers), _by_onnx(model, 1), view, dim)
    return model


def step_of(bundle: Bundle, threads: int) -> Step:
    """What runs a bundle's policy on the CPU.

    Raises:
        BundleError: the ONNX model is not that of the bundle's weights.
    """
    by_torch = torch_step(bundle.policy, bundle.reward_classifiers)
    if not bundle.policy_onnx:
        return by_torch
    by_onnx = _by_onnx(bundle.policy_onnx, threads)
    try:
        _same(by_torch, by_onnx, bundle.config.view, bundle.config.encoder.dim)
    except ValueError as e:
        raise BundleError(f"{bundle.name} {bundle.version}: {e}; save the bundle again with this version") from None
    return by_onnx


def _by_onnx(model: bytes, threads: int) -> Step:
    run = session(model, threads).run

    def step(look: Look) -> np.ndarray:
        return run(["logits"], _inputs(look))[0][0]

    return step


def _inputs(look: Look) -> dict[str, np.ndarray]:
    """The model's inputs of one look, each with a leading batch axis of 1."""
    seen = observe(look, np.zeros(len(CLASSES)))
    keep, dim = look.view.keep, look.embedding.shape[1]
    bag, mask = np.zeros((1, keep, dim), np.float32), np.zeros((1, keep), bool)
    n = len(look.kept)
    bag[0, :n], mask[0, :n] = look.embedding[look.kept], True
    parts = (seen["slots"], seen["context"][: -len(CLASSES)], seen["action_mask"])
    return dict(zip(NAMES, (*(p[None] for p in parts), bag, mask), strict=True))


def looks(view: ViewConfig, dim: int) -> list[Look]:
    """Two looks at one scan, before and after slices were taken; always the same."""
    rng, t = np.random.default_rng(0), view.positions
    out = []
    for taken in (0, view.keep):
        look = Look(np.zeros((t, dim), np.float32), np.arange(t) < t - 3, 5.0 * np.arange(t, dtype=np.float32), view)
        look.looked[:: max(1, t // view.coarse)] = True
        look.embedding[look.looked] = rng.normal(size=(int(look.looked.sum()), dim))
        for k in np.flatnonzero(look.looked[: t - 3])[:taken].tolist():
            look.take(k)
        out.append(look)
    return out


def _same(a: Step, b: Step, view: ViewConfig, dim: int) -> None:
    """Raise ValueError where two steps differ on `looks`."""
    for look in looks(view, dim):
        x, y = a(look), b(look)
        if x.shape != y.shape or not np.abs(x - y)[x > MASKED / 2].max() <= SAME_LOGITS:
            raise ValueError("the policy's ONNX model gives other logits than its weights")
