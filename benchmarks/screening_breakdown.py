"""Where a study's CPU goes: milliseconds of one core a study, by stage.

    python benchmarks/screening.py prepare --work W
    python benchmarks/screening_breakdown.py --work W

One process, one thread, a scorer's settings of malloc, compressed frames decoded in it (`scoring.guard: false`), so
that a stage's CPU time is its own. A stage's time is without that of stages called inside it; `rest` is what no stage
claims. What Ray adds is what `benchmarks/screening.py run` finds beside the pool. Writes
docs/results/screening-breakdown.json and .md.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from osteo_ray.config import validate
from osteo_ray.dicom import stack
from osteo_ray.model import levels, reference, selection
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening import predictor
from osteo_ray.screening.config import ScoringConfig
from osteo_ray.screening.isolated import MALLOC

OUT = Path(__file__).resolve().parent.parent / "docs" / "results" / "screening-breakdown.json"
CODECS = ("explicit-le", "jpeg-ls", "htj2k", "j2k")
COARSE = {"htj2k": "htj2k coarse", "j2k": "j2k coarse"}
"""Wavelet codes, and the column of the same series with `scoring.coarse_looks`."""
WARM_UP = 3


class Stages:
    """CPU seconds by stage; a stage that calls another is not charged for it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its CPU time charged to `stage`."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            t = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - t
                self.seconds[stage] += spent - self._inside.pop()
                if self._inside:
                    self._inside[-1] += spent

        return call

    def watch(self, stage: str, owner: Any, *names: str) -> None:
        """Charge what `owner`'s functions of these names take to `stage`, from now on."""
        for name in names:
            setattr(owner, name, self.timed(stage, getattr(owner, name)))


def watched(coarse: bool) -> tuple[predictor.Predictor, Stages]:
    """A predictor of the shipped bundle whose stages are timed."""
    cfg = validate(ScoringConfig, {"guard": False, "threads": 1, "coarse_looks": coarse})
    scorer, stages = predictor.Predictor.load(reference.bundle(), cfg), Stages()
    scorer.networks = replace(scorer.networks, encode=stages.timed("encode", scorer.networks.encode))
    stages.watch("read", stack, "read_uri")
    stages.watch("decode", stack.SliceStack, "axial", "coarse")
    stages.watch("crop", predictor, "spine_crop")
    stages.watch("crop", predictor.CropSquare, "of")
    stages.watch("levels", selection, "levels_of")
    stages.watch("levels", predictor.PolicyTrace, "levels")
    stages.watch("policy", predictor, "select")
    stages.watch("checks", predictor, "q_air_calib", "q_metal", "q_crop", "tissue_peaks", "q_orientation", "q_hu")
    stages.watch("checks", predictor, "patient_checks", "model_checks", "decide")
    stages.watch("student", scorer, "_patient", "_risk")
    stages.watch("student", scorer.networks.patient, "view")
    stages.watch("SHAP", scorer, "_shap")
    stages.watch("rest", scorer, "score_rows")
    return scorer, stages


def measure(catalogue: Path, studies: int, coarse: bool) -> dict[str, Any]:
    """Milliseconds a study by stage, median over the studies, and what was read."""
    scorer, stages = watched(coarse)
    rows = [r for r in pq.read_table(catalogue).to_pylist() if r["state"] is None]
    none = np.full((1, len(NAMES)), np.nan)
    per_study, found = [], []
    for i in range(WARM_UP + studies):
        stages.seconds.clear()
        row = rows[i % len(rows)]
        levels._levels_of.cache_clear()  # remembered of the same scan: each study must pay for its own
        found.append(scorer.score_rows([row | {"series_uid": f"{row['series_uid']}.{i}"}], none)[0])
        per_study.append(dict(stages.seconds))
    per_study, found = per_study[WARM_UP:], found[WARM_UP:]
    names = sorted({k for s in per_study for k in s})
    ms = {k: round(1e3 * float(np.median([s.get(k, 0.0) for s in per_study])), 2) for k in names}
    return ms | {
        "total": round(1e3 * float(np.median([sum(s.values()) for s in per_study])), 1),
        "decoded": float(np.mean([r["slices_decoded"] for r in found])),
        "mb_read": round(float(np.mean([r["bytes_read"] for r in found])) / 1e6, 2),
        "states": sorted({r["state"] for r in found}),
    }


STAGES = ("read", "decode", "crop", "encode", "policy", "levels", "checks", "student", "SHAP", "rest", "total")


def page(command: str, codecs: list[str], found: dict[str, dict[str, Any]]) -> str:
    """The Markdown beside the JSON."""

    def table(first: str, names: list[str], lines: list[list[Any]]) -> str:
        head = f"| {first} | {' | '.join(names)} |\n{'|---' * (1 + len(names))}|\n"
        return head + "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)

    stages = [[s, *(found[c].get(s, 0.0) for c in codecs)] for s in STAGES]
    read = [[c, found[c]["decoded"], found[c]["mb_read"]] for c in codecs]
    return f"""# Where a study's CPU goes

`{command}`.
Milliseconds of one core a study, median; one process, one thread. Two synthetic series of 300 slices of 512 x 512 in
turn, the bundle that ships. A stage is without the stages called inside it; `levels` is asked again after each round
of further looks, which one of the two series needs. Coarse: with `scoring.coarse_looks`, off by default
([why](../decisions/decoders.md)).

<!-- rows: stages -->

{table("stage", codecs, stages)}
<!-- rows: read -->

{table("codec", ["decoded", "mb read"], read)}"""


def main() -> None:
    """Measure and write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--studies", type=int, default=60)
    p.add_argument("--codecs", nargs="+", default=list(CODECS))
    p.add_argument("--out", type=Path, default=OUT)
    a = p.parse_args()
    if not MALLOC.items() <= os.environ.items():  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)
    columns = {c: (c, False) for c in a.codecs} | {COARSE[c]: (c, True) for c in a.codecs if c in COARSE}
    found = {
        name: measure(a.work / f"{codec}-index" / "catalogue.parquet", a.studies, coarse)
        for name, (codec, coarse) in columns.items()
    }
    rows = [
        {"table": "stages", "stage": s} | {re.sub("[- ]", "_", c): found[c].get(s, 0.0) for c in columns}
        for s in STAGES
    ]
    rows += [{"table": "read", "codec": c} | {k: found[c][k] for k in ("decoded", "mb_read")} for c in columns]
    for r in rows:
        print(r)
    print({c: found[c]["states"] for c in columns})
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = f"python benchmarks/screening_breakdown.py --work W --studies {a.studies}"
    a.out.write_text(
        json.dumps({"command": command, "commit": commit, "seed": None, "rows": rows, "bars": []}, indent=1) + "\n"
    )
    a.out.with_suffix(".md").write_text(page(command, list(columns), found))


if __name__ == "__main__":
    main()
