"""A bundle's networks as a scorer runs them: in ONNX Runtime, without torch, or in torch (this module imports neither).

    networks = networks_of(bundle, device="cpu", threads=1)
    embedding, circles = networks.encode(crops)              # int16 HU [n, S, S] -> [n, D], [n, 3]
    logits = networks.step(look)                             # float32 [T + 1]
    seen = networks.patient.view(x)                          # present, attention, the CT's representation
    logits = networks.patient.logits("student", x, pattern)  # float32 [1, 3]

ONNX Runtime takes half of torch's CPU for the encoder and a tenth for the policy, an embedding does not depend on the
slices beside it, and a process that never imports torch starts seconds earlier and weighs 200 MB less. Parts of one's
own, a GPU, and a bundle of before run in torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.special import log_ndtr, ndtr

from osteo_ray.model.bundle_files import BundleError
from osteo_ray.model.config import BundleConfig, ViewConfig
from osteo_ray.model.look import Look, observe
from osteo_ray.model.patterns import MODALITIES, PATTERNS, shown_by
from osteo_ray.model.selection import Step
from osteo_ray.patients.labels import CLASSES, NORMAL_T, OSTEOPOROSIS_T

if TYPE_CHECKING:
    from osteo_ray.model.scoring_bundle import ScoringBundle

ENCODER, POLICY, PATIENT, GIVEN_CT = "encoder", "policy", "patient", "given_ct"
"""The ONNX models of a bundle: of a slice, of a step of the selection, of a patient, and of a patient whose CT is given
as the student represents it (for SHAP)."""
PATIENT_MODELS = ("student", "tabular", "image")
POLICY_INPUTS = ("slots", "shares", "action_mask", "bag", "bag_mask")
PATIENT_INPUTS = ("values", "known", "bag", "bag_mask", "shown")
GIVEN_CT_INPUTS = ("values", "known", "ct")

SAME = {"embedding": 1e-4, "circle": 0.1, "step": 1e-3, "patient": 1e-4, "given_ct": 1e-4}
"""Largest difference between torch and ONNX Runtime: of embeddings, about unit spread; of circles, in pixels of the
crop; of logits."""

Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Crops, int16 HU [n, S, S] -> embeddings float32 [n, D], and core circles float32 [n, 3] in pixels of the crop."""


@dataclass(frozen=True)
class Patient:
    """One patient's input. Values are standardised; where a mask is False the value is 0 and means nothing."""

    values: np.ndarray  # float32 [1, F]
    known: np.ndarray  # bool [1, F]
    bag: np.ndarray  # float32 [1, K, D], embeddings of the picks with the acquisition's columns
    bag_mask: np.ndarray  # bool [1, K]


@dataclass(frozen=True)
class PatientView:
    """What the student makes of a patient before it says a class."""

    present: np.ndarray  # bool [3], in the order of MODALITIES
    attention: np.ndarray  # float32 [K], weights of the picks
    ct: np.ndarray  # float32 [width], the CT as its branch represents it


class PatientNetworks(Protocol):
    """Teachers and student, of one patient."""

    def view(self, x: Patient) -> PatientView:
        """What the student makes of a patient."""

    def logits(self, model: str, x: Patient, pattern: str) -> np.ndarray:
        """Class log-probabilities, float32 [1, 3], of one of PATIENT_MODELS; what is beyond `pattern` is hidden."""

    def logits_given_ct(self, values: np.ndarray, known: np.ndarray, ct: np.ndarray) -> np.ndarray:
        """The student's, float32 [m, 3]; `values`, `known` [m, F], `ct` [m, width] (see `PatientView`)."""


@dataclass(frozen=True)
class Networks:
    """All that a scorer runs of a bundle."""

    encode: Encode
    step: Step
    patient: PatientNetworks


def networks_of(bundle: ScoringBundle, device: str = "cpu", threads: int = 1) -> Networks:
    """What runs a bundle's networks: ONNX Runtime for what the bundle has as ONNX, torch for the rest.

    Args:
        device: of the encoder, cpu or cuda.
        threads: of ONNX Runtime; torch's are the caller's.

    Raises:
        BundleError: an ONNX model does not compute what it did where it was exported.
        InputError: `device` is cuda and there is none.
    """
    onnx = onnx_parts(bundle.onnx, threads)
    if device != "cpu":
        onnx.pop("encode", None)
    _check(onnx, bundle)
    if len(onnx) < len(Networks.__dataclass_fields__):
        from osteo_ray.model.bundle import Bundle
        from osteo_ray.model.torch_networks import torch_networks

        assert isinstance(bundle, Bundle), "a bundle without ONNX models is loaded whole (Predictor.load)"
        rest = torch_networks(bundle, device)
        onnx = {k: onnx.get(k, getattr(rest, k)) for k in Networks.__dataclass_fields__}
    return Networks(**onnx)


def needs_torch(bundle: ScoringBundle, device: str) -> bool:
    """Whether `networks_of` needs the networks themselves."""
    return device != "cpu" or not {ENCODER, POLICY, PATIENT, GIVEN_CT} <= bundle.onnx.keys()


def onnx_parts(models: Mapping[str, bytes], threads: int) -> dict[str, Any]:
    """The fields of `Networks` that ONNX models make."""
    parts: dict[str, Any] = {}
    if ENCODER in models:
        parts["encode"] = _encode(models[ENCODER], threads)
    if POLICY in models:
        parts["step"] = _step(models[POLICY], threads)
    if PATIENT in models and GIVEN_CT in models:
        parts["patient"] = _OnnxPatient(models[PATIENT], models[GIVEN_CT], threads)
    return parts


