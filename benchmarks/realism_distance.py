"""How far synthetic slices lie from real ones, as the slice encoder sees them.

    python benchmarks/realism_distance.py CT_FOLDER --rows distance.json --picture docs/img/synthetic_regions.png

For each part of the body: Wasserstein distance in HU between the histograms of the spine crop, of all slices together
("pooled") and of each real slice to the synthetic slice nearest to it ("nearest": whether the synthetic slices cover
what is seen). And the SD of HU inside vertebral bodies, by masks on 3 mm voxels eroded by one voxel (box).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from realism import Volume, read_dicom_zip, read_nifti
from scipy import ndimage

from osteo_ray.model.crops import CropConfig, grid_positions, spine_crop
from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.read import readable

BINS = np.arange(-1030, 1530, 10)
LEVELS = {27: "L5", 28: "L4", 29: "L3", 30: "L2", 31: "L1", 32: "T12"}
CROP = CropConfig()


def distribution(crop: np.ndarray) -> np.ndarray:
    """Cumulative distribution of a crop's HU over BINS, float64 [bins]."""
    h, _ = np.histogram(np.clip(crop, BINS[0], BINS[-1] - 1), BINS)
    return np.cumsum(h) / crop.size


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wasserstein distance in HU between cumulative distributions (last axis)."""
    return np.abs(a - b).sum(-1) * 10.0


def real_parts(ct: Path) -> dict[str, np.ndarray]:
    """Cumulative distributions [slices, bins] of real spine crops by part of the body."""
    lidc = read_nifti(ct / "lidc_idri_0314_full_1.56x1.56x1mm.nii.gz", "chest")
    acrin = read_dicom_zip(ct / "acrin_flt_breast_001_lower_thorax_to_pelvis_dicom.zip", "abdomen")
    rider = read_dicom_zip(ct / "rider_pilot_0117_lower_chest_ctpa_feet_first.zip", "pulmonary phase")
    small = read_nifti(ct / "totalseg_example_ct_t11_to_femur_3mm.nii.gz", "labelled")
    top, n = len(lidc.hu), len(acrin.hu)

    def crops(v: Volume, index: Any) -> np.ndarray:
        return np.stack([distribution(spine_crop(v.hu[i], (v.pixel, v.pixel), CROP)) for i in index])

    return {
        "neck and shoulders": crops(lidc, range(top - 60, top, 3)),
        "chest": crops(lidc, range(60, top - 60, 6)),
        "chest, pulmonary phase": crops(rider, range(0, len(rider.hu), 3)),
        "abdomen": crops(acrin, range(n // 2, n, 2)),
        "abdomen, labelled": crops(small, range(55, len(small.hu), 2)),
        "pelvis and hips": np.concatenate([crops(acrin, range(0, n // 3, 2)), crops(small, range(0, 40, 2))]),
    }


def synthetic_slices(cfg: CohortConfig, people: int, seed: int, positions: int = 24) -> np.ndarray:
    """Cumulative distributions [slices, bins] of the cohort's spine crops on a coarse z-grid."""
    out = []
    for p in fast.people(cfg, people, seed):
        s = fast.stack_of(p, cfg)
        for i in grid_positions(s.z_mm, positions):
            out.append(distribution(spine_crop(s.axial(int(i)), s.axial_spacing_mm, CROP)))
    return np.stack(out)


def masked_sd(hu: np.ndarray, mask: np.ndarray) -> tuple[float, float] | None:
    """Mean and SD of HU in a mask eroded by one voxel on every side."""
    core = ndimage.binary_erosion(mask, np.ones((3, 3, 3)))
    return (float(hu[core].mean()), float(hu[core].std())) if core.sum() > 50 else None


def real_bodies(ct: Path) -> list[tuple[float, float]]:
    """Mean and SD of HU in the labelled volume's bodies."""
    hu = read_nifti(ct / "totalseg_example_ct_t11_to_femur_3mm.nii.gz", "ct").hu
    level = read_nifti(ct / "totalseg_example_ct_vertebrae_labels.nii.gz", "labels").hu
    body = read_nifti(ct / "totalseg_example_ct_vertebral_body_label.nii.gz", "bodies").hu
    found = [masked_sd(hu, (level == k) & (body == 1)) for k in LEVELS]
    return [f for f in found if f]


