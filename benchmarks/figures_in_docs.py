"""Keep the figures in README and docs equal to the recorded results.

    python benchmarks/figures_in_docs.py            # lists what differs; exit code 1 if anything does
    python benchmarks/figures_in_docs.py --write    # writes the recorded figures into the text

A figure in text stands between two comments that name its source, a file under docs/ and a bar in it:

    <!-- figure: results/selection.json bars.auc -->0.963<!-- /figure -->

The text is compared at the number of decimals that it shows. `bars.auc.low`, `.high` and `.target` name the other
numbers of a bar. In a results page, the table after `<!-- rows: NAME -->` shows the JSON's rows whose `table` is NAME.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURE = re.compile(r"<!--\s*figure:\s*(\S+)\s+bars\.(\S+?)\s*-->(.*?)<!--\s*/figure\s*-->", re.DOTALL)
ROWS = re.compile(r"<!--\s*rows:\s*(\S+)\s*-->\n\n?((?:\|.*\n)+)")
NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?"
PLAIN = re.compile(rf"({NUMBER})\s*%?")
INTERVAL = re.compile(rf"({NUMBER})\s*%?\s*[(\[]({NUMBER})\s*(?:-|to|,)\s*({NUMBER})[)\]]")


@dataclass(frozen=True)
class Figure:
    """One marked figure: where it stands, what the text says, and what the results file says."""

    page: Path
    source: str
    bar: str
    text: str
    recorded: float

    @property
    def right(self) -> str:
        """The recorded number, written as the text writes it (decimals, sign, percent, thousands)."""
        digits = re.search(NUMBER, self.text)
        shown = digits.group() if digits else "0"
        decimals = len(shown.partition(".")[2])
        sign = "+" if shown.startswith("+") else ""
        number = f"{self.recorded:{sign}{',' if ',' in shown else ''}.{decimals}f}"
        return self.text.replace(shown, number, 1) if digits else number

    @property
    def differs(self) -> bool:
        """Whether the text says another number than the results file."""
        return self.right != self.text


def slug(name: str) -> str:
    """`AUC vs normal, %` -> `auc_vs_normal_percent`: the name of a column or a bar."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("%", " percent")).strip("_")


def parse_cell(text: str) -> Any:
    """A table cell as JSON holds it: a number, a number with its interval, a text, or None where it is empty."""
    text = text.replace("**", "").strip()
    if text in ("", "-"):
        return None
    if m := PLAIN.fullmatch(text):
        return _number(m.group(1))
    if m := INTERVAL.fullmatch(text):
        return {"value": _number(m.group(1)), "low": _number(m.group(2)), "high": _number(m.group(3))}
    return text


def table_rows(markdown: str) -> list[dict[str, Any]]:
    """The rows of one Markdown table, a column by the slug of its heading."""
    lines = [[c.strip() for c in line.strip().strip("|").split("|")] for line in markdown.strip().splitlines()]
    names = [slug(c) for c in lines[0]]
    return [dict(zip(names, map(parse_cell, cells), strict=False)) for cells in lines[2:]]


def bar(results: Mapping[str, Any], path: str) -> float:
    """The number that `NAME` or `NAME.low` means in the bars of a results file.

    Raises:
        KeyError: no such bar, or it has no such number.
    """
    name, _, field = path.partition(".")
    for entry in results["bars"]:
        if slug(entry["name"]) == name and entry.get(field or "value") is not None:
            return float(entry[field or "value"])
    raise KeyError(f"no bar {path}; there are: {', '.join(slug(b['name']) for b in results['bars'])}")


def figures(page: Path, docs: Path = ROOT / "docs") -> Iterator[Figure]:
    """Every marked figure of a page, with what its results file says."""
    for m in FIGURE.finditer(page.read_text()):
        results = json.loads((docs / m.group(1)).read_text())
        yield Figure(page, m.group(1), m.group(2), m.group(3), bar(results, m.group(2)))


def pages(root: Path = ROOT) -> list[Path]:
    """README and every page of the documentation."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def _number(text: str) -> float | int:
    text = text.replace(",", "").lstrip("+")
    return float(text) if "." in text or "e" in text.lower() else int(text)


def main() -> int:
    """Compare, or write; the exit code."""
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--write", action="store_true", help="write the recorded figures into the text")
    write = args.parse_args().write
    wrong = [f for page in pages() for f in figures(page) if f.differs]
    for f in wrong:
        print(f"{f.page.relative_to(ROOT)}: {f.source} bars.{f.bar} is {f.right}, the text says {f.text}")
        if write:
            text = f.page.read_text()
            marker = re.compile(
                rf"(<!--\s*figure:\s*{re.escape(f.source)}\s+bars\.{re.escape(f.bar)}\s*-->)"
                rf"{re.escape(f.text)}(<!--\s*/figure\s*-->)"
            )
            f.page.write_text(marker.sub(lambda m, f=f: m.group(1) + f.right + m.group(2), text))  # type: ignore[misc]
    return 0 if write or not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
