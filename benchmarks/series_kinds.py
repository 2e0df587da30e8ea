"""What an archive holds besides plain CT: the state and code of every kind, and what it is told by.

    python benchmarks/series_kinds.py [../shared/data]

Writes docs/results/series_kinds.json and .md. The cases are made in memory (tests/dicom/series_kinds_making.py); with a
folder of real and altered series, its field/*.zip and ct/*.zip are listed too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "dicom"))

from series_kinds_making import CASES, end_of, rows_of  # noqa: E402

from osteo_ray.catalogue.build import assemble_table  # noqa: E402
from osteo_ray.catalogue.config import IndexConfig  # noqa: E402
from osteo_ray.catalogue.indexing import INDEXED, index_entries  # noqa: E402
from osteo_ray.catalogue.pixel_meaning import table  # noqa: E402
from osteo_ray.dicom.sources import roots  # noqa: E402

OUT = ROOT / "docs" / "results"
COLUMNS = ("special", "contrast", "split", "n_slices")


def synthetic() -> list[dict[str, Any]]:
    """One row a case."""
    out = []
    for case in CASES:
        rows = rows_of(case)
        ends = [end_of(r) for r in rows]
        met = tuple(ends) == case.ends and all(rows[0][k] == v for k, v in case.says.items())
        says = {k: v for k, v in case.says.items() if v is not None}
        out.append(
            {
                "group": case.group,
                "kind": case.name,
                "ends": ends,
                "says": says,
                "rests_on": case.rests_on,
                "message": rows[0]["message"],
                "met": met,
            }
        )
    return out


def archived(data: Path) -> list[dict[str, Any]]:
    """One row a zip of `data`: the ends of its series."""
    out = []
    for path in sorted([*data.glob("field/*.zip"), *data.glob("ct/*.zip")]):
        found: list[dict[str, Any]] = []
        left: Counter[str] = Counter()
        for source in roots(path):
            for is_image, r in index_entries(source.list(), IndexConfig()):
                if is_image:
                    found.append(r)
                else:
                    left[r["code"]] += 1
        series, more = assemble_table(pa.Table.from_pylist(found, schema=INDEXED), IndexConfig())
        left.update(r["code"] for r in more.to_pylist())
        ends = Counter(
            f"{end_of(r)}, contrast {r['contrast']}" + (f", {r['special']}" if r["special"] else "")
            for r in series.to_pylist()
        )
        out.append({"file": f"{path.parent.name}/{path.name}", "series": dict(ends), "files_left": dict(left)})
    return out


def page(rows: list[dict[str, Any]], files: list[dict[str, Any]]) -> str:
    """The table as a page."""
    met = sum(r["met"] for r in rows)
    words = sorted({line.kind for line in table().lines if line.place in ("text", "device", "kernel")})
    coded = sorted({line.kind for line in table().lines if line.place in ("image_type", "rescale_type")})
    text = (
        f"{met} of {len(rows)} kinds end as they should (`python benchmarks/series_kinds.py`). OPEN: goes on to "
        "screening. "
        'One row a kind; "rests on" says what tells it: a tag\'s coded value, words, geometry or pixels.',
        "Kinds that a coded value can tell: " + ", ".join(coded) + ".",
        "Kinds that rest on words alone, so that a description in other words passes unless its HU are off (Q_HU): "
        + ", ".join(k for k in words if k not in coded)
        + ". Philips marks its results by the rescale type `HU*` too.",
    )
    lines = ["# Kinds of series", ""]
    for paragraph in text:
        lines += [*textwrap.wrap(paragraph, 118), ""]
    lines += ["| group | kind | ends | rests on |", "|---|---|---|---|"]
    for r in rows:
        ends = "; ".join(r["ends"]) + ("" if r["met"] else " **not met**")
        lines.append(f"| {r['group']} | {r['kind']} | {ends} | {r['rests_on']} |")
    if files:
        lines += ["", "## Archives", ""]
        for f in files:
            counts = [f"{n} x {k}" for part in (f["series"], f["files_left"]) for k, n in part.items()]
            lines += textwrap.wrap(f"- {f['file']}: {'; '.join(counts)}", 118, subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write both files."""
    rows = synthetic()
    files = archived(Path(sys.argv[1])) if len(sys.argv) > 1 else []
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    met = sum(r["met"] for r in rows)
    bar = {"name": "kinds that end as they should", "value": met, "low": met, "high": met, "target": len(rows)}
    doc = {
        "command": "python benchmarks/series_kinds.py ../shared/data",
        "commit": commit,
        "seed": None,
        "rows": rows,
        "archives": files,
        "bars": [bar | {"met": met == len(rows)}],
    }
    (OUT / "series_kinds.json").write_text(json.dumps(doc, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (OUT / "series_kinds.md").write_text(page(rows, files), encoding="utf-8")
    print(f"{met} of {len(rows)} kinds")


if __name__ == "__main__":
    main()
