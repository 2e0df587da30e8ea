"""Tissue peaks of drawn bodies: what is sound passes, what a header or an export disturbs fires."""

from __future__ import annotations

import numpy as np
import pytest

from osteo_ray.catalogue.config import QualityChecks
from osteo_ray.catalogue.tissue import TissuePeaks, q_hu, q_orientation, slices_apart, tissue_peaks

CFG = QualityChecks()


def body(fat_mm: float = 20.0, muscle: float = 50.0, n: int = 256, pitch: float = 1.5, seed: int = 0) -> np.ndarray:
    """An oval body in air, HU [n, n]: skin fat, muscle, a spine behind."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:n, :n] - n / 2 + 0.5) * pitch

    def oval(a: float, b: float) -> np.ndarray:
        return (x / a) ** 2 + (y / b) ** 2 < 1

    hu = np.full((n, n), -1000.0)
    hu[oval(160, 110)] = -102
    hu[oval(160 - fat_mm, 110 - fat_mm)] = muscle
    hu[x**2 + (y - 45) ** 2 < 20**2] = 230
    return (hu + rng.normal(0, 12, hu.shape)).astype(np.float32)


def measured(of=lambda h: h, **kw) -> TissuePeaks:
    slices = [of(body(seed=s, **kw)) for s in range(3)]
    return tissue_peaks((h, (1.5, 1.5), h[64:192:1, 64:192], 1.5) for h in slices)


@pytest.mark.parametrize("kw", [{}, {"fat_mm": 60.0}, {"fat_mm": 14.0}, {"muscle": 70.0}, {"muscle": 25.0}], ids=str)
def test_sound_bodies_pass(kw):
    p = measured(**kw)
    assert q_hu(p, 120.0, CFG).verdict == "pass", p.text()
    assert p.fat == pytest.approx(-102, abs=3)
    assert p.air == pytest.approx(-1000, abs=3)
    assert q_orientation(p, CFG).verdict == "pass"


@pytest.mark.parametrize(
    "of",
    [
        lambda h: h + 24,
        lambda h: h - 24,
        lambda h: np.maximum(h - 24, -1024),
        lambda h: (h + 1024) * 1.08 - 1024,
        lambda h: h * 1.08,
        lambda h: np.clip(h * 2, -1024, 3000),
        lambda h: np.where(h < -60, h - 20, h * 1.4),
        lambda h: np.round(np.clip(h, -160, 240)),
        lambda h: h + 1024,
    ],
    ids=["+24", "-24", "-24 cut", "slope", "gain", "doubled, cut", "80 kVp", "8 bit", "not rescaled"],
)
def test_disturbed_hu_fail_with_their_values(of):
    check = q_hu(measured(of), 120.0, CFG)
    assert check.verdict == "fail"
    assert "fat" in check.value or "nothing below" in check.value


@pytest.mark.parametrize("by", [30, 100, -30])
def test_slices_that_were_rescaled_in_different_ways_fail(by):
    hu = [body(seed=s) + (by if s % 2 else 0) for s in range(5)]
    check = q_hu(tissue_peaks((h, (1.5, 1.5), h[64:192, 64:192], 1.5) for h in hu), 120.0, CFG)
    assert check.verdict == "fail"
    assert "apart" in check.value


def test_a_slice_with_other_muscle_or_other_air_alone_is_no_other_scale():
    soft = [body(seed=0), body(seed=1, muscle=15.0), np.where(body(seed=2) < -500, -960.0, body(seed=2))]
    peaks = tissue_peaks((h, (1.5, 1.5), h[64:192, 64:192], 1.5) for h in soft)
    assert slices_apart(peaks, CFG.hu) == pytest.approx(0, abs=6)


def test_without_fat_muscle_and_air_are_no_other_scale():
    """Muscle with fat in it above a foam mattress: one study, in whose slices no fat was seen."""
    thin = ((None, 2.0, -998.0), (None, 20.0, -980.0), (None, 40.0, -962.0))
    assert slices_apart(TissuePeaks(None, 20.0, -980.0, each=thin), CFG.hu) == 0
    fat = tuple((-102.0 + i, *rest) for (_, *rest), i in zip(thin, (0, 18, 36), strict=True))
    assert slices_apart(TissuePeaks(None, 20.0, -980.0, each=fat), CFG.hu) > CFG.hu.slice_shift


def test_darker_fat_is_right_at_a_low_voltage():
    p = TissuePeaks(fat=-122.0, muscle=55.0, air=-1000.0)
    assert (q_hu(p, 80.0, CFG).verdict, q_hu(p, 120.0, CFG).verdict, q_hu(p, None, CFG).verdict) == (
        "pass",
        "fail",
        "fail",
    )


def test_air_above_its_value_may_be_lung_and_does_not_fire():
    assert q_hu(TissuePeaks(fat=-102.0, muscle=50.0, air=-860.0), 120.0, CFG).verdict == "pass"


def test_a_common_shift_of_fat_and_air_fires_within_the_limits_of_each():
    assert q_hu(TissuePeaks(fat=-85.0, muscle=60.0, air=-983.0), 120.0, CFG).verdict == "fail"
    assert q_hu(TissuePeaks(fat=-85.0, muscle=60.0, air=-1000.0), 120.0, CFG).verdict == "pass"


def test_nothing_seen_does_not_fire():
    p = tissue_peaks([(np.full((64, 64), -1000, np.int16), (1.0, 1.0), np.full((32, 32), -1000, np.int16), 2.0)])
    assert (p.fat, p.muscle, p.bone_behind) == (None, None, None)
    assert q_hu(p, 120.0, CFG).verdict == "pass"
    assert q_hu(tissue_peaks([]), 120.0, CFG).value == "no tissue seen"


def test_one_slice_that_is_turned_fails():
    slices = [body(seed=s)[:: -1 if s == 1 else 1] for s in range(5)]
    p = tissue_peaks((h, (1.5, 1.5), h[64:192, 64:192], 1.5) for h in slices)
    assert (p.bone_behind or 0) > CFG.bone_behind_min
    assert q_orientation(p, CFG).verdict == "fail"


def test_a_spine_in_front_fails():
    assert q_orientation(measured(lambda h: np.ascontiguousarray(h[::-1])), CFG).verdict == "fail"
