"""What `make demo` takes and finds, from what it printed.

    (time make demo) > first.log 2>&1        # after installation, nothing else running
    (time make demo) > again.log 2>&1        # everything reused
    python benchmarks/demo.py first.log again.log

Writes docs/results/demo.json and its page.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import results_page
import yaml

ROOT = results_page.ROOT
STEPS = ("slices", "encoder", "embeddings", "selection", "picks", "bundle")
"""Of a training, as it prints them."""


def seconds(log: str) -> float:
    """Of bash's `time`."""
    minutes, rest = map(float, re.findall(r"^real\s+(\d+)m([\d.]+)s", log, re.MULTILINE)[-1])
    return 60 * minutes + rest


def found(pattern: str, log: str) -> list[str]:
    """Groups of the one line that a pattern finds."""
    match = re.search(pattern, log, re.MULTILINE)
    if match is None:
        raise SystemExit(f"the log has no line like {pattern!r}: is it of a first run that went to its end?")
    return list(match.groups())


def steps(log: str) -> list[dict[str, Any]]:
    """Seconds of each step that says its own, and of all else."""
    persons, with_ct = found(r"^(\d+) persons, (\d+) with CT, \d+ complete", log)
    series, files, mib, archive = found(r"^\d+ studies, (\d+) series, (\d+) files, (\d+) MiB in (\d+) s", log)
    more, scans, rendered = found(r"^(\d+) persons, (\d+) with CT, in (\d+) s", log)
    (index,) = found(r"^indexed .* series, ([\d.]+) s", log)
    scored, screen = found(r"^run \w+: (\d+) scored now, 0 reused, ([\d.]+) s", log)
    rows = [
        (f"archive: {persons} people, {with_ct} with CT, {files} files, {mib} MiB", float(archive)),
        (f"training cohort: {more} people, {scans} scans on the 64-position grid", float(rendered)),
        (f"index: {series} series", float(index)),
        *((f"train: {s}", float(found(rf"^{s}\s+([\d.]+) s", log)[0])) for s in STEPS),
        (f"screen {scored} series", float(screen)),
    ]
    rest = seconds(log) - sum(s for _, s in rows)
    rows.append(("the rest: starting Python and Ray, scans for the encoder, report, evaluation", rest))
    return [{"table": "time", "step": name, "seconds": round(s)} for name, s in rows]


def aucs(tasks: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """AUC of each task beside the Bayes-optimal one on the same patients."""
    return [
        {
            "table": "auc",
            "task": t["title"],
            **{name: "{value:.3f} ({low:.3f} to {high:.3f})".format(**t[key]) for name, key in
               (("auc", "auc"), ("bayes_optimal_on_the_same_patients", "bayes_auc"))},
        }
        for t in tasks
    ]  # fmt: skip


def size_mib(folder: Path) -> int:
    """As `du -sm` counts."""
    return int(subprocess.run(["du", "-sm", folder], capture_output=True, text=True, check=True).stdout.split()[0])


def main() -> None:
    """Read both logs and what the demo left, and write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("first", type=Path)
    p.add_argument("again", type=Path)
    p.add_argument("--out", type=Path, default=results_page.RESULTS / "demo.json")
    a = p.parse_args()
    first, again = a.first.read_text().replace("\r", "\n"), a.again.read_text().replace("\r", "\n")
    evaluation = json.loads((ROOT / "demo" / "screen" / "evaluation.json").read_text())
    counts = evaluation["label_counts"]
    rows = steps(first) + aucs(evaluation["tasks"])
    bars = [
        results_page.bar("minutes, idle machine", round(seconds(first) / 60)),
        results_page.bar("seconds when reused", round(seconds(again))),
        results_page.bar("environment MiB", size_mib(ROOT / ".venv")),
        results_page.bar("archive MiB", size_mib(ROOT / "demo" / "cohort" / "archive")),
        *(results_page.bar(f"AUC, {t['title']}", *(round(t["auc"][k], 3) for k in ("value", "low", "high")))
          for t in evaluation["tasks"]),
    ]  # fmt: skip
    command = "python benchmarks/demo.py first.log again.log"
    minutes, rest = divmod(round(seconds(first)), 60)
    seed = yaml.safe_load((ROOT / "configs" / "demo" / "cohort.yaml").read_text())["seed"]
    text = f"""# The demo

`make demo` writes a synthetic archive, indexes it, trains on it, screens the held-out patients and evaluates the
result. On a machine with two cores and nothing else running: {minutes} min {rest} s after installation; a second run,
with everything reused, {round(seconds(again))} s.

{results_page.table(rows, "time")}
Held-out patients with CT (three quarters of the archive's): {evaluation["patients_scored"]} scored,
{evaluation["patients_labelled"]} of them with a label: {counts["osteoporosis"]} with osteoporosis,
{counts["osteopenia"]} with osteopenia, {counts["normal"]} normal.

{results_page.table(rows, "auc")}
So few patients show only that the pipeline is connected. The environment with the development extra takes
{size_mib(ROOT / ".venv"):,} MiB.
"""
    results_page.write(a.out, command, seed, rows, bars, text)


if __name__ == "__main__":
    main()
