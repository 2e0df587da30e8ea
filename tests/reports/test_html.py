import base64
import io
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from synthetic_run import UID, axial_hu, many_rows, odd_rows, overview, scored_row, summary, table, thumbnails, view

from osteo_ray.config import ConfigError, validate
from osteo_ray.evaluation.evaluate import evaluate
from osteo_ray.outcomes import State
from osteo_ray.reports import study_view, wording
from osteo_ray.reports.bars import MOST_BARS
from osteo_ray.reports.checks_view import check
from osteo_ray.reports.html import StudyView, Thumbnail, write_run, write_study
from osteo_ray.reports.language import DISCLAIMER, words_in
from osteo_ray.reports.pictures import PRESETS, WINDOW_LEVEL, WINDOW_WIDTH, Roi, close_up, encode, window_filter
from osteo_ray.screening.config import ReportText

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Reads a page as a browser would and keeps what the tests ask about; tags must close in order."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        values = dict(attrs)
        self.attributes += [(tag, k, v) for k, v in attrs]
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def study(tmp_path, row, *args) -> tuple[str, Reader]:
    html = write_study(tmp_path / "study.html", row, *args).read_text()
    return html, Reader(html)


def check_page(html: str) -> Reader:
    """What every report must hold."""
    page = Reader(html)
    assert not page.open, "tags left open"
    assert DISCLAIMER in page.words
    assert "script" not in page.tags
    assert not {k for _, k, _ in page.attributes if k.startswith("on")}
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value is not None, (tag, name)
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:60])
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids)), [i for i, n in Counter(page.ids).items() if n > 1]
    assert {h[1:] for h in page.links} <= set(page.ids)
    for image in page.images:
        assert image["alt"]
        png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(png)) as im:
            assert im.size == (int(image["width"]), int(image["height"]))
    assert "prefers-color-scheme:dark" in html
    assert "@media print" in html
    return page


def labels_of(keys):
    return pd.DataFrame(dict(patient_key=keys, label=["normal"] * len(keys)))


@pytest.mark.parametrize("row", odd_rows(), ids=lambda r: f"{r['state']}-{r['code']}-{r['row_key'][-3:]}")
def test_every_row_makes_a_whole_page(tmp_path, row):
    html, _ = study(tmp_path, row, thumbnails(row), overview())
    page = check_page(html)
    assert row["state"] in page.words
    assert row["code"] in page.words
    if row["message"]:
        assert row["message"].strip() in page.words
    assert "None" not in page.words
    assert "nan" not in page.words.lower().split()


def test_the_numbers_of_a_scored_study_are_on_its_page(tmp_path):
    row = scored_row(1, 0.62)
    html, page = study(tmp_path, row, thumbnails(row))
    check_page(html)
    for words in ("62 %", "interval 51 % to 75 %", "High: at or above the operating point", "operating point 35 %"):
        assert words in page.words
    assert row["model_sha256"] in page.words
    assert "11 of 96 (11 %)" in page.words
    assert "2.9 MB" in page.words
    assert "open 0.31 s" in page.words
    for s in row["selected"]:
        assert f"{s['z_mm']:.1f}".replace("-", "−") in page.words
        assert s["sop_uid"][-10:].lstrip(".") in page.words
        assert f"{s['index'] + 1} of 96" in page.words
    for g in row["gates"]:
        shown = check(g, words_in())
        assert f"{shown.name} {shown.found} {shown.allowed}" in page.words
        assert g["gate"] not in page.words
    # Each slice is there twice: the vertebra with the circle that was measured, and the whole slice.
    assert len(page.images) == 2 * len(row["selected"])
    # A circle on each picture, and one on the chart for each level whose HU at 120 kVp are known.
    assert html.count("<circle ") == len(row["selected"]) + 1
    assert "L1 171 149–193 131 – 2 4" in page.words
    assert "Haemoglobin not measured" in page.words


