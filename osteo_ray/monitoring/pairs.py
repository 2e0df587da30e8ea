"""A site's scored patients and their DXA, brought together: what a recalibration is fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from osteo_ray.evaluation.labels import pair_labels, read_labels
from osteo_ray.evaluation.tables import one_per_patient, scored_rows
from osteo_ray.monitoring.recalibrate import Pairs
from osteo_ray.outcomes import InputError
from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.labels import class_index

COLUMNS = (
    *("row_key", "series_uid", "study_uid", "study_date", "patient_key", "state", "calibrator", "model_sha256"),
    *("risk_prob", "p_normal", "p_osteopenia", "p_osteoporosis"),
)


def results_table(results: str | Path) -> Path:
    """The results table of a run's folder, or the table itself.

    Raises:
        InputError: where it is not there.
    """
    path = Path(results)
    path = path / "results.parquet" if path.is_dir() else path
    if not path.exists():
        raise InputError(f"{path}: no such file; give the folder of a finished run, or its results.parquet")
    return path


def load_pairs(
    results: str | Path, labels: pd.DataFrame, model_sha256: str, timeline: TimelineConfig, split: str | Path | None
) -> tuple[Pairs, list[str]]:
    """Each labelled patient's latest study scored by the bundle, and what was left out.

    Args:
        labels: records with a T-score or label (`evaluation.labels.read_labels`).
        timeline: which DXA is the label of a CT.
        split: `split.parquet` of the bundle's training run: its train and val patients do not count.

    Raises:
        InputError: where the bundle scored nobody, or nobody scored has a label.
    """
    path = results_table(results)
    rows = pads.dataset(path).to_table(columns=list(COLUMNS)).to_pandas()
    scored = scored_rows(rows)
    kept = scored[scored["model_sha256"] == model_sha256]
    if not len(kept):
        there = ", ".join(sorted({str(s)[:12] for s in scored["model_sha256"]})) or "none"
        raise InputError(
            f"{path}: nobody was scored by this bundle (sha256 {model_sha256[:12]}..., the results' is {there}...); "
            "screen with the bundle that is to be recalibrated"
        )
    notes: list[str] = []
    if len(kept) < len(scored):
        notes.append(f"{len(scored) - len(kept)} rows that another bundle scored were left out")
    kept = one_per_patient(pair_labels(kept, read_labels(labels), timeline, notes), notes)
    kept = kept[kept["label"].notna()]
    if split is not None:
        table = pq.read_table(split, columns=["patient_key", "part"]).to_pandas()
        trained = set(table.loc[table["part"].isin(["train", "val"]), "patient_key"])
        seen = kept["patient_key"].isin(trained)
        if seen.any():
            notes.append(f"{int(seen.sum())} patients on whom the bundle was trained or calibrated were left out")
        kept = kept[~kept["patient_key"].isin(trained)]
    else:
        notes.append("which patients the bundle was trained on is not known here: name its split.parquet with --split")
    label = np.array([class_index(v) for v in kept["label"]], int)
    probs = kept[["p_normal", "p_osteopenia", "p_osteoporosis"]].to_numpy(float)
    return Pairs(kept["patient_key"].to_numpy(str), probs, kept["calibrator"].to_numpy(str), label), notes
