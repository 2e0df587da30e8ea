"""Step 3: the scanner. A protocol, its noise, and one slice in HU at a time.

    scan = draw_scan(person, anatomy, cfg, repeat=0)
    hu = slice_hu(anatomy, scan, index=12)        # int16 [rows, cols]

A slice is a pure function of (person, scan, index): any slice, or any rectangle of one, can be made alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from osteo_ray.model.tissue_scale import HU_PER_VBMD
from osteo_ray.synthetic import contrast, couch, spine
from osteo_ray.synthetic.anatomy import Anatomy
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.contrast import Enhancement
from osteo_ray.synthetic.couch import Couch
from osteo_ray.synthetic.frame import DOWN, RAISED
from osteo_ray.synthetic.metal import streaks
from osteo_ray.synthetic.population import Person
from osteo_ray.synthetic.shapes import Ellipsoid, F, Grid, ellipsoid, paint, ramp
from osteo_ray.synthetic.tables import PROTOCOLS
from osteo_ray.synthetic.torso import torso

# Bone contrast against 120 kVp (hydroxyapatite HU per mg/cm3 relative to 1.31).
KVP_FACTOR = {80: 1.44, 100: 1.17, 120: 1.0, 140: 0.89}
# Slope of dipotassium phosphate against hydroxyapatite: 0.86 at 80 kVp and 0.81 at 140 kVp (Goodsitt 1992).
K2HPO4_RATIO = {80: 0.86, 100: 0.843, 120: 0.827, 140: 0.81}
THICKEST = 5.0  # mm; to keep within slice_max, slices are spaced no wider than this
ROD_MG_CM3 = (0.0, 50.0, 100.0, 150.0, 200.0)
ROD_RADIUS = 9.0
HU_MIN, HU_MAX = -1024, 3071
PLAIN_COUCH = Couch()
NOISE_SIZE = 640  # pixels; larger than any slice
NOISE_BANK = 2


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel: tags, edge width in mm, peak of its noise spectrum (1/mm), noise against soft."""

    name: str
    vendor: str
    model: str
    edge: float
    peak: float
    noise: float
    sharp: bool = False


KERNELS = (
    Kernel("STANDARD", "GE MEDICAL SYSTEMS", "Revolution CT", 1.5, 0.22, 1.0),
    Kernel("Br40d", "SIEMENS", "SOMATOM Force", 1.6, 0.20, 0.95),
    Kernel("B", "Philips", "iCT 256", 1.7, 0.19, 0.95),
    Kernel("FC08", "TOSHIBA", "Aquilion ONE", 1.6, 0.21, 1.05),
    Kernel("B_SOFT_B", "UIH", "uCT 760", 1.7, 0.19, 1.0),
)
SHARP = {
    "GE MEDICAL SYSTEMS": Kernel("BONE", "GE MEDICAL SYSTEMS", "Revolution CT", 0.8, 0.60, 2.6, True),
    "SIEMENS": Kernel("Bl64d", "SIEMENS", "SOMATOM Force", 0.8, 0.58, 2.4, True),
    "Philips": Kernel("YC", "Philips", "iCT 256", 0.8, 0.58, 2.5, True),
    "TOSHIBA": Kernel("FC56", "TOSHIBA", "Aquilion ONE", 0.8, 0.60, 2.6, True),
    "UIH": Kernel("B_VSHARP_C", "UIH", "uCT 760", 0.8, 0.58, 2.4, True),
}


@dataclass(frozen=True)
class Scan:
    """One reconstructed series of one examination. Lengths in mm."""

    seed: int
    kind: str  # primary | thick | sharp | repeat
    kvp: int
    ma: int
    kernel: Kernel
    size: int  # rows = cols
    pixel: float
    x0: float  # centre of pixel (0, 0)
    y0: float
    z: tuple[float, ...]  # ascending; centres of the slices at the isocentre line y = 0
    thickness: float
    spacing: float
    tilt: float  # deg
    enhancement: Enhancement
    bone_gain: float  # 1 + this scan's calibration error of bone
    sigma: float  # noise SD at the body's centre, HU
    transfer: str
    protocol: str  # a key of tables.PROTOCOLS
    pose: tuple[str, str] = (RAISED, RAISED)  # right and left arm
    couch: Couch = PLAIN_COUCH
    round_field: bool = False  # nothing is reconstructed outside the circle in the square
    phantom: bool = False  # K2HPO4 rods in the table's pad

    @property
    def factor(self) -> float:
        """What bone HU is multiplied by against 120 kVp and no error."""
        return KVP_FACTOR[self.kvp] * self.bone_gain

    @property
    def contrast(self) -> bool:
        """Whether contrast was injected."""
        return self.enhancement.intravenous


