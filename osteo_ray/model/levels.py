"""Names of vertebral levels for the slices that were looked at (pure numpy).

    named = name_levels(z_mm, region, number, mid)       # of the slices looked at, in any order
    named.level[i], named.confidence[i]                  # "L3", 0.97; None where it is not known

One slice hardly tells its level; a column of them does. A hidden Markov model runs down the spine in steps of 3 mm: its
states are the levels from the neck to below the sacrum, each divided into body and disc; neighbouring states follow
each other at the heights that vertebrae have. What the encoder believes of a slice (region, vertebra number, how near
to the middle of a body) is the evidence. Chest and sacrum anchor the count where they are seen. The body's size and the
number of lumbar vertebrae (four to six) are summed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from osteo_ray.model.config import REGIONS
from osteo_ray.model.embedding import L1_NUMBER, p_mid, vertebra

STEP_MM = 3.0
BODY_AND_DISC_MM = {
    **dict(zip((f"T{i}" for i in range(1, 13)), (19.0, 19.5, 20.0, 20.5, 21.1, 21.8, 22.5, 23.2, 24.2, 25.8, 27.3, 29.5),
               strict=True)),
    "L1": 32.3, "L2": 34.4, "L3": 35.6, "L4": 36.4, "L5": 35.5, "L6": 35.5,
}  # fmt: skip
"""Height of a level, body and the disc below, of a woman of 160 cm."""
BODY_SHARE = 0.78
"""Of a level's height that is body."""
SACRUM_MM = 110.0
SIZES = (0.86, 0.92, 0.98, 1.04, 1.10, 1.16, 1.22)
"""Bodies' sizes against that woman's, about evenly likely but for the ends."""
SIZE_PRIOR = (0.05, 0.14, 0.22, 0.24, 0.19, 0.11, 0.05)
LUMBAR_PRIOR = {5: 0.92, 4: 0.055, 6: 0.025}
"""Free lumbar vertebrae: five in most people."""
STAY, ONE, TWO = 0.12, 0.76, 0.12
"""Chances to move by no state, one or two in a step: levels of a person differ in height by some per cent."""
NUMBER_SD = 1.3
"""Error of the encoder's vertebra number; its tails are heavier than a normal curve's (`NUMBER_FLOOR`)."""
NUMBER_FLOOR = 0.05
REGION_FLOOR = 0.06
MID_SD = 0.33
INDEPENDENT_MM = 14.0
"""Slices nearer to each other than this repeat each other's errors, and count for less."""
SURE = 0.7
"""Least confidence with which a level is named."""
ABOVE, BELOW, SACRUM = "above", "below", "S"


@dataclass(frozen=True)
class Levels:
    """Level names of k slices."""

    level: tuple[str | None, ...]  # 'T1'..'L6', 'S'; None: not known, or not of the spine's named part
    confidence: np.ndarray  # float [k], probability of the most probable level, 0..1
    lumbar: np.ndarray  # float [k], probability that the slice shows the body of one of L1-L4

    def describe(self, i: int) -> str:
        """For a person: 'L3' or 'level not known'."""
        return self.level[i] or "level not known"


@dataclass(frozen=True)
class _Chain:
    """States from the neck to below the sacrum."""

    level: tuple[str, ...]  # of each state
    region: np.ndarray  # int [S], index into REGIONS
    number: np.ndarray  # float [S], vertebra number; NaN where there is none
    mid: np.ndarray  # float [S], what `mid` is expected to be
    body: np.ndarray  # bool [S]


def name_levels(z_mm: np.ndarray, region: np.ndarray, number: np.ndarray, mid: np.ndarray) -> Levels:
    """Name the levels of slices of one scan.

    Args:
        z_mm: heights [k], mm, toward the head.
        region: belief in each of REGIONS [k, 4].
        number: estimated vertebra number [k] (13 = L1).
        mid: belief that the slice shows the middle of a body [k].
    """
    k = len(z_mm)
    if k == 0:
        return Levels((), np.zeros(0), np.zeros(0))
    z = np.asarray(z_mm, float)
    down = z.max() - z  # the model runs from head to foot
    at = np.rint(down / STEP_MM).astype(int)
    weight = _weights(down)
    total: dict[str, np.ndarray] = {}
    body = np.zeros(k)
    scores, parts = [], []
    for count, p_count in LUMBAR_PRIOR.items():
        for size, p_size in zip(SIZES, SIZE_PRIOR, strict=True):
            chain = _chain(count, size)
            evidence = _evidence(chain, np.asarray(region, float), np.asarray(number, float), np.asarray(mid, float))
            posterior, log_likelihood = _posterior(evidence * weight[:, None], at)
            scores.append(log_likelihood + np.log(p_count * p_size))
            parts.append((chain, posterior))
    share = np.exp(np.array(scores) - np.max(scores))
    share /= share.sum()
    for w, (chain, posterior) in zip(share, parts, strict=True):
        names = np.array(chain.level)
        for name in dict.fromkeys(chain.level):
            total[name] = total.get(name, np.zeros(k)) + w * posterior[:, names == name].sum(1)
        body += w * posterior[:, np.isin(names, ("L1", "L2", "L3", "L4")) & chain.body].sum(1)
    names = list(total)
    p = np.stack([total[n] for n in names], 1)
    best = p.argmax(1)
    confidence = p[np.arange(k), best]
    level = tuple(
        names[b] if c >= SURE and names[b] not in (ABOVE, BELOW) else None for b, c in zip(best, confidence, strict=True)
    )
    return Levels(level, confidence, body)


