"""python configs/demo/run.py

The commands of `make demo`, one after another. They share a process, so Ray, its workers and the libraries start once;
each line that is printed does the same by itself.
"""

import sys

from osteo_ray.cli import main

DEMO = (
    "cohort --config configs/demo/cohort.yaml",
    "cohort slices --config configs/demo/slices.yaml",
    "index --config configs/demo/index.yaml",
    "train --config configs/demo/train.yaml",
    "screen --config configs/demo/screen.yaml",
    "evaluate --config configs/demo/evaluate.yaml",
)


def run() -> int:
    """Run them until one fails; returns its exit code."""
    for line in DEMO:
        print(f"osteo-ray {line}", flush=True)
        if code := main(line.split()):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(run())
