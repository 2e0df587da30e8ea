"""CPU of the slice encoder in torch and in ONNX Runtime, a slice alone and in a batch of twelve; one thread.

    python benchmarks/encoder_speed.py

The two take turns; CPU time of this process, median of the rounds, so that other load counts little. Differences are of
random crops. Writes docs/results/encoder_speed.json and .md.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

from osteo_ray.model import reference
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.onnx_encoder import Encode, encoder_of

OUT = Path(__file__).resolve().parent.parent / "docs" / "results" / "encoder_speed.json"
ROUNDS, CALLS = 30, 4


def cpu_ms(encode: Encode, crops: np.ndarray) -> float:
    """CPU milliseconds a slice."""
    t = time.process_time()
    for _ in range(CALLS):
        encode(crops)
    return (time.process_time() - t) * 1e3 / CALLS / len(crops)


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    bundle = Bundle.load(reference.bundle())
    by_onnx = encoder_of(bundle, "cpu", 1)
    bundle.encoder_onnx = b""
    by_torch = encoder_of(bundle, "cpu", 1)
    rng, rows = np.random.default_rng(0), []
    for n in (1, 12):
        crops = rng.integers(-1024, 1500, (n, bundle.config.crop.size, bundle.config.crop.size)).astype(np.int16)
        a, b = by_torch(crops)[0], by_onnx(crops)[0]
        rounds = np.array([(cpu_ms(by_torch, crops), cpu_ms(by_onnx, crops)) for _ in range(ROUNDS)])
        ratio = rounds[:, 0] / rounds[:, 1]
        rows.append(
            {"table": "encoder", "slices": n, "torch_ms": round(float(np.median(rounds[:, 0])), 2),
             "onnx_ms": round(float(np.median(rounds[:, 1])), 2), "times": round(float(np.median(ratio)), 2),
             "low": round(float(np.percentile(ratio, 25)), 2), "high": round(float(np.percentile(ratio, 75)), 2),
             "largest_difference": float(f"{np.abs(a - b).max():.1e}")}
        )  # fmt: skip
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = "python benchmarks/encoder_speed.py"
    OUT.write_text(
        json.dumps({"command": command, "commit": commit, "seed": 0, "rows": rows, "bars": []}, indent=1) + "\n"
    )
    lines = "".join(
        f"| {r['slices']} | {r['torch_ms']} | {r['onnx_ms']} | {r['times']} ({r['low']}-{r['high']}) "
        f"| {r['largest_difference']} |\n"
        for r in rows
    )
    OUT.with_suffix(".md").write_text(
        f"""# The slice encoder in torch and in ONNX Runtime

`{command}`: milliseconds of CPU a slice, one thread, the two in turn; in
brackets the middle half of the rounds. The difference is of embeddings, about unit spread.

<!-- rows: encoder -->

| slices | torch, ms | onnx, ms | times | largest difference |
|---|---|---|---|---|
{lines}"""
    )
    print(OUT.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
