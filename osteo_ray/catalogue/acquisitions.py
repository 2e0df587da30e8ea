"""One series UID, several acquisitions: which images of a group are one volume. Pure.

Two phases, kernels or tube voltages under one series UID overlap in z and are parted; the stations of one scan follow
each other end to end and stay together.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from osteo_ray.io.tables import Columns

Row = dict[str, Any]

# What makes acquisitions or reconstructions different, in the order in which it is asked.
_PARTS = (
    ("acquisition", "acquisition_number"),
    ("acquisition UID", "acquisition_uid"),
    ("kVp", "kvp"),
    ("kernel", "convolution_kernel"),
    ("contrast", "contrast"),
    ("time", "temporal_index"),
    ("type", "image_type"),
    ("thickness", "slice_thickness_mm"),
)


def by_acquisition(rows: Columns, z: np.ndarray, same_position_mm: float) -> list[tuple[str, list[int]]]:
    """Split the images of one group into volumes: (name, indices), one with an empty name where they are one volume.

    Args:
        z: [n] position along the slice normal, mm.
        same_position_mm: two images closer than this share a position.
    """
    out: list[tuple[str, list[int]]] = []
    todo = [("", list(range(len(rows))))]
    while todo:
        name, members = todo.pop(0)
        parts = _split(rows, z, members, same_position_mm)
        if parts is None:
            out.append((name, members))
        else:
            todo = [(", ".join(x for x in (name, n) if x), m) for n, m in parts] + todo
    return out


def _split(rows: Columns, z: np.ndarray, members: list[int], same_mm: float) -> list[tuple[str, list[int]]] | None:
    """The parts by the first property whose values overlap in z; None where there is none."""
    for name, column in _PARTS:
        if rows.is_one(column):
            continue
        values = rows.column(column)
        parts: dict[Any, list[int]] = defaultdict(list)
        for i in members:
            v = values[i]
            parts[round(v, 1) if name == "thickness" and v is not None else v].append(i)
        if None in parts and len(parts) == 2:
            continue  # some images are silent: nothing says that they are others
        if len(parts) > 1 and _overlap([z[p] for p in parts.values()], same_mm):
            keys = sorted(parts, key=lambda k: (str(type(k)), k) if k is not None else ("", 0))
            return [(f"{name} {k}", parts[k]) for k in keys]
    return None


def _overlap(groups: list[np.ndarray], same_mm: float) -> bool:
    """Whether any two groups share a position, or more of z than a slice."""
    ordered = sorted(groups, key=lambda g: (g.min(), g.max()))
    ends, widest = -np.inf, 0.0
    for g in ordered:
        step = _step(g)
        if len(g) > 1 or np.isfinite(ends):
            shared = ends - g.min()
            slack = max(step, widest)
            if shared > slack * (1 + 1e-3) or _collide(g, ordered, same_mm):
                return True
        if g.max() > ends:
            ends, widest = float(g.max()), step
    return False


def _step(z: np.ndarray) -> float:
    """Typical distance of neighbours, 0 for a single image."""
    d = np.diff(np.unique(z))
    return float(np.median(d)) if d.size else 0.0


def _collide(g: np.ndarray, groups: list[np.ndarray], same_mm: float) -> bool:
    others = np.concatenate([o for o in groups if o is not g] or [np.zeros(0)])
    if not others.size:
        return False
    others = np.sort(others)
    at = np.searchsorted(others, g - same_mm)
    return bool(np.any((at < others.size) & (others[np.minimum(at, others.size - 1)] <= g + same_mm)))


def interleaved(z: np.ndarray, least: int) -> list[list[int]]:
    """The scans of one group whose slices lie between each other, by the order in which the images are numbered.

    A scan is numbered from one end to the other; where the numbers come back and go through the same heights again,
    another scan begins. Empty where there is one scan, or where the numbering follows no order in z. One volume may be
    numbered so, too (odd slices first, or up the odd and down the even): `speaks_for_scans` asks for more.

    Args:
        z: [n] mm, in the order of the numbering.
        least: fewest slices of a scan.
    """
    if np.all(np.diff(z) > 0) or np.all(np.diff(z) <= 0):
        return []  # one scan, as nearly all are
    runs: list[list[int]] = [[]]
    upward: bool | None = None
    for i in range(len(z)):
        run = runs[-1]
        if run:
            step = bool(z[i] > z[run[-1]])
            if upward is not None and step != upward:
                runs.append([run.pop()] if _odd_last(z[run]) else [])
                upward = None if not runs[-1] else step
            else:
                upward = step
        runs[-1].append(i)
    if not 2 <= len(runs) <= _MOST_SCANS or not all(len(r) >= least and _even(z[r]) for r in runs):
        return []
    return runs if all(_between(z[a], z[b]) for a, b in pairwise(runs)) else []


def speaks_for_scans(rows: Sequence[Row], z: np.ndarray, runs: Sequence[Sequence[int]]) -> bool:
    """Whether something besides the order of the numbers says that the runs of `interleaved` are scans of their own.

    In this order, the first that says anything: acquisition times (those of one scan follow its slices, or are one to a
    fraction of a second); uneven steps of all slices together; SpacingBetweenSlices; slice thickness, which a scan of
    its own covers without gaps. Where two volumes can't be told from one of half the spacing, it stays whole.

    Args:
        rows, z: the images and their heights, in the order of the numbering.
    """
    times = [[rows[i]["acquisition_time"] for i in run] for run in runs]
    if (by_time := _one_after_another(times)) is not None:
        return by_time
    if not _even(np.sort(z)):
        return True
    step = float(np.median([np.median(np.abs(np.diff(z[run]))) for run in runs]))
    for name in ("stated_spacing_mm", "slice_thickness_mm"):
        known = [r[name] for r in rows if r[name]]
        if known:
            return bool(np.median(known) >= (1 - _ODD) * step)
    return False


def _one_after_another(times: Sequence[Sequence[str | None]]) -> bool | None:
    """Whether each run was acquired before the next begins (or after: the newest may come first); None: not said."""
    stated = [[_clock(t) for t in run] for run in times]
    known = [[t for t in run if t is not None] for run in stated]
    if any(len(k) < len(s) for k, s in zip(known, stated, strict=True)):
        return None
    spans = sorted((min(k), max(k)) for k in known)
    if spans[0][0] == spans[-1][1]:
        # a fraction is the scanner's own; whole seconds may be what a de-identifier wrote everywhere
        return False if spans[0][0] % 1 else None
    return all(a[1] < b[0] for a, b in pairwise(spans))


_CLOCK = re.compile(r"(\d\d):?(\d\d):?(\d\d(?:\.\d+)?)")


def _clock(time: str | None) -> float | None:
    """Seconds of the day of a TM to the second; None for all else."""
    m = _CLOCK.fullmatch(time or "")
    return int(m[1]) * 3600 + int(m[2]) * 60 + float(m[3]) if m else None


def _odd_last(z: np.ndarray) -> bool:
    """Whether the last of a scan's heights is not a step away from the one before: it begins the scan back."""
    d = np.abs(np.diff(z))
    return len(d) > 2 and bool(abs(d[-1] - np.median(d[:-1])) > _ODD * np.median(d[:-1]))


def _even(z: np.ndarray) -> bool:
    """Whether the heights of a scan are evenly spaced, as those of half a scan that was numbered anew are not."""
    d = np.abs(np.diff(z))
    return bool(np.all(np.abs(d - np.median(d)) <= _ODD * np.median(d)))


_ODD = 0.1  # of a step
_MOST_SCANS = 10
_BETWEEN = 0.5


def _between(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether at least half of the slices of the smaller one lie within the other's heights, as a second pass does."""
    few, many = sorted((a, b), key=len)
    return bool(np.count_nonzero((few > many.min()) & (few < many.max())) >= _BETWEEN * len(few))


def frames_of_reference_apart(frames: Sequence[str | None], least: int) -> bool:
    """Whether FrameOfReferenceUID parts images; False where it differs from slice to slice, as after some
    de-identification, and says nothing: then positions alone decide.

    Args:
        frames: of every image.
        least: fewest slices of a volume; frames of reference with fewer images on average hold none.
    """
    counts = Counter(frames)
    if len(counts) == 2 and None in counts:
        return False  # some images are silent: nothing says that they are others
    return len(frames) >= least * len(counts)
