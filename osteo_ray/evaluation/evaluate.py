"""Judge a screening run from its results and the patients' labels alone; no model is asked.

    ev = evaluate("out/results.parquet", labels)     # labels: patient_key + label and/or t_score
    print("\\n".join(ev.lines()))

Any system's scores can be judged so: `patient_key` and `risk_prob` are the only columns results must have.
One row per patient counts (patients are what intervals are over): the latest study where a `study_date` column
says so, else the one whose row_key sorts first, which no score can influence.

Two tasks, as METHOD words them: osteoporosis (T <= -2.5) against normal (T >= -1), ordered by `log_odds`, and
osteoporosis against everyone else, ordered by `risk_prob`. Sensitivity and specificity are at the threshold that
was locked into the rows; nothing is tuned here.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from osteo_ray.evaluation import metrics as m
from osteo_ray.outcomes import State
from osteo_ray.records.labels import CLASSES, label_of

THRESHOLDS = tuple(round(0.01 * i, 2) for i in range(1, 80))

WANTED = (
    *("row_key", "series_uid", "study_uid", "study_date", "patient_key", "state", "risk_prob", "log_odds", "threshold"),
    *("modalities", "sex", "age_y", "manufacturer", "kvp", "slice_thickness_mm", "convolution_kernel", "contrast"),
)

# What the made cohort's truth may bring: the posterior of a perfect reader, per task.
BAYES = {"vs_normal": ("p_bayes", "p_bayes_vs_normal"), "vs_rest": ("p_bayes_rest", "p_bayes_vs_rest")}


@dataclass(frozen=True)
class TaskResult:
    """One task over one row per patient. `decision` and `calibration` only where `risk_prob` answers the task."""

    name: str
    title: str
    score: str
    auc: m.Estimate
    bayes_auc: m.Estimate | None
    at_threshold: m.Confusion
    calibration: m.Calibration | None
    decision: m.DecisionCurve | None
    roc: tuple[tuple[float, ...], tuple[float, ...]] = field(repr=False, default=((), ()))


@dataclass(frozen=True)
class Subgroup:
    """One group of patients; `n` counts the scored and labelled ones."""

    by: str
    group: str
    n: int
    auc_vs_normal: m.Estimate
    auc_vs_rest: m.Estimate
    sensitivity: m.Estimate
    specificity: m.Estimate
    calibration_slope: m.Estimate


@dataclass(frozen=True)
class Evaluation:
    """All figures of a run; `lines()` for a terminal, `to_json()` for a file, figures.py for pictures."""

    level: float
    series: int
    by_state: dict[str, int]
    patients: int
    patients_scored: int
    patients_labelled: int
    label_counts: dict[str, int]
    tasks: tuple[TaskResult, ...]
    subgroups: tuple[Subgroup, ...]
    notes: tuple[str, ...]

    def task(self, name: str) -> TaskResult:
        return next(t for t in self.tasks if t.name == name)

    def lines(self) -> list[str]:
        """The evaluation as text, about 100 characters wide."""
        pct = f"{self.level:.0%}"
        states = ", ".join(f"{k} {v}" for k, v in self.by_state.items())
        labels = ", ".join(f"{k} {v}" for k, v in self.label_counts.items())
        out = [
            f"series {self.series}: {states}",
            f"patients {self.patients}: scored {self.patients_scored}, of these labelled {self.patients_labelled} "
            f"({labels})",
        ]
        for t in self.tasks:
            out += ["", f"{t.title} (n = {t.auc.n_pos} + {t.auc.n_neg}, {pct} intervals)"]
            out.append(f"  AUC                  {t.auc}")
            if t.bayes_auc is not None:
                out.append(f"  Bayes-optimal AUC    {t.bayes_auc}")
            c = t.at_threshold
            for name in ("sensitivity", "specificity", "ppv", "npv", "accuracy"):
                label = name.upper() if name in ("ppv", "npv") else name
                e: m.Estimate = getattr(c, name)
                out.append(f"  {label:<20} {e}  n={e.n}")
            if t.calibration is not None:
                k = t.calibration
                out.append(f"  calibration slope    {k.slope}")
                out.append(f"  calibration in large {k.intercept}")
                out.append(f"  ECE {_num(k.ece)}, Brier {_num(k.brier)}")
        out += ["", f"{'subgroup':<36}{'n':>6}  {'AUC vs rest':<22}{'sensitivity':<22}{'specificity':<22}"]
        for g in self.subgroups:
            name = f"{g.by}: {g.group}"
            cells = (_short(e) for e in (g.auc_vs_rest, g.sensitivity, g.specificity))
            out.append(f"{name[:35]:<36}{g.n:>6}  " + "".join(f"{c:<22}" for c in cells).rstrip())
        if self.notes:
            out += ["", *(f"note: {n}" for n in self.notes)]
        return out

    def to_json(self) -> str:
        """JSON text; NaN becomes null, ROC points are in it."""
        return json.dumps(_plain(asdict(self)), indent=1)


def evaluate(
    results: pa.Table | str | Path,
    labels: Any,
    level: float = 0.95,
) -> Evaluation:
    """Evaluate one run.

    Args:
        results: the results table or its Parquet file or folder.
        labels: pandas frame, Arrow table, CSV/Parquet path, or an object with a `frame` (RecordTable): one row per
            patient_key with `label` (normal | osteopenia | osteoporosis) and/or `t_score`. A label column wins over
            the T-score; with `record_date` a patient's newest label counts.
            `p_bayes` (against normal) and `p_bayes_rest` may stand beside them.
        level: of every interval.

    Raises:
        ValueError: a needed column is missing, a label is unknown, or one patient has two labels.
    """
    rows = _results(results)
    truth = _labels(labels)
    notes: list[str] = []
    by_state = _count(rows["state"].fillna("no state")) if "state" in rows else {"no state": len(rows)}
    scored = rows[rows["risk_prob"].notna() & rows["patient_key"].notna()]
    if "state" in rows:
        scored = scored[scored["state"].isin([State.SCORED, State.SCORED_WARN])]
    patients = _one_per_patient(scored, notes)
    frame = patients.merge(truth, on="patient_key", how="inner", validate="one_to_one", suffixes=("", "_label"))
    labelled = frame[frame["label"].notna()].reset_index(drop=True)
    if len(labelled) < len(patients):
        notes.append(f"{len(patients) - len(labelled)} scored patients have no label and are in no figure")
    return Evaluation(
        level=level,
        series=len(rows),
        by_state=by_state,
        patients=int(rows["patient_key"].nunique()),
        patients_scored=len(patients),
        patients_labelled=len(labelled),
        label_counts={k: int((labelled["label"] == k).sum()) for k in CLASSES},
        tasks=tuple(_task(labelled, name, level, notes) for name in ("vs_normal", "vs_rest")),
        subgroups=tuple(_subgroups(labelled, level)),
        notes=tuple(notes),
    )


def _task(frame: pd.DataFrame, name: str, level: float, notes: list[str]) -> TaskResult:
    title = "Osteoporosis vs normal" if name == "vs_normal" else "Osteoporosis vs rest"
    score = "log_odds" if name == "vs_normal" else "risk_prob"
    if score not in frame or (len(frame) and frame[score].isna().all()):
        notes.append(f"{title}: results carry no {score}; risk_prob orders the patients instead")
        score = "risk_prob"
    sub = _of_task(frame, name)
    lost = int(sub[score].isna().sum())
    if lost:
        notes.append(f"{title}: {lost} scored patients lack {score}")
        sub = sub[sub[score].notna()]
    y = _y(sub)
    bayes = next((c for c in BAYES[name] if c in sub), None)
    bayes_auc = None
    if bayes is not None:
        known = sub[bayes].notna().to_numpy()
        bayes_auc = m.auc_delong(y[known], sub[bayes].to_numpy(float)[known], level)
    fpr, tpr = m.roc_points(y, sub[score].to_numpy(float))
    answers = name == "vs_rest"  # risk_prob is P(osteoporosis) among everyone
    p = sub["risk_prob"].to_numpy(float)
    return TaskResult(
        name=name,
        title=title,
        score=score,
        auc=m.auc_delong(y, sub[score].to_numpy(float), level),
        bayes_auc=bayes_auc,
        at_threshold=_locked(sub, level, notes, title),
        calibration=m.calibration(y, p, level) if answers else None,
        decision=m.decision_curve(y, p, THRESHOLDS) if answers else None,
        roc=(tuple(map(float, fpr)), tuple(map(float, tpr))),
    )


def _locked(frame: pd.DataFrame, level: float, notes: list[str] | None = None, title: str = "") -> m.Confusion:
    """Confusion at each row's own locked threshold."""
    if "threshold" not in frame:
        frame = frame.iloc[:0]
        if notes is not None:
            notes.append(f"{title}: results carry no threshold, so there is no sensitivity or specificity")
    else:
        frame = frame[frame["threshold"].notna()]
    cut = frame["threshold"].to_numpy(float) if "threshold" in frame else np.empty(0)
    return m.confusion_at(_y(frame), frame["risk_prob"].to_numpy(float), cut, level)


