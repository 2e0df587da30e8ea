"""What a scorer costs to start and to hold, with its networks in torch and without torch; and what is installed.

    python benchmarks/screening.py prepare --work W
    python benchmarks/scorer_weight.py --work W

Each scorer is a process of its own that loads the shipped bundle and scores the same studies, one thread, the two kinds
in turn; CPU time, so that other load counts little, and resident memory. In torch: the same bundle saved without its
ONNX models. Sizes are of the files of every distribution that an extra asks for, with what those ask for in turn, as
installed in this environment. Writes docs/results/scorer_weight.json and .md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from results_page import RESULTS, bar, table, write

from osteo_ray.model import reference
from osteo_ray.model.bundle import Bundle

ROUNDS, STUDIES = 7, 6
SCORER = """
import json, sys, time
folder, catalogue, studies, shap = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "shap"
began = time.process_time()
from osteo_ray.screening.predictor import Predictor
from osteo_ray.screening.config import ScoringConfig
scorer = Predictor.load(folder, ScoringConfig(guard=False, shap=shap))
loaded = time.process_time() - began
import numpy as np, psutil
import pyarrow.parquet as pq
from osteo_ray.patients.schema import NAMES
rss = psutil.Process().memory_info().rss / 2**20
rows = [r for r in pq.read_table(catalogue).to_pylist() if r["state"] is None]
record = np.full((1, len(NAMES)), np.nan)  # age and sex are the header's
seconds = []
for i in range(studies):
    t = time.process_time()
    assert scorer.score_rows([rows[i % len(rows)]], record)[0]["risk_prob"] is not None
    seconds.append(time.process_time() - t)
print(json.dumps({
    "load_s": loaded, "loaded_mb": rss, "first_s": seconds[0], "later_s": float(np.median(seconds[1:])),
    "scoring_mb": psutil.Process().memory_info().rss / 2**20, "torch": "torch" in sys.modules,
}))
"""


def scorer(bundle: Path, catalogue: Path, shap: bool) -> dict[str, Any]:
    """What one process took."""
    argv = [sys.executable, "-c", SCORER, str(bundle), str(catalogue), str(STUDIES), "shap" if shap else "none"]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def distributions(requirements: list[Requirement], found: set[str]) -> set[str]:
    """Names of all that the requirements bring, beside what was found before; what isn't installed is left out."""
    for r in requirements:
        asked = {""} | set(r.extras)
        name = canonicalize_name(r.name)
        key = f"{name}[{','.join(sorted(r.extras))}]"
        if key in found or (r.marker is not None and not r.marker.evaluate({"extra": ""})):
            continue
        try:
            needs = [Requirement(x) for x in distribution(name).requires or []]
        except PackageNotFoundError:
            continue
        found |= {key}
        wanted = [x for x in needs if x.marker is None or any(x.marker.evaluate({"extra": e}) for e in asked)]
        for x in wanted:
            x.marker = None
        distributions(wanted, found)
    return found


def installed_mb(extras: str) -> tuple[int, float]:
    """Distributions of osteo-ray with some extras, and their size in MiB (osteo-ray itself left out)."""
    names = {n.partition("[")[0] for n in distributions([Requirement(f"osteo-ray{extras}")], set())} - {"osteo-ray"}
    files = [f.locate() for n in names for f in distribution(n).files or []]
    return len(names), sum(Path(str(f)).stat().st_size for f in files if Path(str(f)).is_file()) / 2**20


def main() -> None:
    """Measure and write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True)
    a = p.parse_args()
    catalogue = a.work / "explicit-le-index" / "catalogue.parquet"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        in_torch = Bundle.load(reference.bundle())
        in_torch.onnx, in_torch.onnx_outputs = {}, {}
        in_torch.save(folder)
        bundles = {"in torch": Path(folder), "without torch": Path(reference.bundle())}
        for shap in (True, False):
            runs: dict[str, list[dict[str, Any]]] = {k: [] for k in bundles}
            for _ in range(ROUNDS):
                for name, at in bundles.items():
                    runs[name].append(scorer(at, catalogue, shap))
            for name, each in runs.items():
                assert all(r["torch"] == (name == "in torch") for r in each)
                found = {k: float(np.median([r[k] for r in each])) for k in each[0] if k != "torch"}
                rows.append({
                    "table": "scorers", "networks": name, "shap": "yes" if shap else "no",
                    "import_and_load_s": round(found["load_s"], 2), "first_study_s": round(found["first_s"], 2),
                    "later_study_ms": round(1e3 * found["later_s"]), "loaded_mb": round(found["loaded_mb"]),
                    "scoring_mb": round(found["scoring_mb"]),
                })  # fmt: skip
    for extras, what in (("", "screening"), ("[train]", "and training")):
        n, mb = installed_mb(extras)
        rows.append({"table": "installed", "installation": f"osteo-ray{extras}", "for": what, "packages": n,
                     "mib": round(mb)})  # fmt: skip
    by = {(r["networks"], r["shap"]): r for r in rows if r["table"] == "scorers"}
    before, after = by["in torch", "yes"], by["without torch", "yes"]
    sizes = [r["mib"] for r in rows if r["table"] == "installed"]
    bars = [
        bar("resident MB of a scorer, without torch, of with", round(after["scoring_mb"] / before["scoring_mb"], 2)),
        bar("CPU s until the first study is scored, less by", round(
            before["import_and_load_s"] + before["first_study_s"] - after["import_and_load_s"] - after["first_study_s"],
            1)),
        bar("MiB of an installation that screens, of one that trains", round(sizes[0] / sizes[1], 2)),
    ]  # fmt: skip
    command = "python benchmarks/scorer_weight.py --work W"
    text = f"""# What a scorer weighs

`{command}`: medians of {ROUNDS} processes of each kind, in turn; CPU seconds of one
thread, resident MB. Series of 300 slices, uncompressed, age and sex from the header. In torch: the same
bundle saved without its ONNX models. "First study" holds what is imported only then, SHAP above all.

{table(rows, "scorers")}
Installed packages (CPU build of torch), as files on disk:

{table(rows, "installed")}"""
    write(RESULTS / "scorer_weight.json", command, None, rows, bars, text)
    print(text)


if __name__ == "__main__":
    main()
