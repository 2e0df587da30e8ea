"""SHAP values of a run, as the results carry them: one matrix, its summary by feature and by modality.

    a = attributions(pq.read_table("out/results.parquet", columns=["shap"])["shap"])
    for f in summary(a): print(f.feature, f.mean_abs)

Values are log-odds of osteoporosis against everyone else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import rankdata

from osteo_ray.evaluation.metrics import NAN

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Attributions:
    """n explained patients x F features. NaN in `shap`: the feature was no player; in `value`: the record lacks it."""

    features: tuple[str, ...]
    groups: tuple[str, ...]  # demographics | labs | ct, per feature
    units: tuple[str, ...]
    shap: Matrix = field(repr=False)
    value: Matrix = field(repr=False)

    def __len__(self) -> int:
        return len(self.shap)

    def by_group(self) -> dict[str, Matrix]:
        """Sum of each modality's SHAP values per patient [n]: what the modality moved."""
        names = np.array(self.groups)
        return {g: np.nansum(self.shap[:, names == g], axis=1) for g in dict.fromkeys(self.groups)}


@dataclass(frozen=True)
class Importance:
    """One feature, or one modality (`feature` empty), over the explained patients."""

    feature: str
    group: str
    n: int
    known: float  # share of patients whose record has it; NaN where that has no meaning
    mean_abs: float  # mean |SHAP|, log-odds
    mean: float
    direction: float  # Spearman correlation of value and SHAP; NaN where fewer than three differ


def attributions(column: pa.ChunkedArray | pa.Array) -> Attributions:
    """The results' column `shap` as matrices; rows without an explanation stay as rows of NaN."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    n = len(array)
    flat = pc.list_flatten(array)
    row = pc.list_parent_indices(array).to_numpy()
    parts = {k: pc.struct_field(flat, k) for k in ("feature", "group", "unit", "value", "shap")}
    names = pc.unique(parts["feature"])
    where = pc.index_in(parts["feature"], names).to_numpy() if len(flat) else np.empty(0, int)
    first = np.unique(where, return_index=True)[1] if len(flat) else np.empty(0, int)
    groups, units = parts["group"].take(pa.array(first)), parts["unit"].take(pa.array(first))
    shap, value = (np.full((n, len(names)), np.nan) for _ in range(2))
    for out, key in ((shap, "shap"), (value, "value")):
        out[row, where] = parts[key].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return Attributions(
        tuple(names.to_pylist()), tuple(groups.to_pylist()), tuple(u or "" for u in units.to_pylist()), shap, value
    )


def summary(a: Attributions) -> tuple[Importance, ...]:
    """Features by mean |SHAP|, the largest first."""
    out = []
    for j, (name, group) in enumerate(zip(a.features, a.groups, strict=True)):
        played = np.isfinite(a.shap[:, j])
        s, v = a.shap[played, j], a.value[played, j]
        if not len(s):
            continue
        known = NAN if group == "ct" else float(np.isfinite(v).mean())
        out.append(Importance(name, group, len(s), known, float(np.abs(s).mean()), float(s.mean()), _direction(v, s)))
    return tuple(sorted(out, key=lambda f: (-f.mean_abs, f.feature)))


def modalities(a: Attributions) -> tuple[Importance, ...]:
    """Modalities by the mean of |sum of their features' SHAP|, the largest first."""
    explained = np.isfinite(a.shap).any(1)
    out = [
        Importance(
            "", g, int(explained.sum()), NAN, float(np.abs(s[explained]).mean()), float(s[explained].mean()), NAN
        )
        for g, s in a.by_group().items()
        if explained.any()
    ]
    return tuple(sorted(out, key=lambda f: -f.mean_abs))


def labs_missing(a: Attributions) -> Matrix:
    """How many labs each patient's record lacked [n]; NaN where the patient was not explained by labs."""
    labs = np.array([g == "labs" for g in a.groups], dtype=bool)
    played = np.isfinite(a.shap[:, labs]).any(1) if labs.any() else np.zeros(len(a), bool)
    return np.where(played, np.isnan(a.value[:, labs]).sum(1), np.nan)


def body_mass_index(a: Attributions) -> Matrix:
    """kg/m2 of each patient's record [n]: its own, else by height and weight; NaN where neither is known."""

    def column(name: str) -> Matrix:
        return a.value[:, a.features.index(name)] if name in a.features else np.full(len(a), np.nan)

    stated = column("bmi")
    return np.where(np.isfinite(stated), stated, column("weight_kg") / (column("height_cm") / 100) ** 2)


def _direction(value: Matrix, shap: Matrix) -> float:
    both = np.isfinite(value)
    v, s = value[both], shap[both]
    if len(np.unique(v)) < 2 or len(v) < 3 or np.ptp(s) < 1e-12:
        return NAN
    return float(np.corrcoef(rankdata(v), rankdata(s))[0, 1])