def _of_task(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    return frame[frame["label"] != "osteopenia"] if name == "vs_normal" else frame


def _y(frame: pd.DataFrame) -> NDArray[np.bool_]:
    return (frame["label"] == "osteoporosis").to_numpy(bool)


def _subgroups(frame: pd.DataFrame, level: float) -> Iterable[Subgroup]:
    for by, column in _cuts(frame).items():
        groups = column.fillna("not recorded")
        for group in sorted(groups.unique(), key=_natural):
            sub = frame[(groups == group).to_numpy()]
            normal = _of_task(sub, "vs_normal")
            order = "log_odds" if "log_odds" in normal and normal["log_odds"].notna().any() else "risk_prob"
            normal = normal[normal[order].notna()]
            p = sub["risk_prob"].to_numpy(float)
            at = _locked(sub, level)
            yield Subgroup(
                by=by,
                group=str(group),
                n=len(sub),
                auc_vs_normal=m.auc_delong(_y(normal), normal[order].to_numpy(float), level),
                auc_vs_rest=m.auc_delong(_y(sub), p, level),
                sensitivity=at.sensitivity,
                specificity=at.specificity,
                calibration_slope=m.calibration_slope(_y(sub), p, level),
            )


def _cuts(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Subgroup name -> one text per row, None where not recorded."""
    cuts: dict[str, pd.Series] = {}
    if "sex" in frame:
        cuts["sex"] = frame["sex"]
    if "age_y" in frame:
        cuts["age"] = _band(frame["age_y"], [50, 60, 70, 80], "y")
    if "modalities" in frame:
        cuts["modalities"] = frame["modalities"].map(pattern, na_action="ignore")
    if "manufacturer" in frame:
        cuts["manufacturer"] = frame["manufacturer"]
    if "kvp" in frame:
        cuts["kVp"] = frame["kvp"].map(lambda v: f"{v:g}", na_action="ignore")
    if "slice_thickness_mm" in frame:
        cuts["slice thickness"] = _band(frame["slice_thickness_mm"], [1, 2, 3, 5], "mm", closed_right=True)
    if "convolution_kernel" in frame:
        cuts["kernel"] = frame["convolution_kernel"]
    if "contrast" in frame:
        cuts["contrast"] = frame["contrast"]
    return {by: c.astype(object).where(c.notna() & (c.astype(str) != ""), None) for by, c in cuts.items()}


def pattern(modalities: Iterable[str]) -> str:
    """Missingness pattern as text: the modalities a score used, sorted, joined by ' + '."""
    return " + ".join(sorted(modalities)) or "none"


def _band(values: pd.Series, edges: list[float], unit: str, closed_right: bool = False) -> pd.Series:
    if closed_right:  # thickness: up to and with 1 mm, ...
        names = [f"<= {edges[0]:g} {unit}", *(f"{a:g} < .. <= {b:g} {unit}" for a, b in itertools.pairwise(edges))]
        names.append(f"> {edges[-1]:g} {unit}")
    else:
        names = [f"< {edges[0]:g} {unit}", *(f"{a:g}-{b - 1:g} {unit}" for a, b in itertools.pairwise(edges))]
        names.append(f">= {edges[-1]:g} {unit}")
    which = np.searchsorted(edges, values.to_numpy(float), side="left" if closed_right else "right")
    named = pd.Series([names[i] for i in which], index=values.index, dtype=object)
    return named.where(values.notna(), None)


def _one_per_patient(scored: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    keys = [k for k in ("row_key", "series_uid", "study_uid") if k in scored]
    dated = "study_date" in scored and scored["study_date"].notna().any()
    ordered = scored.sort_values(keys, kind="stable") if keys else scored
    if dated:
        ordered = ordered.sort_values("study_date", kind="stable", ascending=False, na_position="last")
    repeated = int(ordered["patient_key"].duplicated().sum())
    if repeated:
        how = "the latest study counts" if dated else "no study_date is given: the first by row_key counts"
        notes.append(f"{repeated} further scored series of the same patients; {how}")
    return ordered.drop_duplicates("patient_key").reset_index(drop=True)


def _results(results: pa.Table | str | Path) -> pd.DataFrame:
    table = results if isinstance(results, pa.Table) else pq.read_table(results)
    missing = {"patient_key", "risk_prob"} - set(table.column_names)
    if missing:
        raise ValueError(f"results lack the columns {sorted(missing)} (there: {', '.join(table.column_names)})")
    return table.select([c for c in WANTED if c in table.column_names]).to_pandas()


def _labels(labels: Any) -> pd.DataFrame:
    frame = _frame(labels)
    if "patient_key" not in frame:
        raise ValueError(f"labels lack the column patient_key (there: {', '.join(map(str, frame.columns))})")
    if "label" not in frame and "t_score" not in frame:
        raise ValueError("labels need a column label (normal | osteopenia | osteoporosis) or t_score")
    kept = [c for c in ("patient_key", "label", "t_score", "record_date", *sum(BAYES.values(), ())) if c in frame]
    frame = frame[kept].copy()
    given = frame["label"].astype(object) if "label" in frame else pd.Series(None, index=frame.index, dtype=object)
    given = given.where(given.notna() & (given != ""), None)
    unknown = sorted(set(given.dropna()) - set(CLASSES))
    if unknown:
        raise ValueError(f"labels: unknown label {unknown[0]!r}; it may be {', '.join(CLASSES)} or empty")
    if "t_score" in frame:
        given = given.where(given.notna(), frame["t_score"].map(label_of, na_action="ignore"))
    frame["label"] = given
    frame = frame[frame["label"].notna() & frame["patient_key"].notna()]
    if "record_date" in frame:
        newest = frame.groupby("patient_key")["record_date"].transform("max")
        frame = frame[newest.isna() | (frame["record_date"] == newest)].drop(columns="record_date")
    frame = frame.drop_duplicates(["patient_key", "label"]).astype({"patient_key": str})
    twice = frame["patient_key"][frame["patient_key"].duplicated()]
    if len(twice):
        raise ValueError(
            f"labels: patient_key {twice.iloc[0]} has two labels ({len(twice)} such patients); "
            "keep one per patient or give record_date"
        )
    return frame


def _frame(labels: Any) -> pd.DataFrame:
    labels = getattr(labels, "frame", labels)
    if isinstance(labels, pa.Table):
        return labels.to_pandas()
    if isinstance(labels, str | Path):
        path = Path(labels)
        return pd.read_csv(path, dtype={"patient_key": str}) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    if isinstance(labels, pd.DataFrame):
        return labels
    raise ValueError(f"labels: a frame, a table or a path is wanted, this is a {type(labels).__name__}")


def _count(values: pd.Series) -> dict[str, int]:
    counts = values.value_counts()
    order = [s.value for s in State]
    names = sorted(counts.index, key=lambda s: order.index(s) if s in order else len(order))
    return {str(s): int(counts[s]) for s in names}


def _natural(group: str) -> tuple[int, float, str]:
    """Bands and kVp in the order of their first number; '< 50' before '50-59', text by the alphabet, unknown last."""
    if group == "not recorded":
        return (2, 0.0, group)
    digits = "".join(ch if ch.isdigit() or ch == "." else " " for ch in group).split()
    if not digits or not group.lstrip("<>= ")[:1].isdigit():
        return (1, 0.0, group)
    return (0, float(digits[0]) + (0.5 if group.startswith(">") else -0.5 if group.startswith("<") else 0), group)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _num(x: float) -> str:
    return "n/a" if math.isnan(x) else f"{x:.3f}"


def _short(e: m.Estimate) -> str:
    if math.isnan(e.value):
        return "n/a"
    return f"{e.value:.3f}" if math.isnan(e.low) else f"{e.value:.3f} {e.low:.2f}-{e.high:.2f}"
