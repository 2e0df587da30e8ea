"""One HTML file for an evaluation: tables, figures with text descriptions, the comparison, the reporting checklists.

    write_evaluation("evaluation.html", ev, "runs/screen", comparison, checklists)

Fetches nothing and runs no script. The figures stand in it as SVG; `pictures` gives the same ones as PNG files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osteo_ray.evaluation import evidence, figures
from osteo_ray.evaluation.checklists import WORDS, Checklist
from osteo_ray.evaluation.compare import Difference, PairedComparison
from osteo_ray.evaluation.evaluate import Evaluation
from osteo_ray.reports import wording as w
from osteo_ray.reports.html import inline_svg, write_page
from osteo_ray.reports.run_view import Cell, evaluation_tables

Draw = Callable[..., bytes]


@dataclass(frozen=True)
class Figure:
    """One figure: file name, how it is drawn, its width (rem), caption, and what it shows in words."""

    name: str
    draw: Draw
    width: int
    caption: str
    alt_text: str


def write_evaluation(
    path: str | Path,
    ev: Evaluation,
    source: str,
    comparison: PairedComparison | None = None,
    checklists: tuple[Checklist, ...] = (),
) -> Path:
    """Write the page; `source` names the results."""
    charts = [
        dict(svg=inline_svg(f.draw(ev, "svg"), f.name, f.alt_text), width=f.width, caption=f.caption, words=f.alt_text)
        for f in shown(ev)
    ]
    return write_page(
        path,
        "evaluation.html.j2",
        run_id="",
        source=source,
        series=ev.series,
        patients=ev.patients,
        scored=ev.patients_scored,
        labels=", ".join(f"{k} {n}" for k, n in ev.label_counts.items()),
        states=", ".join(f"{k} {n}" for k, n in ev.by_state.items()),
        ev=evaluation_tables(ev),
        further=_further(ev),
        charts=charts,
        abstention=_abstention(ev),
        conformal=_conformal(ev),
        importance=_importance(ev),
        comparison=_comparison(comparison),
        checklists=_checklists(checklists),
    )


def pictures(ev: Evaluation) -> dict[str, bytes]:
    """The page's figures as PNG, by file name without suffix."""
    return {f.name: f.draw(ev, "png") for f in shown(ev)}


def shown(ev: Evaluation) -> list[Figure]:
    """The figures that this evaluation has data for."""
    if not ev.patients_labelled:
        return []
    normal, rest = ev.task("vs_normal").auc, ev.task("vs_rest").auc
    out = [
        Figure(
            "roc",
            figures.roc,
            26,
            "ROC curves; the dashed line is osteoporosis against everyone else.",
            f"ROC curves. Area under the curve {normal} against normal and {rest} against everyone else.",
        )
    ]
    k = ev.task("vs_rest").calibration
    if k is not None:
        slope = "not defined" if math.isnan(k.slope.value) else f"{k.slope.value:.2f}"
        out += [
            Figure(
                "calibration",
                figures.calibration,
                26,
                "Observed share against predicted risk in bins of equal count, with Wilson intervals.",
                f"Calibration plot. Slope {slope}, Brier score {k.brier:.3f}, expected calibration error {k.ece:.3f}.",
            ),
            Figure(
                "decision",
                figures.decision,
                30,
                "Net benefit of referring by this score, against referring all or none.",
                "Decision curve: net benefit by threshold probability, beside referring everyone and no one.",
            ),
        ]
    if ev.subgroups:
        out.append(
            Figure(
                "subgroups",
                figures.forest,
                42,
                "AUC by subgroup, osteoporosis against rest, with intervals where defined.",
                "Forest plot of the AUC by subgroup; the same numbers are in the table of subgroups.",
            )
        )
    if any(g.by in ("modalities", "labs missing") for g in ev.subgroups):
        out.append(
            Figure(
                "missingness",
                evidence.missingness,
                42,
                "AUC by the modalities that a score had, and by how many labs were missing; a ring has no interval.",
                "AUC by missingness pattern and by number of missing labs; the numbers are in the table of subgroups.",
            )
        )
    if ev.abstention is not None:
        out.append(
            Figure(
                "abstention",
                evidence.risk_coverage,
                30,
                "Sensitivity, specificity and error where only the surest patients are scored; bands are Wilson.",
                "Risk-coverage curves: figures at the locked threshold by share of patients kept; see the table.",
            )
        )
    if ev.conformal is not None:
        out.append(
            Figure(
                "conformal",
                evidence.conformal,
                30,
                "How often the conformal set holds the true class, with Wilson intervals.",
                "Coverage of conformal sets for everyone and class by class; numbers in the table.",
            )
        )
    if ev.importance:
        names = ", ".join(evidence.name(f.feature) for f in ev.importance[:5])
        out.append(
            Figure(
                "shap",
                evidence.beeswarm,
                42,
                "SHAP values, one mark a patient; grey names are labs. Log-odds of osteoporosis against everyone else.",
                f"SHAP beeswarm. Features of largest mean effect: {names}; numbers in the table.",
            )
        )
    return out