def _pick(rng: np.random.Generator, shares: dict[Any, float]) -> Any:
    keys = list(shares)
    p = np.array([shares[k] for k in keys], float)
    return keys[rng.choice(len(keys), p=p / p.sum())]


def draw_scan(p: Person, a: Anatomy, cfg: CohortConfig, repeat: int = 0) -> Scan:
    """The main series of a person's examination number `repeat`."""
    rng = np.random.default_rng([p.seed, 20, repeat])
    c = cfg.scan
    kernel = KERNELS[int(rng.integers(len(KERNELS)))]
    if np.random.default_rng([p.seed, 22, repeat]).random() < c.sharp_share:
        kernel = SHARP[kernel.vendor]
    size = 512 if rng.random() < c.size_512_share else 256
    if np.random.default_rng([p.seed, 23, repeat]).random() < c.size_128_share:
        size = 128
    kvp = _pick(rng, c.kvp)
    protocol = str(_pick(rng, c.protocols))
    ends = PROTOCOLS[protocol]
    thickness = float(_pick(rng, c.thickness))
    # A fifth lumbar vertebra that has grown into the sacrum is not among the free ones: there the sacrum begins.
    at = {"sacrum": a.sacrum_top, "L5": a.sacrum_top, **{v.level: v.z for v in a.vertebrae}}
    top = at[str(rng.choice(ends.top))] + rng.uniform(*ends.top_mm)
    bottom = at[ends.bottom] + rng.uniform(*ends.bottom_mm)
    n = int(np.ceil((top - bottom) / thickness)) + 1
    spacing = thickness
    if n > c.slice_max:
        spacing = min(float(np.ceil((top - bottom) / (c.slice_max - 1) * 4) / 4), max(thickness, THICKEST))
        thickness = spacing
    elif n < c.slice_min:
        spacing = float(np.floor((top - bottom) / (c.slice_min - 1) * 4) / 4)
    n = min(int((top - bottom) / spacing) + 1, c.slice_max)  # a scan that is still too long ends lower
    start = bottom + rng.uniform(0, spacing)
    z = tuple(float(round(start + i * spacing, 3)) for i in range(n))
    down = rng.random(2) < c.arms_down_share
    if rng.random() < 0.7:
        down[1] = down[0]  # mostly both arms lie alike
    pose = (DOWN if down[0] else RAISED, DOWN if down[1] else RAISED)
    tight = float(np.clip(2 * a.half_width * 1.06 + rng.uniform(5, 45), 300, 500))
    # The whole bore, as PET/CT and trauma scans are stored, and most scans of people with arms at their side.
    fov = 500.0 if rng.random() < (0.7 if down.any() else 0.2) else tight
    pixel = round(fov / size, 6)
    cx, cy = rng.normal(0, 5), rng.normal(0, 6)
    half = 0.5 * (size - 1) * pixel
    upper = ends.bottom != "sacrum"
    enh = contrast.draw(rng, rng.random() < c.contrast_share, rng.random() < c.oral_share and not upper, upper)
    wide = 2 * a.half_width
    dose = float(np.exp(rng.normal(0, 0.2)))
    sigma = (
        12.5
        * kernel.noise
        * dose
        * np.sqrt(3.0 / max(thickness, 0.6))
        * np.exp((wide - 320) / 380)
        * (1.2 if kvp < 110 else 1.0)
        * (1.2 if down.any() else 1.0)
    )
    tilt = float(rng.choice([-1, 1]) * rng.uniform(3, 12)) if rng.random() < c.tilt_share else 0.0
    return Scan(
        seed=int(rng.integers(2**31 - 1)),
        kind="repeat" if repeat else "primary",
        kvp=kvp,
        ma=int(rng.integers(90, 420)),
        kernel=kernel,
        size=size,
        pixel=pixel,
        x0=round(cx - half, 3),
        y0=round(cy - half, 3),
        z=z,
        thickness=thickness,
        spacing=spacing,
        tilt=round(tilt, 1),
        enhancement=enh,
        bone_gain=float(max(0.7, 1 + c.repeat_cv * rng.standard_normal())),
        sigma=float(np.clip(sigma, 4, 60)),
        transfer=str(cfg.transfer_syntaxes[int(rng.integers(len(cfg.transfer_syntaxes)))]),
        protocol=protocol,
        pose=pose,
        couch=couch.draw(rng, c.blanket_share),
        round_field=bool(rng.random() < 0.4),
        phantom=bool(np.random.default_rng([p.seed, 21, repeat]).random() < c.phantom_share),
    )


