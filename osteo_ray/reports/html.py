"""HTML reports: one self-contained file each, readable without a network, a script or a mouse, and printable.

    write_study("study.html", row, thumbnails)                   # row: a dict of screening/schema.py RESULTS
    write_run("run.html", results, summary, [StudyView(row, thumbnails)], evaluation)

Every value passes through the templates' autoescape. Figures are SVG in the page's own colours, so that they follow
dark mode and print; CT pictures are embedded PNG.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from osteo_ray.evaluation import figures
from osteo_ray.evaluation.evaluate import Evaluation
from osteo_ray.io.database import Table, database
from osteo_ray.reports import wording as w
from osteo_ray.reports.background import NOTHING_LOOKED_AT, Background
from osteo_ray.reports.language import ENGLISH, Words, words_in
from osteo_ray.reports.pictures import PRESETS, WINDOW_LEVEL, WINDOW_WIDTH, Overview, Thumbnail, window_filter
from osteo_ray.reports.run_view import evaluation_tables, run_page
from osteo_ray.reports.study_view import StudyView, page
from osteo_ray.screening.config import IN_ENGLISH, ReportText
from osteo_ray.screening.schema import RESULT_VERSION, RESULTS, SCORED_SQL

__all__ = ["Overview", "StudyView", "Thumbnail", "write_run", "write_study"]

_CSS = {
    figures.INK: "var(--ink)",
    figures.MUTED: "var(--muted)",
    figures.LINE: "var(--line)",
    figures.ACCENT: "var(--accent)",
    figures.RAISE: "var(--raise)",
    figures.PAPER: "var(--paper)",
}


def write_study(
    path: str | Path,
    row: Mapping[str, Any],
    thumbnails: Sequence[Thumbnail] = (),
    overview: Overview | None = None,
    background: Background = NOTHING_LOOKED_AT,
    text: ReportText = IN_ENGLISH,
) -> Path:
    """Write one study's report; `row` is one row of the results, scored or not."""
    view = StudyView(row, thumbnails, overview, background)
    run_id = w.text(row.get("run_id"))
    return write_page(path, "study.html.j2", text.language, s=page(view, text), run_id=run_id)


def write_run(
    path: str | Path,
    results: Table,
    summary: Mapping[str, Any],
    examples: Sequence[StudyView] = (),
    evaluation: Evaluation | None = None,
    top: int = 50,
    suppressed: Mapping[str, str] | None = None,
    text: ReportText = IN_ENGLISH,
) -> Path:
    """Write a run's report.

    Args:
        results: the results, one row per indexed series; a file is read a column at a time.
        summary: facts of the run. Known keys, each optional: `run_id`; `indexed` (number of indexed series, checked
            against the sum of the counts); `wall_s` and `workers` (throughput is worked out from them); `notice` (said
            first). Every other key with a plain value is listed as it is.
        examples: studies shown in full; the worklist links to them.
        top: worklist rows shown.
        suppressed: code by key of the patients whom the worklist leaves out.
        text: language, and what the site wants done; the evaluation's tables are in English.
    """
    words = words_in(text.language)
    studies = [page(e, text) for e in examples]
    context = run_page(results, summary, {s.anchor for s in studies}, top, suppressed or {}, words)
    return write_page(
        path,
        "run.html.j2",
        text.language,
        studies=studies,
        histogram=_histogram(results, words),
        ev=evaluation_tables(evaluation) if evaluation is not None else None,
        charts=_charts(evaluation) if evaluation is not None else [],
        **context,
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("osteo_ray.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def write_page(path: str | Path, template: str, language: str = ENGLISH, **context: Any) -> Path:
    """Write a page from a template, whose words (`w`) are in `language`."""
    html = (
        _environment()
        .get_template(template)
        .render(
            w=words_in(language),
            window_level=WINDOW_LEVEL,
            window_width=WINDOW_WIDTH,
            presets=[(name, level, width, window_filter(level, width)) for name, level, width in PRESETS],
            result_version=RESULT_VERSION,
            **context,
        )
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def _histogram(results: Table, words: Words) -> Markup:
    with database(results=(results, RESULTS)) as db:
        listed = f"FROM results WHERE {SCORED_SQL}"
        risks = db.sql(f"SELECT risk_prob {listed}").fetchnumpy()["risk_prob"]
        cuts = db.sql(f"SELECT DISTINCT threshold {listed} AND threshold IS NOT NULL ORDER BY 1").fetchall()
    if not len(risks):
        return Markup("")
    drawn = figures.score_histogram(risks, [c for (c,) in cuts], fmt="svg")
    return inline_svg(drawn, "hist", words("run.hist_alt", n=len(risks)))


def _charts(ev: Evaluation) -> list[dict[str, Any]]:
    charts = [
        ("roc", figures.roc, 26, "ROC curves; the dashed line is osteoporosis against everyone else."),
        ("cal", figures.calibration, 26, "Observed share against predicted risk, with Wilson intervals."),
        ("dca", figures.decision, 30, "Net benefit of referring by this score, against referring all or none."),
        ("forest", figures.forest, 42, "AUC by subgroup, osteoporosis against rest, with intervals where defined."),
    ]
    return [
        dict(svg=inline_svg(draw(ev, "svg"), i, text), width=width, caption=text)
        for i, draw, width, text in charts
        if ev.patients_labelled
    ]


def inline_svg(svg: bytes, prefix: str, label: str) -> Markup:
    """A figure of ours as inline SVG: page colours for ours, ids that can't meet another figure's, alt text."""
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    for colour, variable in _CSS.items():
        text = text.replace(colour, variable)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}-", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(label)}" ', 1))