def _further(ev: Evaluation) -> list[tuple[str, list[Cell]]]:
    """What the run report's table does not have: figures over every series, and the Brier score's interval."""
    rows = [("AUC over every scored series, patients drawn whole", [_cell(t.auc_series, 3) for t in ev.tasks])]
    rows.append(("Series", [Cell(str(t.series)) for t in ev.tasks]))
    if any(t.brier for t in ev.tasks):
        rows.append(("Brier score", [_cell(t.brier, 3) if t.brier else Cell(w.NONE) for t in ev.tasks]))
    return rows


def _abstention(ev: Evaluation) -> list[dict[str, Any]]:
    a = ev.abstention
    if a is None:
        return []
    return [
        dict(
            share=w.percent(share),
            n=n,
            cells=[_cell(c.sensitivity, 3), _cell(c.specificity, 3), Cell(w.number(1 - c.accuracy.value, 3))],
        )
        for share, n, c in zip(a.share, a.n, a.at, strict=True)
    ]


def _conformal(ev: Evaluation) -> list[dict[str, Any]]:
    if ev.conformal is None:
        return []
    return [
        dict(name=g.name, n=g.n, covered=_cell(g.covered, 3), size=w.number(g.mean_size, 2), sizes=g.sizes)
        for g in ev.conformal.groups
    ]


def _importance(ev: Evaluation) -> list[dict[str, Any]]:
    both = [(True, f) for f in ev.modality_importance] + [(False, f) for f in ev.importance]
    return [
        dict(
            modality=modality,
            name=f.group if modality else evidence.name(f.feature),
            group=f.group,
            n=f.n,
            known=w.NONE if math.isnan(f.known) else w.percent(f.known),
            mean_abs=w.number(f.mean_abs, 3),
            mean=w.number(f.mean, 3),
            direction=w.NONE if math.isnan(f.direction) else w.number(f.direction, 2),
        )
        for modality, f in both
    ]


def _comparison(c: PairedComparison | None) -> dict[str, Any] | None:
    if c is None:
        return None
    return dict(
        a=c.a, b=c.b, both=c.both, only_a=c.only_a, only_b=c.only_b, notes=c.notes, rows=[*map(_row, c.differences)]
    )


def _row(d: Difference) -> dict[str, Any]:
    span = w.NONE if math.isnan(d.low) else f"{w.number(d.low, 3)} to {w.number(d.high, 3)}"
    p = w.NONE if math.isnan(d.p) else "< 0.001" if d.p < 0.001 else w.number(d.p, 3)
    values = [w.number(v, 3) for v in (d.a, d.b, d.diff)]
    return dict(figure=d.figure, task=d.task, n=d.n, values=values, span=span, p=p, method=d.method)


def _checklists(lists: tuple[Checklist, ...]) -> list[dict[str, Any]]:
    return [
        dict(
            title=c.title,
            counts=", ".join(f"{n} {s}" for s, n in c.counts().items() if n),
            items=[dict(id=i.id, about=i.about, state=WORDS.get(i.state, i.state), text=i.text) for i in c.items],
        )
        for c in lists
    ]


def _cell(e: Any, digits: int) -> Cell:
    if math.isnan(e.value):
        return Cell(w.NONE, note=e.note)
    span = "" if math.isnan(e.low) else f"{w.number(e.low, digits)} to {w.number(e.high, digits)}"
    return Cell(w.number(e.value, digits), span)
