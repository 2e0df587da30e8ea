"""Where a policy looks on real CT: a picture, and the share of its picks on lumbar vertebrae where a label map knows.

    python benchmarks/real_ct.py --bundle osteo_ray/reference --data ../shared/data/ct --out docs/img/real_selection.png

One row a volume: a sagittal section through the spine with what was looked at (thin) and kept (thick), then the crops
of the kept slices as the encoder sees them. Nothing is trained or tuned on these volumes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from osteo_ray.catalogue.study import index_study
from osteo_ray.config import Section, load
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.model.crops import spine_crop
from osteo_ray.model.embedding import p_lumbar, vertebra
from osteo_ray.screening.config import ScoringConfig
from osteo_ray.screening.predictor import PolicyTrace, Predictor

LABELLED = "totalseg_example_ct_t11_to_femur_3mm.nii.gz"
LABELS = "totalseg_example_ct_vertebrae_labels.nii.gz"
LUMBAR_LABELS = {27: "L5", 28: "L4", 29: "L3", 30: "L2", 31: "L1"}
SHOWN = 6


class RealCt(Section):
    """Paths."""

    bundle: str = "osteo_ray/reference"
    data: str = "../shared/data/ct"
    out: str = "runs/real_selection.png"


@dataclass
class ArrayStack:
    """A volume in memory behind the interface of a stack."""

    hu: np.ndarray  # int16 [slices, rows, cols], toward the head, the back and the left
    z_mm: np.ndarray
    axial_spacing_mm: tuple[float, float]
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


def volume(path: Path) -> ArrayStack:
    """A NIfTI file, or the best series of a zip of DICOM, whole."""
    if path.suffix == ".zip":
        with SliceStack.from_row(index_study(path)) as s:
            return ArrayStack(np.stack([s.axial(i) for i in range(s.n)]), np.asarray(s.z_mm), s.axial_spacing_mm)
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    x, y, z = image.GetSpacing()
    a = np.clip(np.rint(sitk.GetArrayFromImage(image)), -1024, 3071).astype(np.int16)
    return ArrayStack(a, np.arange(len(a)) * z, (y, x))


def levels_of(path: Path) -> list[str | None]:
    """Lumbar level that most labelled voxels of each slice belong to; None where no lumbar vertebra is labelled."""
    a = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")).astype(int)
    out: list[str | None] = []
    for s in a:
        counts = {k: int((s == k).sum()) for k in range(1, 60) if (s == k).any()}
        best = max(counts, key=lambda k: counts[k]) if counts else 0
        out.append(LUMBAR_LABELS.get(best))
    return out


def draw(
    figure: Figure, grid: GridSpec, row: int, name: str, stack: ArrayStack, seen: PolicyTrace, scorer: Predictor
) -> None:
    """One row of the picture."""
    axis = figure.add_subplot(grid[row, :2])
    z = seen.z_mm
    crops = [spine_crop(stack.hu[i], stack.axial_spacing_mm, scorer.bundle.config.crop) for i in seen.positions]
    axis.imshow(np.array([c[:, c.shape[1] // 2] for c in crops]), cmap="gray", vmin=-160, vmax=400, aspect="auto",
                origin="lower", extent=(0, 192, z[0], z[-1]))  # fmt: skip
    for i in np.flatnonzero(seen.selection.looked[: len(z)]):
        kept = i in seen.selection.kept
        axis.axhline(z[i], color="tab:orange" if kept else "tab:cyan", lw=1.6 if kept else 0.7)
    axis.set(title=f"{name}\n{seen.decoded} of {seen.n} slices decoded", xlabel="mm to the back", ylabel="z (mm)")
    axis.title.set_fontsize(7)
    for j, i in enumerate(sorted(seen.selection.kept.tolist(), reverse=True)[:SHOWN]):
        cell = figure.add_subplot(grid[row, 2 + j])
        cell.imshow(crops[i], cmap="gray", vmin=-160, vmax=400)
        e = seen.selection.embedding[i]
        cell.set_title(f"p lumbar {p_lumbar(e):.2f}\nvertebra {vertebra(e):.1f}", fontsize=6)
        cell.axis("off")


def main() -> None:
    """Look at every volume."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in RealCt.model_fields:
        p.add_argument(f"--{name}")
    given = {k: v for k, v in vars(p.parse_args()).items() if v}
    job = load(RealCt, None, [], given)
    torch.set_num_threads(1)
    scorer, data = Predictor.load(job.bundle, ScoringConfig(shap=False)), Path(job.data)
    volumes = [f.name for f in data.iterdir() if f.name.endswith((".zip", ".nii.gz"))]
    # Label maps, and series too short to screen.
    left_out = ("label", "vertebra_T12", "3slice", "jpeg2000")
    names = sorted(n for n in volumes if not any(w in n for w in left_out))
    figure = Figure(figsize=(13, 2.6 * len(names)), layout="constrained")
    grid = figure.add_gridspec(len(names), SHOWN + 2)
    for r, name in enumerate(names):
        stack = volume(data / name)
        stack.decoded = 0
        seen = scorer.see(stack)
        e = seen.selection.embedding[seen.selection.kept]
        looked = seen.selection.embedding[seen.selection.looked]
        line = f"{name}: {seen.decoded} of {seen.n} decoded, best p(lumbar) {p_lumbar(looked).max():.2f}"
        line += f", kept p(lumbar) {p_lumbar(e).mean():.2f}, vertebra numbers {np.sort(vertebra(e)).round(1).tolist()}"
        if name == LABELLED:
            levels = levels_of(data / LABELS)
            on = [levels[seen.positions[i]] for i in seen.selection.kept]
            share = np.mean([level is not None for level in on])
            line += f"; by the label map {share:.0%} of picks on L1-L5: {sorted(str(level) for level in on)}"
        print(line)
        draw(figure, grid, r, name.removesuffix(".nii.gz").removesuffix("_dicom.zip"), stack, seen, scorer)
    Path(job.out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(job.out, dpi=90)


if __name__ == "__main__":
    main()
