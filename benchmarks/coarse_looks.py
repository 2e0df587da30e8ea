"""What it changes that JPEG 2000 is looked at coarsely: picks, HU and risks beside those of whole slices.

    python benchmarks/coarse_looks.py --scans 60 --studies DATA/ct/*.zip DATA/ct/*.nii.gz

Every slice is compressed as JPEG 2000 (reversible, 12 bits) when it is asked for. One way decodes all slices in full,
the other at the lowest resolution whose pixels are no wider than the crop's, and the kept ones in full, as screening
does. Writes docs/results/coarse_looks.json and .md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openjpeg
import torch
from results_page import RESULTS, bar, table, write

from osteo_ray.catalogue.study import index_study
from osteo_ray.config import validate
from osteo_ray.dicom.codecs import decode_frame
from osteo_ray.dicom.stack import SliceStack, Stack
from osteo_ray.model import reference
from osteo_ray.outcomes import InputError
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.config import ScoringConfig
from osteo_ray.screening.predictor import Predictor
from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig, MissingnessConfig

J2K = "1.2.840.10008.1.2.4.90"


class Compressed(SliceStack):
    """A stack as it would be if its slices were JPEG 2000; `halve`: whether coarse slices are decoded so."""

    def __init__(self, stack: Stack, halve: bool):
        self._stack, self._halve = stack, halve
        self.z_mm, self.axial_spacing_mm = np.asarray(stack.z_mm), stack.axial_spacing_mm
        self.sop_uids = [str(i) for i in range(stack.n)]
        self.bytes_read, self.decode_s = 0, 0.0
        self._looked_at = set()

    @property
    def n(self) -> int:
        return self._stack.n

    def axial(self, i: int) -> np.ndarray:
        return self._decoded(i, 0)

    def coarse(self, i: int, pitch_mm: float) -> tuple[np.ndarray, tuple[float, float]]:
        halvings = int(np.log2(max(pitch_mm / max(self.axial_spacing_mm), 1.0))) if self._halve else 0
        row, col = self.axial_spacing_mm
        return self._decoded(i, halvings), (row * 2**halvings, col * 2**halvings)

    def _decoded(self, i: int, halvings: int) -> np.ndarray:
        hu = self._stack.axial(i)
        stored = np.clip(np.rint(hu) + 1024, 0, 4095).astype(np.uint16)
        data = bytes(openjpeg.encode(stored, bits_stored=12))
        self._looked_at.add(i)
        t = time.process_time()
        frame = decode_frame(data, J2K, stored.shape, 16, halvings=halvings)
        self.decode_s += time.process_time() - t
        return frame.astype(np.int16) - np.int16(1024)


def scans(studies: list[Path], synthetic: int, seed: int) -> Iterator[tuple[str, Stack, dict[str, Any]]]:
    """Kind of scan, its slices and what a catalogue knows of it."""
    for path in studies:
        try:
            row = index_study(path)
        except InputError as e:
            print(e)
            continue
        if row.get("state") is None:
            with SliceStack.from_row(row) as stack:
                yield "real", stack, row
    everything = MissingnessConfig(complete_share=1.0, ct_only_share=0, no_labs_share=0)
    cfg = CohortConfig(seed=seed, persons=synthetic, missing=everything)
    for person in fast.people(cfg):
        made = fast.stack_of(person, cfg)
        yield "synthetic", made, {"kvp": made.scan.kvp, "contrast": "venous" if made.scan.contrast else "none"}


def compared(scorer: Predictor, stack: Stack, row: dict[str, Any]) -> dict[str, Any]:
    """One scan both ways."""
    none = np.full(len(NAMES), np.nan)
    ways = [Compressed(stack, halve) for halve in (False, True)]
    full, half = (scorer.score_stack(w, row, none) for w in ways)
    picks = [{p["index"] for p in r["selected"]} for r in (full, half)]
    both = [(full[k], half[k]) for k in ("trabecular_hu", "risk_prob")]
    hu, risk = (None if None in pair else abs(pair[0] - pair[1]) for pair in both)
    return {
        "same_end": (full["state"], full["code"]) == (half["state"], half["code"]),
        "picks": len(picks[0]),
        "same_picks": len(picks[0] & picks[1]),
        "hu": hu,
        "risk": risk,
        "ratio": ways[1].decode_s / ways[0].decode_s,
        "halved": max(stack.axial_spacing_mm) * 2 <= scorer.bundle.config.crop.pixel_mm,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--studies", type=Path, nargs="*", default=[])
    p.add_argument("--scans", type=int, default=60)
    p.add_argument("--seed", type=int, default=5300)
    a = p.parse_args()
    torch.set_num_threads(1)
    scorer = Predictor.load(
        reference.bundle(), validate(ScoringConfig, {"guard": False, "coarse_looks": True, "shap": False})
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, stack, row in scans(a.studies, a.scans, a.seed):
        found.setdefault(kind, []).append(compared(scorer, stack, row))
        print(kind, found[kind][-1], flush=True)
    rows = []
    for kind, each in found.items():
        halved = [r for r in each if r["halved"]]
        hu, risk = ([r[k] for r in halved if r[k] is not None] or [float("nan")] for k in ("hu", "risk"))
        rows.append(
            {"table": "changes", "scans": kind, "n": len(each), "halved": len(halved),
             "same_end": sum(r["same_end"] for r in halved),
             "same_picks": f"{sum(r['same_picks'] for r in halved)} of {sum(r['picks'] for r in halved)}",
             "hu_median": round(float(np.median(hu)), 2), "hu_largest": round(max(hu), 2),
             "risk_median": round(float(np.median(risk)), 4), "risk_largest": round(max(risk), 4),
             "decoding": round(float(np.median([r["ratio"] for r in halved])), 2)}
        )  # fmt: skip
    bars = [bar(f"CPU of decoding over that in full, {r['scans']}", r["decoding"]) for r in rows]
    command = f"python benchmarks/coarse_looks.py --scans {a.scans} --seed {a.seed}"
    page = f"""# JPEG 2000 looked at coarsely

`{command} --studies DATA/*/*.zip DATA/*/*.nii.gz`.
Scans whose slices are compressed as JPEG 2000, scored with every slice decoded in full, and with
`scoring.coarse_looks`: looks at the lowest resolution whose pixels are no wider than the crop's 2 mm, kept
slices in full. Halved: scans whose pixels allow it; the
rest comes out the same. `hu` and `risk` are absolute changes of trabecular HU and of the risk of halved scans,
`same end` counts equal states and codes, `decoding` is its CPU over that of whole slices.

{table(rows, "changes")}
A third of the decoding's time is saved; a scan with 0.65 mm pixels takes 0.6 of it. Its neighbour in another transfer
syntax may then be scored from other picks, so it is an option and not the default.
"""
    write(RESULTS / "coarse_looks.json", command, a.seed, rows, bars, page)


if __name__ == "__main__":
    main()
