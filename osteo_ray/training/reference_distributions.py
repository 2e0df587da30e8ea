"""What the patients looked like that a bundle was trained and calibrated on: the reference of `osteo-ray drift`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import logit

from osteo_ray.io.store import read_table
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.calibration import pattern_of, rest_log_odds
from osteo_ray.model.density import at_120_kvp, trabecular_hu
from osteo_ray.model.distributions import SCORED, Distributions, quantities
from osteo_ray.model.embedding import p_lumbar
from osteo_ray.model.networks import MODALITIES
from osteo_ray.model.novelty import picks_summary
from osteo_ray.patients.schema import LABS, NAMES
from osteo_ray.training.patients import Patients, batch_of
from osteo_ray.training.prepare import People

HEADERS = ("manufacturer", "convolution_kernel", "slice_thickness_mm")


def headers_of(catalogue: str | Path) -> pd.DataFrame:
    """What a catalogue's headers say of each series, by series UID."""
    return read_table(catalogue, columns=["series_uid", *HEADERS]).to_pandas().drop_duplicates("series_uid")


def reference_of(
    bundle: Bundle, known: People, bags: np.ndarray, masks: np.ndarray, headers: pd.DataFrame | None
) -> Distributions:
    """Distributions over the training and validation patients with a CT.

    Scores and abstentions are those of the validation patients alone: the others' were trained on.

    Args:
        bags: float32 [S, K, features] and masks [S, K]: the picks of each scan, as the models read them.
        headers: `headers_of` the catalogue; scans of slice sets are not in it, and their headers not known.
    """
    people, scans, scanned = known.patients, known.scans, known.scanned
    rows = np.flatnonzero((people.scan >= 0) & (people.part != "test"))
    at = people.scan[rows]
    dim, cfg = bundle.config.encoder.dim, bundle.config
    cause = _abstained(bundle, people.values[rows], bags[at][..., :dim], masks[at])
    hu = np.array([trabecular_hu(bags[i, masks[i], :dim], cfg.encoder.n_learned) for i in at])
    score, pattern = _scores(bundle, people, rows, bags, masks)
    values = pd.DataFrame(people.values[rows], columns=list(NAMES))
    columns: dict[str, object] = {
        "age_y": values["age_y"],
        "sex": values["sex_male"].map({0.0: "F", 1.0: "M"}),
        "labs_known": values[list(LABS)].notna().mean(axis=1),
    }
    if headers is not None:
        found = headers.set_index("series_uid").reindex(scans.series[at])
        columns |= {k: found[k].to_numpy() for k in HEADERS}
    val = people.part[rows] == "val"
    frame = quantities(
        hu_120=at_120_kvp(hu, scanned.kvp[at], cfg.acquisition),
        given=scanned.contrast[at],
        kvp=scanned.kvp[at],
        abstained=pd.Series(cause).where(val, None).to_numpy(object),
        scored=cause == SCORED,
        score=np.where(val, score, np.nan),
        pattern=pd.Series(pattern).where(val, None).to_numpy(object),
        **columns,
    )
    return Distributions.of(frame)


def _abstained(bundle: Bundle, values: np.ndarray, bags: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Why each patient would not be scored, as far as the model has a say; `SCORED` else. object [n]."""
    cause = np.full(len(values), SCORED, object)
    novel = {"record": bundle.standardiser.spreads(values), "image": picks_summary(bags, masks)}
    for name, x in novel.items():
        cause[bundle.novelty[name](x) > bundle.novelty[name].threshold] = f"OOD_{name.upper()}"
    lumbar = np.where(masks, p_lumbar(bags), 0.0).max(axis=1)
    cause[lumbar < bundle.lumbar_threshold] = "NO_LUMBAR_SEEN"
    return cause


@torch.no_grad()
def _scores(
    bundle: Bundle, people: Patients, rows: np.ndarray, bags: np.ndarray, masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of the calibrated risk, and pattern, of each patient; NaN and None where there is no calibrator."""
    batch = batch_of(people, rows, bundle.standardiser, bags, masks)
    present = bundle.student.present(batch).numpy()
    pattern = np.array([pattern_of(p, MODALITIES) for p in present], object)
    score = np.full(len(rows), np.nan)
    nets = {"student": bundle.student, "image": bundle.image, "tabular": bundle.tabular}
    for name, calibrator in bundle.calibrators.items():
        members = np.flatnonzero(pattern == name)
        if len(members):
            logits = nets[bundle.scored_by[name]](batch.take(torch.from_numpy(members))).numpy().astype(float)
            score[members] = logit(np.clip(calibrator(rest_log_odds(logits))[0], 1e-6, 1 - 1e-6))
    pattern[np.isnan(score)] = None
    return score, pattern
