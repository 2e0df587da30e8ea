"""Names of vertebral levels for the slices that were looked at (numpy, scipy).

    named = name_levels(z_mm, region, number, mid)       # of the slices looked at, in any order
    named.level[i], named.confidence[i]                  # "L3", 0.97; None where it is not known

One slice hardly tells its level; a column of them does. A hidden Markov model runs down the spine in steps of 3 mm: its
states are the levels from the neck to below the sacrum, each divided into body and disc; neighbouring states follow
each other at the heights that vertebrae have. What the encoder believes of a slice (region, vertebra number, how near
to the middle of a body) is the evidence. Chest and sacrum anchor the count where they are seen. The body's size is
summed over, and so is the number of lumbar vertebrae (four to six): from L4 and from L5 a column may go on to the
sacrum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse

from osteo_ray.model.embedding import L1_NUMBER, LUMBAR, REGIONS, EmbeddingLayout, p_mid, vertebra

STEP_MM = 3.0
BODY_AND_DISC_MM = {
    "T1": 19.0, "T2": 19.5, "T3": 20.0, "T4": 20.5, "T5": 21.1, "T6": 21.8,
    "T7": 22.5, "T8": 23.2, "T9": 24.2, "T10": 25.8, "T11": 27.3, "T12": 29.5,
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
SURE = 0.8
"""Least confidence with which a level is named."""
TYPICAL_MID = 0.85
"""What the encoder believes of `mid` at the middle of a body, in pictures like those it learned from."""
LEAST_MID = 0.2
"""Largest belief from which a scan's `mid` is scaled: a scan in which it never rises shows no bodies."""
NO_BODY_MID = 0.08
"""What the encoder typically believes of `mid` where there is no vertebral body: hips and shoulders, say."""
FURTHEST = 32
"""Steps that are one product."""
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
class _Chains:
    """The states [S] from neck to below the sacrum, of one size after another."""

    names: tuple[str, ...]  # of the levels that states belong to
    numbers: np.ndarray  # float [V], vertebra numbers of states; the last is NaN: none
    kinds: np.ndarray  # [U, 3]: region, index into numbers and expected `mid` of the states that differ
    kind: np.ndarray  # int [S], index into kinds
    start: np.ndarray  # float [S], chance that a scan begins in a state
    step: sparse.csr_array  # [S, S], chance to come from one state to another in a step: row to, column from
    # [S, len(names) + 3]: sums of state probabilities by level, of bodies of L1-L4 and of all of the lumbar spine,
    # and the expected `mid`.
    sums: sparse.csr_array


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
    chains = _chains()
    region, mid = np.asarray(region, float), np.asarray(mid, float)
    mid = _scaled_mid(mid, region)
    evidence = _evidence(chains, region, np.asarray(number, float), mid)
    weight = _weights(down)
    *p_levels, lumbar, in_lumbar, expected_mid = _state_sums(chains, evidence * weight[:, None], at).T
    p = np.stack(p_levels, 1)
    best = p.argmax(1)
    confidence = p[np.arange(k), best]
    unnamed = [chains.names.index(n) for n in (ABOVE, BELOW)]
    level = tuple(
        chains.names[b] if c >= SURE and b not in unnamed else None for b, c in zip(best, confidence, strict=True)
    )
    if not _bodies_alternate(in_lumbar * weight, expected_mid, mid):
        level = tuple(None if name and name[0] == "L" else name for name in level)
        lumbar = np.zeros(k)
    return Levels(level, confidence, lumbar)


def levels_of(z_mm: np.ndarray, embedding: np.ndarray) -> Levels:
    """`name_levels` from embeddings [k, D]."""
    e = np.ascontiguousarray(embedding, np.float32)
    return _levels_of(np.asarray(z_mm, np.float32).tobytes(), e.tobytes(), e.shape[-1])