def test_no_text_of_a_row_becomes_markup(tmp_path):
    attack = '"><img src=x onerror=alert(1)><script>alert(2)</script>&amp;'
    row = scored_row(2, 0.4) | dict(
        patient_key=attack,
        study_uid=attack,
        series_uid=attack,
        manufacturer=attack,
        message=attack,
        operating_point=attack,
        code=attack,
        stage=attack,
        run_id=attack,
        model_name=attack,
    )
    row["shap"] = [dict(feature=attack, group=attack, value=1.0, unit=attack, shap=0.5)]
    row["gates"] = [dict(gate=attack, verdict=attack, value=attack, threshold=attack)]
    row["selected"][0]["sop_uid"] = attack
    check_page(study(tmp_path, row)[0])
    rows = table([row])
    ev = evaluate(rows, labels_of([attack]))
    out = write_run(tmp_path / "run.html", rows, {"run_id": attack, "archive": attack}, [StudyView(row)], ev)
    page = check_page(out.read_text())
    assert "<script>alert(2)</script>" in page.words


def test_the_run_report_adds_up(tmp_path):
    rows = many_rows()
    examples = [view(r) for r in rows[:3]] + [view(r, with_overview=False) for r in odd_rows()[:6]]
    out = write_run(tmp_path / "run.html", table(rows), summary(rows), examples)
    page = check_page(out.read_text())
    counts = Counter(r["state"] for r in rows)
    for state in State:
        assert f"{words_in()(f'state.{state}')} {counts[state]}" in page.words
    assert f"Sum {len(rows)} equals the {len(rows)} indexed series" in page.words
    assert "do not add up" not in page.words
    assert "Series per minute 13.4" in page.words
    anchors = {study_view.anchor(e.row) for e in examples}
    assert anchors <= set(page.ids)
    assert {h[1:] for h in page.links} & anchors
    assert page.tags["article"] == len(examples)


def test_patients_whom_the_worklist_leaves_out_are_marked(tmp_path):
    rows = many_rows(5)
    known = {rows[0]["patient_key"]: "KNOWN_DXA", "listed nowhere here": "ON_TREATMENT"}
    out = write_run(tmp_path / "run.html", table(rows), summary(rows), suppressed=known)
    page = check_page(out.read_text())
    assert page.words.count("recent DXA: not on the list to be called") == 1
    assert "2 patients whose state is known are suppressed there" in page.words


def test_a_run_whose_counts_do_not_add_up_says_so(tmp_path):
    rows = many_rows(5)
    out = write_run(tmp_path / "run.html", table(rows), summary(rows) | {"indexed": len(rows) + 2})
    page = check_page(out.read_text())
    assert f"{len(rows) + 2} series were indexed, but {len(rows)} have an outcome." in page.words


def test_a_run_of_nothing_is_a_whole_page(tmp_path):
    out = write_run(tmp_path / "run.html", table([]), {"indexed": 0}, [], evaluate(table([]), labels_of([])))
    page = check_page(out.read_text())
    assert "No series was indexed." in page.words
    assert "Nothing was scored, so the worklist is empty." in page.words
    assert "svg" not in page.tags


def test_the_evaluation_is_shown_with_its_figures(tmp_path):
    rows = many_rows(80)
    keys = [r["patient_key"] for r in rows if r["patient_key"]]
    labels = labels_of(keys).assign(label=[("osteoporosis", "normal", "osteopenia")[i % 3] for i in range(len(keys))])
    ev = evaluate(table(rows), labels)
    page = check_page(write_run(tmp_path / "run.html", table(rows), summary(rows), [], ev).read_text())
    auc = ev.task("vs_rest").auc
    assert f"{auc.value:.3f} {auc.low:.3f} to {auc.high:.3f}" in page.words
    assert page.tags["svg"] == 5  # histogram, ROC, calibration, decision curve, forest
    for g in ev.subgroups:
        assert wording.shorten(g.group) in page.words


def test_figures_take_the_colours_of_the_page(tmp_path):
    rows = many_rows(10)
    html = write_run(tmp_path / "run.html", table(rows), summary(rows)).read_text()
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert "var(--accent)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_slices_are_numbered_from_head_to_foot_and_placed_in_the_scan():
    row = scored_row(4, 0.3)
    by_index = study_view.page(StudyView(row)).slices
    indices = sorted((s["index"] for s in row["selected"]), reverse=True)
    assert [s.number for s in by_index] == list(range(1, len(indices) + 1))
    assert [s.place for s in by_index] == [f"{i + 1} of 96" for i in indices]
    assert [s.at for s in by_index] == pytest.approx([100 * (1 - (i + 0.5) / 96) for i in indices])
    assert [s.mark.split() for s in by_index] == [[str(s.number), s.level] for s in by_index]
    # The overview spans the same 96 slices, so millimetres must give the same places.
    by_mm = study_view.page(view(row)).slices
    assert [s.at for s in by_mm] == pytest.approx([s.at for s in by_index])