def class_log_probabilities(mean: np.ndarray, log_sigma: np.ndarray) -> np.ndarray:
    """Log-probabilities [..., 3] of normal, osteopenia, osteoporosis for a Gaussian over the T-score.

    `ordinal.Latent.logits` in numpy: ONNX has no logarithm of a normal distribution's tail.
    """
    s = np.exp(np.clip(np.asarray(log_sigma, float), -2.0, 2.0))
    low, high = (OSTEOPOROSIS_T - mean) / s, (NORMAL_T - mean) / s
    between = np.log(np.maximum(ndtr(high) - ndtr(low), 1e-6))
    return np.stack([log_ndtr(-high), between, log_ndtr(low)], -1)


# ---- ONNX Runtime


def _session(model: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _encode(model: bytes, threads: int) -> Encode:
    run = _session(model, threads).run

    def encode(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        embedding, circle = run(["embedding", "circle"], {"hu": crops})
        return embedding, circle

    return encode


def _step(model: bytes, threads: int) -> Step:
    run = _session(model, threads).run

    def step(look: Look) -> np.ndarray:
        return run(["logits"], policy_inputs(look))[0][0]

    return step


def policy_inputs(look: Look) -> dict[str, np.ndarray]:
    """The policy model's inputs of one look, each with a leading batch axis of 1."""
    seen = observe(look, np.zeros(len(CLASSES)))
    keep, dim = look.view.keep, look.embedding.shape[1]
    bag, mask = np.zeros((1, keep, dim), np.float32), np.zeros((1, keep), bool)
    n = len(look.kept)
    bag[0, :n], mask[0, :n] = look.embedding[look.kept], True
    parts = (seen["slots"], seen["context"][: -len(CLASSES)], seen["action_mask"])
    return dict(zip(POLICY_INPUTS, (*(p[None] for p in parts), bag, mask), strict=True))


def patient_inputs(x: Patient, pattern: str) -> dict[str, np.ndarray]:
    """The patient model's inputs."""
    return dict(zip(PATIENT_INPUTS, (x.values, x.known, x.bag, x.bag_mask, shown_by(pattern)), strict=True))


class _OnnxPatient:
    def __init__(self, patient: bytes, given_ct: bytes, threads: int):
        self._patient, self._given_ct = _session(patient, threads).run, _session(given_ct, threads).run

    def view(self, x: Patient) -> PatientView:
        seen = self._patient(["present", "attention", "ct"], patient_inputs(x, "+".join(MODALITIES)))
        return PatientView(*(a[0] for a in seen))

    def logits(self, model: str, x: Patient, pattern: str) -> np.ndarray:
        latent = self._patient([f"{model}_mean", f"{model}_log_sigma"], patient_inputs(x, pattern))
        logits = class_log_probabilities(*latent)
        if model == "tabular":  # as `TabularNetwork.forward`: the members' mean probability
            logits = np.log(np.maximum(np.exp(logits).mean(1), 1e-9))
        return logits.astype(np.float32)

    def logits_given_ct(self, values: np.ndarray, known: np.ndarray, ct: np.ndarray) -> np.ndarray:
        inputs = dict(zip(GIVEN_CT_INPUTS, (values, known, ct), strict=True))
        return class_log_probabilities(*self._given_ct(["mean", "log_sigma"], inputs)).astype(np.float32)


# ---- whether two ways to run a bundle give the same


def outputs_of(part: str, network: Any, cfg: BundleConfig, n_features: int) -> dict[str, np.ndarray]:
    """What one field of `Networks` makes of inputs that are always the same, by the names in SAME."""
    rng = np.random.default_rng(0)
    if part == "encode":
        embedding, circle = network(probe_crops(cfg.crop.size))
        return {"embedding": embedding, "circle": circle}
    if part == "step":
        return {"step": np.stack([network(look) for look in probe_looks(cfg.view, cfg.encoder.dim)])}
    known = rng.random((1, n_features)) < 0.8
    values = np.where(known, rng.normal(size=known.shape), 0).astype(np.float32)
    bag = rng.normal(size=(1, cfg.view.keep, cfg.features)).astype(np.float32)
    x = Patient(values, known, bag, np.arange(cfg.view.keep)[None] < max(1, cfg.view.keep - 1))
    seen = network.view(x)
    logits = [network.logits(model, x, p) for model in PATIENT_MODELS for p in PATTERNS]
    given = network.logits_given_ct(np.r_[values, -values], np.r_[known, known], np.stack([seen.ct, -seen.ct]))
    return {"patient": np.concatenate([np.concatenate(logits).ravel(), seen.attention]), "given_ct": given}


def compare(stated: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError, naming what differs."""
    for name, y in found.items():
        x = stated.get(name)
        if x is None or x.shape != y.shape or not np.abs(x - y).max() <= SAME[name]:
            raise ValueError(f"its ONNX models give another {name} than the weights that they were made from")


def _check(onnx: Mapping[str, Any], bundle: ScoringBundle) -> None:
    n_features = len(bundle.standardiser.features)
    try:
        for part, network in onnx.items():
            compare(bundle.onnx_outputs, outputs_of(part, network, bundle.config, n_features))
    except ValueError as e:
        raise BundleError(f"{bundle.name} {bundle.version}: {e}; save the bundle again with this version") from None


def probe_crops(size: int) -> np.ndarray:
    """Two crops of soft tissue, noise and something bright, int16 HU [2, size, size]; always the same."""
    rng = np.random.default_rng(0)
    at = np.arange(size) - size / 2
    disc = (at[:, None] ** 2 + at**2 < (size / 6) ** 2) * np.array([120.0, 260.0])[:, None, None]
    return (disc + rng.normal(30, 25, (2, size, size))).astype(np.int16)


def probe_looks(view: ViewConfig, dim: int) -> list[Look]:
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
