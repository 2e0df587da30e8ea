"""A bundle's networks as ONNX models, which `inference` runs.

bundle.onnx, bundle.onnx_outputs = exported(bundle)     # when a bundle is trained
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

from osteo_ray.model.inference import (
    ENCODER,
    GIVEN_CT,
    GIVEN_CT_INPUTS,
    PATIENT,
    PATIENT_INPUTS,
    PATIENT_MODELS,
    POLICY,
    compare,
    onnx_parts,
    outputs_of,
    policy_inputs,
    probe_crops,
    probe_looks,
)
from osteo_ray.model.networks import Batch, ImageTeacher, Student, TabularNetwork, modality_index, shown_part
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.torch_networks import torch_networks

if TYPE_CHECKING:
    from osteo_ray.model.bundle import Bundle

OPSET = 17


class _Slice(nn.Module):
    """What a scorer takes of an encoder's output."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, hu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self.encoder(hu)
        return seen.embedding, seen.core_circles()


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


class _Patient(nn.Module):
    """What the student makes of a patient, and what each model says of the T-score from the modalities `shown`."""

    def __init__(self, student: Student, tabular: TabularNetwork, image: ImageTeacher, groups: Sequence[str]):
        super().__init__()
        self.student, self.tabular, self.image = student, tabular, image
        self.modality = modality_index(groups)

    def forward(
        self,
        values: torch.Tensor,
        known: torch.Tensor,
        bag: torch.Tensor,
        bag_mask: torch.Tensor,
        shown: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        whole = Batch(values, known, bag, bag_mask)
        ct = self.student.pool(bag, bag_mask)
        part = shown_part(whole, shown, self.modality)
        latents = (self.student.latent(part), self.tabular.members(part), self.image.latent(part))
        return self.student.present(whole), ct.weights, ct.hidden, *(a for x in latents for a in (x.mean, x.log_sigma))


class _GivenCt(nn.Module):
    def __init__(self, student: Student):
        super().__init__()
        self.student = student

    def forward(self, values: torch.Tensor, known: torch.Tensor, ct: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latent = self.student.latent_given_ct(values, known, ct)
        return latent.mean, latent.log_sigma


def exported(bundle: Bundle) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The ONNX models of a bundle by name, and what torch makes of the inputs that they are compared on.

    Parts of one's own are left out: they may do what ONNX can't.

    Raises:
        ValueError: what a model computes is not what torch computes.
    """
    cfg, n_features = bundle.config, len(bundle.standardiser.features)
    models: dict[str, bytes] = {}
    if cfg.encoder.network is None:
        models[ENCODER] = encoder_model(bundle.encoder, cfg.crop.size)
    look = probe_looks(cfg.view, cfg.encoder.dim)[1]
    models[POLICY] = _model(_Step(bundle.policy, bundle.reward_classifiers), policy_inputs(look), ("logits",), {})
    if cfg.model.tabular_network is None:
        values, known = np.zeros((2, n_features), np.float32), np.ones((2, n_features), bool)
        bag, mask = np.ones((1, cfg.view.keep, cfg.features), np.float32), np.ones((1, cfg.view.keep), bool)
        given = (values[:1], known[:1], bag, mask, np.ones(3, bool))
        says = tuple(f"{m}_{what}" for m in PATIENT_MODELS for what in ("mean", "log_sigma"))
        models[PATIENT] = _model(
            _Patient(bundle.student, bundle.tabular, bundle.image, bundle.standardiser.groups),
            dict(zip(PATIENT_INPUTS, given, strict=True)), ("present", "attention", "ct", *says),
            {k: {1: "k"} for k in ("bag", "bag_mask", "attention")},
        )  # fmt: skip
        ct = np.ones((2, bundle.student.pool.width), np.float32)
        models[GIVEN_CT] = _model(
            _GivenCt(bundle.student), dict(zip(GIVEN_CT_INPUTS, (values, known, ct), strict=True)),
            ("mean", "log_sigma"), {k: {0: "m"} for k in (*GIVEN_CT_INPUTS, "mean", "log_sigma")},
        )  # fmt: skip
    by_torch = torch_networks(bundle)
    outputs: dict[str, np.ndarray] = {}
    for part, network in onnx_parts(models, 1).items():
        stated = outputs_of(part, getattr(by_torch, part), cfg, n_features)
        compare(stated, outputs_of(part, network, cfg, n_features))
        outputs |= stated
    return models, outputs


def encoder_model(encoder: nn.Module, size: int) -> bytes:
    """The project's encoder as an ONNX model of crops [n, size, size]; `exported` compares it."""
    return _model(
        _Slice(encoder), {"hu": probe_crops(size)}, ("embedding", "circle"),
        {k: {0: "n"} for k in ("hu", "embedding", "circle")},
    )  # fmt: skip


def _model(net: nn.Module, inputs: dict[str, np.ndarray], outputs: Sequence[str], axes: dict[str, dict]) -> bytes:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.onnx"
        # This exporter is deprecated; the one that follows it takes many times as long for the same model.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of shapes that are the same for every patient
        torch.onnx.export(
            net.eval(), tuple(torch.from_numpy(a) for a in inputs.values()), out, dynamo=False, opset_version=OPSET,
            input_names=list(inputs), output_names=list(outputs), dynamic_axes=axes,
        )  # fmt: skip
        return out.read_bytes()
