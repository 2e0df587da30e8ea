"""The slice encoder as an ONNX model: half the CPU time or less, and an embedding that never depends on its batch.

    bundle.encoder_onnx = exported(bundle.encoder, size=96)         # when a bundle is trained
    encode = encoder_of(bundle, device="cpu", threads=1)            # when a scorer starts
    embedding, circles = encode(crops)                              # int16 HU [n, S, S] -> [n, D], [n, 3]

An encoder of one's own, a GPU, or a bundle of before runs in torch.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from osteo_ray.model.bundle_files import BundleError

if TYPE_CHECKING:
    from osteo_ray.model.bundle import Bundle

Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Crops, int16 HU [n, S, S] -> embeddings float32 [n, D], and core circles float32 [n, 3] in pixels of the crop."""

OPSET = 17
SAME_EMBEDDING, SAME_CIRCLE = 1e-4, 0.1
"""Largest difference from torch: of an embedding's values, about unit spread; of a circle, in pixels of the crop."""


class _EmbeddingAndCircle(nn.Module):
    """What a scorer takes of an encoder's output."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, hu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self.encoder(hu)
        return seen.embedding, seen.core_circles()


def exported(encoder: nn.Module, size: int) -> bytes:
    """The ONNX model of an encoder of crops of `size` pixels.

    Raises:
        ValueError: what the model computes is not what torch computes.
    """
    net = _EmbeddingAndCircle(encoder).eval()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "encoder.onnx"
        # This exporter is deprecated; the one that follows it takes many times as long for the same model.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net, (torch.from_numpy(_crops(size)),), out, dynamo=False, opset_version=OPSET,
            input_names=["hu"], output_names=["embedding", "circle"],
            dynamic_axes={k: {0: "n"} for k in ("hu", "embedding", "circle")},
        )  # fmt: skip
        model = out.read_bytes()
    _same(_by_torch(encoder, "cpu"), _by_onnx(model, 1), size)
    return model


def encoder_of(bundle: Bundle, device: str, threads: int) -> Encode:
    """What runs a bundle's encoder.

    Args:
        device: cpu or cuda; the bundle's torch encoder must be there.
        threads: of ONNX Runtime; torch's are the caller's.

    Raises:
        BundleError: the ONNX model is not that of the bundle's weights.
    """
    by_torch = _by_torch(bundle.encoder, device)
    if device != "cpu" or not bundle.encoder_onnx:
        return by_torch
    by_onnx = _by_onnx(bundle.encoder_onnx, threads)
    try:
        _same(by_torch, by_onnx, bundle.config.crop.size)
    except ValueError as e:
        raise BundleError(f"{bundle.name} {bundle.version}: {e}; save the bundle again with this version") from None
    return by_onnx


def _by_torch(encoder: nn.Module, device: str) -> Encode:
    @torch.no_grad()
    def encode(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen: Any = encoder(torch.from_numpy(crops).to(device))
        return seen.embedding.cpu().numpy(), seen.core_circles().cpu().numpy()

    return encode


def session(model: bytes, threads: int) -> Any:
    """An ONNX Runtime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _by_onnx(model: bytes, threads: int) -> Encode:
    run = session(model, threads).run

    def encode(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        embedding, circle = run(["embedding", "circle"], {"hu": crops})
        return embedding, circle

    return encode


def _crops(size: int) -> np.ndarray:
    """Two crops of soft tissue, noise and something bright, int16 HU [2, size, size]; always the same."""
    rng = np.random.default_rng(0)
    at = np.arange(size) - size / 2
    disc = (at[:, None] ** 2 + at**2 < (size / 6) ** 2) * np.array([120.0, 260.0])[:, None, None]
    return (disc + rng.normal(30, 25, (2, size, size))).astype(np.int16)


def _same(a: Encode, b: Encode, size: int) -> None:
    """Raise ValueError where two encoders differ on `_crops`."""
    crops = _crops(size)
    most = {"embedding": SAME_EMBEDDING, "circle": SAME_CIRCLE}
    for name, x, y in zip(most, a(crops), b(crops), strict=True):
        if x.shape != y.shape or not np.abs(x - y).max() <= most[name]:
            raise ValueError(f"the encoder's ONNX model gives another {name} than its weights")