def grid_of(scan: Scan, z: float, rows: slice = slice(None), cols: slice = slice(None)) -> Grid:
    """Pixel centres of a rectangle of the slice whose centre line lies at z."""
    i = np.arange(scan.size, dtype=np.float64)
    x = scan.x0 + scan.pixel * i[cols]
    along = scan.y0 + scan.pixel * i[rows]  # down the image; the gantry's tilt turns it about y = 0
    t = np.deg2rad(scan.tilt)
    y, zz = along * np.cos(t), z + along * np.sin(t)
    return Grid(
        x.astype(F)[None],
        y.astype(F)[:, None],
        zz.astype(F)[:, None],
        z,
        max(scan.kernel.edge, scan.pixel),
        scan.thickness,
    )


def clean_hu(a: Anatomy, scan: Scan, z: float, rows: slice = slice(None), cols: slice = slice(None)) -> np.ndarray:
    """HU float32 of a rectangle of one slice, without noise."""
    g = grid_of(scan, z, rows, cols)
    img, skin = torso(g, a, scan.enhancement, scan.pose)
    _paint_spine(img, g, a, scan)
    cup = hardening(a)[1]
    if cup > 0:
        depth = np.maximum(F(1) - _radius2(g, a), F(0))
        img -= F(cup) * depth * (img > -500)
    couch.paint(img, g, a.frame, scan.couch, skin)
    if scan.phantom:
        for rod in rods(a, scan, z):
            ellipsoid(img, g, rod)
    if any(abs(z - m.z) < m.rz for m in a.metal):
        streaks(img, g, a.metal, scan.seed)
    return img


def hardening(a: Anatomy) -> tuple[float, float]:
    """What a wide body does to the beam: (factor on bone HU, HU that its centre is too low), after correction by the
    scanner. Both follow from the girth that the image shows, so a reader can allow for them."""
    wide = 2 * a.half_width - 320
    return float(np.clip(1 - 0.0005 * wide, 0.88, 1.03)), float(np.clip(2 + 0.03 * wide, 0, 10))


def _radius2(g: Grid, a: Anatomy) -> np.ndarray:
    """Squared radius [R, C], 1 about a quarter outside the body's surface."""
    return (g.x * F(1 / (a.half_width * 1.25))) ** 2 + (g.y * F(1 / (a.half_depth * 1.25))) ** 2


def starvation(a: Anatomy, scan: Scan, z: float) -> float:
    """How much the widest rays lack photons at z: 0 through an ordinary trunk, about 1 through the shoulders."""
    f = a.frame
    arms = sum(p == DOWN for p in scan.pose) if f.sacrum_top - 190 < z < f.t1 - 40 else 0
    return float(np.clip((f.outline(z).w + 12 * arms - 172) / 40, 0, 1.4))


def rods(a: Anatomy, scan: Scan, z: float) -> list[Ellipsoid]:
    """The calibration phantom's K2HPO4 rods where slice z cuts them, in order of concentration (ROD_MG_CM3)."""
    back = a.frame.back + 4
    per_mg = HU_PER_VBMD * KVP_FACTOR[scan.kvp] * K2HPO4_RATIO[scan.kvp]
    return [
        Ellipsoid(x, back - (x / 240) ** 2 * 22 + 28, z, ROD_RADIUS, ROD_RADIUS, 9, per_mg * mg)
        for x, mg in zip((-60.0, -30.0, 0.0, 30.0, 60.0), ROD_MG_CM3, strict=True)
    ]


