"""A run's results -> what the run page shows: counts, times, the worklist's head, the evaluation's cells. Pure.

Works on Arrow columns, so that a run over millions of series is summed without making a Python object of each.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from osteo_ray.evaluation.evaluate import Evaluation
from osteo_ray.evaluation.metrics import Estimate
from osteo_ray.outcomes import State
from osteo_ray.reports import wording as w
from osteo_ray.reports.study_view import GROUPS, SHORT, TONE, anchor
from osteo_ray.reports.worklist import head, scored


def run_page(
    results: pa.Table, summary: Mapping[str, Any], anchors: Collection[str], top: int, suppressed: Mapping[str, str]
) -> dict[str, Any]:
    """What the template prints of a run, but its figures; see `html.write_run` for the arguments."""
    listed = scored(results)
    run_id = summary.get("run_id") or next(iter(pc.unique(results["run_id"]).to_pylist()), None)
    return dict(
        run_id=w.text(run_id),
        notice=summary.get("notice", ""),
        total=len(results),
        n_scored=len(listed),
        worklist=[_line(rank, r, anchors, suppressed) for rank, r in head(listed, top)],
        worklist_note=_listed(len(listed), top, len(suppressed)),
        kpis=_kpis(results, listed, summary),
        throughput=_throughput(results, summary),
        **_outcomes(results, summary),
    )


def _outcomes(results: pa.Table, summary: Mapping[str, Any]) -> dict[str, Any]:
    kinds = results.group_by(["code", "state", "stage"]).aggregate([([], "count_all")]).to_pylist()
    counts = {s.value: sum(k["count_all"] for k in kinds if k["state"] == s) for s in State}
    indexed, n = summary.get("indexed"), len(results)
    mismatch = indexed is not None and indexed != n
    return dict(
        states=[dict(state=s.value, tone=TONE[s], n=counts[s], share=100 * counts[s] / n if n else 0.0) for s in State],
        codes=[
            dict(code=w.text(k["code"]), state=k["state"], stage=w.text(k["stage"]), n=k["count_all"])
            for k in sorted(kinds, key=lambda k: (-k["count_all"], str(k["code"]), str(k["state"]), str(k["stage"])))
        ],
        sum_note="" if indexed is None or mismatch else f"equals the {indexed} indexed series",
        mismatch=f"{indexed} series were indexed, but {n} have an outcome." if mismatch else "",
    )


def _kpis(results: pa.Table, listed: pa.Table, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    decoded, total = _sum(listed["slices_decoded"]), _sum(listed["slices_total"])
    out = [
        (str(summary.get("indexed", len(results))), "series indexed"),
        (str(len(listed)), "scored"),
        (str(_sum(pc.equal(listed["risk_class"], "high"))), "at or above the operating point"),
    ]
    if total:
        out.append((w.percent(decoded / total), "of their slices decoded"))
    if summary.get("wall_s") is not None:
        out.append((w.duration(summary["wall_s"]), "wall time"))
    return out


def _throughput(results: pa.Table, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    wall = summary.get("wall_s")
    out = []
    if wall:
        out += [("Wall time", w.duration(wall)), ("Series per minute", f"{60 * len(results) / wall:.1f}")]
    if summary.get("workers") is not None:
        out.append(("Workers", str(summary["workers"])))
    out.append(("Slices decoded", f"{_sum(results['slices_decoded'])} of {_sum(results['slices_total'])}"))
    out.append(("Bytes read", w.size(_sum(results["bytes_read"]))))
    for name, column in (("Open", "open_s"), ("Select", "select_s"), ("Score", "score_s")):
        times = results[column].drop_null()
        if len(times):
            middle, longest = pc.quantile(times, q=[0.5, 1.0]).to_pylist()
            out.append((f"{name}, per series", f"median {w.seconds(middle)}, longest {w.seconds(longest)}"))
    models = results.group_by(["model_name", "model_version"]).aggregate([]).to_pylist()
    named = sorted(f"{m['model_name']} {m['model_version'] or ''}".strip() for m in models if m["model_name"])
    out.append(("Model", ", ".join(named) or w.NONE))
    shown = {"run_id", "indexed", "wall_s", "workers", "counts", "notice"}
    for key, value in summary.items():
        if key not in shown and isinstance(value, str | int | float):
            words = f"{value:.4g}" if isinstance(value, float) else str(value)
            out.append((key.replace("_", " ").capitalize(), words))
    return out


def _sum(column: pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0


def _listed(n: int, top: int, suppressed: int) -> str:
    shown = f"{n} series" if n <= top else f"the first {top} of {n} series, the rest is in the worklist CSV"
    hidden = f"; {suppressed} patients whose state is known are suppressed there" if suppressed else ""
    return f"sorted by risk; {shown}{hidden}"


def _line(rank: int, row: Mapping[str, Any], anchors: Collection[str], suppressed: Mapping[str, str]) -> dict[str, Any]:
    low, high = row["risk_low"], row["risk_high"]
    code = suppressed.get(row["patient_key"])
    notes = [row["code"] if row["state"] == State.SCORED_WARN else "", f"{code}: suppressed" if code else ""]
    href = anchor(row)
    return dict(
        rank=rank,
        patient=w.text(row["patient_key"]),
        href=href if href in anchors else "",
        risk=w.percent(row["risk_prob"]),
        interval=w.NONE if low is None or high is None else f"{w.percent(low)} to {w.percent(high)}",
        high={"high": True, "low": False}.get(row["risk_class"] or ""),
        age=w.NONE if row["age_y"] is None else f"{row['age_y']:.0f}",
        sex=w.text(row["sex"]),
        demographics_from=_origins(row),
        modalities=", ".join(SHORT.get(m, m) for m in GROUPS if m in (row["modalities"] or ())) or w.NONE,
        note=", ".join(n for n in notes if n),
    )


def _origins(row: Mapping[str, Any]) -> str:
    """Where age and sex come from: one word where both have one source."""
    words = {"record": "record", "header": "CT header"}
    age, sex = (words.get(row.get(c) or "", w.NONE) for c in ("age_from", "sex_from"))
    return age if age == sex else f"age {age}, sex {sex}"


class Cell:
    """A figure of a table: value, its range and, where it is undefined, why."""

    def __init__(self, value: str, span: str = "", note: str = ""):
        self.value, self.range, self.note = value, span, note


def evaluation_tables(ev: Evaluation) -> dict[str, Any]:
    """The evaluation's tables, without its figures."""
    names = (
        ("Patients, osteoporosis + others", lambda t: Cell(f"{t.auc.n_pos} + {t.auc.n_neg}")),
        ("AUC", lambda t: _cell(t.auc)),
        ("Bayes-optimal AUC, same patients", lambda t: _cell(t.bayes_auc)),
        ("Sensitivity at the locked threshold", lambda t: _cell(t.at_threshold.sensitivity)),
        ("Specificity", lambda t: _cell(t.at_threshold.specificity)),
        ("Positive predictive value", lambda t: _cell(t.at_threshold.ppv)),
        ("Negative predictive value", lambda t: _cell(t.at_threshold.npv)),
        ("Accuracy", lambda t: _cell(t.at_threshold.accuracy)),
        ("Calibration slope", lambda t: _cell(t.calibration and t.calibration.slope)),
        ("Calibration in the large", lambda t: _cell(t.calibration and t.calibration.intercept)),
        ("Expected calibration error", lambda t: Cell(w.number(t.calibration and t.calibration.ece, 3))),
        ("Brier score", lambda t: Cell(w.number(t.calibration and t.calibration.brier, 3))),
    )
    rows = [(name, [make(t) for t in ev.tasks]) for name, make in names]
    return dict(
        labelled=ev.patients_labelled,
        level=f"{100 * ev.level:g}{w.SPACE}%",
        tasks=ev.tasks,
        rows=[(name, cells) for name, cells in rows if any(c.value != w.NONE for c in cells)],
        subgroups=[
            dict(
                by=g.by,
                first=i == 0 or ev.subgroups[i - 1].by != g.by,
                group=w.shorten(g.group),
                n=g.n,
                cells=[
                    _cell(e, why=False)
                    for e in (g.auc_vs_normal, g.auc_vs_rest, g.sensitivity, g.specificity, g.calibration_slope)
                ],
            )
            for i, g in enumerate(ev.subgroups)
        ],
        notes=ev.notes,
    )


def _cell(e: Estimate | None, why: bool = True) -> Cell:
    if e is None or math.isnan(e.value):
        return Cell(w.NONE, note=e.note if e and why else "")
    span = "" if math.isnan(e.low) else f"{w.number(e.low, 3)} to {w.number(e.high, 3)}"
    return Cell(w.number(e.value, 3), span, e.note if why else "")
