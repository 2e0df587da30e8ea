"""Missingness as a mechanism: who gets a CT, who gets labs, which values are absent.

Sick people are examined more. The chance of a CT grows with age and with frailty (low T-score), the chance that labs
are missing grows with health; panels are ordered whole, and single values are lost at random. Shares are met in
expectation by solving for the intercept of each logistic.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from osteo_ray.synthetic import labs
from osteo_ray.synthetic.config import MissingnessConfig

# Chance that a panel was ordered for someone who had blood taken (chemistry is the reason for taking it).
_ORDERED = {"chemistry": 1.0, "lipids": 0.85, "blood count": 0.95, "urine": 0.7}


def _with_share(score: np.ndarray, share: float) -> np.ndarray:
    """Chances expit(score + c) whose mean is `share`."""
    if share >= 1:
        return np.ones_like(score)
    if share <= 0:
        return np.zeros_like(score)
    c = brentq(lambda c: expit(score + c).mean() - share, -30, 30)
    return expit(score + c)


def decide(rng: np.random.Generator, a: dict[str, np.ndarray], cfg: MissingnessConfig) -> dict[str, np.ndarray]:
    """`ct` bool [n], `demographics` bool [n], `labs` bool [n, L] for a population of columns `a`."""
    n = len(a["age"])
    frail = -(a["t_score"] - a["t_score"].mean()) / max(a["t_score"].std(), 1e-6) if n > 1 else np.zeros(n)
    older = (a["age"] - 60) / 10
    healthy = -np.log(cfg.healthy_odds) * frail
    ct_share = min(cfg.complete_share + cfg.ct_only_share, 1.0)
    ct = rng.random(n) < _with_share(0.35 * frail + 0.3 * older, ct_share)
    # Those with a CT but no records at all; the others with a CT had blood taken for it.
    ct_only = np.zeros(n, bool)
    if ct.any():
        ct_only[ct] = rng.random(int(ct.sum())) < _with_share(healthy[ct], cfg.ct_only_share / ct_share)
    no_labs = np.zeros(n, bool)
    if (~ct).any() and ct_share < 1:
        no_labs[~ct] = rng.random(int((~ct).sum())) < _with_share(
            healthy[~ct], min(cfg.no_labs_share / (1 - ct_share), 1)
        )
    blood = ~(ct_only | no_labs)
    mask = np.zeros((n, len(labs.LABS)), bool)
    for panel in labs.PANELS:
        # Panels beyond chemistry are skipped more in the healthy.
        p = _with_share(-healthy, _ORDERED[panel]) if n > 1 else np.full(n, _ORDERED[panel])
        ordered = blood & (rng.random(n) < p)
        for j, lab in enumerate(labs.LABS):
            if lab.panel == panel:
                mask[:, j] = ordered & (rng.random(n) >= cfg.single_lab)
    return {"ct": ct, "demographics": ~ct_only, "labs": mask}
