"""Figures in README and docs are those of the recorded results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import figures_in_docs
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


def same(row: dict[str, Any], name: str, shown: Any) -> bool:
    """Whether a cell shows a row's value; a row may hold its interval beside the value, as `low` and `high`."""
    recorded = row.get(name)
    if recorded is None:
        return shown is None or str(shown).startswith("None")
    if isinstance(shown, dict) and not isinstance(recorded, dict):
        return shown == {"value": recorded, "low": row.get("low"), "high": row.get("high")}
    return bool(shown == recorded or str(shown) == str(recorded))


@pytest.mark.parametrize("page", figures_in_docs.pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_marked_figure_is_the_recorded_one(page: Path) -> None:
    wrong = [f"{f.source} {f.bar}: {f.right}, not {f.text}" for f in figures_in_docs.figures(page) if f.differs]
    assert not wrong, "python benchmarks/figures_in_docs.py --write"


def test_readme_and_main_pages_quote_recorded_figures() -> None:
    for name in ("README.md", "docs/getting-started.md", "docs/method.md", "docs/cluster.md", "docs/training.md"):
        assert list(figures_in_docs.figures(ROOT / name)), name


@pytest.mark.parametrize("page", sorted(RESULTS.glob("*.md")), ids=lambda p: p.stem)
def test_tables_of_a_results_page_show_the_rows_of_its_json(page: Path) -> None:
    for table, markdown in figures_in_docs.ROWS.findall(page.read_text()):
        rows = [r for r in json.loads(page.with_suffix(".json").read_text())["rows"] if r["table"] == table]
        shown = figures_in_docs.table_rows(markdown)
        wrong = [(k, r.get(k), v) for r, s in zip(rows, shown, strict=True) for k, v in s.items() if not same(r, k, v)]
        assert not wrong


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("**0.9633** (0.9487 to 0.9763)", {"value": 0.9633, "low": 0.9487, "high": 0.9763}),
        ("-0.0040 [-0.0125, +0.0040]", {"value": -0.004, "low": -0.0125, "high": 0.004}),
        ("0.962 (0.948-0.973)", {"value": 0.962, "low": 0.948, "high": 0.973}),
        ("79 %", 79),
        ("1,646", 1646),
        ("", None),
        ("0.930 / 0.941", "0.930 / 0.941"),
    ],
)
def test_a_cell_is_read_as_number_interval_or_text(text: str, value: object) -> None:
    assert figures_in_docs.parse_cell(text) == value


@pytest.mark.parametrize(
    ("text", "recorded", "right"),
    [
        ("0.963", 0.96333, "0.963"),
        ("0.96", 0.963, "0.96"),
        ("0.964", 0.963, "0.963"),
        ("+3", 2.81, "+3"),
        ("20 %", 19.8, "20 %"),
    ],
)
def test_a_figure_is_compared_at_the_decimals_that_the_text_shows(text: str, recorded: float, right: str) -> None:
    assert figures_in_docs.Figure(Path("p.md"), "r.json", "b", text, recorded).right == right


def test_a_marker_without_a_bar_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"bars": [{"name": "AUC", "value": 0.9}]}))
    page = tmp_path / "page.md"
    page.write_text("<!-- figure: r.json bars.acu -->0.9<!-- /figure -->")
    with pytest.raises(KeyError, match="there are: auc"):
        list(figures_in_docs.figures(page, docs=tmp_path))
