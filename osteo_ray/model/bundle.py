"""A trained model as one folder: safetensors weights, JSON config, card, sha256. Nothing is pickled.

    bundle = Bundle.load("bundle/")         # checks every file against SHA256SUMS
    bundle.save("copy/")

With its networks, in torch; what screening reads of the folder is `ScoringBundle`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from osteo_ray.model.bundle_files import WEIGHTS, BundleError
from osteo_ray.model.encoder import build_encoder
from osteo_ray.model.inference import Networks, compare, outputs_of
from osteo_ray.model.networks import Batch, ImageTeacher, Student, TabularNetwork, build_tabular, show_only
from osteo_ray.model.onnx_export import exported
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.scoring_bundle import (
    BACKGROUND,
    NOVELTY,
    ONNX,
    OUTPUTS,
    Prediction,
    ScoringBundle,
    content,
)
from osteo_ray.model.torch_networks import torch_networks
from osteo_ray.patients.labels import CLASSES


@dataclass(kw_only=True)
class Bundle(ScoringBundle):
    """A `ScoringBundle` with its networks, in eval mode."""

    encoder: nn.Module  # SliceEncoder, or one of one's own
    policy: PolicyNet
    reward_classifiers: list[AttentionPool]
    tabular: TabularNetwork
    image: ImageTeacher
    student: Student

    @torch.no_grad()
    def predict(self, batch: Batch, pattern: str) -> Prediction:
        """Score patients under a pattern of modalities; what they have beyond it is hidden.

        Raises:
            KeyError: the bundle has no calibrator for the pattern; see `abstention.decide`.
        """
        net = self.networks()[self.scored_by[pattern]]
        shown = show_only(batch, pattern, self.standardiser.groups)
        return Prediction.of(net(shown).numpy(), self.calibrators[pattern])

    def networks(self) -> dict[str, nn.Module]:
        """Every network by the name it has in the weights file."""
        nets: dict[str, nn.Module] = {
            "encoder": self.encoder,
            "policy": self.policy,
            "tabular": self.tabular,
            "image": self.image,
            "student": self.student,
        }
        return nets | {f"scorer{i}": s for i, s in enumerate(self.reward_classifiers)}

    def export(self) -> None:
        """Make the ONNX models that screening runs, from the networks.

        Raises:
            ValueError: what a model computes is not what torch computes.
        """
        self.onnx, self.onnx_outputs = exported(self)

    def save(self, folder: str | Path) -> str:
        """Write the bundle and return its sha256 (of SHA256SUMS).

        Raises:
            ValueError: its ONNX models are of other weights; `export` makes them anew.
        """
        self._compare_onnx()
        tensors = {f"{n}.{k}": v for n, net in self.networks().items() for k, v in net.state_dict().items()}
        arrays = {f"{BACKGROUND}{k}": v for k, v in self.background.items()}
        arrays |= {f"{ONNX}{k}": np.frombuffer(v, np.uint8) for k, v in self.onnx.items()}
        arrays |= {f"{OUTPUTS}{k}": v for k, v in self.onnx_outputs.items()}
        for k, n in self.novelty.items():
            arrays |= {f"{NOVELTY}{k}.mean": n.mean, f"{NOVELTY}{k}.covariance": n.covariance}
        tensors |= {k: torch.from_numpy(v.copy()) for k, v in arrays.items()}
        return self.write(folder, lambda to: save_file({k: v.contiguous() for k, v in tensors.items()}, to))

    def _compare_onnx(self) -> None:
        if not self.onnx_outputs:
            return
        by_torch, found = torch_networks(self), dict[str, np.ndarray]()
        for part in Networks.__dataclass_fields__:
            found |= outputs_of(part, getattr(by_torch, part), self.config, len(self.standardiser.features))
        compare(found, self.onnx_outputs)

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read a bundle with its networks, checking each file's sha256.

        Raises:
            BundleError: naming the file that is missing, changed or of another format.
        """
        folder = Path(folder)
        fields = content(folder)
        cfg, std = fields["config"], fields["standardiser"]
        groups = list(std.groups)
        bundle = cls(
            **fields,
            encoder=build_encoder(cfg.encoder),
            policy=PolicyNet(cfg.encoder.dim, cfg.policy_hidden),
            reward_classifiers=[AttentionPool(cfg.encoder.dim, len(CLASSES)) for _ in range(cfg.n_scorers)],
            tabular=build_tabular(len(groups), cfg.model),
            image=ImageTeacher(cfg.features, cfg.model),
            student=Student(groups, cfg.features, cfg.model),
        )
        tensors = load_file(folder / WEIGHTS)
        for name, net in bundle.networks().items():
            part = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            try:
                net.load_state_dict(part)
            except RuntimeError as e:
                raise BundleError(f"{folder}: the weights of {name} do not fit the bundle's config: {e}") from None
            net.eval().requires_grad_(False)
        return bundle
