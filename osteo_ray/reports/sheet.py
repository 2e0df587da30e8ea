"""The study report as one A4 page: the picture that a secondary capture holds, and a PDF for printing.

    pixels = raster(StudyView(row, thumbnails, overview))     # uint8 [1448, 1024, 3]
    write_pdf("a.pdf", view)

It shows what the HTML page shows, from the same `study_view.page`, drawn by matplotlib with the font that comes with
it, so that the same row gives the same pixels on every machine with the same matplotlib.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from numpy.typing import NDArray
from PIL import Image

from osteo_ray.evaluation.palette import ACCENT, FAIL, INK, LINE, MARK, MUTED, NOTICE, PASS, RAISE, WARN, WASH
from osteo_ray.reports.bars import BarGroup
from osteo_ray.reports.language import ENGLISH, Words, words_in
from osteo_ray.reports.pictures import WINDOW_LEVEL, WINDOW_WIDTH, close_up, encode
from osteo_ray.reports.study_view import Page, Risk, StudyView, page
from osteo_ray.reports.wording import SPACE, shorten
from osteo_ray.screening.config import IN_ENGLISH, ReportText

WIDTH, HEIGHT = 1024, 1448  # pixels; A4's proportions
DPI = 124
LEFT, RIGHT = 0.055, 0.945
MOST_SLICES, MOST_ROWS, MOST_GATES = 8, 9, 18
MOST_LINE = 150  # characters of a line of small print
_STYLE: Any = {"font.family": "DejaVu Sans", "pdf.fonttype": 42, "text.color": INK, "svg.hashsalt": "osteo-ray"}


CHINESE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "SimHei", "PingFang SC", "Droid Sans Fallback"),
)
NO_FONT = (
    "no font with Chinese characters is installed (e.g. the Debian package fonts-noto-cjk), so that PDF and secondary "
    "capture are in English"
)


def chinese_font() -> str | None:
    """An installed font that has Chinese characters; the one that comes with matplotlib has none."""
    installed = set(font_manager.get_font_names())
    return next((f for f in CHINESE_FONTS if f in installed), None)


def printable(text: ReportText) -> ReportText:
    """The words of a sheet: in English where Chinese can't be drawn on this machine."""
    if text.language == "zh" and chinese_font() is None:
        return text.model_copy(update={"language": ENGLISH})
    return text


def _style(text: ReportText) -> Any:
    if text.language != "zh":
        return _STYLE
    return _STYLE | {"font.family": [chinese_font(), "DejaVu Sans"]}


