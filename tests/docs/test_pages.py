"""README and docs: line length, links, results with their JSON, and plain words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
RESULTS = sorted(p for p in (DOCS / "results").glob("*.md") if p.stem != "index")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
REPLACED = re.compile(
    r"\b(rooms?|houses?|roads?|walks|walked|at hand|nudge[ds]?|spoken|desk|gates?(?!\.)|to the bit"
    r"|made (?:patients?|people|person|archives?|cohorts?|series|scans?|studies|CT|data|rescans?|vertebrae?))\b"
)


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without fenced and inline code: options and keys have names of their own."""
    return re.sub(r"```[\s\S]*?```|`[^`\n]*`|^ {4}.*$", "", page.read_text(), flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    stated = re.findall(r"\{\s*#([\w-]+)", page.read_text())
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings} | set(stated)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_no_line_is_longer_than_120_columns(page: Path) -> None:
    long = [i for i, line in enumerate(page.read_text().splitlines(), 1) if len(line) > 120]
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_no_line_begins_with_a_figure(page: Path) -> None:
    """A comment at the start of a line makes the whole line HTML, and its Markdown is shown as it is."""
    assert not re.findall(r"^<!-- figure.*$", page.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_no_relative_link_is_dead(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_docs_use_the_standard_terms(page: Path) -> None:
    assert not REPLACED.findall(prose(page))


@pytest.mark.parametrize("page", RESULTS, ids=by_name)
def test_results_have_their_json(page: Path) -> None:
    results = json.loads(page.with_suffix(".json").read_text())
    assert {"command", "commit", "seed", "rows", "bars"} <= set(results)
    assert isinstance(results["rows"], list)
    for bar in results["bars"]:
        assert {"name", "value", "low", "high", "target", "met"} <= set(bar), bar
        assert (bar["target"] is None) == (bar["met"] is None), bar


def test_every_results_file_has_its_page() -> None:
    assert {p.stem for p in (DOCS / "results").glob("*.json")} == {p.stem for p in RESULTS}


@pytest.mark.parametrize("folder", ["decisions", "results"])
def test_the_index_of_a_folder_names_every_page(folder: str) -> None:
    linked = set(LINK.findall((DOCS / folder / "index.md").read_text()))
    assert {p.name for p in (DOCS / folder).glob("*.md")} - {"index.md"} <= linked
