"""A bundle's networks run in torch (see `inference`): on a GPU, with parts of one's own, and to compare ONNX with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from osteo_ray.model.inference import Encode, Networks, Patient, PatientView
from osteo_ray.model.networks import Batch, show_only
from osteo_ray.model.policy import torch_step
from osteo_ray.outcomes import InputError

if TYPE_CHECKING:
    from osteo_ray.model.bundle import Bundle


def torch_networks(bundle: Bundle, device: str = "cpu") -> Networks:
    """All of a bundle in torch; the encoder is moved to `device`.

    Raises:
        InputError: `device` is cuda and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "scoring.device: cuda, but torch sees no GPU here; give scorers one (pipeline.actor_gpus), or use cpu"
        )
    step = torch_step(bundle.policy, bundle.reward_classifiers)
    return Networks(torch_encode(bundle.encoder, device), step, TorchPatient(bundle))


def torch_encode(encoder: torch.nn.Module, device: str) -> Encode:
    """The encoder in torch; it is moved to `device`."""
    encoder.to(device)

    @torch.no_grad()
    def encode(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen: Any = encoder(torch.from_numpy(crops).to(device))
        return seen.embedding.cpu().numpy(), seen.core_circles().cpu().numpy()

    return encode


class TorchPatient:
    """`inference.PatientNetworks` in torch."""

    def __init__(self, bundle: Bundle):
        self._bundle = bundle

    @torch.no_grad()
    def view(self, x: Patient) -> PatientView:
        b, student = _batch(x), self._bundle.student
        ct = student.pool(b.bag, b.bag_mask).hidden
        return PatientView(*(a[0].numpy() for a in (student.present(b), student.attention(b), ct)))

    @torch.no_grad()
    def logits(self, model: str, x: Patient, pattern: str) -> np.ndarray:
        shown = show_only(_batch(x), pattern, self._bundle.standardiser.groups)
        return self._bundle.networks()[model](shown).numpy()

    @torch.no_grad()
    def logits_given_ct(self, values: np.ndarray, known: np.ndarray, ct: np.ndarray) -> np.ndarray:
        given = (torch.from_numpy(a) for a in (values, known, ct))
        return self._bundle.student.latent_given_ct(*given).logits().numpy()


def _batch(x: Patient) -> Batch:
    return Batch(*(torch.from_numpy(a) for a in (x.values, x.known, x.bag, x.bag_mask)))
