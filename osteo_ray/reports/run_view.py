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
from osteo_ray.reports.bars import GROUPS
from osteo_ray.reports.language import Words
from osteo_ray.reports.study_view import TONE, anchor
from osteo_ray.reports.worklist import WORKLIST_COLUMNS, head, note, scored

RUN_COLUMNS = (
    *WORKLIST_COLUMNS,
    *("stage", "bytes_read", "open_s", "select_s", "score_s", "model_name", "model_version"),
)
"""Columns of the results that a run's page is made from."""


def run_page(
    results: pa.Table,
    summary: Mapping[str, Any],
    anchors: Collection[str],
    top: int,
    suppressed: Mapping[str, str],
    words: Words,
) -> dict[str, Any]:
    """What the template prints of a run, but its figures; see `html.write_run` for the arguments."""
    listed = scored(results)
    run_id = summary.get("run_id") or next(iter(pc.unique(results["run_id"]).to_pylist()), None)
    return dict(
        run_id=w.text(run_id),
        notice=summary.get("notice", ""),
        total=len(results),
        n_scored=len(listed),
        worklist=[_line(rank, r, anchors, suppressed, words) for rank, r in head(listed, top)],
        worklist_note=_listed(len(listed), top, len(suppressed), words),
        kpis=_kpis(results, listed, summary, words),
        throughput=_throughput(results, summary, words),
        **_outcomes(results, summary, words),
    )


def _outcomes(results: pa.Table, summary: Mapping[str, Any], words: Words) -> dict[str, Any]:
    kinds = results.group_by(["code", "state", "stage"]).aggregate([([], "count_all")]).to_pylist()
    counts = {s.value: sum(k["count_all"] for k in kinds if k["state"] == s) for s in State}
    indexed, n = summary.get("indexed"), len(results)
    mismatch = indexed is not None and indexed != n
    return dict(
        states=[
            dict(
                state=s.value,
                words=words(f"state.{s}"),
                tone=TONE[s],
                n=counts[s],
                share=100 * counts[s] / n if n else 0.0,
            )
            for s in State
        ],
        codes=[
            dict(
                code=w.text(k["code"]),
                words=words.code(k["code"]),
                state=words(f"state.{k['state']}"),
                stage=words.get(f"stage.{k['stage']}", w.text(k["stage"])),
                n=k["count_all"],
            )
            for k in sorted(kinds, key=lambda k: (-k["count_all"], str(k["code"]), str(k["state"]), str(k["stage"])))
        ],
        sum_note="" if indexed is None or mismatch else words("run.sum_note", n=indexed),
        mismatch=words("run.mismatch_why", indexed=indexed, n=n) if mismatch else "",
    )


def _kpis(results: pa.Table, listed: pa.Table, summary: Mapping[str, Any], words: Words) -> list[tuple[str, str]]:
    decoded, total = _sum(listed["slices_decoded"]), _sum(listed["slices_total"])
    out = [
        (str(summary.get("indexed", len(results))), words("run.kpi_indexed")),
        (str(len(listed)), words("run.kpi_scored")),
        (str(_sum(pc.equal(listed["risk_class"], "high"))), words("run.kpi_high")),
    ]
    if total:
        out.append((w.percent(decoded / total), words("run.kpi_decoded")))
    if summary.get("wall_s") is not None:
        out.append((w.duration(summary["wall_s"]), words("run.kpi_wall")))
    return out


def _throughput(results: pa.Table, summary: Mapping[str, Any], words: Words) -> list[tuple[str, str]]:
    wall = summary.get("wall_s")
    out = []
    if wall:
        out += [(words("run.wall"), w.duration(wall)), (words("run.per_minute"), f"{60 * len(results) / wall:.1f}")]
    if summary.get("workers") is not None:
        out.append((words("run.workers"), str(summary["workers"])))
    decoded = words("of", n=_sum(results["slices_decoded"]), total=_sum(results["slices_total"]))
    out.append((words("prov.decoded"), decoded))
    out.append((words("prov.bytes"), w.size(_sum(results["bytes_read"]))))
    for name in ("open", "select", "score"):
        times = results[f"{name}_s"].drop_null()
        if len(times):
            middle, longest = pc.quantile(times, q=[0.5, 1.0]).to_pylist()
            spent = words("run.quantiles", median=w.seconds(middle), longest=w.seconds(longest))
            out.append((words(f"run.per_series.{name}"), spent))
    models = results.group_by(["model_name", "model_version"]).aggregate([]).to_pylist()
    named = sorted(f"{m['model_name']} {m['model_version'] or ''}".strip() for m in models if m["model_name"])
    out.append((words("prov.model"), ", ".join(named) or w.NONE))
    shown = {"run_id", "indexed", "wall_s", "workers", "counts", "notice"}
    for key, value in summary.items():
        if key not in shown and isinstance(value, str | int | float):
            plain = f"{value:.4g}" if isinstance(value, float) else str(value)
            out.append((key.replace("_", " ").capitalize(), plain))
    return out


def _sum(column: pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0


def _listed(n: int, top: int, suppressed: int, words: Words) -> str:
    shown = words("run.worklist_all", n=n) if n <= top else words("run.worklist_top", top=top, n=n)
    return "; ".join([shown, words("run.worklist_hidden", n=suppressed)] if suppressed else [shown])


def _line(
    rank: int, row: Mapping[str, Any], anchors: Collection[str], suppressed: Mapping[str, str], words: Words
) -> dict[str, Any]:
    low, high = row["risk_low"], row["risk_high"]
    href = anchor(row)
    used = (words.get(f"short.{m}", m) for m in GROUPS if m in (row["modalities"] or ()))
    interval = w.NONE
    if low is not None and high is not None:
        interval = words("run.interval_cell", low=w.percent(low), high=w.percent(high))
    return dict(
        rank=rank,
        patient=w.text(row["patient_key"]),
        href=href if href in anchors else "",
        risk=w.percent(row["risk_prob"]),
        interval=interval,
        high={"high": True, "low": False}.get(row["risk_class"] or ""),
        age=w.NONE if row["age_y"] is None else f"{row['age_y']:.0f}",
        sex=w.NONE if row["sex"] is None else words.get(f"sex.{row['sex']}", row["sex"]),
        demographics_from=_origins(row, words),
        modalities=", ".join(used) or w.NONE,
        note=note(row, suppressed.get(row["patient_key"]), words),
    )


def _origins(row: Mapping[str, Any], words: Words) -> str:
    """Where age and sex come from: one word where both have one source."""
    age, sex = (words.get(f"origin.{row.get(c)}", w.NONE) for c in ("age_from", "sex_from"))
    return age if age == sex else words("origin.both", age=age, sex=sex)


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
        ("AUC of the plain rule: mean HU of L1 and L2", lambda t: _cell(t.hu_rule and t.hu_rule.auc)),
        ("AUC of the model on the rule's patients", lambda t: _cell(t.hu_rule and t.hu_rule.model_auc)),
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
