"""Synthetic CT beside real CT: vertebral bodies, noise spectrum, tissue histogram, and a look at both.

    python benchmarks/realism.py ../shared/data/ct docs/img

Writes realism.png (figures) and synthetic_beside_real.png (slices), and prints the numbers. Real volumes: a labelled
3 mm abdomen (TotalSegmentator's example, male 55) and an unenhanced 5 mm low-dose abdomen (ACRIN-FLT-Breast, female
49).
"""

from __future__ import annotations

import argparse
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pydicom
from scipy import ndimage

from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.read import readable

TISSUES = {"air, gas": (-1100, -200), "fat": (-150, -40), "soft tissue": (-10, 90), "bone": (150, 1500)}
LABELS = {27: "L5", 28: "L4", 29: "L3", 30: "L2", 31: "L1", 32: "T12"}


@dataclass(frozen=True)
class Volume:
    """HU [slices from the feet, rows to the back, columns to the left], pixel and slice spacing in mm."""

    hu: np.ndarray
    pixel: float
    spacing: float
    name: str


def read_dicom_zip(path: Path, name: str) -> Volume:
    with zipfile.ZipFile(path) as z:
        sets = [pydicom.dcmread(io.BytesIO(z.read(n))) for n in z.namelist() if n.endswith(".dcm")]
    sets.sort(key=lambda d: float(d.ImagePositionPatient[2]))
    hu = np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in sets])
    zs = [float(d.ImagePositionPatient[2]) for d in sets]
    return Volume(np.maximum(hu, -1024), float(sets[0].PixelSpacing[0]), float(np.median(np.diff(zs))), name)


def read_nifti(path: Path, name: str) -> Volume:
    """A NIfTI in RAS turned to the project's axes."""
    image = nib.as_closest_canonical(nib.load(path))
    hu = np.asarray(image.dataobj)[::-1, ::-1].transpose(2, 1, 0)
    px, _, pz = image.header.get_zooms()
    return Volume(hu, float(px), float(pz), name)


def drawn(n: int, seed: int, thickness: float, size: int = 512) -> list[tuple[fast.SyntheticStack, Volume]]:
    """Synthetic scans as the real ones were taken: unenhanced, soft kernel, 120 kVp."""
    cfg = CohortConfig.model_validate({
        "scan": {"kvp": {120: 1.0}, "contrast_share": 0, "protocols": {"abdomen": 1.0}, "tilt_share": 0,
                 "phantom_share": 0,
                 "size_512_share": float(size == 512), "slice_max": 150, "thickness": {thickness: 1.0}},
    })  # fmt: skip
    out = []
    for p in fast.people(cfg, n, seed):
        s = fast.stack_of(p, cfg)
        hu = np.stack([s.axial(i) for i in range(s.n)]).astype(np.float32)
        out.append((s, Volume(hu, s.scan.pixel, s.scan.spacing, f"synthetic {p.patient_id}")))
    return out


def bodies_real(ct: Volume, labels: Volume, body: Volume) -> dict[str, tuple[float, float]]:
    """Mean and SD of HU in each labelled body, one voxel (3 mm) inside its border."""
    out = {}
    for k, name in LABELS.items():
        m = ndimage.binary_erosion((labels.hu == k) & (body.hu == 1))
        if m.sum() > 50:
            out[name] = (float(ct.hu[m].mean()), float(ct.hu[m].std()))
    return out