def levels_of(z_mm: np.ndarray, embedding: np.ndarray) -> Levels:
    """`name_levels` from embeddings [k, D]."""
    region = np.asarray(embedding)[..., -1 - len(REGIONS) : -1]
    return name_levels(z_mm, region, vertebra(embedding), p_mid(embedding))


@lru_cache(maxsize=64)
def _chain(lumbar: int, size: float) -> _Chain:
    level, region, number, mid, body = [ABOVE], [REGIONS.index("none")], [np.nan], [0.0], [False]
    names = [f"T{i}" for i in range(1, 13)] + [f"L{i}" for i in range(1, lumbar + 1)]
    for i, name in enumerate(names):
        n = max(3, round(BODY_AND_DISC_MM[name] * size / STEP_MM))
        place = (np.arange(n) + 0.5) / n
        inside = place < BODY_SHARE
        level += [name] * n
        region += [REGIONS.index("thoracic" if name[0] == "T" else "lumbar")] * n
        # A sacralised L5 leaves no number out: what lies below the last lumbar vertebra is the sacrum.
        number += list(i + 1 + np.where(inside, 0.0, (place - BODY_SHARE) / (1 - BODY_SHARE)))
        mid += list(np.where(inside, 1 - np.abs(2 * place / BODY_SHARE - 1), 0.0))
        body += list(inside)
    n = round(SACRUM_MM * size / STEP_MM)
    level += [SACRUM] * n + [BELOW]
    region += [REGIONS.index("pelvic")] * n + [REGIONS.index("none")]
    number += [L1_NUMBER + 5.0] * n + [np.nan]
    mid += [0.0] * (n + 1)
    body += [False] * (n + 1)
    return _Chain(tuple(level), np.array(region), np.array(number), np.array(mid), np.array(body))


def _weights(down: np.ndarray) -> np.ndarray:
    """How much each slice counts [k]: its share of the spine's length, against what is independent."""
    order = np.argsort(down)
    gap = np.diff(down[order])
    own = np.zeros(len(down))
    own[:-1] += gap / 2
    own[1:] += gap / 2
    out = np.ones(len(down))
    if len(down) > 1:
        out[order] = np.clip(own / INDEPENDENT_MM, 0.1, 1.0)
    return out


def _evidence(chain: _Chain, region: np.ndarray, number: np.ndarray, mid: np.ndarray) -> np.ndarray:
    """Log-likelihood of each slice in each state [k, S]."""
    p = region[:, chain.region] * (1 - REGION_FLOOR) + REGION_FLOOR / len(REGIONS)
    off = (number[:, None] - chain.number[None]) / NUMBER_SD
    near = np.exp(-0.5 * off**2) * (1 - NUMBER_FLOOR) + NUMBER_FLOOR
    # Where there is no vertebra the number says nothing: as if it were one and a half off.
    near = np.where(np.isfinite(near), near, np.exp(-0.5 * (1.5 / NUMBER_SD) ** 2))
    middle = -0.5 * ((mid[:, None] - chain.mid[None]) / MID_SD) ** 2
    return np.log(p) + np.log(near) + middle


def _posterior(evidence: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, float]:
    """State probabilities of each slice [k, S], and the log-likelihood; `at`: the grid step of each slice."""
    steps, states = int(at.max()) + 1, evidence.shape[1]
    log = np.zeros((steps, states))
    np.add.at(log, at, evidence)
    top = log.max(1, keepdims=True)
    emission = np.exp(log - top)
    forward = np.zeros((steps, states))
    scale = np.zeros(steps)
    f = np.full(states, 1.0 / states)
    f[0] = f[-1] = 0.1
    f = f / f.sum() * emission[0]
    for t in range(steps):
        if t:
            f = _moved(f) * emission[t]
        scale[t] = f.sum()
        f = f / max(scale[t], 1e-300)
        forward[t] = f
    b = np.ones(states)
    posterior = np.zeros_like(forward)
    posterior[-1] = forward[-1]
    for t in range(steps - 2, -1, -1):
        b = _moved_back(b * emission[t + 1]) / max(scale[t + 1], 1e-300)
        posterior[t] = forward[t] * b
    posterior /= np.maximum(posterior.sum(1, keepdims=True), 1e-300)
    return posterior[at], float(np.log(np.maximum(scale, 1e-300)).sum() + top.sum())


def _moved(f: np.ndarray) -> np.ndarray:
    """One step down: states above and below the spine keep what they have, but for what enters and leaves it."""
    out = STAY * f
    out[1:] += ONE * f[:-1]
    out[2:] += TWO * f[:-2]
    out[0] = 0.9 * f[0]
    out[1] += (1 - 0.9 - ONE) * f[0] if len(f) > 1 else 0.0
    out[2] -= TWO * f[0]
    out[-1] += (1 - STAY) * f[-1] + TWO * f[-2]
    return out


def _moved_back(b: np.ndarray) -> np.ndarray:
    """The transpose of `_moved`."""
    out = STAY * b
    out[:-1] += ONE * b[1:]
    out[:-2] += TWO * b[2:]
    out[0] = 0.9 * b[0] + 0.1 * b[1]
    out[-1] = b[-1]
    out[-2] = STAY * b[-2] + (ONE + TWO) * b[-1]
    return out