def synthetic_bodies(cfg: CohortConfig, people: int, seed: int) -> list[tuple[float, float]]:
    """The same of synthetic scans, on 3 mm voxels; the masks are the bodies' own outlines."""
    out = []
    for p in fast.people(cfg, people, seed):
        s = fast.stack_of(p, cfg)
        px, n = s.scan.pixel, max(1, round(3 / s.scan.pixel))
        side = int(72 / px) // n * n
        for b in s.anatomy.vertebrae:
            index = [i for i in range(s.n) if abs(s.z_mm[i] - b.z) < 0.5 * b.height + 9]
            if b.level not in LEVELS.values() or not readable(b) or len(index) < 8:
                continue
            r0, c0 = int((b.y - 30 - s.scan.y0) / px), int((b.x - 36 - s.scan.x0) / px)
            hu = np.stack([s.patch(i, slice(r0, r0 + side), slice(c0, c0 + side)) for i in index]).astype(float)
            hu = hu.reshape(len(index), side // n, n, side // n, n).mean((2, 4))
            at = (np.arange(side // n) * n + 0.5 * (n - 1)) * px
            dx, dy = s.scan.x0 + c0 * px + at - b.x, s.scan.y0 + r0 * px + at - b.y
            dy, dz = dy[None, :, None], s.z_mm[index][:, None, None] - b.z
            v, w = dy * np.cos(b.tilt) - dz * np.sin(b.tilt), dz * np.cos(b.tilt) + dy * np.sin(b.tilt)
            mask = ((dx[None, None] / b.width) ** 2 + (v / b.depth) ** 2 < 1) & (np.abs(w) < 0.5 * b.height)
            found = masked_sd(hu, mask)
            if found:
                out.append(found)
    return out


def measure(ct: Path, archive: CohortConfig, plain: CohortConfig, people: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the table: `archive` is the cohort as configured, `plain` unenhanced 120 kVp scans at 3 mm."""
    ours = synthetic_slices(archive, people, seed)
    rows: list[dict[str, Any]] = []
    for part, real in real_parts(ct).items():
        apart = np.array([distance(ours, r) for r in real])
        near = ours[np.unique(apart.argmin(1))]
        rows.append({
            "measure": f"{part}: nearest synthetic slice, HU", "value": round(float(apart.min(1).mean()), 1),
        })  # fmt: skip
        rows.append({
            "measure": f"{part}: pooled with the nearest ones, HU",
            "value": round(float(distance(real.mean(0), near.mean(0))), 1),
        })  # fmt: skip
    bodies = synthetic_bodies(plain, max(6, people // 6), seed + 1)
    for name, found in (("real", real_bodies(ct)), ("synthetic", bodies)):
        sd = np.array([f[1] for f in found])
        rows.append({"measure": f"SD in vertebral bodies, {name}, HU", "value": round(float(np.median(sd)), 1)})
    return rows


def picture(ct: Path, out: Path) -> None:
    """Real slices (upper row) and synthetic ones of the same place (lower row), as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lidc = read_nifti(ct / "lidc_idri_0314_full_1.56x1.56x1mm.nii.gz", "chest").hu
    acrin = read_dicom_zip(ct / "acrin_flt_breast_001_lower_thorax_to_pelvis_dicom.zip", "abdomen").hu
    rider = read_dicom_zip(ct / "rider_pilot_0117_lower_chest_ctpa_feet_first.zip", "chest").hu
    small = read_nifti(ct / "totalseg_example_ct_t11_to_femur_3mm.nii.gz", "labelled").hu
    real = [lidc[-25], lidc[-80], rider[50], acrin[70], acrin[30], acrin[4], small[8]]
    # (seed, protocol, z of the slice) of people drawn for the picture.
    ours = []
    for seed, protocol, where in (
        (8, "neck_chest", "T1"), (9, "neck_chest", "T4"), (8, "chest", "T9"), (3, "trunk", "L2"),
        (5, "abdomen_pelvis", "S"), (5, "pelvis", "hip"), (4, "pelvis", "hip"),
    ):  # fmt: skip
        contrast = 1.0 if where == "T9" else 0.0
        cfg = CohortConfig.model_validate({
            "scan": {"protocols": {protocol: 1.0}, "size_512_share": 1.0, "contrast_share": contrast, "sharp_share": 0},
            "body": {"hip_prosthesis_share": 0.3 if seed == 4 else 0.0},
        })  # fmt: skip
        s = fast.stack_of(fast.people(cfg, 2, seed)[1], cfg)
        a = s.anatomy
        z = {"S": a.sacrum_top - 30, "hip": a.pelvis.hip_z, **{v.level: v.z for v in a.vertebrae}}[where]
        ours.append(s.axial(int(np.argmin(np.abs(s.z_mm - z)))))
    fig, ax = plt.subplots(2, len(real), figsize=(3 * len(real), 6))
    for row, images in zip(ax, (real, ours), strict=True):
        for cell, image in zip(row, images, strict=True):
            cell.imshow(
                image[:: max(1, len(image) // 256), :: max(1, len(image) // 256)], cmap="gray", vmin=-250, vmax=450
            )
            cell.axis("off")
    ax[0, 0].set_title("real", fontsize=9, loc="left")
    ax[1, 0].set_title("synthetic", fontsize=9, loc="left")
    fig.tight_layout(pad=0.3)
    fig.savefig(out, dpi=55)
    plt.close(fig)


def main() -> None:
    """Write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path, help="folder with the real CT files")
    parser.add_argument("--rows", type=Path, help="JSON file to write")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    parser.add_argument("--people", type=int, default=60, help="synthetic scans")
    parser.add_argument("--seed", type=int, default=31)
    args = parser.parse_args()
    if args.picture:
        picture(args.ct, args.picture)
    if not args.rows:
        return
    archive = CohortConfig.model_validate({"missing": {"complete_share": 1.0}, "scan": {"size_512_share": 0.0}})
    scan = {"kvp": {120: 1.0}, "contrast_share": 0, "sharp_share": 0, "tilt_share": 0, "phantom_share": 0}
    scan |= {"size_512_share": 1.0, "slice_max": 150, "thickness": {3.0: 1.0}}
    if "protocols" in CohortConfig().scan.model_dump():
        scan["protocols"] = {"abdomen": 1.0}
    plain = CohortConfig.model_validate({"scan": scan})
    rows = measure(args.ct, archive, plain, args.people, args.seed)
    args.rows.write_text(json.dumps(rows, indent=1) + "\n")
    for r in rows:
        print(f"{r['measure']:<60} {r['value']:>8}")


if __name__ == "__main__":
    main()
