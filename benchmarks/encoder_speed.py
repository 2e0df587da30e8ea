"""CPU of a bundle's networks in torch and in ONNX Runtime; one thread.

    python benchmarks/encoder_speed.py

The two take turns; CPU time of this process, median of the rounds, so that other load counts little. Differences are of
random crops. Beside them the least that a slice could take: its multiplications at the rate of a large matrix product.
Writes docs/results/encoder_speed.json and .md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from results_page import RESULTS, table, write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from osteo_ray.model import reference
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.inference import Encode, PatientNetworks, networks_of, outputs_of, probe_looks
from osteo_ray.model.torch_networks import torch_networks

ROUNDS, CALLS = 30, 4


def cpu_ms(work: Callable[[], object], of: int = 1) -> float:
    """CPU milliseconds of each of the `of` items that `work` does."""
    t = time.process_time()
    for _ in range(CALLS):
        work()
    return (time.process_time() - t) * 1e3 / CALLS / of


def compared(by_torch: Callable[[], np.ndarray], by_onnx: Callable[[], np.ndarray], of: int = 1) -> dict[str, Any]:
    """The two in turn: medians, ratio with the middle half of the rounds, largest difference."""
    a, b = by_torch(), by_onnx()
    rounds = np.array([(cpu_ms(by_torch, of), cpu_ms(by_onnx, of)) for _ in range(ROUNDS)])
    ratio = rounds[:, 0] / rounds[:, 1]
    low, times, high = np.round(np.percentile(ratio, [25, 50, 75]), 2)
    return {
        "torch_ms": round(float(np.median(rounds[:, 0])), 2),
        "onnx_ms": round(float(np.median(rounds[:, 1])), 2),
        "times": f"{times} ({low}-{high})",
        "largest_difference": float(f"{np.abs(a - b).max():.1e}"),
    }


def embeddings(encode: Encode, crops: np.ndarray) -> np.ndarray:
    """What an encoder makes of crops."""
    return encode(crops)[0]


def patient(networks: PatientNetworks, bundle: Bundle, n_features: int) -> np.ndarray:
    """What teachers and student say of a patient."""
    return outputs_of("patient", networks, bundle.config, n_features)["patient"]


def least(encoder: nn.Module, size: int) -> dict[str, float]:
    """Operations of one slice, the rate of a matrix product on one thread, and the time that the first take at it."""
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        encoder(torch.zeros(1, size, size))
    n = 1024
    a, b = torch.rand(2, n, n)
    rate = 2 * n**3 / (min(cpu_ms(lambda: a @ b) for _ in range(ROUNDS)) * 1e-3)
    operations = counted.get_total_flops()
    found = {"mflop_a_slice": operations / 1e6, "gflop_s": rate / 1e9, "least_ms": 1e3 * operations / rate}
    return {k: round(v, 2) for k, v in found.items()}


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    bundle = Bundle.load(reference.bundle())
    by_onnx, by_torch = networks_of(bundle), torch_networks(bundle)
    ways, rng = (by_torch, by_onnx), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for n in (1, 12):
        crops = rng.integers(-1024, 1500, (n, bundle.config.crop.size, bundle.config.crop.size)).astype(np.int16)
        encoded = [partial(embeddings, x.encode, crops) for x in ways]
        both = compared(encoded[0], encoded[1], n)
        rows.append({"table": "networks", "what": f"encoder, {n} at a time"} | both)
    look = probe_looks(bundle.config.view, bundle.config.encoder.dim)[1]
    steps = [partial(x.step, look) for x in ways]
    rows.append({"table": "networks", "what": "step of the policy"} | compared(steps[0], steps[1]))
    # All patterns by student and teachers, and the CT's representation: what `outputs_of` asks.
    n_features = len(bundle.standardiser.features)
    patients = [partial(patient, x.patient, bundle, n_features) for x in ways]
    rows.append({"table": "networks", "what": "a patient, 23 times"} | compared(patients[0], patients[1]))
    rows.append({"table": "least", "what": "a slice, one thread"} | least(bundle.encoder, bundle.config.crop.size))
    command = "python benchmarks/encoder_speed.py"
    page = f"""# Networks in torch and in ONNX Runtime

`{command}`: milliseconds of CPU a slice, or a step of the policy, one thread, the two
in turn; in brackets the middle half of the rounds. The difference is of embeddings, about unit spread, and of logits.

{table(rows, "networks")}
The least that a slice could take on this machine: the multiplications of its convolutions at the rate of a large matrix
product, nothing else done.

{table(rows, "least")}"""
    write(RESULTS / "encoder_speed.json", command, 0, rows, [], page)
    print(page)


if __name__ == "__main__":
    main()