def raster(view: StudyView, text: ReportText = IN_ENGLISH) -> NDArray[np.uint8]:
    """The page as RGB, [HEIGHT, WIDTH, 3]."""
    text = printable(text)
    with mpl.rc_context(_style(text)):
        figure = _draw(view, text)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def write_pdf(path: str | Path, view: StudyView, text: ReportText = IN_ENGLISH) -> Path:
    """The page as a PDF, with searchable text and without a creation date, so that it is the same each time."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = printable(text)
    with mpl.rc_context(_style(text)):
        figure = _draw(view, text)
        figure.savefig(path, format="pdf", metadata={"CreationDate": None, "Title": "CT bone screening"})
    return path


def _draw(view: StudyView, text_of: ReportText) -> Figure:
    p, words = page(view, text_of), words_in(text_of.language)
    disclaimer = words("notice")
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    text = _Text(figure)
    text(LEFT, 0.965, words("report.study"), 15, weight="bold")
    text(RIGHT, 0.967, "osteo-ray", 9, MUTED, ha="right")
    text(LEFT, 0.947, f"{words('report.patient')} {p.patient}", 10)
    facts = [f"{k} {v}" for k, v in p.facts]
    half = (len(facts) + 1) // 2
    text(LEFT, 0.930, "    ".join(facts[:half]), 7.2, MUTED)
    text(LEFT, 0.917, "    ".join(facts[half:]), 7.2, MUTED)
    _notice(figure, 0.888, 0.902)
    text(LEFT + 0.01, 0.8905, disclaimer, _fitting(disclaimer, 8.6), RAISE, weight="bold")
    text(LEFT, 0.868, p.meaning, 10, weight="bold")
    text(LEFT, 0.853, shorten(": ".join(t for t in (p.why, p.detail) if t), 130), 7.5)
    if p.next_step:
        text(LEFT, 0.839, shorten(f"{words('next.title')}: {p.next_step}", 120), 7.5, weight="bold")
    if p.risk:
        _risk(figure, text, p.risk, words)
    _slices(figure, text, view, p, words)
    at = _density(figure, text, p, 0.395, words)
    at = _shap(figure, text, p.groups, at, words)
    _checks(text, p, at - 0.02, words)
    y = 0.062
    shown = {words(f"prov.{k}") for k in ("model", "sha", "study", "series", "row_key")}
    for k, v in (x for x in p.provenance if x[0] in shown):
        text(LEFT, y, k, 6.3, MUTED)
        text(LEFT + 0.12, y, v, 6.3)
        y -= 0.0105
    _notice(figure, 0.004, 0.016)
    text(LEFT + 0.01, 0.0065, disclaimer, _fitting(disclaimer, 7.6), RAISE, weight="bold")
    return figure


class _Text:
    """Writes on a figure in page coordinates, 0 to 1 from the lower left."""

    def __init__(self, figure: Figure):
        self.figure = figure

    def __call__(self, x: float, y: float, words: str, size: float, color: str = INK, **kw: Any) -> None:
        # Text of a header may hold anything; a dollar sign in it must not start mathematics.
        clean = "".join(ch if ch.isprintable() or ch == SPACE else " " for ch in words)
        self.figure.text(x, y, clean, size=size, color=color, va="bottom", parse_math=False, **kw)


def _fitting(words: str, size: float) -> float:
    """The size at which a line fits the page; a Chinese character is about as wide as two others."""
    wide = sum(2 if ord(ch) > 0x2E80 else 1 for ch in words)
    return min(size, size * 92 / wide)


def _notice(figure: Figure, low: float, high: float) -> None:
    for x, w, color in ((LEFT, RIGHT - LEFT, NOTICE), (LEFT, 0.004, RAISE)):
        figure.add_artist(Rectangle((x, low), w, high - low, transform=figure.transFigure, facecolor=color, lw=0))


def _risk(figure: Figure, text: _Text, r: Risk, words: Words) -> None:
    text(LEFT, 0.783, r.value, 34, weight="bold")
    text(LEFT, 0.766, r.interval, 8.5)
    color = RAISE if r.high else ACCENT if r.high is not None else MUTED
    text(LEFT, 0.749, r.verdict, 8.5, color, weight="bold")
    chosen, _, measured = r.operating_point.partition("; ")
    text(LEFT, 0.737, shorten(chosen, 62), 6.8, MUTED)
    text(LEFT, 0.727, shorten(measured, 96), 6.0, MUTED)
    ax = figure.add_axes((0.45, 0.765, RIGHT - 0.46, 0.06))
    ax.set(xlim=(0, 100), ylim=(0, 1))
    ax.axis("off")
    ax.add_patch(Rectangle((0, 0.42), 100, 0.16, facecolor=WASH, edgecolor=LINE, lw=0.7))
    if r.low_at is not None and r.high_at is not None:
        ax.add_patch(Rectangle((r.low_at, 0.42), r.high_at - r.low_at, 0.16, facecolor=ACCENT, alpha=0.4, lw=0))
        ax.vlines([r.low_at, r.high_at], 0.34, 0.66, color=ACCENT, lw=1.2)
    ax.plot([r.at], [0.5], "o", color=ACCENT, ms=8, mec="white", mew=1.2, clip_on=False)
    if r.threshold_at is not None:
        ax.vlines([r.threshold_at], 0.2, 0.86, color=RAISE, lw=1.2, linestyles="dashed")
        ax.text(r.threshold_at, 0.9, r.cut, size=7, color=RAISE, ha="center", va="bottom")
    for t in (0, 25, 50, 75, 100):
        ax.text(t, 0.26, f"{t} %", size=6.5, color=MUTED, ha="center", va="top")
    text(0.45 + (RIGHT - 0.46) / 2, 0.757, words("risk.axis"), 7, MUTED, ha="center")
    text(0.45, 0.738, "    ".join(f"{n} {v}" for n, v, _ in r.classes), 7.2)


def _slices(figure: Figure, text: _Text, view: StudyView, p: Page, words: Words) -> None:
    if not p.slices:
        return
    _heading(
        figure,
        text,
        0.712,
        words("slices.title"),
        words("slices.sheet_note", level=WINDOW_LEVEL, width=WINDOW_WIDTH),
    )
    if view.overview is not None:
        box = figure.add_axes((LEFT, 0.433, 0.17, 0.2658))
        picture = _pixels(view.overview.png, view.overview.spacing)
        box.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        box.set(xticks=[], yticks=[], anchor="NW")
        for s in p.slices:
            if s.at is not None and s.label_at is not None:
                y, label = (v / 100 * picture.shape[0] for v in (s.at, s.label_at))
                box.axhline(y, color=MARK, lw=0.9)
                box.annotate(
                    s.mark,
                    (picture.shape[1], y),
                    (picture.shape[1] * 1.06, label),
                    size=6.5,
                    va="center",
                    annotation_clip=False,
                )
    shots = {(t.sop_uid, t.index): t for t in view.thumbnails}
    chosen = sorted(view.row.get("selected") or (), key=lambda s: (-(s["z_mm"] or 0.0), s["index"]))
    x0, step, size = 0.285, 0.1675, 0.158
    tall = size * WIDTH / HEIGHT
    for i, (s, shown) in enumerate(zip(chosen[:MOST_SLICES], p.slices, strict=False)):
        x, y = x0 + step * (i % 4), 0.59 - 0.147 * (i // 4)
        box = figure.add_axes((x, y, size, tall), facecolor="black")
        box.set(xticks=[], yticks=[])
        shot = shots.get((s["sop_uid"], s["index"]))
        if shot is not None:
            near = close_up(shot)
            pixels = _pixels(shot.png if near is None else near.hu, shot.spacing)
            box.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
            if near is not None:
                tall_px, wide_px = pixels.shape
                centre = (near.x * wide_px - 0.5, near.y * tall_px - 0.5)
                box.add_patch(Circle(centre, near.radius * wide_px, fill=False, edgecolor=MARK, lw=0.8))
                for side, at in (("R", 0.03), ("L", 0.97)):
                    box.text(at, 0.5, side, transform=box.transAxes, color=WASH, size=6, ha="center", va="center")
        text(x, y - 0.0125, f"{shown.number}  {shown.level}  {shown.hu}", 5.9)
        text(x, y - 0.0225, f"z {shown.z}  {shown.weight}", 5.9, MUTED)
    more = len(p.slices) - MOST_SLICES
    if more > 0:
        text(RIGHT, 0.714, words("slices.more", n=more), 7, MUTED, ha="right")


def _heading(figure: Figure, text: _Text, y: float, words: str, note: str = "") -> None:
    text(LEFT, y, words, 9, weight="bold")
    text(LEFT + 0.012 * len(words) + 0.01, y + 0.0008, note, 7, MUTED)
    figure.add_artist(
        Rectangle((LEFT, y + 0.016), RIGHT - LEFT, 0.0006, transform=figure.transFigure, facecolor=LINE, lw=0)
    )


def _shap(figure: Figure, text: _Text, groups: Sequence[BarGroup], y: float, words: Words) -> float:
    """Bars of the score's parts; returns the height where they end."""
    if not groups:
        return y
    _heading(figure, text, y, words("shap.title"), words("shap.sheet_note"))
    lines = [(g.total, True) for g in groups] + [(b, False) for g in groups for b in g.bars if len(g.bars) > 1]
    lines = sorted(lines, key=lambda x: (not x[1], -x[0].width))[:MOST_ROWS]
    at = y - 0.016
    for b, group in lines:
        weight = "bold" if group else "normal"
        text(LEFT + (0 if group else 0.012), at, shorten(b.label, 34), 6.8, weight=weight)
        text(0.335, at, shorten(b.value, 20), 6.8, MUTED)
        x, w = 0.45 + b.left / 100 * 0.42, b.width / 100 * 0.42
        color = RAISE if b.raises else ACCENT
        figure.add_artist(
            Rectangle((x, at + 0.0008), w, 0.0065, transform=figure.transFigure, facecolor=color, lw=0, alpha=0.8)
        )
        text(RIGHT, at, b.shap, 6.8, ha="right", weight=weight)
        at -= 0.0112
    figure.add_artist(
        Rectangle((0.66, at + 0.009), 0.0006, y - at - 0.016, transform=figure.transFigure, facecolor=MUTED, lw=0)
    )
    return at