def _paint_spine(img: np.ndarray, g: Grid, a: Anatomy, scan: Scan) -> None:
    lo, hi = float(g.z.min()), float(g.z.max())
    near = [v for v in a.vertebrae if v.z + v.reach > lo and v.z - v.reach < hi]
    if not near:
        return
    x, y = float(a.frame.spine_x(g.z_mid)), float(a.frame.spine_y(g.z_mid))
    w = g.window(x - 52, x + 52, y - 32, y + 75)
    if w is None:
        return
    g = g.sub(*w)
    part = img[w]
    # The thecal sac in its fat, under everything else.
    canal = ramp(F(9.5) - np.sqrt((g.x - F(near[0].x)) ** 2 + ((g.y - F(y + 25)) * F(1.15)) ** 2), g.edge)
    paint(part, canal, F(22))
    # Partial volume: the slice profile is sampled and averaged; a thin slice needs one sample, a thick one three.
    n = 1 if scan.thickness < 1.5 else 2 if scan.thickness < 3.5 else 3
    offsets = (np.arange(n) - 0.5 * (n - 1)) / n * scan.thickness
    factor, add = scan.factor * hardening(a)[0], scan.enhancement.bone
    total = np.zeros_like(part)
    for dz in offsets:
        gz = Grid(g.x, g.y, g.z + F(dz), g.z_mid + dz, g.edge, g.thickness) if dz else g
        sample = part.copy()
        zlo, zhi = float(gz.z.min()), float(gz.z.max())
        for v in near:
            if zlo - v.lean < v.z - 0.5 * v.height < zhi + v.lean + v.disc + 2:
                _blend(sample, spine.disc(v, gz))
        for v in near:
            in_front = float(gz.y[-1, 0]) < v.y - 2
            if not in_front and zlo < v.z + 0.5 * v.height + 14 and zhi > v.z - 0.5 * v.height - 24:
                _blend(sample, spine.posterior(v, gz, factor))
        for v in near:
            if zlo - v.lean < v.z + 0.5 * v.height and zhi + v.lean > v.z - 0.5 * v.height:
                _blend(sample, spine.body(v, gz, factor), add)
        total += sample
    total *= F(1 / n)
    img[w] = total


def _blend(img: np.ndarray, section: spine.Section | None, add: float = 0.0) -> None:
    if section is not None:
        box, cover, hu = section
        paint(img[box], cover, hu + F(add))


@lru_cache(maxsize=24)
def _noise(kernel: str, peak: float, pixel: float, along: bool = False) -> np.ndarray:
    """Noise [bank, N, N] float32 of unit SD with the kernel's spectrum: a ramp that the kernel rolls off.

    `along` keeps what varies little from left to right: the streaks of rays that few photons came through.

    The ramp starts above zero, as it does in real series (benchmarks/realism.py).
    """
    rng = np.random.default_rng([int.from_bytes(kernel.encode()[:8], "little"), int(pixel * 1000)])
    f = np.fft.fftfreq(NOISE_SIZE, pixel)
    fr = np.hypot(f[:, None], np.fft.rfftfreq(NOISE_SIZE, pixel)[None])
    gain = np.sqrt((fr + 0.04) * np.exp(-((fr / (peak * 1.41)) ** 2)))
    if along:
        gain = gain * np.exp(-((np.fft.rfftfreq(NOISE_SIZE, pixel)[None] / 0.012) ** 2))
    white = rng.standard_normal((NOISE_BANK, NOISE_SIZE, NOISE_SIZE)).astype(F)
    out = np.fft.irfft2(np.fft.rfft2(white) * gain, s=(NOISE_SIZE, NOISE_SIZE))
    return (out / out.std(axis=(1, 2), keepdims=True)).astype(F)


def noise_field(scan: Scan, index: int, along: bool = False) -> np.ndarray:
    """Unit noise [size, size] of one slice: a piece of the kernel's bank at a place set by the slice.

    One bank serves pixel sizes within 0.2 mm, so that a worker keeps few of them (3 MB each).
    """
    bank = _noise(scan.kernel.name, scan.kernel.peak, round(5 * scan.pixel) / 5, along)
    rng = np.random.default_rng([scan.seed, 78 if along else 77, index])
    r, c = (int(v) for v in rng.integers(0, NOISE_SIZE - scan.size + 1, 2))
    return bank[int(rng.integers(NOISE_BANK)), r : r + scan.size, c : c + scan.size]


def slice_hu(a: Anatomy, scan: Scan, index: int, rows: slice = slice(None), cols: slice = slice(None)) -> np.ndarray:
    """HU int16 of slice `index` (0 is the lowest), or of a rectangle of it: what the DICOM file decodes to."""
    img = clean_hu(a, scan, scan.z[index], rows, cols)
    g = grid_of(scan, scan.z[index], rows, cols)
    # Noise is highest in the middle of the body and low in air.
    sigma = F(scan.sigma) * np.maximum(F(1) - F(0.45) * _radius2(g, a), F(0.4))
    img += sigma * noise_field(scan, index)[rows, cols]
    starved = starvation(a, scan, scan.z[index])
    if starved > 0:
        img += (F(0.8 * starved) * sigma) * noise_field(scan, index, along=True)[rows, cols]
    if scan.round_field:
        c = F(0.5 * scan.size * scan.pixel)
        x, y = g.x - F(scan.x0) - c, g.y - F(scan.y0) - c
        img[x * x + y * y > c * c] = HU_MIN
    np.rint(img, out=img)
    np.clip(img, HU_MIN, HU_MAX, out=img)
    return img.astype(np.int16)
