"""Judge a screening run from its results and the patients' labels alone; no model is asked.

    ev = evaluate("out/results.parquet", labels)     # labels: patient_key + label and/or t_score
    print("\\n".join(ev.lines()))

Any system's scores can be judged so (`tables.py` says what they need). One row per patient counts (patients are what
intervals are over): the latest study where a `study_date` column says so, else the one whose row_key sorts first,
which no score can influence. Beside it stands the AUC over every scored series, with patients drawn whole.

Two tasks, as METHOD words them: osteoporosis (T <= -2.5) against normal (T >= -1), ordered by `log_odds`, and
osteoporosis against everyone else, ordered by `risk_prob`. Sensitivity and specificity are at the threshold that
was locked into the rows; nothing is tuned here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from osteo_ray.evaluation import attribution as attr
from osteo_ray.evaluation import metrics as m
from osteo_ray.evaluation import resample, selective
from osteo_ray.evaluation import value as worth
from osteo_ray.evaluation.hu_rule import HuRule, judge
from osteo_ray.evaluation.labels import BAYES, pair_labels, read_labels
from osteo_ray.evaluation.subgroups import NOT_RECORDED, cuts, natural
from osteo_ray.evaluation.tables import HU_RULE, NO_SECRET, one_per_patient, plain, read_results, scored_rows
from osteo_ray.outcomes import State
from osteo_ray.patients.config import SitePatientKeys, TimelineConfig
from osteo_ray.patients.labels import CLASSES

THRESHOLDS = tuple(round(0.01 * i, 2) for i in range(1, 80))
TITLES = {"vs_normal": "Osteoporosis vs normal", "vs_rest": "Osteoporosis vs rest"}


@dataclass(frozen=True)
class TaskResult:
    """One task over one row per patient. `decision` and `calibration` only where `risk_prob` answers the task.

    `auc_series` is over every scored series, its interval from drawing whole patients.
    """

    name: str
    title: str
    score: str
    auc: m.Estimate
    bayes_auc: m.Estimate | None
    at_threshold: m.Confusion
    calibration: m.Calibration | None
    decision: m.DecisionCurve | None
    auc_series: m.Estimate
    series: int
    brier: m.Estimate | None
    hu_rule: HuRule | None = None
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
    abstention: selective.Abstention | None
    conformal: selective.Conformal | None
    importance: tuple[attr.Importance, ...]
    modality_importance: tuple[attr.Importance, ...]
    notes: tuple[str, ...]
    value: tuple[worth.PatternValue, ...] = ()
    attributions: attr.Attributions | None = field(default=None, repr=False, compare=False)

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
            out.append(f"  AUC, every series    {t.auc_series}  {t.series} series, patients drawn whole")
            if t.bayes_auc is not None:
                out.append(f"  Bayes-optimal AUC    {t.bayes_auc}")
            if t.hu_rule is not None:
                out += _rule_lines(t.hu_rule)
            c = t.at_threshold
            for name in ("sensitivity", "specificity", "ppv", "npv", "accuracy"):
                label = name.upper() if name in ("ppv", "npv") else name
                e: m.Estimate = getattr(c, name)
                out.append(f"  {label:<20} {e}  n={e.n}")
            if t.calibration is not None:
                k = t.calibration
                out.append(f"  calibration slope    {k.slope}")
                out.append(f"  calibration in large {k.intercept}")
                out.append(f"  Brier score          {t.brier or _num(k.brier)}")
                out.append(f"  ECE                  {_num(k.ece)}")
        out += ["", f"{'subgroup':<36}{'n':>6}  {'AUC vs rest':<22}{'sensitivity':<22}{'specificity':<22}"]
        for g in self.subgroups:
            name = f"{g.by}: {g.group}"
            cells = (_short(e) for e in (g.auc_vs_rest, g.sensitivity, g.specificity))
            out.append(f"{name[:35]:<36}{g.n:>6}  " + "".join(f"{c:<22}" for c in cells).rstrip())
        out += [*worth.lines(self.value), *_selective_lines(self), *_importance_lines(self)]
        if self.notes:
            out += ["", *(f"note: {n}" for n in self.notes)]
        return out

    def to_json(self) -> str:
        """JSON text; NaN becomes null, ROC points are in it, single patients' SHAP values are not."""
        return json.dumps(plain(asdict(replace(self, attributions=None))), indent=1)


