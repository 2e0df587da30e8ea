"""HTML reports: one self-contained file each, readable without a network, a script or a mouse, and printable.

    write_study("study.html", row, thumbnails)                   # row: a dict of screening/schema.py RESULTS
    write_run("run.html", results, summary, [StudyView(row, thumbnails)], evaluation)

Every value passes through the templates' autoescape. Figures are SVG in the page's own colours, so that they follow
dark mode and print; CT pictures are embedded PNG.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from osteo_ray.evaluation import figures
from osteo_ray.evaluation.evaluate import Evaluation
from osteo_ray.evaluation.metrics import Estimate
from osteo_ray.outcomes import State
from osteo_ray.reports import study_view as v
from osteo_ray.reports import wording as w
from osteo_ray.reports.pictures import WINDOW_LEVEL, WINDOW_WIDTH, Overview, Thumbnail
from osteo_ray.reports.study_view import DISCLAIMER, StudyView
from osteo_ray.reports.worklist import ranked
from osteo_ray.screening.schema import RESULT_VERSION

__all__ = ["Overview", "StudyView", "Thumbnail", "write_run", "write_study"]

_SCORED = (State.SCORED.value, State.SCORED_WARN.value)
_CSS = {
    figures.INK: "var(--ink)",
    figures.MUTED: "var(--muted)",
    figures.LINE: "var(--line)",
    figures.ACCENT: "var(--accent)",
    figures.RAISE: "var(--raise)",
    figures.PAPER: "var(--paper)",
}


def write_study(
    path: str | Path, row: Mapping[str, Any], thumbnails: Sequence[Thumbnail] = (), overview: Overview | None = None
) -> Path:
    """Write one study's report; `row` is one row of the results, scored or not."""
    page = v.page(StudyView(row, thumbnails, overview))
    return _write(path, "study.html.j2", s=page, run_id=w.text(row.get("run_id")))