def test_a_study_opens_in_the_sites_viewer(tmp_path):
    text = validate(ReportText, {"viewer": "https://viewer.example/?StudyInstanceUIDs={study_uid}&s={series_uid}"})
    row = scored_row(1, 0.62) | {"study_uid": '1.2&x="<'}
    link = f"https://viewer.example/?StudyInstanceUIDs=1.2%26x%3D%22%3C&amp;s={row['series_uid']}"
    assert f'<a href="{link}"' in write_study(tmp_path / "a.html", row, text=text).read_text()
    assert "viewer.example" not in write_study(tmp_path / "b.html", row).read_text()
    for wrong in ("javascript:alert({study_uid})", "https://v/", "https://v/{study_uid}/{name}"):
        with pytest.raises(ConfigError, match="viewer"):
            validate(ReportText, {"viewer": wrong})


def test_risk_scale_follows_the_row():
    risk = study_view.page(StudyView(scored_row(1, 0.62))).risk
    assert risk is not None
    assert (risk.at, risk.low_at, risk.high_at, risk.threshold_at) == pytest.approx((62, 51, 75, 35))
    assert risk.high is True
    abstained = next(r for r in odd_rows() if r["state"] == "ABSTAINED")
    assert study_view.page(StudyView(abstained | dict(risk_prob=0.5))).risk is None


def test_shap_bars_add_up_and_small_ones_are_summed():
    row = scored_row(1, 0.62)
    row["shap"] = [dict(feature=f"lab{i}", group="labs", value=1.0, unit="g/L", shap=0.1 * i - 0.6) for i in range(14)]
    row["shap"].append(dict(feature="ct", group="ct", value=None, unit=None, shap=1.5))
    ct, labs = (g for t in ("CT", "Laboratory values") for g in study_view.page(StudyView(row)).groups if g.title == t)
    assert len(labs.bars) == MOST_BARS
    assert labs.bars[-1].label == "7 others"
    assert labs.total.shap == wording.signed(sum(s["shap"] for s in row["shap"][:14]))
    shown = sum(float(b.shap.replace("−", "-")) for b in labs.bars)
    assert shown == pytest.approx(float(labs.total.shap.replace("−", "-")), abs=0.04)
    for k in (3, 5, 9):
        row["shap"][k]["value"] = None
    groups = {g.title: g for g in study_view.page(StudyView(row)).groups}
    absent = groups["Laboratory values"].bars[-1]
    assert (absent.label, absent.value) == ("3 values", "not measured")
    assert groups["Laboratory values"].total == labs.total
    assert ct.total.width == 50.0  # the longest bar fills half of the track
    assert (ct.total.left, ct.total.raises) == (50.0, True)
    for b in labs.bars:
        assert b.left + b.width == pytest.approx(50.0) or b.left == 50.0


@given(st.lists(st.floats(0, 100), max_size=30), st.floats(0.1, 20))
def test_labels_keep_their_distance_and_stay_in_the_picture(at, gap):
    places = study_view.spread(sorted(at), gap)
    real = min(gap, 100 / len(at)) if at else gap
    assert len(places) == len(at)
    assert all(b - a >= real - 1e-6 for a, b in pairwise(places))
    assert all(-1e-6 <= p <= 100 + 1e-6 for p in places)


@pytest.mark.parametrize(
    ("p", "words"), [(0.004, "< 1 %"), (0.0, "0 %"), (0.42, "42 %"), (0.996, "> 99 %"), (1.0, "100 %"), (None, "–")]
)
def test_risks_are_never_rounded_to_certainty(p, words):
    assert re.sub(r"\s", " ", wording.percent(p)) == words


