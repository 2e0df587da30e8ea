"""Are decoded slices what their header says? Peaks of air, fat and muscle, and where the spine lies. Pure.

    peaks = tissue_peaks([(hu, (0.8, 0.8), crop, 2.0), ...])      # slices that were decoded anyway
    q_hu(peaks, kvp=120.0, cfg=QualityChecks())                   # fails with the values: the study abstains

A header's intercept that is off by 24 HU, a wrong slope, a window that was burned in, or a tube voltage that is not the
stated one leave every geometric check in peace and move the risk. Peaks of histograms, unlike means, hold for the obese
and the thin, with and without contrast agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from osteo_ray.catalogue import masks
from osteo_ray.catalogue.checks import QualityCheck, judged
from osteo_ray.catalogue.config import HuLimits, QualityChecks

GRID_MM = 2.5  # slices are averaged to about this pitch: less noise, less work
BODY_HU = -300
SKIN_MM, FAT_MM = 4.0, 40.0  # subcutaneous fat is looked for this deep under the skin
OUTSIDE_MM = 8.0  # air is looked for this far from the body
BONE_HU, MIDLINE_MM = 180.0, 60.0
FEWEST = 150  # averaged pixels that make a peak
FEWEST_BONE = 60  # of bone in one slice: a part of a vertebra
LEAST_BEHIND = 0.05  # of a single slice; bowel full of agent may lie before the spine, but hardly this much
FEWEST_FAT = 800  # of fat: in the thin, a narrow rim is mostly edge, and reads too bright
WITHOUT_FAT_HU = 60.0  # muscle with fat in it above foam came to 38 HU, which looks like another scale
PROMINENT = 1.8  # a peak's height against the mean of its range
SMOOTH_HU = 4.0
# of fat wide, so that fat that was moved far is found and judged, and not taken for missing
_FAT_RANGE, _MUSCLE_RANGE, _AIR_RANGE = (-280, -20), (-60, 140), (-1120, -850)
_CUT_SHARE = 0.005  # of pixels at the lowest value
_CUT_ABOVE = -900.0  # a lowest value above this leaves out air
_NO_AIR = -500.0  # a lowest value above this is no air at all: stored values that were not rescaled
_BRIGHT_SHARE = 0.002  # of body pixels at the highest value
_BRIGHT_BELOW = 600.0  # a highest value below this leaves out bone


@dataclass(frozen=True)
class TissuePeaks:
    """HU of the commonest values; None where too little of a tissue is seen."""

    fat: float | None
    muscle: float | None
    air: float | None
    cut_low: float | None = None  # the value at which pixels end, where air should be
    cut_high: float | None = None  # the same where bone should be
    bone_behind: float | None = None  # share of the midline's bone that lies in the back half of the body
    least_behind: float | None = None  # the same of the slice with the least
    each: tuple[tuple[float | None, ...], ...] = ()  # (fat, muscle, air) of each slice alone

    def text(self) -> str:
        parts = [
            f"{name} {value:.0f}"
            for name, value in (
                ("fat", self.fat),
                ("muscle", self.muscle),
                ("air", self.air),
                ("nothing below", self.cut_low),
                ("nothing above", self.cut_high),
            )
            if value is not None
        ]
        return ", ".join(parts) or "no tissue seen"


def tissue_peaks(slices: Iterable[tuple[np.ndarray, tuple[float, float], np.ndarray, float]]) -> TissuePeaks:
    """Peaks over some slices of one series.

    Args:
        slices: of each the HU [rows, cols] (axial view), its pixel pitch (row, col) in mm, the spine crop [size, size]
            hung from the skin of the back, and the crop's pitch in mm.
    """
    fat, air, muscle = [], [], []
    bone = np.zeros(2, int)  # pixels of bone in the front and the back half
    behind: list[float] = []  # their share behind, of each slice
    low: list[float] = []
    high: list[float] = []
    n = 0
    for hu, spacing, crop, crop_mm in slices:
        n += 1
        f, a, b = _regions(hu, spacing)
        bone += b
        if b.sum() >= FEWEST_BONE:
            behind.append(float(b[1] / b.sum()))
        fat.append(f)
        air.append(a)
        muscle.append(_near_spine(crop, crop_mm))
        lowest, highest = float(hu.min()), float(hu.max())
        ends = lowest > _CUT_ABOVE and np.count_nonzero(hu == lowest) > _CUT_SHARE * hu.size
        if ends or lowest > _NO_AIR:
            low.append(lowest)
        body = np.count_nonzero(hu > BODY_HU)
        if body and highest < _BRIGHT_BELOW and np.count_nonzero(hu == highest) > _BRIGHT_SHARE * body:
            high.append(highest)
    if not n:
        return TissuePeaks(None, None, None)
    most = (n + 1) // 2
    return TissuePeaks(
        fat=_peak(fat, _FAT_RANGE, FEWEST_FAT),
        muscle=_peak(muscle, _MUSCLE_RANGE),
        air=_peak(air, _AIR_RANGE),
        cut_low=float(np.median(low)) if len(low) >= most else None,
        cut_high=float(np.median(high)) if len(high) >= most else None,
        bone_behind=float(bone[1] / bone.sum()) if bone.sum() >= FEWEST else None,
        least_behind=min(behind, default=None),
        each=tuple(
            (_peak([f], _FAT_RANGE), _peak([m], _MUSCLE_RANGE), _peak([a], _AIR_RANGE))
            for f, m, a in zip(fat, muscle, air, strict=True)
        ),
    )


def _regions(hu: np.ndarray, spacing: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Averaged pixels of fat under the skin, and of the air around the body; counts of bone in front and behind."""
    k = [max(1, round(GRID_MM / s)) for s in spacing]
    r, c = (n // s * s for n, s in zip(hu.shape, k, strict=True))
    small = np.zeros((r // k[0], c), np.float32)
    for i in range(k[0]):
        small += hu[i : r : k[0], :c]
    small = np.sum([small[:, j :: k[1]] for j in range(k[1])], axis=0) / (k[0] * k[1])
    pitch = (spacing[0] * k[0], spacing[1] * k[1])
    piece = masks.largest_piece(masks.opened(small > BODY_HU, (2, 2)))
    if piece is None:
        return np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(2, int)
    body = masks.filled(piece)
    # the picture's edge is no skin: where the field of view cuts the body nothing is subcutaneous
    deep, skin = masks.within(~body, pitch, FAT_MM, SKIN_MM)
    fatty = (small > BODY_HU) & (small < 0) & body & deep & ~skin
    inside = masks.shrunk(fatty, (1, 1))  # leaves out the edges, where fat is mixed
    (beside,) = masks.within(body, pitch, OUTSIDE_MM)
    around = small[~beside]
    # -1024 and less is padding, or where stored values end: it says nothing of the scanner's air
    return small[inside], around[(around > -1023.5) | (around < -1025)], _bone(small, body, pitch)


def _bone(small: np.ndarray, body: np.ndarray, pitch: tuple[float, float]) -> np.ndarray:
    """[2] pixels of bone near the body's midline, in its front and its back half."""
    columns, rows = np.flatnonzero(body.any(axis=0)), np.flatnonzero(body.any(axis=1))
    centre = (columns[0] + columns[-1]) / 2
    near = np.abs(np.arange(body.shape[1]) - centre) * pitch[1] <= MIDLINE_MM
    middle = (rows[0] + rows[-1] + 1) // 2
    bone = body & (small > BONE_HU) & near
    return np.array([np.count_nonzero(bone[:middle]), np.count_nonzero(bone[middle:])])


def _near_spine(crop: np.ndarray, crop_mm: float) -> np.ndarray:
    """Pixels of the muscles beside and behind the spine."""
    rows = max(1, min(crop.shape[0], round(90.0 / crop_mm)))
    side = max(0, crop.shape[1] // 2 - round(70.0 / crop_mm))
    return crop[-rows:, side : crop.shape[1] - side].ravel()


_KERNEL = np.exp(-0.5 * (np.arange(-12, 13) / SMOOTH_HU) ** 2)
_KERNEL /= _KERNEL.sum()


def _peak(values: Sequence[np.ndarray], within: tuple[int, int], fewest: int = FEWEST) -> float | None:
    """The commonest value in a range, of a smoothed histogram in steps of 1 HU; None without a clear peak."""
    low, high = within
    x = np.concatenate(values) if values else np.zeros(0)
    x = x[(x >= low) & (x < high)]
    if x.size < fewest:
        return None
    counts = np.bincount((x - low).astype(int), minlength=high - low).astype(float)
    smooth = np.convolve(counts, _KERNEL, "same")
    at = int(smooth.argmax())
    if smooth[at] < PROMINENT * smooth.mean():
        return None
    return float(low + at) + 0.5


def q_hu(peaks: TissuePeaks, kvp: float | None, cfg: QualityChecks) -> QualityCheck:
    """Tissues whose HU are not those of CT at the stated tube voltage; fires with every value that was measured."""
    h = cfg.hu
    apart = slices_apart(peaks, h)
    low = h.fat_low_below_110_kvp if kvp is not None and kvp < 110 else h.fat_low
    fired = bool(
        peaks.cut_low is not None
        or peaks.cut_high is not None
        or (peaks.fat is not None and not low <= peaks.fat <= h.fat_high)
        or (peaks.muscle is not None and not h.muscle_low <= peaks.muscle <= h.muscle_high)
        # above it: what is taken for the air around a body may be lung, foam or cloth
        or (peaks.air is not None and peaks.air < cfg.air_hu - h.air_tolerance)
        or _shifted(peaks, h, cfg.air_hu)
        or apart > h.slice_shift
    )
    threshold = (
        f"fat {low:g} to {h.fat_high:g}, muscle {h.muscle_low:g} to {h.muscle_high:g}, "
        f"air from {cfg.air_hu - h.air_tolerance:g} HU, no common shift over {h.shift:g}, "
        f"slices within {h.slice_shift:g} of each other"
    )
    value = peaks.text() + (f", slices {apart:.0f} apart" if apart > h.slice_shift else "")
    return judged("Q_HU", fired, cfg.hu_action, value, threshold, cfg)


def slices_apart(peaks: TissuePeaks, h: HuLimits) -> float:
    """HU by which all tissues of one slice lie together above those of another, at most; 0 where none do.

    Slices that were rescaled in different ways, or are of two scans, are each plausible, and so may their common peaks
    be. Muscle differs along the spine, and air may be foam: without fat in both slices (it is narrow, or was moved out
    of its range), the two count only where they lie further apart than either makes them.
    """
    most = 0.0
    for one, other in permutations(peaks.each, 2):
        steps = [a - b for a, b in zip(one, other, strict=True) if a is not None and b is not None]
        if len(steps) > 1 and max(steps) - min(steps) <= h.shift_agreement:
            apart = sum(steps) / len(steps)
            fat_seen = one[0] is not None and other[0] is not None
            if fat_seen or apart > WITHOUT_FAT_HU:
                most = max(most, apart)
    return most


def _shifted(peaks: TissuePeaks, h: HuLimits, air_hu: float) -> bool:
    """Whether fat and air lie off by the same amount, as a wrong intercept moves them."""
    if peaks.fat is None or peaks.air is None:
        return False
    fat, air = peaks.fat - h.fat_typical, peaks.air - air_hu
    return abs(fat - air) <= h.shift_agreement and abs(fat + air) / 2 > h.shift


def q_orientation(peaks: TissuePeaks, cfg: QualityChecks) -> QualityCheck:
    """The spine lies in the back half of the body; elsewhere, the header's orientation is not that of the pixels.

    So of all slices together, and of each alone: some may be turned.
    """
    b, one = peaks.bone_behind, peaks.least_behind
    fired = b is not None and b < cfg.bone_behind_min
    if not fired and one is not None and one < LEAST_BEHIND:
        b, fired = one, True
    value = None if b is None else f"{b:.2f}"
    return judged("Q_ORIENTATION", fired, "fail", value, f">= {cfg.bone_behind_min:g} of midline bone behind", cfg)