@lru_cache(maxsize=4)
def _levels_of(z_mm: bytes, embedding: bytes, dim: int) -> Levels:
    """The picks, abstention and the report ask for the same scan one after another."""
    e = np.frombuffer(embedding, np.float32).reshape(-1, dim)
    region = e[..., EmbeddingLayout.region]
    return name_levels(np.frombuffer(z_mm, np.float32), region, vertebra(e), p_mid(e))


@lru_cache(maxsize=1)
def _chains() -> _Chains:
    names = (ABOVE, *BODY_AND_DISC_MM, SACRUM, BELOW)
    states, starts, steps = [], [], []
    for size, p in zip(SIZES, SIZE_PRIOR, strict=True):
        column = _column(size)
        start, step = _passage([name for name, *_ in column])
        states += column
        starts.append(p * start)
        steps.append(step)
    numbers, number = np.unique([n for _, _, n, _, _ in states], return_inverse=True)
    seen = [(REGIONS.index(r), n, middle) for (_, r, _, middle, _), n in zip(states, number, strict=True)]
    kinds, kind = np.unique(np.array(seen), axis=0, return_inverse=True)
    sums = np.zeros((len(states), len(names) + 3))
    for s, (name, _, _, middle, body) in enumerate(states):
        sums[s, names.index(name)] = 1.0
        sums[s, -3:] = body and name in ("L1", "L2", "L3", "L4"), name[0] == "L", middle
    step = sparse.csr_array(sparse.block_diag(steps))
    return _Chains(names, numbers, kinds, kind.ravel(), np.concatenate(starts), step, sparse.csr_array(sums))


def _column(size: float) -> list[tuple[str, str, float, float, bool]]:
    """(level, region, vertebra number, expected mid, whether it is body) of each state of a spine with every level."""
    out = [(ABOVE, "none", np.nan, 0.0, False)]
    for i, (name, mm) in enumerate(BODY_AND_DISC_MM.items(), 1):
        n = max(3, round(mm * size / STEP_MM))
        for place in (np.arange(n) + 0.5) / n:
            body = bool(place < BODY_SHARE)
            number = i if body else i + (place - BODY_SHARE) / (1 - BODY_SHARE)
            middle = 1 - abs(2 * place / BODY_SHARE - 1) if body else 0.0
            out.append((name, "thoracic" if name[0] == "T" else "lumbar", number, middle, body))
    n = round(SACRUM_MM * size / STEP_MM)
    return [*out, *[(SACRUM, "pelvic", L1_NUMBER + 5.0, 0.0, False)] * n, (BELOW, "none", np.nan, 0.0, False)]


def _passage(level: list[str]) -> tuple[np.ndarray, sparse.csr_array]:
    """Where a scan begins in a column of states [n], whose levels are given, and how a step moves on in it [n, n].

    Four, five and six lumbar vertebrae share their states: a spine of four lacks those of L5 and L6, and a scan begins
    in each state that its spine has alike.
    """
    n, sacrum = len(level), level.index(SACRUM)
    last = {i: n - 1 - level[::-1].index(f"L{i}") for i in LUMBAR_PRIOR}  # states of L4, L5, L6
    share = {i: p / (n - sacrum + last[i] + 1) for i, p in LUMBAR_PRIOR.items()}
    start = np.full(n, sum(share.values()))
    on = sparse.lil_array(sparse.eye_array(n, k=-1))  # chance of each next place
    for i, at in last.items():
        beyond = sum(q for j, q in share.items() if j > i)
        start[at + 1 : sacrum] -= share[i]
        on[at + 1, at] = beyond / (beyond + share[i])
        on[sacrum, at] = share[i] / (beyond + share[i])
    stay, one, two = np.full(n, STAY), np.full(n, ONE), np.full(n, TWO)
    stay[0], one[0], two[0] = 0.9, 0.1, 0.0
    one[-2], stay[-1] = ONE + TWO, 1.0  # nothing lies beyond the last
    on = on.tocsr()
    return start, sparse.diags_array(stay) + on * one + on @ on * two


