"""A trained model as one folder: safetensors weights, JSON config, card, sha256. Nothing is pickled.

    bundle = Bundle.load("bundle/")         # checks every file against SHA256SUMS
    bundle.save("copy/")

The preprocessing that the networks were trained with is in the bundle; screening never re-states it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from osteo_ray.config import ConfigError, validate
from osteo_ray.model.bundle_files import BundleError, seal, verify
from osteo_ray.model.calibration import Calibrator, class_probabilities
from osteo_ray.model.config import BundleConfig
from osteo_ray.model.encoder import build_encoder
from osteo_ray.model.extension import identities, names_of
from osteo_ray.model.gaussian_calibration import GaussianCalibrator
from osteo_ray.model.networks import Batch, ImageTeacher, Student, TabularNetwork, build_tabular
from osteo_ray.model.novelty import Novelty
from osteo_ray.model.operating_point import OperatingPoint, measured_text
from osteo_ray.model.patterns import show_only
from osteo_ray.model.policy import PolicyNet
from osteo_ray.model.pooling import AttentionPool
from osteo_ray.model.standardise import Standardiser
from osteo_ray.patients.labels import CLASSES
from osteo_ray.patients.schema import NAMES

FORMAT = "3"
ENCODER_ONNX, POLICY_ONNX = "onnx.encoder", "onnx.policy"
"""Names in weights.safetensors of ONNX models, as bytes."""
AnyCalibrator = Calibrator | GaussianCalibrator


def calibrator_of(d: dict[str, Any]) -> AnyCalibrator:
    """A calibrator from its plain data; a logistic one names no method."""
    return GaussianCalibrator.from_dict(d) if d.get("method") == "gaussian" else Calibrator.from_dict(d)


@dataclass(frozen=True)
class Prediction:
    """Scores of n patients under one pattern of modalities."""

    logits: np.ndarray  # float32 [n, 3], class log-probabilities before calibration
    risk: np.ndarray  # float [n], calibrated P(osteoporosis)
    low: np.ndarray  # float [n], lower end of the calibrator's interval
    high: np.ndarray  # float [n], upper end
    probabilities: np.ndarray  # float [n, 3], calibrated, in the order of CLASSES

    @classmethod
    def of(cls, logits: np.ndarray, calibrator: AnyCalibrator) -> Prediction:
        """Calibrate class logits [n, 3]."""
        risk, low, high = calibrator.risk(logits)
        return cls(logits, risk, low, high, class_probabilities(logits, risk))


@dataclass
class Bundle:
    """Networks in eval mode plus what turns their output into a risk."""

    name: str
    version: str
    config: BundleConfig
    standardiser: Standardiser
    encoder: nn.Module  # SliceEncoder, or one of one's own
    policy: PolicyNet
    reward_classifiers: list[AttentionPool]
    tabular: TabularNetwork
    image: ImageTeacher
    student: Student
    background: dict[str, torch.Tensor]  # values, known [B, F], ct [B, width]: cluster centres, nobody's record
    calibrators: dict[str, AnyCalibrator]  # by missingness pattern
    scored_by: dict[str, str]  # pattern -> student | tabular | image
    conformal: dict[str, list[float]]  # pattern -> largest 1 - p accepted, by class
    conformal_level: float
    novelty: dict[str, Novelty]  # image (mean of the picks' embeddings), record (spreads)
    threshold: float  # on the calibrated risk, of patterns without a point of their own (bundles before there were)
    operating_point: str
    lumbar_threshold: float  # below it no looked-at slice counts as lumbar
    encoder_onnx: bytes = b""  # the encoder as `onnx_encoder.exported` gives it; empty: it runs in torch
    policy_onnx: bytes = b""  # a step of policy and reward classifiers, as `onnx_policy.exported` gives it
    operating_points: dict[str, OperatingPoint] = field(default_factory=dict)  # by pattern
    metrics: dict[str, Any] = field(default_factory=dict)
    card: str = ""
    sha256: str = ""

    @torch.no_grad()
    def predict(self, batch: Batch, pattern: str) -> Prediction:
        """Score patients under a pattern of modalities; what they have beyond it is hidden.

        Raises:
            KeyError: the bundle has no calibrator for the pattern; see `abstention.decide`.
        """
        net = self.networks()[self.scored_by[pattern]]
        shown = show_only(batch, pattern, tuple(self.standardiser.groups))
        return Prediction.of(net(shown).numpy(), self.calibrators[pattern])

    def threshold_of(self, pattern: str) -> float:
        """The calibrated risk from which a patient with this pattern is called high risk."""
        own = self.operating_points.get(pattern)
        return self.threshold if own is None else own.threshold

    def operating_text(self, pattern: str) -> str:
        """How the pattern's threshold was set, and its sensitivity and specificity on held-out people, in words."""
        own = self.operating_points.get(pattern)
        rows = self.metrics.get("heldout") or []
        heldout = next((r for r in rows if r["pattern"] == pattern), None)
        site = self.metrics.get("site")
        moved = f", at the risk it has at {site['site']}" if site and "ct" in pattern.split("+") else ""
        chosen = self.operating_point if own is None else own.text + moved
        return f"{chosen}; {measured_text(heldout)}"

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

    def save(self, folder: str | Path) -> str:
        """Write the bundle and return its sha256 (of SHA256SUMS)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{n}.{k}": v for n, net in self.networks().items() for k, v in net.state_dict().items()}
        tensors |= {f"background.{k}": v for k, v in self.background.items()}
        for name, model in ((ENCODER_ONNX, self.encoder_onnx), (POLICY_ONNX, self.policy_onnx)):
            if model:
                tensors[name] = torch.frombuffer(bytearray(model), dtype=torch.uint8)
        for k, n in self.novelty.items():
            tensors[f"novelty.{k}.mean"] = torch.from_numpy(n.mean)
            tensors[f"novelty.{k}.covariance"] = torch.from_numpy(n.covariance)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "weights.safetensors")
        manifest = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "classes": list(CLASSES),
            "config": self.config.model_dump(mode="json"),
            "standardiser": {k: list(getattr(self.standardiser, k)) for k in Standardiser.__dataclass_fields__},
            "calibrators": {k: c.to_dict() for k, c in self.calibrators.items()},
            "scored_by": self.scored_by,
            "conformal": self.conformal,
            "conformal_level": self.conformal_level,
            "novelty_thresholds": {k: n.threshold for k, n in self.novelty.items()},
            "threshold": self.threshold,
            "operating_point": self.operating_point,
            "lumbar_threshold": self.lumbar_threshold,
            "metrics": self.metrics,
        }
        if self.operating_points:
            manifest["operating_points"] = {k: p.to_dict() for k, p in self.operating_points.items()}
        if own := identities(names_of(self.config)):
            manifest["own"] = own
        (folder / "bundle.json").write_text(json.dumps(manifest, indent=1) + "\n")
        (folder / "card.md").write_text(self.card)
        self.sha256 = seal(folder)
        return self.sha256

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read a bundle, checking each file's sha256.

        Raises:
            BundleError: naming the file that is missing, changed or of another format.
        """
        folder = Path(folder)
        sha256 = verify(folder)
        m = json.loads((folder / "bundle.json").read_text())
        if m.get("format") != FORMAT:
            raise BundleError(
                f"{folder}: bundle format {m.get('format')!r}; this version of osteo-ray reads {FORMAT!r}"
            )
        if m.get("classes") != list(CLASSES):
            raise BundleError(f"{folder}: the bundle's classes {m.get('classes')} are not {list(CLASSES)}")
        # A bundle of before there were level names was trained and calibrated on picks that did not fall out by level.
        m["config"].setdefault("view", {}).setdefault("by_level", False)
        try:
            cfg = validate(BundleConfig, m["config"])
        except ConfigError as e:
            raise BundleError(f"{folder}/bundle.json: {e}") from None
        _check_own(folder, cfg, m.get("own", {}))
        if tuple(m["standardiser"]["features"]) != NAMES:
            raise BundleError(f"{folder}: the bundle was trained on other features than this version's record schema")
        std = Standardiser(**{k: tuple(v) for k, v in m["standardiser"].items()})
        groups = list(std.groups)
        bundle = cls(
            name=m["name"],
            version=m["version"],
            config=cfg,
            standardiser=std,
            encoder=build_encoder(cfg.encoder),
            policy=PolicyNet(cfg.encoder.dim, cfg.policy_hidden),
            reward_classifiers=[AttentionPool(cfg.encoder.dim, len(CLASSES)) for _ in range(cfg.n_scorers)],
            tabular=build_tabular(len(groups), cfg.model),
            image=ImageTeacher(cfg.features, cfg.model),
            student=Student(groups, cfg.features, cfg.model),
            background={},
            calibrators={k: calibrator_of(c) for k, c in m["calibrators"].items()},
            scored_by=m["scored_by"],
            conformal=m["conformal"],
            conformal_level=m["conformal_level"],
            novelty={},
            threshold=m["threshold"],
            operating_point=m["operating_point"],
            lumbar_threshold=m["lumbar_threshold"],
            operating_points={k: OperatingPoint(**p) for k, p in m.get("operating_points", {}).items()},
            metrics=m["metrics"],
            card=(folder / "card.md").read_text(),
            sha256=sha256,
        )
        tensors = load_file(folder / "weights.safetensors")
        for name, net in bundle.networks().items():
            part = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            try:
                net.load_state_dict(part)
            except RuntimeError as e:
                raise BundleError(f"{folder}: the weights of {name} do not fit the bundle's config: {e}") from None
            net.eval().requires_grad_(False)
        bundle.encoder_onnx, bundle.policy_onnx = (
            tensors[name].numpy().tobytes() if name in tensors else b"" for name in (ENCODER_ONNX, POLICY_ONNX)
        )
        bundle.background = {
            k.removeprefix("background."): v for k, v in tensors.items() if k.startswith("background.")
        }
        bundle.novelty = {
            k: Novelty(tensors[f"novelty.{k}.mean"].numpy(), tensors[f"novelty.{k}.covariance"].numpy(), limit)
            for k, limit in m["novelty_thresholds"].items()
        }
        return bundle


def _check_own(folder: Path, cfg: BundleConfig, stated: dict[str, dict[str, str]]) -> None:
    """Parts of one's own must be those that the bundle was trained with."""
    try:
        here = identities(names_of(cfg))
    except ConfigError as e:
        raise BundleError(f"{folder}: {e}") from None
    for kind in here | stated:
        if here.get(kind) != stated.get(kind):
            name = (here.get(kind) or stated[kind])["name"]
            raise BundleError(
                f"{folder}: the {kind} {name} is another than the bundle was trained with (its source's sha256 "
                "differs); install the version of then, or train again"
            )
