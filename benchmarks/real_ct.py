"""What a bundle does on real CT: what it scores, where it looks, which levels it names, and the HU it reads.

    python benchmarks/real_ct.py --bundle BUNDLE --data ../shared/data/ct

Writes docs/results/real_ct.json, docs/results/real_ct.md and docs/img/real_ct.png. Nothing is trained or tuned on these
volumes. Levels and HU are judged by the label maps of one of them; parts of volumes stand for scans of chest, neck and
pelvis, which must not be scored.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from matplotlib.figure import Figure

from osteo_ray.catalogue.study import index_study
from osteo_ray.config import Section, load
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.crops import spine_crop
from osteo_ray.model.embedding import hu_of
from osteo_ray.outcomes import State
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.config import ScoringConfig
from osteo_ray.screening.predictor import PolicyTrace, Predictor
from osteo_ray.training.masks import levels_of
from osteo_ray.training.vertebrae import Labelled, SliceTargets, measure

LABELLED = "totalseg_example_ct_t11_to_femur_3mm.nii.gz"
LABELS = "totalseg_example_ct_vertebrae_labels.nii.gz"
BODIES = "totalseg_example_ct_vertebral_body_label.nii.gz"
ABDOMEN = "acrin_flt_breast_001_lower_thorax_to_pelvis_dicom.zip"
CHEST = "lidc_idri_0314_full_1.56x1.56x1mm.nii.gz"
THORAX = "totalseg_thorax_contrast_1.5mm.nii.gz"
CHANGES = (-60, -40, -20, 0, 20, 40, 60)
SHOWN = 6
SAME_RISK = 0.1
"""Difference of risk up to which a turned volume counts as scored the same."""
LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5")


class RealCt(Section):
    """Paths."""

    bundle: str = "osteo_ray/model/reference/bundle"
    data: str = "../shared/data/ct"
    out: str = "docs/results/real_ct.json"
    picture: str = "docs/img/real_ct.png"


@dataclass
class ArrayStack:
    """A volume in memory behind the interface of a stack."""

    hu: np.ndarray  # int16 [slices, rows, cols], toward the head, the back and the left
    z_mm: np.ndarray
    axial_spacing_mm: tuple[float, float]
    row: dict[str, Any]  # what a catalogue says of the scan
    decoded: int = 0
    bytes_read: int = 0

    @property
    def n(self) -> int:
        return len(self.hu)

    def axial(self, i: int) -> np.ndarray:
        """HU of slice i."""
        self.decoded += 1
        self.bytes_read += self.hu[i].nbytes
        return self.hu[i]

    def part(self, low: int, high: int) -> ArrayStack:
        """Slices [low, high)."""
        return ArrayStack(self.hu[low:high], self.z_mm[low:high], self.axial_spacing_mm, self.row)

    def changed(self, mask: np.ndarray, by: float) -> ArrayStack:
        """The same with the HU inside a mask changed."""
        hu = np.where(mask, self.hu + by, self.hu).astype(np.int16)
        return ArrayStack(hu, self.z_mm, self.axial_spacing_mm, self.row)


def turned(stack: ArrayStack) -> dict[str, ArrayStack]:
    """The volume as files would show it whose geometry says nothing of it, or something wrong."""
    r, c = stack.axial_spacing_mm

    def of(hu: np.ndarray, spacing: tuple[float, float]) -> ArrayStack:
        return ArrayStack(np.ascontiguousarray(hu), stack.z_mm, spacing, stack.row)

    return {
        "mirrored left to right": of(stack.hu[:, :, ::-1], (r, c)),
        "head and feet exchanged": of(stack.hu[::-1], (r, c)),
        "prone, said to be supine": of(stack.hu[:, ::-1, ::-1], (r, c)),
        "on the left side, said to be supine": of(np.rot90(stack.hu, 1, (1, 2)), (c, r)),
        "on the right side, said to be supine": of(np.rot90(stack.hu, -1, (1, 2)), (c, r)),
    }


def turned_rows(scorer: Predictor, name: str, stack: ArrayStack, risk: float | None) -> list[dict[str, Any]]:
    """What a turned volume ends as; right is to withhold the score, or to give nearly the same."""
    out = []
    for how, other in turned(stack).items():
        r, _ = scored(scorer, other)
        near = r["risk_prob"] is not None and risk is not None and abs(r["risk_prob"] - risk) <= SAME_RISK
        out.append({"table": "turned", "volume": name, "how": how, "state": r["state"], "code": r["code"],
                    "risk": None if r["risk_prob"] is None else round(r["risk_prob"], 3),
                    "risk_unturned": None if risk is None else round(risk, 3),
                    "right": r["risk_prob"] is None or near})  # fmt: skip
    return out


def array(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """A NIfTI file as [slices, rows, cols] toward the head, the back and the left, and its (x, y, z) spacing."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    return np.rint(sitk.GetArrayFromImage(image)).astype(np.int16), image.GetSpacing()


