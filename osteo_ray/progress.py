"""Progress for people: one bar a step, with done/total and time left, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

Advance = Callable[[int], object]


@contextmanager
def counted(units: Mapping[str, str]) -> Iterator[Callable[[str, int, int | None], None]]:
    """Bars for work that reports (step, done, total) itself; a new step opens a new bar.

    Args:
        units: what each step counts, e.g. {"list": "files"}.
    """
    bars: dict[str, tqdm] = {}

    def say(name: str, done: int, total: int | None) -> None:
        if name not in bars:
            for b in bars.values():
                b.close()
            bars[name] = _bar(name, total, units[name])
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


def notice(text: str) -> None:
    """A line for people on stderr that leaves the bars whole."""
    tqdm.write(text, file=sys.stderr)


def _bar(name: str, total: int | None, unit: str, quiet: bool = False) -> tqdm:
    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=name,
        unit=f" {unit}",
        disable=quiet,
        mininterval=0.2 if live else 10.0,
        ascii=not live,
        dynamic_ncols=live,
        ncols=None if live else 100,
        file=sys.stderr,
    )