def _scaled_mid(mid: np.ndarray, region: np.ndarray) -> np.ndarray:
    """`mid` [k], stretched where all of a scan's beliefs are low.

    Blur, noise and thick slices lower the belief for a whole scan; bodies and discs still alternate. What counts is how
    a slice compares with the scan's most body-like slices of chest and lumbar spine.
    """
    spine = region[:, [REGIONS.index("thoracic"), LUMBAR]].sum(1) >= 0.5
    if not spine.any():
        return mid
    top = float(np.quantile(mid[spine], 0.9))
    return np.clip(mid * TYPICAL_MID / top, 0, 1) if LEAST_MID <= top < TYPICAL_MID else mid


def _bodies_alternate(share: np.ndarray, expected_mid: np.ndarray, mid: np.ndarray) -> bool:
    """Whether bodies and discs alternate in what is taken for the lumbar spine, as its column expects them to.

    Shoulders and hips that pass for lumbar slices show no bodies: `mid` then fits a constant better than the column.

    Args:
        share: how much each slice counts as one of the lumbar spine [k].
    """
    if share.sum() < 1:
        return True  # too little to tell
    gain = np.square(mid - NO_BODY_MID) - np.square(mid - expected_mid)
    return bool((share * gain).sum() > 0)


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


def _evidence(chains: _Chains, region: np.ndarray, number: np.ndarray, mid: np.ndarray) -> np.ndarray:
    """Log-likelihood of each slice in each kind of state [k, U]: sizes share half of their states."""
    p = np.clip(region, 0, 1) * (1 - REGION_FLOOR) + REGION_FLOOR / len(REGIONS)
    off = (number[:, None] - chains.numbers) / NUMBER_SD
    near = np.exp(-0.5 * off**2) * (1 - NUMBER_FLOOR) + NUMBER_FLOOR
    # Where there is no vertebra the number says nothing: as if it were one and a half off.
    near = np.where(np.isfinite(near), near, np.exp(-0.5 * (1.5 / NUMBER_SD) ** 2))
    middle = -0.5 * ((np.clip(mid, 0, 1)[:, None] - chains.kinds[:, 2]) / MID_SD) ** 2
    region_of, number_of = chains.kinds[:, :2].astype(int).T
    return np.log(p)[:, region_of] + np.log(near)[:, number_of] + middle


def _state_sums(chains: _Chains, evidence: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`chains.sums` of the state probabilities of each slice [k, len(names) + 3].

    Args:
        evidence: of each slice in each kind of state [k, U].
        at: the step of each slice, from the head.
    """
    # The steps with evidence; between them states only move on.
    when, which, slices = np.unique(at, return_inverse=True, return_counts=True)
    log = np.add.reduceat(evidence[np.argsort(at, kind="stable")], np.cumsum(slices) - slices, axis=0)
    emission = np.exp(log - log.max(1, keepdims=True))[:, chains.kind]
    posterior = np.empty_like(emission)
    f, gaps = chains.start, [0, *np.diff(when).tolist()]
    for u, gap in enumerate(gaps):
        f = _moved(f, gap) * emission[u]
        scale = f.sum()
        f /= scale
        emission[u] /= scale
        posterior[u] = f
    b = np.ones_like(f)
    for u in range(len(when) - 2, -1, -1):
        b = _moved(b * emission[u + 1], gaps[u + 1], back=True)
        posterior[u] *= b
    posterior /= posterior.sum(1, keepdims=True)
    return (posterior @ chains.sums)[which]


@lru_cache(maxsize=2 * FURTHEST)
def _moves(steps: int, back: bool = False) -> sparse.csr_array:
    """The chance to come from one state to another in so many steps, [S, S]: row to, column from; `back`: row from,
    column to.
    """
    if back:
        return sparse.csr_array(_moves(steps).T)
    return _moves(steps // 2) @ _moves(steps - steps // 2) if steps > 1 else _chains().step


def _moved(f: np.ndarray, steps: int, back: bool = False) -> np.ndarray:
    """State probabilities [S] so many steps further down; `back`: what is believed of there, brought up again."""
    while steps > 0:
        f = _moves(min(steps, FURTHEST), back) @ f
        steps -= FURTHEST
    return f