def test_pictures_keep_hu_and_proportions():
    hu = np.full((40, 80), WINDOW_LEVEL, float)
    hu[:20] = WINDOW_LEVEL - WINDOW_WIDTH
    png = Image.open(io.BytesIO(encode(hu, (2.0, 1.0))))
    assert png.size == (80, 80)  # 80 mm x 80 mm
    grey = np.asarray(png)
    assert grey[5].max() == 0
    assert abs(int(grey[70].mean()) - 128) <= 1
    assert max(Image.open(io.BytesIO(encode(axial_hu(0.0, 512), (0.7, 0.7)))).size) == 320


@pytest.mark.parametrize(("name", "level", "width"), PRESETS)
def test_a_preset_shows_the_window_it_names(name, level, width):
    """What a browser makes of a stored picture with the preset's filter equals the window applied to HU."""
    brightness, contrast = (float(x) for x in re.findall(r"\(([\d.]+)\)", window_filter(level, width)))
    hu = np.linspace(-1000, 1500, 501)
    stored = np.clip((hu - WINDOW_LEVEL) / WINDOW_WIDTH + 0.5, 0, 1)
    shown = np.clip((np.clip(stored * brightness, 0, 1) - 0.5) * contrast + 0.5, 0, 1)
    assert np.allclose(shown, np.clip((hu - level) / width + 0.5, 0, 1), atol=1e-3)


def test_a_page_offers_the_presets_without_a_script(tmp_path):
    row = scored_row(1, 0.62)
    html, page = study(tmp_path, row, thumbnails(row))
    check_page(html)
    assert page.tags["input"] == len(PRESETS)
    for i, (name, level, width) in enumerate(PRESETS):
        assert f"{name} {level} / {width}" in page.words
        assert (f".w{i}:checked" in html) == (i > 0), "the first is how pictures are stored"


@pytest.mark.parametrize(
    ("picture", "spacing", "words"),
    [
        (b"GIF89a", (1, 1), "no PNG"),
        (np.zeros((2, 3, 4)), (1, 1), r"\[rows, cols\]"),
        (np.zeros((4, 4)), (0, 1), "spacing"),
    ],
)
def test_pictures_that_are_none_are_refused(tmp_path, picture, spacing, words):
    row = scored_row(1, 0.5)
    s = row["selected"][0]
    bad = Thumbnail(picture, spacing, s["z_mm"], s["weight"], s["sop_uid"], s["index"])
    with pytest.raises(ValueError, match=words):
        write_study(tmp_path / "study.html", row, [bad])


def test_the_same_run_gives_the_same_bytes(tmp_path):
    rows = many_rows(12)
    a = write_run(tmp_path / "a.html", table(rows), summary(rows), [view(rows[0])]).read_bytes()
    b = write_run(tmp_path / "b.html", table(rows), summary(rows), [view(rows[0])]).read_bytes()
    assert a == b
    assert UID.encode() in a


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_keeps_the_contrast_that_wcag_asks_for(tmp_path, theme):
    html, _ = study(tmp_path, scored_row(1, 0.5))
    block = re.findall(r":root\{(.*?)\}", html, flags=re.S)[theme]
    colours = {
        k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:]) for k, v in re.findall(r"--([\w-]+):(#\w+)", block)
    }
    for ink in ("ink", "muted", "accent", "raise", "lower", "ok", "warn", "bad"):
        for ground in ("paper", "bg", "raise-wash") if ink == "ink" else ("paper",):
            a, b = sorted((luminance(colours[ink]), luminance(colours[ground])))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (ink, ground)


@pytest.mark.parametrize(("row", "col"), [(100.0, 90.0), (3.0, 4.0), (188.0, 190.0)])
def test_the_close_up_is_eight_centimetres_around_the_measured_circle(row, col):
    """A bright pixel at the circle's centre stands where the close-up draws it, also at the slice's edges."""
    hu = np.zeros((192, 192), np.int16)
    hu[int(row), int(col)] = 1000
    near = close_up(Thumbnail(hu, (1.0, 0.5), 0.0, 1.0, "1.2", 0, Roi(row, col, 8.0)))
    assert near is not None
    assert near.hu.shape == (80, 160)
    at = np.argwhere(near.hu == 1000)[0]
    assert (near.y * 80 - 0.5, near.x * 160 - 0.5) == pytest.approx(tuple(at))
    assert near.radius == pytest.approx(8 / 80)
    assert close_up(Thumbnail(hu, (1.0, 0.5), 0.0, 1.0, "1.2", 0)) is None
