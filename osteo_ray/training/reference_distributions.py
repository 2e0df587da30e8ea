"""What the patients looked like that a bundle was trained and calibrated on: the reference of `osteo-ray drift`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import logit

from osteo_ray.catalogue.config import QualityChecks
from osteo_ray.io.parquet_set import open_set
from osteo_ray.model.abstention import decide, model_checks
from osteo_ray.model.acquisition import extend
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.density import at_120_kvp, trabecular_hu
from osteo_ray.model.distributions import SCORED, Distributions, quantities
from osteo_ray.model.patterns import pattern_of
from osteo_ray.outcomes import State
from osteo_ray.patients.schema import LABS, NAMES
from osteo_ray.training.patients import Patients, batch_of
from osteo_ray.training.picks import Picks
from osteo_ray.training.prepare import People

HEADERS = ("manufacturer", "convolution_kernel", "slice_thickness_mm")


def headers_of(catalogue: str | Path) -> pd.DataFrame:
    """What a catalogue's headers say of each series, by series UID."""
    return open_set(catalogue).read(["series_uid", *HEADERS]).to_pandas().drop_duplicates("series_uid")


def reference_of(bundle: Bundle, known: People, picks: Picks, headers: pd.DataFrame | None) -> Distributions:
    """Distributions over the training and validation patients with a CT.

    Scores and abstentions are those of the validation patients alone: the others' were trained on. Abstentions are
    those that need no pixels beyond the slices' crops (`abstention.MODEL_CODES`).

    Args:
        headers: `headers_of` the catalogue; scans of slice sets are not in it, and their headers not known.
    """
    people, scans, scanned = known.patients, known.scans, known.scanned
    rows = np.flatnonzero((people.scan >= 0) & (people.part != "test") & people.judged)
    at = people.scan[rows]
    layout, cfg = bundle.config.encoder.layout, bundle.config
    bags, masks = picks.of_kept()
    hu = np.array([trabecular_hu(bags[i, masks[i]], layout) for i in at])
    score, pattern, cause = _scores(bundle, known, picks, rows)
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


def _scores(bundle: Bundle, known: People, picks: Picks, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each patient: log-odds of the calibrated risk (NaN: none), pattern (None: no calibrator), and why the patient
    would not be scored, `SCORED` else.
    """
    people: Patients = known.patients
    bags = extend(picks.bags, bundle.config.encoder.layout, known.scanned, bundle.config.acquisition)
    batch = batch_of(people, rows, bundle.standardiser, bags, picks.masks)
    patterns = np.array([pattern_of(p) for p in bundle.student.present(batch).numpy()], object)
    views = picks.views(known.scans, known.scanned)
    cause = np.full(len(rows), SCORED, object)
    for i, row in enumerate(rows):
        view = views[people.scan[row]]
        checks = model_checks(bundle, view, patterns[i], QualityChecks())
        outcome = decide(bundle, view, people.values[row], patterns[i], checks)
        if outcome.state is State.ABSTAINED and outcome.code != "NO_CALIBRATOR":
            cause[i] = outcome.code
    score = np.full(len(rows), np.nan)
    for name in bundle.calibrators:
        holders = np.flatnonzero(patterns == name)
        if len(holders):
            risk = bundle.predict(batch.take(torch.from_numpy(holders)), name).risk
            score[holders] = logit(np.clip(risk, 1e-6, 1 - 1e-6))
    patterns[np.isnan(score)] = None
    return score, patterns, cause
