"""Pictures of the page and the reports for docs/img: an archive is screened by the service, its pages are pictured.

    python benchmarks/pages.py demo/cohort/archive --records demo/cohort/records.csv --out docs/img

The screening runs in this process, the app under uvicorn; headless Chromium opens it at the widths of a desk, a tablet
and a phone. The bundle is the reference bundle unless one is given.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osteo_ray import ray_setup  # noqa: F401 (before what brings Ray)
from osteo_ray.commands.report import ReportJob, report
from osteo_ray.config import validate
from osteo_ray.service.config import ServeConfig, check
from osteo_ray.service.drive import drive
from osteo_ray.service.runs import Run, RunJob, Runs, RunState

DESK, TABLET, PHONE = 1180, 820, 390
MOST_HEIGHT = 2600
COLOURS = 128


class NoScoring:
    """Single studies are not pictured."""

    async def score(self, study: str, values: Any) -> Any: ...

    async def model(self) -> Any: ...

    async def fault(self) -> None: ...


class NoSupervisor:
    """The one screening is driven by this process."""

    async def wake(self) -> None: ...

    async def cancel(self, run_id: str) -> None: ...


@contextmanager
def served(cfg: ServeConfig) -> Iterator[str]:
    """The app under uvicorn; its address."""
    import uvicorn

    from osteo_ray.service.http.app import create

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    app = create(cfg, NoScoring(), NoSupervisor())
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


class Camera:
    """A browser that pictures addresses."""

    def __init__(self, browser: Any, out: Path):
        self.browser, self.out = browser, out

    def take(
        self, name: str, address: str, width: int, shown: str, dark: bool = False, most: int = MOST_HEIGHT
    ) -> None:
        """One picture of the page from its top, at most so high; `shown`: what has to be there first."""
        scheme: Any = "dark" if dark else "light"
        page = self.browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto(address)
        page.locator(shown).first.wait_for()
        page.wait_for_timeout(500)  # canvases are drawn when their slices have come
        height = min(most, page.evaluate("document.documentElement.scrollHeight"))
        clip = {"x": 0, "y": 0, "width": width, "height": height}
        self.save(name, page.screenshot(full_page=True, clip=clip))
        page.close()

    def save(self, name: str, png: bytes) -> None:
        """Write a picture in few colours: a page has no more."""
        from PIL import Image

        with Image.open(io.BytesIO(png)) as im:
            im.convert("RGB").quantize(COLOURS).save(self.out / f"{name}.png", optimize=True)


def screened(run: Run, cfg: ServeConfig, camera: Camera, at: str) -> None:
    """The screening, pictured when some series are done."""
    run.begin()
    work = threading.Thread(target=drive, args=(run, cfg))
    work.start()
    while work.is_alive() and not run.progress().done:
        time.sleep(0.2)
    if work.is_alive():
        camera.take("service_progress", at, DESK, "progress")
    work.join()
    assert run.saved.state == RunState.DONE, run.saved.error


def pages(run: Run, camera: Camera, address: str) -> None:
    """The service's worklist and the study of highest risk."""
    listed = run.table(["row_key", "risk_prob"]).sort_by([("risk_prob", "descending")])
    worklist = f"{address}/#/s/{run.id}"
    study = f"{worklist}/{listed['row_key'][0]}"
    camera.take("service_worklist", worklist, DESK, "tbody tr", most=1000)
    camera.take("service_worklist_dark", worklist, DESK, "tbody tr", dark=True, most=1000)
    camera.take("service_phone", worklist, PHONE, "tbody tr", most=1400)
    for name, width in (("service_study", DESK), ("service_tablet_study", TABLET), ("service_phone_study", PHONE)):
        camera.take(name, study, width, "canvas")


def reports(run: Run, camera: Camera) -> None:
    """The run's report, and the page and capture of the study of highest risk."""
    from PIL import Image
    from pydicom import dcmread

    report(validate(ReportJob, {"results": run.out, "top": 1, "formats": ["html", "sc"]}))
    (page,) = (Path(run.out) / "studies").glob("*/report.html")
    for name, width in (("report_study", DESK), ("report_tablet", TABLET), ("report_phone", PHONE)):
        camera.take(name, f"file://{page}", width, "article")
    camera.take("report", f"file://{page}", 900, "article", most=1500)
    camera.take("report_run_dark", f"file://{Path(run.out) / 'report.html'}", DESK, "#worklist", dark=True, most=1300)
    png = io.BytesIO()
    Image.fromarray(dcmread(page.with_name("sc.dcm")).pixel_array).save(png, format="PNG")
    camera.save("report_capture", png.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--bundle", help="folder of a bundle; none: the reference bundle")
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser"))
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as home, sync_playwright() as p:
        data = {"runs": f"{home}/runs", "bundle": args.bundle, "archives": {"roots": [str(args.archive.absolute())]}}
        data |= {"records": [str(args.records.absolute().parent)] if args.records else []}
        data |= {"screening": {"report_studies": 1, "pipeline": {"actors": 1}}}
        cfg = check(validate(ServeConfig, data))
        camera = Camera(p.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"]), args.out)
        records = str(args.records.absolute()) if args.records else None
        archive = str(args.archive.resolve())
        run = Runs(str(cfg.runs)).create(RunJob(archive, records, None, {}, str(cfg.bundle), "dr ito", time.time()))
        with served(cfg) as address:
            screened(run, cfg, camera, f"{address}/#/s/{run.id}")
            pages(run, camera, address)
        reports(run, camera)
        camera.browser.close()


if __name__ == "__main__":
    main()
