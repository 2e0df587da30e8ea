"""Contrast medium of a scan: what it adds to each tissue, by vein, by mouth, and excreted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.synthetic.tables import PHASES


@dataclass(frozen=True)
class Enhancement:
    """HU that contrast medium adds, by tissue; all zero without contrast."""

    aorta: float = 0.0
    vein: float = 0.0
    organ: float = 0.0
    kidney: float = 0.0
    bone: float = 0.0  # at L1, at 120 kVp
    right: float = 0.0  # right heart and pulmonary arteries
    cava: float = 0.0  # superior vena cava and the veins of the injected arm
    urine: float = 0.0  # renal pelvis, ureters, bladder
    oral: float = 0.0  # stomach and bowel

    @property
    def intravenous(self) -> bool:
        return self.aorta > 0


def draw(rng: np.random.Generator, intravenous: bool, oral: bool, chest: bool) -> Enhancement:
    """One scan's contrast; phases as often as routine protocols of the trunk or of the chest and neck use them."""
    by_mouth = float(rng.uniform(90, 420)) if oral else 0.0
    if not intravenous:
        return Enhancement(oral=by_mouth)
    share = np.array([p.chest_share if chest else p.share for p in PHASES.values()])
    p = list(PHASES.values())[int(rng.choice(len(share), p=share / share.sum()))]

    def tissue(mean_sd: tuple[float, float]) -> float:
        return float(max(rng.normal(*mean_sd), 1.0)) if mean_sd[0] else 0.0

    return Enhancement(
        tissue(p.aorta), tissue(p.vein), tissue(p.organ), tissue(p.kidney), p.bone, tissue(p.right), tissue(p.cava),
        tissue(p.urine), by_mouth,
    )  # fmt: skip