def volume(path: Path) -> ArrayStack:
    """A NIfTI file, or the best series of a zip of DICOM, whole."""
    if path.suffix == ".zip":
        row = index_study(path)
        with SliceStack.from_row(row) as s:
            hu = np.stack([s.axial(i) for i in range(s.n)])
            return ArrayStack(hu, np.asarray(s.z_mm), s.axial_spacing_mm, row)
    hu, (x, y, z) = array(path)
    return ArrayStack(np.clip(hu, -1024, 3071), np.arange(len(hu)) * z, (y, x), {})


def truth(data: Path, stack: ArrayStack) -> tuple[SliceTargets, np.ndarray]:
    """Targets of the labelled volume by its masks, and its vertebral bodies [slices, rows, cols]."""
    labels, bodies = array(data / LABELS)[0].astype(np.uint8), array(data / BODIES)[0] == 1
    levels = levels_of([int(v) for v in np.unique(labels) if v], None, LABELS)
    return measure(Labelled(stack.hu, labels, levels, bodies, stack.z_mm, stack.axial_spacing_mm)), bodies


def scored(scorer: Predictor, stack: ArrayStack) -> tuple[dict[str, Any], PolicyTrace]:
    """The result row of a volume without a record, and where the policy looked."""
    stack.decoded = 0
    seen = scorer.see(stack)
    return scorer.score_stack(stack, stack.row, np.full(len(NAMES), np.nan)), seen


@torch.no_grad()
def hu_by_level(scorer: Predictor, stack: ArrayStack, t: SliceTargets) -> list[dict[str, Any]]:
    """Trabecular HU that the encoder reads and that the masks hold, by level, over the same slices."""
    b, out = scorer.bundle, []
    assert isinstance(b, Bundle)
    for level in LEVELS:
        at = np.flatnonzero((t.level == level) & np.isfinite(t.trabecular_hu) & ~(t.mid < 0.5))
        if not at.size:
            continue
        crops = np.stack([spine_crop(stack.hu[i], stack.axial_spacing_mm, b.config.crop) for i in at])
        e = b.encoder(torch.from_numpy(crops)).embedding.numpy()
        read = float(hu_of(e[:, b.config.encoder.layout.trabecular]).mean())
        masks = float(t.trabecular_hu[at].mean())
        out.append({"table": "hu", "level": level, "slices": len(at), "read": round(read, 1),
                    "masks": round(masks, 1), "difference": round(read - masks, 1)})  # fmt: skip
    return out


def picks_row(name: str, r: dict[str, Any], seen: PolicyTrace, t: SliceTargets | None) -> dict[str, Any]:
    """One volume's line."""
    picks = r["selected"]
    out = {
        "table": "volumes", "volume": name, "slices": seen.n, "decoded": seen.decoded, "state": r["state"],
        "code": r["code"], "risk": None if r["risk_prob"] is None else round(r["risk_prob"], 3),
        "trabecular_hu": None if r["trabecular_hu"] is None else round(r["trabecular_hu"], 1),
        "named": " ".join(p["level"] or "?" for p in sorted(picks, key=lambda p: -p["z_mm"])),
        "confidence": round(float(np.mean([p["level_confidence"] for p in picks])), 2),
    }  # fmt: skip
    if t is not None:
        true = [str(t.level[p["index"]]) or "?" for p in sorted(picks, key=lambda p: -p["z_mm"])]
        out["true"] = " ".join(true)
    return out


