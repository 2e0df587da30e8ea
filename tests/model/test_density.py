import numpy as np
import pytest

from osteo_ray.model.config import AcquisitionConfig, EncoderConfig
from osteo_ray.model.density import at_120_kvp, trabecular_hu
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
