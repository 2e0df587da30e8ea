"""Results -> one row a patient with what may drift (`distributions.QUANTITIES`), read in batches."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from scipy.special import logit

from osteo_ray.model.acquisition import contrast_given
from osteo_ray.model.config import AcquisitionConfig
from osteo_ray.model.density import at_120_kvp
from osteo_ray.model.distributions import SCORED, quantities
from osteo_ray.outcomes import State
from osteo_ray.patients.schema import LABS
from osteo_ray.patients.timeline import latest_per_patient
from osteo_ray.screening.schema import RESULTS

READ = (
    *("patient_key", "study_date", "row_key", "state", "code", "risk_prob", "calibrator", "trabecular_hu"),
    *("age_y", "sex", "manufacturer", "kvp", "convolution_kernel", "slice_thickness_mm", "contrast", "shap"),
)


def of_results(
    results: str | Path, cfg: AcquisitionConfig, causes: Collection[str] | None = None, model_sha256: str | None = None
) -> pd.DataFrame:
    """The latest study of each patient that reached the scorer.

    Args:
        cfg: how HU depend on tube voltage; the bundle's.
        causes: abstentions that count; None: all. Patients with others are left out of `abstained`.
        model_sha256: only rows of this bundle; None: all.
    """
    states = (State.SCORED, State.SCORED_WARN, State.ABSTAINED)
    wanted = pads.field("state").isin([str(s) for s in states]) & pads.field("patient_key").is_valid()
    if model_sha256 is not None:
        wanted &= pads.field("model_sha256") == model_sha256
    parts = []
    for batch in pads.dataset(results, schema=RESULTS).to_batches(columns=list(READ), filter=wanted, batch_size=20_000):
        light = batch.select([c for c in READ if c != "shap"]).to_pandas()
        light["labs_known"] = labs_known(batch["shap"])
        parts.append(light)
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*READ[:-1], "labs_known"])
    rows = latest_per_patient(rows).sort_values("patient_key", kind="stable", ignore_index=True)
    scored = rows["state"] != str(State.ABSTAINED)
    cause = rows["code"].where(~scored, SCORED)
    if causes is not None:
        cause = cause.where(cause.isin([SCORED, *causes]))
    risk = rows["risk_prob"].astype(float).clip(1e-6, 1 - 1e-6)
    return quantities(
        hu_120=at_120_kvp(rows["trabecular_hu"].to_numpy(float), rows["kvp"].to_numpy(float), cfg),
        given=rows["contrast"].map(contrast_given).to_numpy(float),
        kvp=rows["kvp"].to_numpy(float),
        abstained=cause.to_numpy(object),
        scored=scored.to_numpy(bool),
        score=logit(risk).to_numpy(float),
        pattern=rows["calibrator"].to_numpy(object),
        **{k: rows[k] for k in ("age_y", "sex", "labs_known", "manufacturer", "convolution_kernel")},
        slice_thickness_mm=rows["slice_thickness_mm"],
    )


def labs_known(shap: pa.Array) -> np.ndarray:
    """Share of the labs that have a value, by row; NaN where a row has no explanation of them."""
    shap = shap.combine_chunks() if isinstance(shap, pa.ChunkedArray) else shap
    parent = pc.list_parent_indices(shap).to_numpy()
    inside = shap.flatten()
    lab = pc.equal(inside.field("group"), "labs").to_numpy(zero_copy_only=False)
    value = inside.field("value").to_numpy(zero_copy_only=False)
    explained = np.bincount(parent[lab], minlength=len(shap))
    known = np.bincount(parent[lab & ~pd.isna(value)], minlength=len(shap))
    return np.where(explained > 0, known / len(LABS), np.nan)
