"""Names of vertebral levels for the slices that were looked at (numpy, scipy).

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
FURTHEST, NEVER = 32, 1e-10
"""Steps that are one product, and chances that are left out of it."""
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
    """Each hypothesis [H] of size and lumbar count as states [S] from neck to below the sacrum, padded."""

    names: tuple[str, ...]  # of the levels that states belong to
    kinds: np.ndarray  # float [U, 3]: region, vertebra number (NaN: none) and expected `mid` of the states that differ
    kind: np.ndarray  # int [H, S], index into kinds; U: padding
    stay: np.ndarray  # float [H, S], chance to stay in a state for a step, and to move on by one and by two
    one: np.ndarray
    two: np.ndarray
    prior: np.ndarray  # float [H]
    # [H * S, len(names) + 3]: sums of state probabilities by level, of bodies of L1-L4 and of all of the lumbar spine,
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
    posterior, log_likelihood = _posterior(chains, evidence * weight[:, None], at)
    score = log_likelihood + np.log(chains.prior)
    share = np.exp(score - score.max())
    posterior *= (share / share.sum())[None, :, None]
    *p_levels, lumbar, in_lumbar, expected_mid = (posterior.reshape(k, -1) @ chains.sums).T
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
    chains = [
        (_chain(lumbar, size), p * q)
        for lumbar, p in LUMBAR_PRIOR.items()
        for size, q in zip(SIZES, SIZE_PRIOR, strict=True)
    ]
    names = (ABOVE, *BODY_AND_DISC_MM, SACRUM, BELOW)
    shape = (len(chains), max(len(c) for c, _ in chains))
    states = np.full((*shape, 3), np.nan)  # region, vertebra number, mid
    stay, one, two = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    sums = np.zeros((*shape, len(names) + 3))
    for h, (chain, _) in enumerate(chains):
        n = len(chain)
        for s, (name, r, value, middle, body) in enumerate(chain):
            states[h, s] = REGIONS.index(r), value, middle
            sums[h, s, names.index(name)] = 1.0
            sums[h, s, -3:] = body and name in ("L1", "L2", "L3", "L4"), name[0] == "L", middle
        stay[h, :n], one[h, :n], two[h, :n] = STAY, ONE, TWO
        stay[h, 0], one[h, 0], two[h, 0] = 0.9, 0.1, 0.0
        one[h, n - 2], two[h, n - 2] = ONE + TWO, 0.0
        stay[h, n - 1], one[h, n - 1], two[h, n - 1] = 1.0, 0.0, 0.0
    flat = states.reshape(-1, 3)
    real = np.isfinite(flat[:, 0])
    kinds, of = np.unique(flat[real], axis=0, return_inverse=True)
    kind = np.full(len(flat), len(kinds))
    kind[real] = of.ravel()
    prior = np.array([w for _, w in chains])
    by_level = sparse.csr_array(sums.reshape(len(flat), -1))
    return _Chains(names, kinds, kind.reshape(shape), stay, one, two, prior, by_level)


def _chain(lumbar: int, size: float) -> list[tuple[str, str, float, float, bool]]:
    """(level, region, vertebra number, expected mid, whether it is body) of each state."""
    out = [(ABOVE, "none", np.nan, 0.0, False)]
    names = [f"T{i}" for i in range(1, 13)] + [f"L{i}" for i in range(1, lumbar + 1)]
    for i, name in enumerate(names, 1):
        n = max(3, round(BODY_AND_DISC_MM[name] * size / STEP_MM))
        for place in (np.arange(n) + 0.5) / n:
            body = bool(place < BODY_SHARE)
            number = i if body else i + (place - BODY_SHARE) / (1 - BODY_SHARE)
            middle = 1 - abs(2 * place / BODY_SHARE - 1) if body else 0.0
            out.append((name, "thoracic" if name[0] == "T" else "lumbar", number, middle, body))
    n = round(SACRUM_MM * size / STEP_MM)
    return [*out, *[(SACRUM, "pelvic", L1_NUMBER + 5.0, 0.0, False)] * n, (BELOW, "none", np.nan, 0.0, False)]


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
    """Log-likelihood of each slice in each kind of state [k, U]: the hypotheses share most of their states."""
    p = np.clip(region, 0, 1)[:, chains.kinds[:, 0].astype(int)] * (1 - REGION_FLOOR) + REGION_FLOOR / len(REGIONS)
    off = (number[:, None] - chains.kinds[None, :, 1]) / NUMBER_SD
    near = np.exp(-0.5 * off**2) * (1 - NUMBER_FLOOR) + NUMBER_FLOOR
    # Where there is no vertebra the number says nothing: as if it were one and a half off.
    near = np.where(np.isfinite(near), near, np.exp(-0.5 * (1.5 / NUMBER_SD) ** 2))
    middle = -0.5 * ((np.clip(mid, 0, 1)[:, None] - chains.kinds[None, :, 2]) / MID_SD) ** 2
    return np.log(p) + np.log(near) + middle


def _posterior(chains: _Chains, evidence: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """State probabilities of each slice [k, H, S], and each hypothesis' log-likelihood [H].

    Args:
        evidence: of each slice in each kind of state [k, U].
        at: the step of each slice, from the head.
    """
    # The steps with evidence; between them states only move on.
    when, which, slices = np.unique(at, return_inverse=True, return_counts=True)
    log = np.add.reduceat(evidence[np.argsort(at, kind="stable")], np.cumsum(slices) - slices, axis=0)
    top = log.max(1)
    of_kind = np.zeros((len(when), len(chains.kinds) + 1))  # 0 for padding
    of_kind[:, :-1] = np.exp(log - top[:, None])
    emission = of_kind[:, chains.kind]
    forward = np.empty_like(emission)
    scale = np.zeros((len(when), len(chains.kind)))
    f = np.where(chains.kind < len(chains.kinds), 1.0, 0.0)
    f = f / f.sum(1, keepdims=True)
    gaps = [0, *np.diff(when).tolist()]
    for u, gap in enumerate(gaps):
        f = _moved(f, gap) * emission[u]
        scale[u] = np.maximum(f.sum(1), 1e-300)
        f /= scale[u][:, None]
        forward[u] = f
    posterior = forward
    emission /= scale[..., None]
    b = np.ones_like(f)
    for u in range(len(when) - 2, -1, -1):
        b = _moved(b * emission[u + 1], gaps[u + 1], back=True)
        posterior[u] *= b
    posterior /= np.maximum(posterior.sum(2, keepdims=True), 1e-300)
    return posterior[which], np.log(scale).sum(0) + top.sum()


@lru_cache(maxsize=2 * FURTHEST)
def _moves(steps: int, back: bool = False) -> sparse.csr_array:
    """The chance to come from one state to another in so many steps, [H * S, H * S]: row to, column from; `back`: row
    from, column to.
    """
    if back:
        return sparse.csr_array(_moves(steps).T)
    if steps > 1:
        m = _moves(steps // 2) @ _moves(steps - steps // 2)
        m.data[m.data < NEVER] = 0.0
        m.eliminate_zeros()
        return m
    chains = _chains()
    n = chains.stay.size
    # A chain's last states move on by none or one, so no chain runs into the next.
    bands = [chains.stay.ravel(), chains.one.ravel()[: n - 1], chains.two.ravel()[: n - 2]]
    return sparse.csr_array(sparse.diags_array(bands, offsets=[0, -1, -2]), dtype=np.float64)


def _moved(f: np.ndarray, steps: int, back: bool = False) -> np.ndarray:
    """State probabilities [H, S] so many steps further down; `back`: what is believed of there, brought up again."""
    out = f.ravel()
    while steps > 0:
        out = _moves(min(steps, FURTHEST), back) @ out
        steps -= FURTHEST
    return out.reshape(f.shape)
