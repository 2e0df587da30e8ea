"""What a measurement leaves in docs/results: a JSON file and a page of the same name.

write(RESULTS / "soak.json", "python benchmarks/soak.py --work W", None, rows, bars, text)
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures_in_docs import INTERVAL, parse_cell

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def bar(
    name: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    target: float | str | None = None,
    met: bool | None = None,
) -> dict[str, Any]:
    """A headline figure with its interval and, where there is one, its target."""
    return {"name": name, "value": value, "low": low, "high": high, "target": target, "met": met}


def table(rows: Sequence[dict[str, Any]], name: str, columns: Sequence[str] | None = None) -> str:
    """Markdown of the rows whose `table` is `name`, below the mark by which tests find them; columns are keys."""
    shown = [r for r in rows if r["table"] == name]
    keys = list(columns) if columns is not None else [k for k in shown[0] if k != "table"]
    lines = [[k.replace("_", " ") for k in keys], ["---"] * len(keys)]
    lines += [["" if r.get(k) is None else _cell(r[k]) for k in keys] for r in shown]
    return f"<!-- rows: {name} -->\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _recorded(value: Any) -> Any:
    """A cell as JSON holds it: a number with its interval, written as text, is read."""
    return parse_cell(value) if isinstance(value, str) and INTERVAL.fullmatch(value) else value


def commit() -> str:
    """The commit that is checked out."""
    args = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(args, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def write(
    to: Path, command: str, seed: int | None, rows: Sequence[dict[str, Any]], bars: Sequence[dict[str, Any]], page: str
) -> None:
    """Write `to`, a JSON file, and the page beside it."""
    recorded = [{k: _recorded(v) for k, v in r.items()} for r in rows]
    text = {"command": command, "commit": commit(), "seed": seed, "rows": recorded, "bars": list(bars)}
    to.write_text(json.dumps(text, indent=1) + "\n")
    to.with_suffix(".md").write_text(page)
