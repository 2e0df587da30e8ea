"""Neck, chest, pelvis: what a protocol covers, what its slices are called, and what they show."""

import numpy as np
import pytest

from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.frame import DOWN
from osteo_ray.synthetic.tables import PROTOCOLS
from osteo_ray.training.pretrain import region_of


def config(protocol: str, **scan: object) -> CohortConfig:
    return CohortConfig.model_validate({
        "seed": 12, "scan": {"protocols": {protocol: 1.0}, "size_512_share": 0, "tilt_share": 0, **scan},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("protocol", "shown", "absent"),
    [
        ("abdomen", {"T11", "L1", "L4"}, {"T3", "C5"}),
        ("abdomen_pelvis", {"L1", "L4", "S", "none"}, {"T3"}),
        ("chest", {"T3", "T8", "T12"}, {"L3", "S"}),
        ("neck", {"C4", "T1"}, {"T10", "L1"}),
        ("pelvis", {"S", "none"}, {"L2", "T12"}),
        ("trunk", {"T8", "L1", "L4", "S"}, {"C3"}),
    ],
)
def test_a_protocol_covers_its_levels(protocol: str, shown: set[str], absent: set[str]) -> None:
    cfg = config(protocol, thickness={5.0: 1.0})
    levels = set(fast.truth_of(fast.people(cfg, 3)[1], cfg).slices.level)
    assert shown <= levels
    assert not absent & levels


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="head"):
        config("head")


def test_necks_and_hips_are_never_lumbar() -> None:
    lumbar = region_of("L3")
    for protocol in ("neck", "pelvis"):
        cfg = config(protocol)
        for p in fast.people(cfg, 3):
            t = fast.truth_of(p, cfg).slices
            s = fast.stack_of(p, cfg)
            l4 = next(v.z for v in s.anatomy.vertebrae if v.level == "L4")
            beyond = np.abs(t.z_mm - l4) > 110
            assert all(region_of(str(v)) != lumbar for v in t.level[beyond])
            assert np.isnan(t.trabecular_hu[np.isin(t.level, ["S", "disc", "none"])]).all()


def test_cervical_bodies_are_denser_than_lumbar_ones() -> None:
    cfg = config("trunk", thickness={2.5: 1.0}, slice_max=400)
    wide = CohortConfig.model_validate(
        {**cfg.model_dump(), "scan": {**cfg.scan.model_dump(), "protocols": {"neck_chest": 1}}}
    )
    p = fast.people(cfg, 1)[0]
    low, high = fast.truth_of(p, cfg).slices, fast.truth_of(p, wide).slices
    lumbar = np.nanmean(low.trabecular_hu[np.isin(low.level, ["L2", "L3", "L4"]) & (low.mid > 0.6)])
    neck = np.nanmean(high.trabecular_hu[np.isin(high.level, ["C4", "C5", "C6"]) & (high.mid > 0.5)])
    assert neck > 1.15 * lumbar


def test_arms_at_the_side_lie_beside_the_trunk() -> None:
    cfg = config("abdomen", arms_down_share=1.0)
    s = fast.stack_of(fast.people(cfg, 1)[0], cfg)
    assert s.scan.pose == (DOWN, DOWN)
    raised = config("abdomen", arms_down_share=0.0)
    r = fast.stack_of(fast.people(raised, 1)[0], raised)
    assert r.scan.pose != s.scan.pose


def test_contrast_fills_heart_and_bladder() -> None:
    cfg = config("chest", contrast_share=1.0)
    for p in fast.people(cfg, 6):
        s = fast.stack_of(p, cfg)
        heart = s.anatomy.chest.chambers[0][0]
        i = int(np.argmin(np.abs(s.z_mm - heart.z)))
        r = int((heart.y - s.scan.y0) / s.scan.pixel)
        c = int((heart.x - s.scan.x0) / s.scan.pixel)
        blood = s.patch(i, slice(r - 3, r + 4), slice(c - 3, c + 4)).mean()
        assert blood == pytest.approx(42 + s.scan.enhancement.aorta, abs=30)


def test_rectangles_of_any_region_equal_the_whole() -> None:
    for protocol in PROTOCOLS:
        cfg = config(protocol)
        s = fast.stack_of(fast.people(cfg, 4)[2], cfg)
        for i in (0, s.n // 2, s.n - 1):
            part = s.patch(i, slice(90, 170), slice(60, 190))
            np.testing.assert_array_equal(part, s.axial(i)[90:170, 60:190])
