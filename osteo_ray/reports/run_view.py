"""A run's results -> what the run page shows: counts, times, the worklist's head, the evaluation's cells. Pure.

Sums are a database's, so that a run over millions of series is never in memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from osteo_ray.evaluation.evaluate import Evaluation
from osteo_ray.evaluation.metrics import Estimate
from osteo_ray.io.database import Table, database
from osteo_ray.outcomes import State
from osteo_ray.reports import wording as w
from osteo_ray.reports.bars import GROUPS
from osteo_ray.reports.language import Words
from osteo_ray.reports.study_view import TONE, anchor
from osteo_ray.reports.worklist import head, note
from osteo_ray.screening.schema import RESULTS, SCORED_SQL

TIMES = ("open", "select", "score")
"""Steps whose seconds are columns of the results."""


def run_page(
    results: Table,
    summary: Mapping[str, Any],
    anchors: Collection[str],
    top: int,
    suppressed: Mapping[str, str],
    words: Words,
) -> dict[str, Any]:
    """What the template prints of a run, but its figures; see `html.write_run` for the arguments."""
    with database(results=(results, RESULTS)) as db:
        sums = _rows(
            db,
            f"""
            SELECT count(*) AS n, min(run_id) AS run_id, sum(slices_decoded)::BIGINT AS decoded,
                   sum(slices_total)::BIGINT AS slices, sum(bytes_read)::BIGINT AS bytes_read,
                   count(*) FILTER ({SCORED_SQL}) AS scored,
                   (sum(slices_decoded) FILTER ({SCORED_SQL}))::BIGINT AS decoded_scored,
                   (sum(slices_total) FILTER ({SCORED_SQL}))::BIGINT AS slices_scored,
                   count(*) FILTER ({SCORED_SQL} AND risk_class = 'high') AS high
            FROM results""",
        )[0]
        sums = {k: v or 0 for k, v in sums.items()}
        kinds = _rows(db, "SELECT code, state, stage, count(*) AS n FROM results GROUP BY ALL")
        times = _rows(
            db, "SELECT " + ", ".join(f"quantile_cont({t}_s, [0.5, 1.0]) AS {t}" for t in TIMES) + " FROM results"
        )
        models = _rows(db, "SELECT DISTINCT model_name, model_version FROM results WHERE model_name IS NOT NULL")
    run_id = summary.get("run_id") or sums["run_id"] or None
    return dict(
        run_id=w.text(run_id),
        notice=summary.get("notice", ""),
        total=sums["n"],
        n_scored=sums["scored"],
        worklist=[_line(rank, r, anchors, suppressed, words) for rank, r in head(results, top)],
        worklist_note=_listed(sums["scored"], top, len(suppressed), words),
        kpis=_kpis(sums, summary, words),
        throughput=_throughput(sums, times[0], models, summary, words),
        **_outcomes(sums["n"], kinds, summary, words),
    )


def _rows(db: Any, query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = db.sql(query).to_arrow_table().to_pylist()
    return rows


def _outcomes(n: int, kinds: list[dict[str, Any]], summary: Mapping[str, Any], words: Words) -> dict[str, Any]:
    counts = {s.value: sum(k["n"] for k in kinds if k["state"] == s) for s in State}
    indexed = summary.get("indexed")
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
                n=k["n"],
            )
            for k in sorted(kinds, key=lambda k: (-k["n"], str(k["code"]), str(k["state"]), str(k["stage"])))
        ],
        sum_note="" if indexed is None or mismatch else words("run.sum_note", n=indexed),
        mismatch=words("run.mismatch_why", indexed=indexed, n=n) if mismatch else "",
    )


def _kpis(sums: Mapping[str, int], summary: Mapping[str, Any], words: Words) -> list[tuple[str, str]]:
    out = [
        (str(summary.get("indexed", sums["n"])), words("run.kpi_indexed")),
        (str(sums["scored"]), words("run.kpi_scored")),
        (str(sums["high"]), words("run.kpi_high")),
    ]
    if sums["slices_scored"]:
        out.append((w.percent(sums["decoded_scored"] / sums["slices_scored"]), words("run.kpi_decoded")))
    if summary.get("wall_s") is not None:
        out.append((w.duration(summary["wall_s"]), words("run.kpi_wall")))
    return out


def _throughput(
    sums: Mapping[str, int],
    times: Mapping[str, Sequence[float] | None],
    models: list[dict[str, Any]],
    summary: Mapping[str, Any],
    words: Words,
) -> list[tuple[str, str]]:
    wall = summary.get("wall_s")
    out = []
    if wall:
        out += [(words("run.wall"), w.duration(wall)), (words("run.per_minute"), f"{60 * sums['n'] / wall:.1f}")]
    if summary.get("workers") is not None:
        out.append((words("run.workers"), str(summary["workers"])))
    out.append((words("prov.decoded"), words("of", n=sums["decoded"], total=sums["slices"])))
    out.append((words("prov.bytes"), w.size(sums["bytes_read"])))
    for name, found in times.items():
        if found is not None:
            spent = words("run.quantiles", median=w.seconds(found[0]), longest=w.seconds(found[1]))
            out.append((words(f"run.per_series.{name}"), spent))
    named = sorted(f"{m['model_name']} {m['model_version'] or ''}".strip() for m in models)
    out.append((words("prov.model"), ", ".join(named) or w.NONE))
    shown = {"run_id", "indexed", "wall_s", "workers", "counts", "notice"}
    for key, value in summary.items():
        if key not in shown and isinstance(value, str | int | float):
            plain = f"{value:.4g}" if isinstance(value, float) else str(value)
            out.append((key.replace("_", " ").capitalize(), plain))
    return out


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