def write_run(
    path: str | Path,
    results: pa.Table,
    summary: Mapping[str, Any],
    examples: Sequence[StudyView] = (),
    evaluation: Evaluation | None = None,
    top: int = 50,
) -> Path:
    """Write a run's report.

    Args:
        results: the results table, one row per indexed series.
        summary: facts of the run. Known keys, each optional: `run_id`; `indexed` (number of indexed series, checked
            against the sum of the counts); `wall_s` and `workers` (throughput is worked out from them). Every other
            key with a plain value is listed as it is.
        examples: studies shown in full; the worklist links to them.
        top: worklist rows shown.
    """
    rows = results.to_pylist()
    scored = [r for r in rows if r["state"] in _SCORED and r["risk_prob"] is not None]
    studies = [v.page(e) for e in examples]
    listed = ranked(scored)
    context = dict(
        run_id=w.text(summary.get("run_id") or (rows[0]["run_id"] if rows else None)),
        total=len(rows),
        studies=studies,
        n_scored=len(scored),
        histogram=_histogram(scored),
        worklist=[_line(rank, r, {s.anchor for s in studies}) for rank, r in listed[:top]],
        worklist_note=_listed(len(listed), top),
        kpis=_kpis(rows, scored, summary),
        throughput=_throughput(rows, summary),
        ev=_evaluation(evaluation) if evaluation is not None else None,
    )
    return _write(path, "run.html.j2", **context, **_outcomes(rows, summary))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("osteo_ray.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def _write(path: str | Path, template: str, **context: Any) -> Path:
    html = (
        _environment()
        .get_template(template)
        .render(
            disclaimer=DISCLAIMER,
            window_level=WINDOW_LEVEL,
            window_width=WINDOW_WIDTH,
            result_version=RESULT_VERSION,
            **context,
        )
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def _histogram(scored: Sequence[Mapping[str, Any]]) -> Markup:
    if not scored:
        return Markup("")
    cuts = sorted({r["threshold"] for r in scored} - {None})
    drawn = figures.score_histogram([r["risk_prob"] for r in scored], cuts, fmt="svg")
    return _svg(drawn, "hist", f"Histogram of {len(scored)} risks")


def _outcomes(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> dict[str, Any]:
    counts = Counter(r["state"] for r in rows)
    codes = Counter((r["code"], r["state"], r["stage"]) for r in rows)
    indexed = summary.get("indexed")
    mismatch = ""
    if indexed is not None and indexed != len(rows):
        mismatch = f"{indexed} series were indexed, but {len(rows)} have an outcome."
    known = f"equals the {indexed} indexed series" if indexed is not None and not mismatch else ""
    return dict(
        states=[
            dict(
                state=s.value,
                tone=v.TONE[s],
                n=counts[s.value],
                share=100 * counts[s.value] / len(rows) if rows else 0.0,
            )
            for s in State
        ],
        codes=[
            dict(code=w.text(c), state=s, stage=w.text(g), n=n)
            for (c, s, g), n in sorted(codes.items(), key=lambda item: (-item[1], str(item[0])))
        ],
        sum_note=known,
        mismatch=mismatch,
    )


def _kpis(
    rows: Sequence[Mapping[str, Any]], scored: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> list[tuple[str, str]]:
    high = sum(r["risk_class"] == "high" for r in scored)
    decoded = sum(r["slices_decoded"] or 0 for r in scored)
    total = sum(r["slices_total"] or 0 for r in scored)
    out = [
        (str(summary.get("indexed", len(rows))), "series indexed"),
        (str(len(scored)), "scored"),
        (str(high), "at or above the operating point"),
    ]
    if total:
        out.append((f"{100 * decoded / total:.0f} %", "of their slices decoded"))
    if summary.get("wall_s") is not None:
        out.append((_duration(summary["wall_s"]), "wall time"))
    return out


def _throughput(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    wall = summary.get("wall_s")
    decoded = sum(r["slices_decoded"] or 0 for r in rows)
    total = sum(r["slices_total"] or 0 for r in rows)
    out = []
    if wall:
        out += [("Wall time", _duration(wall)), ("Series per minute", f"{60 * len(rows) / wall:.1f}")]
    if summary.get("workers") is not None:
        out.append(("Workers", str(summary["workers"])))
    out.append(("Slices decoded", f"{decoded} of {total}"))
    out.append(("Bytes read", w.size(sum(r["bytes_read"] or 0 for r in rows))))
    for name, column in (("Open", "open_s"), ("Select", "select_s"), ("Score", "score_s")):
        times = sorted(r[column] for r in rows if r[column] is not None)
        if times:
            mid = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
            out.append((f"{name}, per series", f"median {w.seconds(mid)}, longest {w.seconds(times[-1])}"))
    models = sorted({f"{r['model_name']} {r['model_version']}" for r in rows if r["model_name"]})
    out.append(("Model", ", ".join(models) or w.NONE))
    shown = {"run_id", "indexed", "wall_s", "workers", "counts"}
    for key, value in summary.items():
        if key not in shown and isinstance(value, str | int | float):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            out.append((key.replace("_", " ").capitalize(), text))
    return out


def _duration(s: float) -> str:
    if s < 60:
        return f"{s:.1f} s"
    minutes, rest = divmod(round(s), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _listed(n: int, top: int) -> str:
    if n <= top:
        return f"sorted by risk; {n} series"
    return f"sorted by risk; the first {top} of {n} series, the rest is in the worklist CSV"


def _line(rank: int, row: Mapping[str, Any], anchors: set[str]) -> dict[str, Any]:
    low, high = row["risk_low"], row["risk_high"]
    anchor = v.anchor(row)
    return dict(
        rank=rank,
        patient=w.text(row["patient_key"]),
        href=anchor if anchor in anchors else "",
        risk=w.percent(row["risk_prob"]),
        interval=w.NONE if low is None or high is None else f"{w.percent(low)} to {w.percent(high)}",
        high={"high": True, "low": False}.get(row["risk_class"] or ""),
        age=w.NONE if row["age_y"] is None else f"{row['age_y']:.0f}",
        sex=w.text(row["sex"]),
        modalities=", ".join(v.SHORT.get(m, m) for m in row["modalities"] or ()) or w.NONE,
        note=row["code"] if row["state"] == State.SCORED_WARN else "",
    )


def _evaluation(ev: Evaluation) -> dict[str, Any]:
    names = (
        ("Patients, osteoporosis + others", lambda t: _Cell(f"{t.auc.n_pos} + {t.auc.n_neg}")),
        ("AUC", lambda t: _cell(t.auc)),
        ("Bayes-optimal AUC, same patients", lambda t: _cell(t.bayes_auc)),
        ("Sensitivity at the locked threshold", lambda t: _cell(t.at_threshold.sensitivity)),
        ("Specificity", lambda t: _cell(t.at_threshold.specificity)),
        ("Positive predictive value", lambda t: _cell(t.at_threshold.ppv)),
        ("Negative predictive value", lambda t: _cell(t.at_threshold.npv)),
        ("Accuracy", lambda t: _cell(t.at_threshold.accuracy)),
        ("Calibration slope", lambda t: _cell(t.calibration and t.calibration.slope)),
        ("Calibration in the large", lambda t: _cell(t.calibration and t.calibration.intercept)),
        ("Expected calibration error", lambda t: _Cell(w.number(t.calibration and t.calibration.ece, 3))),
        ("Brier score", lambda t: _Cell(w.number(t.calibration and t.calibration.brier, 3))),
    )
    rows = [(name, [make(t) for t in ev.tasks]) for name, make in names]
    charts = [
        ("roc", figures.roc, 26, "ROC curves; the dashed line is osteoporosis against everyone else."),
        ("cal", figures.calibration, 26, "Observed share against predicted risk, with Wilson intervals."),
        ("dca", figures.decision, 30, "Net benefit of referring by this score, against referring all or none."),
        ("forest", figures.forest, 42, "AUC by subgroup, osteoporosis against rest, with intervals where defined."),
    ]
    return dict(
        labelled=ev.patients_labelled,
        level=f"{100 * ev.level:g} %",
        tasks=ev.tasks,
        rows=[(name, cells) for name, cells in rows if any(c.value != w.NONE for c in cells)],
        charts=[
            dict(svg=_svg(draw(ev, "svg"), i, text), width=width, caption=text)
            for i, draw, width, text in charts
            if ev.patients_labelled
        ],
        subgroups=[
            dict(
                by=g.by,
                group=w.shorten(g.group),
                n=g.n,
                first=i == 0 or ev.subgroups[i - 1].by != g.by,
                cells=[_cell(e, why=False) for e in (g.auc_vs_normal, g.auc_vs_rest, g.sensitivity, g.specificity)],
            )
            for i, g in enumerate(ev.subgroups)
        ],
        notes=ev.notes,
    )


class _Cell:
    """A figure of a table: value, its range and, where it is undefined, why."""

    def __init__(self, value: str, span: str = "", note: str = ""):
        self.value, self.range, self.note = value, span, note


def _cell(e: Estimate | None, why: bool = True) -> _Cell:
    if e is None or math.isnan(e.value):
        return _Cell(w.NONE, note=e.note if e and why else "")
    span = "" if math.isnan(e.low) else f"{w.number(e.low, 3)} to {w.number(e.high, 3)}"
    return _Cell(w.number(e.value, 3), span, e.note if why else "")


def _svg(svg: bytes, prefix: str, label: str) -> Markup:
    """A figure of ours as inline SVG: page colours for ours, ids that can't meet another figure's, a spoken label."""
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    for colour, variable in _CSS.items():
        text = text.replace(colour, variable)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}-", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(label)}" ', 1))