def bodies_of(stack: fast.SyntheticStack, v: Volume) -> dict[str, tuple[float, float]]:
    """The same of a synthetic scan, after the same 3 mm voxels and the same margin."""
    f = max(1, round(3 / v.pixel))
    n = v.hu.shape[1] // f * f
    coarse = v.hu[:, :n, :n].reshape(len(v.hu), n // f, f, n // f, f).mean((2, 4))
    s = stack.scan
    x = (s.x0 + s.pixel * (np.arange(n // f) * f + (f - 1) / 2)).astype(np.float32)
    y = (s.y0 + s.pixel * (np.arange(n // f) * f + (f - 1) / 2)).astype(np.float32)
    z = stack.z_mm[:, None, None]
    out = {}
    for b in stack.anatomy.vertebrae:
        if b.level not in LABELS.values() or not readable(b):
            continue
        dy, dz = y[None, :, None] - b.y, z - b.z
        c, sn = np.cos(b.tilt), np.sin(b.tilt)
        vv, w = dy * c - dz * sn, dz * c + dy * sn
        r2 = ((x[None, None] - b.x) / (b.width - 4)) ** 2 + (vv / (b.depth - 4)) ** 2
        m = (r2 < 1) & (np.abs(w) < 0.5 * b.height - 3.5)
        if m.sum() > 50:
            out[b.level] = (float(coarse[m].mean()), float(coarse[m].std()))
    return out


def body_mask(v: Volume) -> np.ndarray:
    """The patient, gas inside included, table excluded."""
    out = np.zeros(v.hu.shape, bool)
    for i, s in enumerate(v.hu):
        lab, n = ndimage.label(ndimage.binary_opening(s > -300, iterations=2))
        if n:
            sizes = ndimage.sum_labels(np.ones_like(lab), lab, range(1, n + 1))
            out[i] = ndimage.binary_fill_holes(lab == 1 + int(np.argmax(sizes)))
    return out


def noise_spectrum(v: Volume, size: int = 32, patches: int = 60) -> tuple[np.ndarray, np.ndarray, float]:
    """Radial noise power (area 1) against 1/mm, and noise SD: differences of neighbouring slices in the quietest
    soft-tissue patches."""
    best = []
    for i in range(0, len(v.hu) - 1, 2):
        a, b = v.hu[i], v.hu[i + 1]
        d = (a - b) / np.sqrt(2)
        for r in range(0, a.shape[0] - size, size // 2):
            for c in range(0, a.shape[1] - size, size // 2):
                p = a[r : r + size, c : c + size]
                if 10 < p.mean() < 90 and p.min() > -80 and p.max() < 190:
                    q = d[r : r + size, c : c + size]
                    best.append((float(q.std()), q - q.mean()))
    best.sort(key=lambda t: t[0])
    best = best[: max(8, min(patches, len(best) // 2))]
    window = np.outer(np.hanning(size), np.hanning(size))
    power = np.mean([np.abs(np.fft.fft2(q * window)) ** 2 for _, q in best], 0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(size, v.pixel), np.fft.fftfreq(size, v.pixel)))
    edges = np.linspace(0, 0.5 / v.pixel, size // 2)
    which = np.digitize(f, edges)
    mids = 0.5 * (edges[1:] + edges[:-1])
    radial = np.array([power[which == k].mean() if (which == k).any() else 0 for k in range(1, len(edges))])
    return mids, radial / (radial.sum() * (mids[1] - mids[0])), float(np.mean([s for s, _ in best]))


def shares(v: Volume) -> dict[str, float]:
    """Share of the patient's volume in each tissue's HU range."""
    hu = v.hu[body_mask(v)]
    return {k: float(((hu >= a) & (hu < b)).mean()) for k, (a, b) in TISSUES.items()}


def figure(ct: Path, out: Path) -> None:
    """Both pictures and the printed numbers."""
    small = read_nifti(ct / "totalseg_example_ct_t11_to_femur_3mm.nii.gz", "TotalSegmentator example, M 55")
    labels = read_nifti(ct / "totalseg_example_ct_vertebrae_labels.nii.gz", "labels")
    body = read_nifti(ct / "totalseg_example_ct_vertebral_body_label.nii.gz", "bodies")
    acrin = read_dicom_zip(ct / "acrin_flt_breast_001_lower_thorax_to_pelvis_dicom.zip", "ACRIN-FLT-Breast, F 49")
    thick, fine = drawn(4, 21, 5.0), drawn(3, 22, 3.0)
    fig, ax = plt.subplots(1, 4, figsize=(19, 4.3))
    real = bodies_real(small, labels, body)
    ours = [bodies_of(s, v) for s, v in fine]
    for b in ours:
        ax[0].plot([m for m, _ in b.values()], [sd for _, sd in b.values()], ".", color="tab:blue", alpha=0.6)
    ax[0].plot([m for m, _ in real.values()], [sd for _, sd in real.values()], "x", color="tab:red")
    ax[0].set(xlabel="mean HU in a vertebral body", ylabel="SD within it, HU", title="vertebral bodies, 3 mm voxels")
    print("real bodies  ", {k: (round(m), round(s)) for k, (m, s) in real.items()})
    sds = [sd for b in ours for _, sd in b.values()]
    print(f"synthetic bodies   SD {np.mean(sds):.0f} (range {min(sds):.0f}-{max(sds):.0f}) over {len(sds)} bodies")
    f, p, sd = noise_spectrum(acrin)
    ax[1].plot(f, p, color="tab:red", label=f"real (SD {sd:.0f} HU)")
    print(f"real noise    SD {sd:.1f} HU, spectrum peak {f[p.argmax()]:.2f}/mm, mean {(f * p).sum() / p.sum():.2f}/mm")
    for k, (s, v) in enumerate(thick[:4]):
        f, p, sd = noise_spectrum(v)
        ax[1].plot(f, p, color="tab:blue", alpha=0.6, label="synthetic" if k == 0 else None)
        mean = (f * p).sum() / p.sum()
        print(f"synthetic noise SD {sd:.1f} HU, peak {f[p.argmax()]:.2f}/mm, mean {mean:.2f}/mm, {s.scan.kernel.name}")
    ax[1].set(xlabel="1/mm", ylabel="noise power, area 1", title="noise spectrum", xlim=(0, 0.7))
    bins = np.arange(-1050, 800, 10)
    for v, colour in ((acrin, "tab:red"), *((v, "tab:blue") for _, v in thick[:5])):
        hu = v.hu[body_mask(v)]
        h, _ = np.histogram(hu, bins, density=True)
        ax[2].semilogy(bins[:-1], h + 1e-7, color=colour, alpha=0.7 if colour == "tab:blue" else 1, lw=1)
    ax[2].set(xlabel="HU", title="histogram inside the body", ylim=(1e-6, 0.1))
    rows = [
        ("real F 49", shares(acrin)),
        ("real M 55", shares(small)),
        *((f"synthetic {i}", shares(v)) for i, (_, v) in enumerate(thick[:5])),
    ]
    for name, r in rows:
        print(f"{name:<12}", {k: round(x, 3) for k, x in r.items()})
    width = 0.8 / len(rows)
    for i, (name, r) in enumerate(rows):
        ax[3].bar(
            np.arange(4) + i * width,
            list(r.values()),
            width,
            color="tab:red" if "real" in name else "tab:blue",
            alpha=1 - 0.1 * i,
        )
    ax[3].set_xticks(np.arange(4) + 0.35, list(TISSUES))
    ax[3].set(title="share of the body's volume")
    ax[1].legend()
    fig.suptitle("real (red) and synthetic (blue)")
    fig.tight_layout()
    out.mkdir(parents=True, exist_ok=True)
    fig.savefig(out / "realism.png", dpi=70)
    plt.close(fig)
    _slices(acrin, thick, out)


def _slices(real: Volume, ours: list[tuple[fast.SyntheticStack, Volume]], out: Path) -> None:
    """Upper row real, lower row synthetic: four axial levels and a sagittal cut through the spine."""
    stack, v = ours[2]
    level, mid = fast.slice_truth(stack.anatomy, stack.scan).level, fast.slice_truth(stack.anatomy, stack.scan).mid
    pick: list[int] = [
        max(np.flatnonzero(level == k).tolist(), key=lambda i: float(mid[i])) for k in ("L4", "L2", "T12", "T10")
    ]
    fig, ax = plt.subplots(2, 5, figsize=(15, 6))
    chosen: list[int] = [int(f * len(real.hu)) for f in (0.42, 0.60, 0.80, 0.95)]
    for row, vol, index in ((0, real, chosen), (1, v, pick)):
        for k, i in enumerate(index):
            ax[row, k].imshow(vol.hu[i][::2, ::2], cmap="gray", vmin=-200, vmax=350)
        bone = vol.hu[:, vol.hu.shape[1] // 3 :, :] > 250
        centre = int(np.median(np.argwhere(bone[:, :, vol.hu.shape[2] // 2 - 40 : vol.hu.shape[2] // 2 + 40])[:, 2]))
        cut = vol.hu[::-1, :, vol.hu.shape[2] // 2 - 40 + centre]
        ax[row, 4].imshow(cut, cmap="gray", vmin=-200, vmax=350, aspect=vol.spacing / vol.pixel)
    for a in ax.ravel():
        a.axis("off")
    ax[0, 0].set_title(f"real: {real.name}", fontsize=9, loc="left")
    ax[1, 0].set_title("synthetic", fontsize=9, loc="left")
    fig.tight_layout(pad=0.3)
    fig.savefig(out / "synthetic_beside_real.png", dpi=60)
    plt.close(fig)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path, help="folder with the real CT files")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    args = parser.parse_args()
    figure(args.ct, args.out)