def evaluate(
    results: pa.Table | pd.DataFrame | str | Path,
    labels: Any,
    level: float = 0.95,
    resamples: int = resample.N_BOOT,
    seed: int = 0,
    keys: SitePatientKeys = NO_SECRET,
    timeline: TimelineConfig | None = None,
) -> Evaluation:
    """Evaluate one run.

    Args:
        results: the results table or its Parquet file or folder, or any system's scores (`tables.read_results`).
        labels: `label` and/or `t_score` by patient and, where known, date (`labels.read_labels`).
            `p_bayes` (against normal) and `p_bayes_rest` may stand beside them.
        level: of every interval.
        resamples, seed: of the bootstrap over patients.
        keys: how a `patient_id` becomes a key, where tables hold no `patient_key`.
        timeline: which DXA is the label of a CT; None: the default rules.

    Raises:
        InputError: a needed column is missing, a value can't be, or one patient has two labels.
    """
    rows = read_results(results, keys)
    facts = read_labels(labels, keys)
    probabilities = bool(rows.attrs["probabilities"])
    notes: list[str] = []
    if not probabilities:
        notes.append("results carry a score and no risk_prob: there is no calibration, Brier score or decision curve")
    by_state = _count(rows["state"].fillna("no state")) if "state" in rows else {"no state": len(rows)}
    scored = pair_labels(scored_rows(rows), facts, timeline or TimelineConfig(), notes)
    patients = one_per_patient(scored, notes)
    labelled = patients[patients["label"].notna()].copy()
    if len(labelled) < len(patients):
        notes.append(f"{len(patients) - len(labelled)} scored patients have no label and are in no figure")
    explained = _attributions(results, labelled.index, len(rows))
    if explained is not None:
        for column, known in (("labs_missing", attr.labs_missing), ("bmi_kg_m2", attr.body_mass_index)):
            if column not in labelled:
                labelled[column] = known(explained)
    every = scored[scored["label"].notna()]
    boot = (resamples, seed)
    return Evaluation(
        level=level,
        series=len(rows),
        by_state=by_state,
        patients=int(rows["patient_key"].nunique()),
        patients_scored=len(patients),
        patients_labelled=len(labelled),
        label_counts={k: int((labelled["label"] == k).sum()) for k in CLASSES},
        tasks=tuple(_task(labelled, every, name, level, notes, probabilities, boot) for name in TITLES),
        subgroups=tuple(_subgroups(labelled, level, probabilities)),
        abstention=_abstention(labelled, level, probabilities),
        conformal=_conformal(labelled, level),
        importance=attr.summary(explained) if explained is not None else (),
        modality_importance=attr.modalities(explained) if explained is not None else (),
        notes=tuple(notes),
        value=worth.value(labelled, level) if probabilities else (),
        attributions=explained,
    )


def _attributions(results: Any, rows: pd.Index, n_rows: int) -> attr.Attributions | None:
    """SHAP of the rows that count, where the results carry any."""
    if isinstance(results, str | Path):
        path = Path(results)
        path = path / "results.parquet" if (path / "results.parquet").exists() else path
        if path.is_file() and path.suffix != ".parquet":
            return None
        if "shap" not in pq.read_schema(path if path.is_file() else next(path.glob("*.parquet"))).names:
            return None
        results = pq.read_table(path, columns=["shap"])
    if not isinstance(results, pa.Table) or "shap" not in results.column_names or not len(rows):
        return None
    assert len(results) == n_rows
    explained = attr.attributions(results["shap"].take(pa.array(rows.to_numpy())))
    return explained if np.isfinite(explained.shap).any() else None


