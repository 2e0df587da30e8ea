"""What screening reads of a trained model's folder: all but the networks themselves, which it runs as ONNX (no torch).

    bundle = ScoringBundle.load("bundle/")         # checks every file against SHA256SUMS
    bundle.threshold_of("labs+ct")

The preprocessing that the networks were trained with is in the bundle; screening never re-states it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from osteo_ray.config import ConfigError, validate
from osteo_ray.model.bundle_files import CARD, MANIFEST, WEIGHTS, BundleError, seal, verify
from osteo_ray.model.calibration import Calibrator, class_probabilities
from osteo_ray.model.config import BundleConfig
from osteo_ray.model.extension import identities, names_of
from osteo_ray.model.gaussian_calibration import GaussianCalibrator
from osteo_ray.model.novelty import Novelty
from osteo_ray.model.operating_point import OperatingPoint, measured_text
from osteo_ray.model.standardise import Standardiser
from osteo_ray.patients.labels import CLASSES
from osteo_ray.patients.schema import NAMES

FORMAT = "3"
ONNX, OUTPUTS, BACKGROUND, NOVELTY = "onnx.", "onnx_outputs.", "background.", "novelty."
"""What names in the weights file begin with that are no network's."""
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


@dataclass(kw_only=True)
class ScoringBundle:
    """What turns a scan and a record into a risk."""

    name: str
    version: str
    config: BundleConfig
    standardiser: Standardiser
    background: dict[str, np.ndarray]  # values, known [B, F], ct [B, width]: cluster centres, nobody's record
    calibrators: dict[str, AnyCalibrator]  # by missingness pattern
    scored_by: dict[str, str]  # pattern -> student | tabular | image
    conformal: dict[str, list[float]]  # pattern -> largest 1 - p accepted, by class
    conformal_level: float
    novelty: dict[str, Novelty]  # image (mean of the picks' embeddings), record (spreads)
    threshold: float  # on the calibrated risk, of patterns without a point of their own (bundles before there were)
    operating_point: str
    lumbar_threshold: float  # below it no looked-at slice counts as lumbar
    onnx: dict[str, bytes] = field(default_factory=dict)  # the networks, by the names of `inference`
    onnx_outputs: dict[str, np.ndarray] = field(default_factory=dict)  # what torch made of `inference`'s probes
    operating_points: dict[str, OperatingPoint] = field(default_factory=dict)  # by pattern
    metrics: dict[str, Any] = field(default_factory=dict)
    card: str = ""
    sha256: str = ""

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

    def write(self, folder: str | Path, weights: Callable[[Path], object]) -> str:
        """Write the bundle and return its sha256 (of SHA256SUMS); `weights` writes the file of that path."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights(folder / WEIGHTS)
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
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        (folder / CARD).write_text(self.card)
        self.sha256 = seal(folder)
        return self.sha256

    @classmethod
    def load(cls, folder: str | Path) -> ScoringBundle:
        """Read a bundle, checking each file's sha256.

        Raises:
            BundleError: naming the file that is missing, changed or of another format.
        """
        return cls(**content(Path(folder)))


def content(folder: Path) -> dict[str, Any]:
    """The fields of a `ScoringBundle`, from its folder; raises BundleError."""
    sha256 = verify(folder)
    m = json.loads((folder / MANIFEST).read_text())
    if m.get("format") != FORMAT:
        raise BundleError(f"{folder}: bundle format {m.get('format')!r}; this version of osteo-ray reads {FORMAT!r}")
    if m.get("classes") != list(CLASSES):
        raise BundleError(f"{folder}: the bundle's classes {m.get('classes')} are not {list(CLASSES)}")
    # A bundle of before there were level names was trained and calibrated on picks that did not fall out by level.
    m["config"].setdefault("view", {}).setdefault("by_level", False)
    try:
        cfg = validate(BundleConfig, m["config"])
    except ConfigError as e:
        raise BundleError(f"{folder}/{MANIFEST}: {e}") from None
    _check_own(folder, cfg, m.get("own", {}))
    if tuple(m["standardiser"]["features"]) != NAMES:
        raise BundleError(f"{folder}: the bundle was trained on other features than this version's record schema")
    std = Standardiser(**{k: tuple(v) for k, v in m["standardiser"].items()})
    arrays = _arrays(folder / WEIGHTS)
    novelty = {
        k: Novelty(arrays[f"{NOVELTY}{k}.mean"], arrays[f"{NOVELTY}{k}.covariance"], limit)
        for k, limit in m["novelty_thresholds"].items()
    }

    def named(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}

    outputs = named(OUTPUTS)
    return {
        "name": m["name"],
        "version": m["version"],
        "config": cfg,
        "standardiser": std,
        "background": named(BACKGROUND),
        "calibrators": {k: calibrator_of(c) for k, c in m["calibrators"].items()},
        "scored_by": m["scored_by"],
        "conformal": m["conformal"],
        "conformal_level": m["conformal_level"],
        "novelty": novelty,
        "threshold": m["threshold"],
        "operating_point": m["operating_point"],
        "lumbar_threshold": m["lumbar_threshold"],
        # Without outputs to compare with, a model is of before there were, and the networks run in torch.
        "onnx": {k: a.tobytes() for k, a in named(ONNX).items()} if outputs else {},
        "onnx_outputs": outputs,
        "operating_points": {k: OperatingPoint(**p) for k, p in m.get("operating_points", {}).items()},
        "metrics": m["metrics"],
        "card": (folder / CARD).read_text(),
        "sha256": sha256,
    }


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a weights file that are no network's."""
    with safe_open(path, framework="numpy") as f:
        names = [k for k in f.keys() if k.startswith((ONNX, OUTPUTS, BACKGROUND, NOVELTY))]  # noqa: SIM118 (no dict)
        return {k: f.get_tensor(k) for k in names}


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
