"""Whether a scan is scored: the one rule, asked by screening, by the card's figures and by the drift reference.

    checks = [*header_and_pixel_checks, *model_checks(bundle, scan, pattern, cfg)]
    outcome = decide(bundle, scan, record, pattern, checks)        # SCORED, SCORED_WARN or ABSTAINED, with a code

A score is withheld where the spine was not seen, where what was seen is out of order, where HU can't be brought to
120 kVp, where a quality check fails, and where picks or record are unlike the training patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from osteo_ray.catalogue.checks import QualityCheck, q_coverage, q_modality_missing
from osteo_ray.catalogue.config import QualityChecks
from osteo_ray.model.acquisition import KVP_RANGE
from osteo_ray.model.embedding import p_lumbar, p_thoracic
from osteo_ray.model.levels import Levels, levels_of
from osteo_ray.model.novelty import picks_summary
from osteo_ray.model.patterns import MODALITIES, modalities_of
from osteo_ray.model.selection import LEAST_PLACED, ON_LEVEL, Selection
from osteo_ray.outcomes import Outcome, Phase, State

if TYPE_CHECKING:
    from osteo_ray.model.scoring_bundle import ScoringBundle

SURE = 0.5
"""Belief from which a slice is taken to show a region."""
LEVEL_MM = 35.0
"""Height of a lumbar level with its disc, about: the levels seen are counted by the heights of lumbar slices."""
MODEL_CODES = (
    "NO_LUMBAR_SEEN",
    "LEVELS_REVERSED",
    "LEVELS_OUT_OF_ORDER",
    "LEVELS_NOT_KNOWN",
    "KVP_OUT_OF_RANGE",
    "Q_COVERAGE",
    "OOD_IMAGE",
    "OOD_RECORD",
)
"""Abstentions that depend on the bundle, the record and the slices' embeddings alone: what training can foresee."""


