"""Learning curves of encoder, teachers and student as TensorBoard files, beside those of the slice policy.

    with scalars(folder, "encoder") as write:       # <folder>/tensorboard/encoder
        write(step, {"region": 0.4})

`tensorboard --logdir RUN` shows all of a run's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Write = Callable[[int, Mapping[str, float]], None]


@contextmanager
def scalars(folder: Path, name: str, carried_on: bool = False) -> Iterator[Write]:
    """A function that writes numbers of a step, each as `<name>/<key>`.

    Args:
        carried_on: the fit goes on from where an earlier one was cut short, and so does its curve; else it is replaced.
    """
    from tensorboardX import SummaryWriter

    at = folder / "tensorboard" / name
    if not carried_on:
        shutil.rmtree(at, ignore_errors=True)
    with SummaryWriter(str(at)) as board:

        def write(step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                board.add_scalar(f"{name}/{key}", value, step)

        yield write
