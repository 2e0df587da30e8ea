"""The page in a real headless Chromium: token, worklist, filters, study, keyboard, feedback, phone, dark."""

import shutil
import socket
import threading
import time

import pytest
import uvicorn
from serving import LocalScoring, QuietSupervisor, config, finished, runs_of

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


def test_nothing_is_wider_than_a_phone_and_dark_has_contrast(site, browser):
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    enter(page, site)
    listed = site[2].table(["row_key", "risk_prob"]).sort_by([("risk_prob", "descending")])
    views = ["#/", f"#/s/{site[2].id}", f"#/s/{site[2].id}/{listed['row_key'][0]}"]
    for view in views:
        page.goto(f"{site[0]}/{view}")
        page.locator("main section").nth(1).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 20)"
    page.close()