@dataclass(frozen=True)
class ScanView:
    """What the policy saw of one scan."""

    selection: Selection
    z_mm: np.ndarray  # float [n], heights of the scan's grid positions, ascending
    kvp: float | None = None  # tube voltage; None: not known

    def levels(self) -> Levels:
        """Level names by grid position; None and 0 where a position was not looked at."""
        n = len(self.z_mm)
        at = np.flatnonzero(self.selection.looked[:n])
        found = levels_of(self.z_mm[at], self.selection.embedding[at])
        level: list[str | None] = [None] * n
        confidence, lumbar = np.zeros(n), np.zeros(n)
        confidence[at], lumbar[at] = found.confidence, found.lumbar
        for k, name in zip(at.tolist(), found.level, strict=True):
            level[k] = name
        return Levels(tuple(level), confidence, lumbar)

    def lumbar_levels(self, threshold: float) -> int:
        """Lumbar levels among the slices looked at: heights of lumbar slices, counted in steps of a level."""
        n = len(self.z_mm)
        lumbar = self.selection.looked[:n] & (p_lumbar(self.selection.embedding[:n]) >= threshold)
        z = self.z_mm[lumbar]
        return len(set(((z - z.min()) // LEVEL_MM).tolist())) if z.size else 0

    def reversed_mm(self) -> float:
        """How far the slices believed to show the chest lie below those believed lumbar, on average; 0 where above.

        Slices in a wrong order, or an orientation that exchanges head and feet, turn the body upside down.
        """
        n = len(self.z_mm)
        looked, e = self.selection.looked[:n], self.selection.embedding[:n]
        chest, lumbar = (self.z_mm[looked & (p(e) >= SURE)] for p in (p_thoracic, p_lumbar))
        return max(0.0, float(lumbar.mean() - chest.mean())) if chest.size and lumbar.size else 0.0

    def chest_inside_mm(self) -> float:
        """How deep inside the stretch of kept slices believed lumbar a slice lies that is believed to show the chest.

        A body has one lumbar spine: with the chest in the middle of it, something else (often a neck) passed for it.
        """
        n = len(self.z_mm)
        e, z, kept = self.selection.embedding[:n], self.z_mm, self.selection.kept
        lumbar = z[kept][p_lumbar(e[kept]) >= SURE]
        chest = z[self.selection.looked[:n] & (p_thoracic(e) >= SURE)]
        if not lumbar.size or not chest.size:
            return 0.0
        return max(0.0, float(np.minimum(chest - lumbar.min(), lumbar.max() - chest).max()))


def model_checks(bundle: ScoringBundle, scan: ScanView | None, pattern: str, cfg: QualityChecks) -> list[QualityCheck]:
    """The quality checks that need the model: lumbar levels seen (with a CT), and modalities that are missing."""
    missing = [m for m in MODALITIES if m not in modalities_of(pattern)]
    checks = [q_modality_missing(missing, cfg)]
    if scan is not None:
        checks.insert(0, q_coverage(scan.lumbar_levels(bundle.lumbar_threshold), cfg))
    return checks


def decide(
    bundle: ScoringBundle, scan: ScanView | None, record: np.ndarray, pattern: str, checks: Sequence[QualityCheck] = ()
) -> Outcome:
    """Whether one patient is scored under a pattern of modalities.

    Args:
        scan: None where the pattern has no CT.
        record: float [F] in the order of the schema's features, NaN where missing.
        checks: every quality check of this scan, those of `model_checks` too.

    Returns:
        ABSTAINED with the first reason in the order of this module, else SCORED, or SCORED_WARN where a check warns.
    """
    if scan is not None and (unfit := _scan_unfit(bundle, scan)):
        return unfit
    failed = [c for c in checks if c.verdict == "fail"]
    if failed:
        message = "; ".join(f"{c.gate} {c.value}, {c.threshold} is asked for" for c in failed)
        return Outcome(State.ABSTAINED, failed[0].gate, Phase.GATE, message)
    if unlike := _unlike(bundle, scan, record):
        return unlike
    if pattern not in bundle.calibrators:
        message = f"the bundle has no calibrator for the pattern {pattern}"
        return Outcome(State.ABSTAINED, "NO_CALIBRATOR", Phase.SCORE, message)
    warned = [c.gate for c in checks if c.verdict == "warn"]
    if warned:
        return Outcome(State.SCORED_WARN, "GATE_WARN", Phase.SCORE, ", ".join(warned))
    return Outcome(State.SCORED, "OK", Phase.SCORE)


def _scan_unfit(bundle: ScoringBundle, scan: ScanView) -> Outcome | None:
    looked = scan.selection.embedding[scan.selection.looked]
    best = float(p_lumbar(looked).max()) if len(looked) else 0.0
    if best < bundle.lumbar_threshold:
        message = f"no slice looked at shows the lumbar spine (best {best:.2f})"
        return Outcome(State.ABSTAINED, "NO_LUMBAR_SEEN", Phase.SELECT, message)
    below = scan.reversed_mm()
    if below > LEVEL_MM:
        message = f"slices that seem to show the chest lie {below:.0f} mm below those that seem lumbar"
        return Outcome(State.ABSTAINED, "LEVELS_REVERSED", Phase.SELECT, message)
    inside = scan.chest_inside_mm()
    if inside > LEVEL_MM:
        message = f"a slice that seems to show the chest lies {inside:.0f} mm inside what was taken for lumbar spine"
        return Outcome(State.ABSTAINED, "LEVELS_OUT_OF_ORDER", Phase.SELECT, message)
    if bundle.config.view.by_level:
        placed = int((scan.levels().lumbar[scan.selection.kept] >= ON_LEVEL).sum())
        if placed < LEAST_PLACED:
            message = f"{placed} of the picked slices surely lie in the bodies of L1-L4; {LEAST_PLACED} are asked for"
            return Outcome(State.ABSTAINED, "LEVELS_NOT_KNOWN", Phase.SELECT, message)
    if scan.kvp is not None and not KVP_RANGE[0] <= scan.kvp <= KVP_RANGE[1]:
        low, high = KVP_RANGE
        message = f"bone at {scan.kvp:g} kVp can't be brought to 120 kVp; {low:g} to {high:g} kVp can"
        return Outcome(State.ABSTAINED, "KVP_OUT_OF_RANGE", Phase.SCORE, message)
    return None


def _unlike(bundle: ScoringBundle, scan: ScanView | None, record: np.ndarray) -> Outcome | None:
    """An abstention where picks or record lie further from the training patients than the bundle accepts."""
    inputs = {"record": bundle.standardiser.spreads(record[None])}
    if scan is not None:
        kept = scan.selection.embedding[scan.selection.kept][None]
        inputs = {"image": picks_summary(kept, np.ones(kept.shape[:2], bool))} | inputs
    for name, x in inputs.items():
        limit = bundle.novelty[name].threshold
        distance = float(bundle.novelty[name](x)[0])
        if distance > limit:
            what = "the picked slices are" if name == "image" else "the record is"
            text = f"{what} unlike the training data (distance {distance:.2f}, accepted up to {limit:.2f})"
            return Outcome(State.ABSTAINED, f"OOD_{name.upper()}", Phase.SCORE, text)
    return None
