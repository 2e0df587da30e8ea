"""A bundle judged on people whom nothing was trained, chosen or calibrated on: the figures on its card.

    metrics = judge(bundle, people)           # {"heldout": [one dict a pattern], "heldout_auc ct": 0.94, ...}

Everybody counts for each pattern of modalities whose modalities they have, with the surplus hidden. Scans on which
the scorer would abstain, because it sees no lumbar slice or the picks are unlike the training data, are left out and
counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from osteo_ray.evaluation.metrics import Estimate, auc_delong, calibration_slope, confusion_at
from osteo_ray.model.acquisition import extend
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.calibration import rest_log_odds
from osteo_ray.model.embedding import p_lumbar
from osteo_ray.model.networks import MODALITIES
from osteo_ray.model.novelty import picks_summary
from osteo_ray.training.patients import batch_of, mask_modalities
from osteo_ray.training.picks import selections
from osteo_ray.training.prepare import People


@torch.no_grad()
def judge(bundle: Bundle, people: People, quiet: bool = False) -> dict[str, Any]:
    """AUC, calibration and decision by pattern, with 95 % intervals; `people` need labels."""
    cfg, p = bundle.config, people.patients
    bags = np.zeros((len(people.scans), cfg.view.keep, cfg.encoder.dim), np.float32)
    masks = np.zeros(bags.shape[:2], bool)
    lumbar = np.zeros(len(people.scans))
    for i, s in enumerate(selections(people.scans, bundle.policy, bundle.scorers, cfg.view, quiet)):
        bags[i, : len(s.kept)], masks[i, : len(s.kept)] = s.embedding[s.kept], True
        lumbar[i] = p_lumbar(s.embedding[s.looked]).max()
    unlike = bundle.novelty["image"](picks_summary(bags, masks)) > bundle.novelty["image"].threshold
    unseen = lumbar < bundle.lumbar_threshold
    masks &= ~(unlike | unseen)[:, None]
    rows = np.flatnonzero(p.label >= 0)
    batch = batch_of(
        p, rows, bundle.standardiser, extend(bags, cfg.encoder.n_learned, people.scanned, cfg.acquisition), masks
    )
    nets: dict[str, Any] = {"student": bundle.student, "tabular": bundle.tabular, "image": bundle.image}
    available = bundle.student.present(batch)
    groups, label = tuple(bundle.standardiser.groups), p.label[rows]
    table: list[dict[str, Any]] = []
    for pattern, calibrator in bundle.calibrators.items():
        subset = pattern.split("+")
        members = torch.where(available[:, [MODALITIES.index(m) for m in subset]].all(1))[0]
        if len(members) == 0:
            continue
        logits = nets[bundle.scored_by[pattern]](
            mask_modalities(batch.take(members), {m: m in subset for m in MODALITIES}, groups)
        ).numpy()
        y = label[members.numpy()]
        risk = calibrator(rest_log_odds(logits.astype(float)))[0]
        ends = y != 1
        decided = confusion_at(y == 2, risk, bundle.threshold)
        table.append(
            {
                "pattern": pattern,
                "n": len(y),
                "events": int((y == 2).sum()),
                "normal": int((y == 0).sum()),
                "auc": _plain(auc_delong(y[ends] == 2, (logits[:, 2] - logits[:, 0])[ends])),
                "auc_rest": _plain(auc_delong(y == 2, risk)),
                "calibration_slope": _plain(calibration_slope(y == 2, risk)),
                "sensitivity": _plain(decided.sensitivity),
                "specificity": _plain(decided.specificity),
            }
        )
    out: dict[str, Any] = {
        "heldout": table,
        "n_heldout": len(rows),
        "heldout_scans": len(people.scans),
        "heldout_no_lumbar": int(unseen.sum()),
        "heldout_unlike": int((unlike & ~unseen).sum()),
    }
    return out | {f"heldout_auc {r['pattern']}": r["auc"][0] for r in table}


def _plain(e: Estimate) -> list[float | None]:
    """Value, low, high; None where it is not defined."""
    return [None if np.isnan(v) else round(float(v), 4) for v in (e.value, e.low, e.high)]