def draw(figure: Figure, grid, row: int, name: str, stack: ArrayStack, seen: PolicyTrace, scorer: Predictor):
    """One row: a sagittal section with what was looked at and kept, then the kept crops and their ROI."""
    axis = figure.add_subplot(grid[row, :2])
    z, side = seen.z_mm, scorer.bundle.config.crop.size * scorer.bundle.config.crop.pixel_mm
    crops = [spine_crop(stack.hu[i], stack.axial_spacing_mm, scorer.bundle.config.crop) for i in seen.positions]
    axis.imshow(np.array([c[:, c.shape[1] // 2] for c in crops]), cmap="gray", vmin=-160, vmax=400, aspect="auto",
                origin="lower", extent=(0, side, z[0], z[-1]))  # fmt: skip
    levels, bundle = seen.levels(), scorer.bundle
    assert isinstance(bundle, Bundle)
    for i in np.flatnonzero(seen.selection.looked[: len(z)]):
        kept = i in seen.selection.kept
        axis.axhline(z[i], color="tab:orange" if kept else "tab:cyan", lw=1.6 if kept else 0.6)
        if level := levels.level[i]:
            axis.text(side + 2, z[i], level, fontsize=4.5, va="center", color="black" if kept else "gray")
    axis.set_title(f"{name}\n{seen.decoded} of {seen.n} slices decoded", fontsize=7)
    axis.tick_params(labelsize=5)
    for j, i in enumerate(sorted(seen.selection.kept.tolist(), reverse=True)[:SHOWN]):
        cell = figure.add_subplot(grid[row, 2 + j])
        cell.imshow(crops[i], cmap="gray", vmin=-160, vmax=400)
        with torch.no_grad():
            roi = bundle.encoder(torch.from_numpy(crops[i][None])).roi[0, 0].numpy()
        at = (np.arange(roi.shape[0]) + 0.5) * 2 - 0.5
        cell.contour(at, at, roi, levels=[roi.max() * 0.3], colors="tab:orange", linewidths=0.8)
        cell.set_title(f"{levels.level[i] or 'not known'} ({levels.confidence[i]:.2f})", fontsize=6)
        cell.axis("off")


def bar(name: str, value: Any, target: str, met: bool) -> dict[str, Any]:
    """One bar of the JSON."""
    return {"name": name, "value": value, "low": None, "high": None, "target": target, "met": bool(met)}


def main() -> None:
    """Judge the bundle on every volume."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in RealCt.model_fields:
        p.add_argument(f"--{name}")
    job = load(RealCt, None, [], {k: v for k, v in vars(p.parse_args()).items() if v})
    torch.set_num_threads(1)
    scorer, data = Predictor(Bundle.load(job.bundle), ScoringConfig(shap=False)), Path(job.data)
    labelled = volume(data / LABELLED)
    t, bodies = truth(data, labelled)
    abdomen, chest = volume(data / ABDOMEN), volume(data / CHEST)
    sacrum = np.flatnonzero(t.level == "S")
    cases: list[tuple[str, ArrayStack, SliceTargets | None, str]] = [
        ("labelled abdomen, 3 mm", labelled, t, "score"),
        ("abdomen, 140 kVp", abdomen, None, "score"),
        ("whole chest", chest, None, "withhold"),
        ("chest with contrast", volume(data / THORAX), None, "withhold"),
        ("neck and shoulders (top of the chest)", chest.part(chest.n - 110, chest.n), None, "withhold"),
        ("pelvis (foot of the labelled abdomen)", labelled.part(0, int(sacrum.max()) - 3), None, "withhold"),
        ("pelvis (foot of the abdomen)", abdomen.part(0, 37), None, "withhold"),
    ]
    figure = Figure(figsize=(13, 2.6 * len(cases)), layout="constrained")
    grid = figure.add_gridspec(len(cases), SHOWN + 2)
    rows: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    withheld: list[bool] = []
    wanted: list[bool] = []
    for k, (name, stack, known, wish) in enumerate(cases):
        r, seen = scored(scorer, stack)
        rows.append(picks_row(name, r, seen, known) | {"wanted": wish})
        given = r["state"] in (State.SCORED, State.SCORED_WARN)
        (wanted if wish == "score" else withheld).append(given == (wish == "score"))
        draw(figure, grid, k, name, stack, seen, scorer)
        if wish == "score":
            turns += turned_rows(scorer, name, stack, r["risk_prob"])
    Path(job.picture).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(job.picture, dpi=90)

    hu = hu_by_level(scorer, labelled, t)
    steps = []
    for change in CHANGES:
        r, _ = scored(scorer, labelled.changed(bodies, change))
        steps.append({"table": "changed", "change": change, "state": r["state"], "code": r["code"],
                      "hu": None if r["trabecular_hu"] is None else round(r["trabecular_hu"], 1),
                      "risk": None if r["risk_prob"] is None else round(r["risk_prob"], 3)})  # fmt: skip
    first = rows[0]
    named, true = first["named"].split(), first["true"].split()
    on = float(np.mean([x in ("L1", "L2", "L3", "L4") for x in true]))
    right = float(np.mean([a == b for a, b in zip(named, true, strict=True)]))
    worst = max(abs(r["difference"]) for r in hu)
    risks = [s["risk"] for s in steps if s["risk"] is not None]
    falls = len(risks) >= 2 and all(a > b for a, b in pairwise(risks))
    bars = [
        bar("largest HU difference, T12-L5", worst, "<= 8", worst <= 8),
        bar("picks within bodies of L1-L4", round(on, 3), "1", on == 1),
        bar("levels of picks named right", round(right, 3), "1", right == 1),
        bar("chest, neck and pelvis without a score", f"{sum(withheld)} of {len(withheld)}", "all", all(withheld)),
        bar("abdomens scored", f"{sum(wanted)} of {len(wanted)}", "all", all(wanted)),
        bar(
            "turned volumes withheld or scored alike",
            f"{sum(r['right'] for r in turns)} of {len(turns)}",
            "all",
            all(r["right"] for r in turns),
        ),
        bar("risk falls at each step from -60 to +60 HU", f"{len(risks)} steps scored", "falls", falls),
    ]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    done = {"command": f"python benchmarks/real_ct.py --bundle {job.bundle}", "commit": commit, "seed": None,
            "bundle": scorer.model, "rows": [*rows, *hu, *steps, *turns], "bars": bars}  # fmt: skip
    out = Path(job.out)
    out.write_text(json.dumps(done, indent=1, default=str) + "\n")
    out.with_suffix(".md").write_text(page(done))
    for b in bars:
        print(f"{'met    ' if b['met'] else 'NOT met'} {b['name']}: {b['value']} (target {b['target']})")


def page(done: dict[str, Any]) -> str:
    """The Markdown beside the JSON."""

    def table(name: str, columns: tuple[str, ...]) -> str:
        rows = [r for r in done["rows"] if r["table"] == name]
        head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
        return head + "".join(
            "| " + " | ".join("" if r.get(c) is None else str(r.get(c)) for c in columns) + " |\n" for r in rows
        )

    bars = "".join(
        f"| {b['name']} | {b['value']} | {b['target']} | {'yes' if b['met'] else '**no**'} |\n" for b in done["bars"]
    )
    volumes = ("volume", "wanted", "state", "code", "risk", "trabecular_hu", "decoded")
    levels = ("volume", "named", "true", "confidence")
    return f"""# The bundle that ships, on real CT

`{done["command"]}`; {done["bundle"]["model_name"]} {done["bundle"]["model_version"]}.
Nothing was trained or tuned on these volumes; records are left out. Levels and HU are judged by the label maps of the
first volume.

| bar | value | target | met |
|---|---|---|---|
{bars}
![Where it looks, the levels that it names, and its region of interest](../img/real_ct.png)

Cyan: decoded; orange: kept, with the outline of the region whose mean is the trabecular HU.

## Volumes

<!-- rows: volumes -->

{table("volumes", volumes)}
<!-- rows: volumes -->

{table("volumes", levels)}
## Trabecular HU by level, labelled volume

<!-- rows: hu -->

{table("hu", ("level", "slices", "read", "masks", "difference"))}
## Risk as the HU of the vertebral bodies are changed, labelled volume

<!-- rows: changed -->

{table("changed", ("change", "state", "code", "hu", "risk"))}
## Volumes that lie otherwise than their geometry says

Right is to withhold the score, or to give one within {SAME_RISK} of the volume as it lies.

<!-- rows: turned -->

{table("turned", ("volume", "how", "state", "code", "risk", "risk_unturned", "right"))}"""


if __name__ == "__main__":
    main()