def _density(figure: Figure, text: _Text, p: Page, y: float, words: Words) -> float:
    """HU by level and what they are seen against, in lines; returns the height where they end."""
    d = p.density
    if not d.levels and not d.compared:
        return y
    _heading(figure, text, y, words("density.title"), words("density.hu_120") + ", " + words("density.range"))
    lines = ["    ".join(f"{v.name} {v.hu_120_kvp} ({v.range})" for v in d.levels)] if d.levels else []
    # Of each part its first sentence: the page has them all.
    lines += [f"{title}: {said[0]}" for title, said in d.compared]
    at = y - 0.016
    for line in lines:
        for part in textwrap.wrap(line, MOST_LINE)[:2]:
            text(LEFT, at, part, 6.6)
            at -= 0.0112
    return at - 0.008


def _checks(text: _Text, p: Page, y: float, words: Words) -> None:
    if not p.checks:
        return
    _heading(text.figure, text, y, words("checks.title"), words("checks.sheet_note"))
    # What fired comes first; of the rest as many as the page holds.
    lines = max(1, int((y - 0.016 - 0.075) / 0.0112))
    first = sorted(p.checks, key=lambda c: c.tone == "ok")[: min(MOST_GATES, 2 * lines)]
    per = (len(first) + 1) // 2
    colors = {"ok": PASS, "warn": WARN, "bad": FAIL}
    for i, c in enumerate(first):
        x, at = LEFT + 0.45 * (i // per), y - 0.016 - 0.0112 * (i % per)
        text(x, at, c.verdict, 6.2, colors.get(c.tone, MUTED), weight="bold")
        text(x + 0.09, at, shorten(c.name, 21), 6.2)
        text(x + 0.22, at, shorten(f"{c.found}; {c.allowed}", 40), 5.8, MUTED)


def _pixels(png: Any, spacing: tuple[float, float]) -> NDArray[np.uint8]:
    data = png if isinstance(png, bytes) else encode(np.asarray(png), spacing)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as im:
        return np.asarray(im.convert("L"))
