"""The page in a real headless Chromium: token, worklist, filters, study, keyboard, feedback, phone, dark, axe-core."""

import re
import shutil
import socket
import threading
import time

import pytest
import uvicorn
from serving import LocalScoring, QuietSupervisor, config, finished, runs_of
from synthetic_run import overview, scored_row, thumbnails

from osteo_ray.reports.html import write_study
from osteo_ray.reports.language import LANGUAGES
from osteo_ray.service.http.app import create
from osteo_ray.service.tokens import Role, Tokens

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (`make apt` installs it)"),
]


@pytest.fixture(scope="module")
def site(cohort_run, bundle_dir, tmp_path_factory):
    """(address, token, run) of the service under uvicorn."""
    home = tmp_path_factory.mktemp("page")
    secret = Tokens(home / "tokens.json").add("dr ito", Role.SUBMIT)
    cfg = config(home, cohort_run, bundle_dir, tokens=str(home / "tokens.json"))
    run = finished(cfg, cohort_run)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    app = create(cfg, LocalScoring(cfg), QuietSupervisor(runs_of(cfg)))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}", secret, run
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield b
        b.close()


def enter(page, site):
    page.goto(site[0])
    page.get_by_label("Token").fill(site[1])
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Screen an archive").wait_for()


def test_from_token_to_feedback(site, browser):
    from playwright.sync_api import expect

    address, _, run = site
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" and "401" not in m.text else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    asked = []
    page.on("request", lambda r: asked.append(r.url))
    enter(page, site)
    page.get_by_role("row").nth(1).get_by_role("link").click()
    page.get_by_role("heading", name="Worklist").wait_for()
    lines = page.locator("tbody tr")
    lines.first.wait_for()
    before = lines.count()
    page.get_by_label("Sex").select_option("F")
    expect(lines).not_to_have_count(before)
    page.get_by_label("State").select_option("ERROR")
    expect(lines).to_have_count(0)
    page.get_by_label("State").select_option("")
    page.get_by_label("Sex").select_option("")
    lines.first.wait_for()

    # by keyboard alone: the first patient's link, then the picture
    lines.first.get_by_role("link").focus()
    page.keyboard.press("Enter")
    canvas = page.locator("canvas")
    canvas.wait_for()
    status = page.locator("section p[aria-live=polite]")
    expect(status).to_contain_text("chosen slice 1")
    first = status.inner_text()
    canvas.focus()
    page.keyboard.press("ArrowUp")
    expect(status).not_to_have_text(first)
    page.get_by_role("button", name="Lung").click()
    assert "Level -600, width 1500" in status.inner_text()
    assert page.locator(".sag img").get_attribute("alt")
    assert page.locator(".track2 i").count() > 2
    page.get_by_label("Note").fill("fine")
    page.get_by_role("button", name="Accept").press("Enter")
    page.get_by_text("accepted by dr ito: fine").wait_for()
    assert [f["verdict"] for fs in run.feedback().values() for f in fs] == ["accept"]
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input,select')].filter(i => !i.labels || !i.labels.length).map(i => i.id)"
    )
    assert unnamed == []
    assert complaints == []
    assert {u.split("/")[2] for u in asked if u.startswith("http")} == {address.split("/")[2]}
    page.close()


def views_of(site) -> list[str]:
    listed = site[2].table(["row_key", "risk_prob"]).sort_by([("risk_prob", "descending")])
    return ["#/", f"#/s/{site[2].id}", f"#/s/{site[2].id}/{listed['row_key'][0]}"]


def opened(page, site, view, lang="en"):
    """The page at a view, in a language, once it is whole."""
    page.goto(f"{site[0]}/?lang={lang}{view}")
    page.locator("main section").nth(1).wait_for()
    page.wait_for_load_state("networkidle") if view == "#/" else page.locator("main table").first.wait_for()


@pytest.mark.parametrize("width", [360, 820])
def test_nothing_is_wider_than_a_phone_and_dark_has_contrast(site, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark")
    enter(page, site)
    for view in views_of(site):
        for lang in LANGUAGES:
            opened(page, site, view, lang)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (view, lang)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 20)"
    checks = page.locator("table.checks tbody tr")
    assert checks.count() > 10
    assert all(checks.nth(i).bounding_box()["width"] <= width for i in range(checks.count()))
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(site, browser, scheme, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    page.goto(site[0])
    page.get_by_label("Token").wait_for()
    # The page forbids scripts that are not its own; axe is evaluated by the browser's debugger, outside of that.
    found = {"token": axe.Axe().run(page).response["violations"]}
    enter(page, site)
    for view in [*views_of(site), "#/s/0000000000000000"]:
        if view.endswith("0000"):
            page.goto(f"{site[0]}/?lang=de{view}")
            page.get_by_role("alert").wait_for()
        else:
            opened(page, site, view, "de")
        found[view] = axe.Axe().run(page).response["violations"]
    report = write_study(tmp_path / "axe.html", *shown_study())
    page.goto(f"file://{report}")
    found["report"] = axe.Axe().run(page).response["violations"]
    page.close()
    wrong = [
        (at, v["id"], n["target"], n["failureSummary"]) for at, vs in found.items() for v in vs for n in v["nodes"]
    ]
    assert wrong == []


def test_an_address_that_leads_nowhere_says_so_and_leads_back(site, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    enter(page, site)
    for nowhere in ("#/s/0000000000000000", f"#/s/{site[2].id}/ffff"):
        page.goto(f"{site[0]}/{nowhere}")
        page.get_by_role("alert").wait_for()
        assert page.get_by_role("heading", level=1).inner_text() == "This page can't be shown"
        page.get_by_role("link", name="Back to all screenings").click()
        page.get_by_role("heading", name="Screen an archive").wait_for()
    page.close()


def test_the_page_speaks_three_languages_and_words_instead_of_codes(site, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, locale="de-AT")
    page.goto(site[0])
    page.get_by_role("heading", name="Ein Token wird benötigt").wait_for()
    page.get_by_label("Token").fill(site[1])
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Ein Archiv screenen").wait_for()
    assert page.evaluate("document.documentElement.lang") == "de"
    page.locator("#language").select_option("zh")
    page.get_by_role("heading", name="筛查归档").wait_for()
    for view in views_of(site)[1:]:
        opened(page, site, view, "zh")
        assert "仅供研究使用" in page.locator("#notice").inner_text()
        told = page.locator("main section").first.inner_text() + page.locator("table").last.inner_text()
        assert not re.search(r"\bQ_[A-Z]+|GATE_WARN|SCORED", told)
    page.close()


def test_by_keyboard_from_the_first_tab_to_a_study(site, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    enter(page, site)
    page.goto(f"{site[0]}/{views_of(site)[1]}")
    page.get_by_role(
        "heading", name="Worklist"
    ).wait_for()  # the first view has a table too; a new view takes the focus
    page.locator("#skip").focus()
    assert page.locator("#skip").bounding_box()["x"] >= 0, "it is seen as soon as it has the focus"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.get_by_role("heading", name="Worklist").is_visible(), "the skip link leaves the view as it is"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('tbody') !== null"):
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.locator("canvas").wait_for()
    page.close()


def shown_study():
    row = scored_row(1, 0.62)
    return row, thumbnails(row), overview()
