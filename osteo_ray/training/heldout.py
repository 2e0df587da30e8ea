"""A bundle judged on people whom nothing was trained, chosen or calibrated on: the figures on its card.

    metrics = judge(bundle, people)           # {"heldout": [one dict a pattern], "heldout_auc ct": 0.94, ...}

Only patients whom the product would score count, by the product's own rule (`model.abstention`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from osteo_ray.catalogue.config import QualityChecks
from osteo_ray.evaluation.metrics import Estimate, auc_delong, calibration_slope, confusion_at
from osteo_ray.model.abstention import decide, model_checks
from osteo_ray.model.acquisition import extend
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.calibration import normal_log_odds
from osteo_ray.model.networks import members
from osteo_ray.model.patterns import modalities_of
from osteo_ray.model.scoring_bundle import Prediction
from osteo_ray.outcomes import State
from osteo_ray.patients.labels import NORMAL, OSTEOPENIA, OSTEOPOROSIS
from osteo_ray.training.patients import batch_of
from osteo_ray.training.picks import Picks, pick_slices
from osteo_ray.training.prepare import People


@dataclass(frozen=True)
class Scored:
    """The people whom the product would score by one pattern of modalities."""

    pattern: str
    rows: np.ndarray  # int [n], indices into the people's `Patients`
    prediction: Prediction
    refused: Counter[str]  # of the others, by outcome code


def scored(bundle: Bundle, people: People, picks: Picks) -> Iterator[Scored]:
    """Every pattern that the bundle has a calibrator for; each hides what people have beyond it."""
    cfg, p = bundle.config, people.patients
    views = picks.views(people.scans, people.scanned)
    rows = np.flatnonzero((p.label >= 0) & p.judged)
    bags = extend(picks.bags, cfg.encoder.layout, people.scanned, cfg.acquisition)
    batch = batch_of(p, rows, bundle.standardiser, bags, picks.masks)
    present = bundle.student.present(batch)
    scan, checks = p.scan[rows], QualityChecks()
    groups = np.array(bundle.standardiser.groups)
    for pattern in bundle.calibrators:
        shown = modalities_of(pattern)
        holders = members(pattern, present).numpy()
        outcomes = []
        for i in holders:
            view = views[scan[i]] if "ct" in shown else None
            record = np.where(np.isin(groups, shown), p.values[rows[i]], np.nan)
            outcomes.append(decide(bundle, view, record, pattern, model_checks(bundle, view, pattern, checks)))
        kept = holders[np.array([o.state is not State.ABSTAINED for o in outcomes], bool)]
        found = bundle.predict(batch.take(torch.from_numpy(kept)), pattern)
        yield Scored(pattern, rows[kept], found, Counter(o.code for o in outcomes if o.state is State.ABSTAINED))


def judge(bundle: Bundle, people: People, quiet: bool = False) -> dict[str, Any]:
    """AUC, calibration and decision by pattern, with 95 % intervals; `people` need labels."""
    picks = pick_slices(people.scans, bundle.policy, bundle.reward_classifiers, bundle.config.view, quiet)
    p = people.patients
    table: list[dict[str, Any]] = []
    refused: dict[str, Counter[str]] = {}
    for s in scored(bundle, people, picks):
        refused[s.pattern] = s.refused
        if not len(s.rows):
            continue
        y, found = p.label[s.rows], s.prediction
        case, ends = y == OSTEOPOROSIS, y != OSTEOPENIA
        decided = confusion_at(case, found.risk, bundle.threshold_of(s.pattern))
        table.append(
            {
                "pattern": s.pattern,
                "n": len(y),
                "events": int(case.sum()),
                "normal": int((y == NORMAL).sum()),
                "refused": dict(s.refused),
                "auc": _plain(auc_delong(case[ends], normal_log_odds(found.logits)[ends])),
                "auc_rest": _plain(auc_delong(case, found.risk)),
                "calibration_slope": _plain(calibration_slope(case, found.risk)),
                "sensitivity": _plain(decided.sensitivity),
                "specificity": _plain(decided.specificity),
            }
        )
    codes = refused.get("ct", Counter())
    out: dict[str, Any] = {
        "heldout": table,
        "n_heldout": int(((p.label >= 0) & p.judged).sum()),
        "heldout_scans": len(people.scans),
        "heldout_no_lumbar": codes["NO_LUMBAR_SEEN"],
        "heldout_unlike": codes["OOD_IMAGE"],
    }
    return out | {f"heldout_auc {r['pattern']}": r["auc"][0] for r in table}


def _plain(e: Estimate) -> list[float | None]:
    """Value, low, high; None where it is not defined."""
    return [None if np.isnan(v) else round(float(v), 4) for v in (e.value, e.low, e.high)]
