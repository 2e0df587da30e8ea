"""CPU of a bundle's networks in torch and in ONNX Runtime; one thread.

    python benchmarks/encoder_speed.py

The two take turns; CPU time of this process, median of the rounds, so that other load counts little. Differences are of
random crops. Writes docs/results/encoder_speed.json and .md.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from osteo_ray.model import reference
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.inference import Encode, PatientNetworks, networks_of, outputs_of, probe_looks
from osteo_ray.model.torch_networks import torch_networks

OUT = Path(__file__).resolve().parent.parent / "docs" / "results" / "encoder_speed.json"
ROUNDS, CALLS = 30, 4


def cpu_ms(work: Callable[[], object], of: int = 1) -> float:
    """CPU milliseconds of each of the `of` items that `work` does."""
    t = time.process_time()
    for _ in range(CALLS):
        work()
    return (time.process_time() - t) * 1e3 / CALLS / of


def compared(by_torch: Callable[[], np.ndarray], by_onnx: Callable[[], np.ndarray], of: int = 1) -> dict[str, float]:
    """The two in turn: medians, ratio with the middle half of the rounds, largest difference."""
    a, b = by_torch(), by_onnx()
    rounds = np.array([(cpu_ms(by_torch, of), cpu_ms(by_onnx, of)) for _ in range(ROUNDS)])
    ratio = rounds[:, 0] / rounds[:, 1]
    found = {"torch_ms": np.median(rounds[:, 0]), "onnx_ms": np.median(rounds[:, 1]), "times": np.median(ratio),
             "low": np.percentile(ratio, 25), "high": np.percentile(ratio, 75)}  # fmt: skip
    largest = float(f"{np.abs(a - b).max():.1e}")
    return {k: round(float(v), 2) for k, v in found.items()} | {"largest_difference": largest}


def embeddings(encode: Encode, crops: np.ndarray) -> np.ndarray:
    """What an encoder makes of crops."""
    return encode(crops)[0]


def patient(networks: PatientNetworks, bundle: Bundle, n_features: int) -> np.ndarray:
    """What teachers and student say of a patient."""
    return outputs_of("patient", networks, bundle.config, n_features)["patient"]


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    bundle = Bundle.load(reference.bundle())
    by_onnx, by_torch = networks_of(bundle), torch_networks(bundle)
    ways, rng, rows = (by_torch, by_onnx), np.random.default_rng(0), []
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
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = "python benchmarks/encoder_speed.py"
    OUT.write_text(
        json.dumps({"command": command, "commit": commit, "seed": 0, "rows": rows, "bars": []}, indent=1) + "\n"
    )
    lines = "".join(
        f"| {r['what']} | {r['torch_ms']} | {r['onnx_ms']} | {r['times']} ({r['low']}-{r['high']}) "
        f"| {r['largest_difference']} |\n"
        for r in rows
    )
    OUT.with_suffix(".md").write_text(
        f"""# Networks in torch and in ONNX Runtime

`{command}`: milliseconds of CPU a slice, or a step of the policy, one thread, the two
in turn; in brackets the middle half of the rounds. The difference is of embeddings, about unit spread, and of logits.

<!-- rows: networks -->

| what | torch, ms | onnx, ms | times | largest difference |
|---|---|---|---|---|
{lines}"""
    )
    print(OUT.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
