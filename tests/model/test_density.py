import numpy as np
import pytest

from osteo_ray.model.config import AcquisitionConfig, EncoderConfig
from osteo_ray.model.density import at_120_kvp, hu_by_level, trabecular_hu
from osteo_ray.model.embedding import EmbeddingLayout, height_of, scaled_hu

CFG = EncoderConfig()


def pick(hu: float, vertebra: float, lumbar: float, mid: float) -> np.ndarray:
    e = np.zeros(CFG.dim, np.float32)
    e[CFG.layout.trabecular] = scaled_hu(hu)
    e[EmbeddingLayout.height] = height_of(vertebra)
    e[EmbeddingLayout.lumbar], e[EmbeddingLayout.mid] = lumbar, mid
    return e


def test_a_disc_among_the_picks_hardly_moves_the_density():
    body = [pick(120, 14, 1, 1), pick(130, 15, 1, 1)]
    assert trabecular_hu(np.stack(body), CFG.layout) == pytest.approx(125, abs=0.5)
    assert trabecular_hu(np.stack([*body, pick(300, 14.5, 1, 0.02)]), CFG.layout) == pytest.approx(125, abs=3)


def test_without_mid_vertebra_lumbar_slices_count_and_without_those_there_is_none():
    assert trabecular_hu(np.stack([pick(180, 17.9, 1, 0)]), CFG.layout) == pytest.approx(180)
    assert np.isnan(trabecular_hu(np.stack([pick(180, 8, 0, 1)]), CFG.layout))


def test_density_is_brought_to_120_kvp_and_unknown_tube_voltages_give_none():
    hu = at_120_kvp(np.array([117.0, 100.0, 90.0, 100.0]), np.array([100.0, 120.0, 60.0, np.nan]), AcquisitionConfig())
    assert hu[:2] == pytest.approx([100, 100])
    assert np.isnan(hu[2:]).all()


def test_each_level_is_measured_from_the_slices_inside_its_body():
    picks = [pick(100, 13, 1, 0.9), pick(140, 14, 1, 0.9), pick(120, 14.2, 1, 0.3), pick(300, 14.5, 1, 0.02)]
    found = hu_by_level(np.stack(picks), ["L1", "L2", "L2", "L2"], CFG.layout)
    assert list(found) == ["L1", "L2"]
    assert (found["L1"].hu, found["L1"].slices, found["L1"].spread) == (pytest.approx(100), 1, None)
    assert (found["L2"].hu, found["L2"].slices) == (pytest.approx(135), 2)  # weights 0.9 and 0.3; the disc is left out
    assert found["L2"].spread == pytest.approx(20)


def test_levels_stand_from_head_to_foot_and_what_is_no_vertebra_is_left_out():
    picks = np.stack([pick(100, 15, 1, 0.9)] * 5)
    assert list(hu_by_level(picks, ["L2", "T12", None, "S", "T9"], CFG.layout)) == ["T9", "T12", "L2"]