def _task(
    frame: pd.DataFrame,
    every: pd.DataFrame,
    name: str,
    level: float,
    notes: list[str],
    probabilities: bool,
    boot: tuple[int, int],
) -> TaskResult:
    title = TITLES[name]
    score = "log_odds" if name == "vs_normal" else "risk_prob"
    if score not in frame or (len(frame) and frame[score].isna().all()):
        if probabilities:
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
    answers = name == "vs_rest" and probabilities  # risk_prob is P(osteoporosis) among everyone
    p = sub["risk_prob"].to_numpy(float)
    series = _of_task(every[every[score].notna()], name) if score in every else every.iloc[:0]
    groups = series["patient_key"].to_numpy()
    brier = None
    if answers:
        brier = resample.mean_clustered((p - y) ** 2, sub["patient_key"].to_numpy(), *boot, level)
    return TaskResult(
        name=name,
        title=title,
        score=score if probabilities or score != "risk_prob" else "score",
        auc=m.auc_delong(y, sub[score].to_numpy(float), level),
        bayes_auc=bayes_auc,
        at_threshold=_locked(sub, level, notes, title),
        calibration=m.calibration(y, p, level) if answers else None,
        decision=m.decision_curve(y, p, THRESHOLDS) if answers else None,
        auc_series=resample.auc_clustered(_y(series), series[score].to_numpy(float), groups, *boot, level),
        series=len(series),
        brier=brier,
        hu_rule=judge(y, sub[HU_RULE].to_numpy(float), sub[score].to_numpy(float), level) if HU_RULE in sub else None,
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


def _subgroups(frame: pd.DataFrame, level: float, probabilities: bool) -> Iterable[Subgroup]:
    for by, column in cuts(frame).items():
        groups = column.fillna(NOT_RECORDED)
        for group in sorted(groups.unique(), key=natural):
            sub = frame[(groups == group).to_numpy()]
            normal = _of_task(sub, "vs_normal")
            order = "log_odds" if "log_odds" in normal and normal["log_odds"].notna().any() else "risk_prob"
            normal = normal[normal[order].notna()]
            p = sub["risk_prob"].to_numpy(float)
            at = _locked(sub, level)
            slope = m.Estimate(m.NAN, m.NAN, m.NAN, 0, 0, "no probabilities")
            yield Subgroup(
                by=by,
                group=str(group),
                n=len(sub),
                auc_vs_normal=m.auc_delong(_y(normal), normal[order].to_numpy(float), level),
                auc_vs_rest=m.auc_delong(_y(sub), p, level),
                sensitivity=at.sensitivity,
                specificity=at.specificity,
                calibration_slope=m.calibration_slope(_y(sub), p, level) if probabilities else slope,
            )


def _abstention(frame: pd.DataFrame, level: float, probabilities: bool) -> selective.Abstention | None:
    if not probabilities or "threshold" not in frame:
        return None
    known = frame[frame["threshold"].notna()]
    return selective.abstention(_y(known), known["risk_prob"], known["threshold"], level)


def _conformal(frame: pd.DataFrame, level: float) -> selective.Conformal | None:
    if "conformal_set" not in frame:
        return None
    known = frame[frame["conformal_set"].notna()]
    return selective.conformal(known["label"].tolist(), known["conformal_set"].tolist(), level) if len(known) else None


def _selective_lines(ev: Evaluation) -> list[str]:
    out = []
    if ev.abstention is not None:
        a = ev.abstention
        out += ["", f"{'abstention: keep the surest':<28}{'n':>6}  {'sensitivity':<22}{'specificity':<22}{'error'}"]
        for want in (1.0, 0.9, 0.8, 0.7, 0.5):
            i = min(range(len(a.share)), key=lambda k: abs(a.share[k] - want))
            if abs(a.share[i] - want) < 0.03:
                c = a.at[i]
                cells = f"{_short(c.sensitivity):<22}{_short(c.specificity):<22}{_num(1 - c.accuracy.value)}"
                out.append(f"  {a.share[i]:<26.0%}{a.n[i]:>6}  {cells}")
        out.append(f"  mean error over all shares {_num(a.area)}; leaving out patients at random {_num(a.area_random)}")
    if ev.conformal is not None:
        out += ["", f"{'conformal sets':<28}{'n':>6}  {'hold the true class':<22}mean size"]
        for g in ev.conformal.groups:
            out.append(f"  {g.name:<26}{g.n:>6}  {_short(g.covered):<22}{_num(g.mean_size)}")
    return out


def _rule_lines(rule: HuRule) -> list[str]:
    """The plain rule, beside the model on the patients whose HU is known."""
    d = rule.difference
    out = [
        f"  mean HU of L1, L2    {rule.auc}  the model on the same {rule.auc.n_pos} + {rule.auc.n_neg}: "
        f"{_num(rule.model_auc.value)}, {d.diff:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
    ]
    for hu, c in rule.at_cut_offs:
        out.append(f"    <= {hu:g} HU{'':<9}sensitivity {_short(c.sensitivity)}, specificity {_short(c.specificity)}")
    return out


def _importance_lines(ev: Evaluation, most: int = 10) -> list[str]:
    if not ev.importance:
        return []
    out = ["", f"{'SHAP (log-odds, mean |.|)':<36}{'n':>6}"]
    out += [f"  {f.group:<34}{f.n:>6}  {f.mean_abs:.3f}" for f in ev.modality_importance]
    out += [f"    {f.feature:<32}{f.n:>6}  {f.mean_abs:.3f}" for f in ev.importance[:most]]
    return out


def _count(values: pd.Series) -> dict[str, int]:
    counts = values.value_counts()
    order = [s.value for s in State]
    names = sorted(counts.index, key=lambda s: order.index(s) if s in order else len(order))
    return {str(s): int(counts[s]) for s in names}


def _num(x: float) -> str:
    return "n/a" if math.isnan(x) else f"{x:.3f}"


def _short(e: m.Estimate) -> str:
    if math.isnan(e.value):
        return "n/a"
    return f"{e.value:.3f}" if math.isnan(e.low) else f"{e.value:.3f} {e.low:.2f}-{e.high:.2f}"
