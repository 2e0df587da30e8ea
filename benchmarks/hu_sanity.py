"""What the checks of decoded slices (Q_HU, Q_ORIENTATION, Q_CROP) catch, and how often they fire on sound CT.

    python benchmarks/hu_sanity.py --data ../shared/data/ct [--patients 24]

Writes docs/results/hu_sanity.json and .md. Sound volumes: real CT, and synthetic patients. Each is disturbed as headers
and exports disturb it; slices are taken evenly, six a volume, so that no model takes part. A change of tube voltage is
a model of the change (fat 20 HU darker, bone 1.44 times as bright), not a scan.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from real_ct import ArrayStack, volume
from statsmodels.stats.proportion import proportion_confint

from osteo_ray.catalogue.checks import q_crop
from osteo_ray.catalogue.config import QualityChecks
from osteo_ray.catalogue.tissue import q_hu, q_orientation, tissue_peaks
from osteo_ray.model.crops import CropConfig, CropSquare, spine_crop
from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "results"
CFG, CROP = QualityChecks(), CropConfig()
SLICES = 6
LEFT_OUT = ("label", "vertebra_T12", "plastic", "perfusion", "modality_seg", "reformat", "jpeg2000")
Change = Callable[[np.ndarray], np.ndarray]


def _lower_voltage(hu: np.ndarray) -> np.ndarray:
    """120 kVp -> about 80 kVp."""
    h = hu.astype(np.float32)
    bone, soft, fat = 150 + (h - 150) * 1.44 + 10, h * 1.06, h * 1.2
    return np.where(h > 150, bone, np.where(h > 0, soft, np.where(h > -250, fat, h)))


def _eight_bits(hu: np.ndarray) -> np.ndarray:
    """Window 400, level 40, in 256 steps."""
    return np.round((np.clip(hu, -160, 240) + 160.0) / 400 * 255) * 400 / 255 - 160


CHANGES: dict[str, Change] = {
    "none": lambda h: h,
    "intercept +24 HU": lambda h: h + 24,
    "intercept -24 HU": lambda h: h - 24,
    "intercept -24 HU, cut at -1024": lambda h: np.maximum(h - 24, -1024),
    "slope 1.08": lambda h: (h + 1024.0) * 1.08 - 1024,
    "HU times 1.08": lambda h: h * 1.08,
    "HU times 1.08, cut at -1024": lambda h: np.maximum(h * 1.08, -1024),
    "80 kVp called 120 (modelled)": _lower_voltage,
    "8 bits of a window": _eight_bits,
    "front and back exchanged": lambda h: h[::-1],
    "turned by half": lambda h: h[::-1, ::-1],
    "left and right exchanged": lambda h: h[:, ::-1],
}


def real(data: Path) -> Iterator[tuple[str, ArrayStack, float | None]]:
    """Real CT of a body, whole."""
    for path in sorted(data.iterdir()):
        if path.name.endswith((".zip", ".nii.gz")) and not any(w in path.name for w in LEFT_OUT):
            yield path.name, volume(path), 140.0 if "breast_001" in path.name else 120.0


def verdicts(slices: list[np.ndarray], spacing: tuple[float, float], kvp: float | None) -> list[str]:
    """The checks that fail, and what was measured first."""
    crops = [spine_crop(np.clip(h, -1024, 3071), spacing, CROP) for h in slices]
    peaks = tissue_peaks((h, spacing, c, CROP.pixel_mm) for h, c in zip(slices, crops, strict=True))
    outside = max(CropSquare.of(h, spacing, CROP).outside_share(h, spacing) for h in slices)
    checks = (q_hu(peaks, kvp, CFG), q_orientation(peaks, CFG), q_crop(outside, CFG))
    return [peaks.text(), *(c.gate for c in checks if c.verdict == "fail")]


def rows_of(kind: str, name: str, slices: list[np.ndarray], spacing: tuple[float, float], kvp: float | None) -> list:
    """One row a change."""
    out = []
    for change, of in CHANGES.items():
        measured, *failed = verdicts([np.ascontiguousarray(of(h)) for h in slices], spacing, kvp)
        out.append({"kind": kind, "name": name, "kvp": kvp, "change": change, "measured": measured, "failed": failed})
    return out


def some(n: int) -> list[int]:
    """Six slices of n, even over the middle."""
    return np.unique(np.linspace(n * 0.1, n * 0.9, SLICES).astype(int)).tolist()


def page(rows: list[dict], command: str) -> str:
    """The shares as a page."""
    kinds = sorted({r["kind"] for r in rows})
    lines = ["# HU and orientation of decoded slices", ""]
    text = (
        "Share of volumes on which Q_HU (fat, muscle, air), Q_ORIENTATION (the spine lies behind) or Q_CROP (the spine "
        f"crop lies within the picture) fails: the study abstains. Command: `{command}`. Q_HU without a "
        "change is a false alarm; Q_CROP is not where a volume was cut close around the body. "
        "A mirror of left and right changes nothing that is measured; a spine is alike on both sides."
    )
    lines += textwrap.wrap(text, 118)
    lines += ["", "| change | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for change in CHANGES:
        cells = []
        for kind in kinds:
            of = [r for r in rows if r["kind"] == kind and r["change"] == change]
            cells.append(f"{sum(bool(r['failed']) for r in of)} of {len(of)}")
        lines.append(f"| {change} | " + " | ".join(cells) + " |")
    sound = [f"{r['failed'][0]} on {r['name']}" for r in rows if r["change"] == "none" and r["failed"]]
    lines += ["", *textwrap.wrap(f"Failures without a change: {'; '.join(sound) or 'none'}.", 118)]
    lines += ["", "What was measured without a change, on real CT:", ""]
    for r in rows:
        if r["kind"] == "real" and r["change"] == "none":
            lines += textwrap.wrap(f"- {r['name']}: {r['measured']}", 118, subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write both files."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "ct")
    p.add_argument("--patients", type=int, default=24)
    p.add_argument("--seed", type=int, default=5)
    a = p.parse_args()
    rows: list[dict] = []
    for name, stack, kvp in real(a.data) if a.data.is_dir() else ():
        rows += rows_of("real", name, [stack.hu[i] for i in some(stack.n)], stack.axial_spacing_mm, kvp)
        print(name, rows[-len(CHANGES)]["measured"], rows[-len(CHANGES)]["failed"], flush=True)
    cfg = CohortConfig(persons=a.patients, seed=a.seed)
    for spec in fast.people(cfg):
        scanned = fast.stack_of(spec, cfg)
        slices = [scanned.axial(i) for i in some(scanned.n)]
        rows += rows_of("synthetic", str(spec.index), slices, scanned.axial_spacing_mm, float(scanned.scan.kvp))
        print(spec.index, rows[-len(CHANGES)]["measured"], rows[-len(CHANGES)]["failed"], flush=True)
    command = f"python benchmarks/hu_sanity.py --data ../shared/data/ct --patients {a.patients}"
    bars = []
    for kind in sorted({r["kind"] for r in rows}):
        for change in CHANGES:
            of = [bool(r["failed"]) for r in rows if r["kind"] == kind and r["change"] == change]
            low, high = proportion_confint(sum(of), len(of), method="wilson")
            share = {"name": f"{kind}: {change}", "value": sum(of) / len(of), "low": float(low), "high": float(high)}
            target = 0.0 if change == "none" else None
            bars.append(share | {"target": target, "met": None if target is None else sum(of) == 0})
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    doc = {"command": command, "commit": commit, "seed": a.seed, "rows": rows, "bars": bars}
    (OUT / "hu_sanity.json").write_text(json.dumps(doc, indent=1) + "\n", encoding="utf-8")
    (OUT / "hu_sanity.md").write_text(page(rows, command), encoding="utf-8")


if __name__ == "__main__":
    main()
