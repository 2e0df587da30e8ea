"""Progress for people: one bar a step, with done/total and time left, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Advance = Callable[[int], object]


@contextmanager
def counted(unit: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """Bars for work that reports (step, done, total) itself; a new step opens a new bar."""
    bars: dict[str, tqdm] = {}

    def say(name: str, done: int, total: int | None) -> None:
        if name not in bars:
            for b in bars.values():
                b.close()
            bars[name] = _bar(name, total, unit)
        bars[name].update(done - bars[name].n)

    try:
        yield say
    finally:
        for b in bars.values():
            b.close()


@contextmanager
def progress_bar(name: str, total: int | None, unit: str = "it", quiet: bool = False) -> Iterator[Advance]:
    """Show a bar called `name`; the value is a function that advances it by n.

    Where stderr is not a terminal (a log file, CI) a line is written at most every ten seconds.
    """
    bar = _bar(name, total, unit, quiet)
    try:
        yield bar.update
    finally:
        bar.close()


def _bar(name: str, total: int | None, unit: str, quiet: bool = False) -> tqdm:
    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=name,
        unit=unit,
        disable=quiet,
        mininterval=0.2 if live else 10.0,
        ascii=not live,
        dynamic_ncols=live,
        ncols=None if live else 100,
        file=sys.stderr,
    )
