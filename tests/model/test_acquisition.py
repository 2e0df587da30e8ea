import numpy as np
import pytest

from osteo_ray.model.acquisition import Acquisition, bone_factor, extend
from osteo_ray.model.config import EXTRA, AcquisitionConfig
from osteo_ray.model.embedding import EmbeddingLayout, hu_of, scaled_hu


def test_density_is_brought_to_120_kvp_and_what_is_unknown_is_left_as_it_reads():
    hu = 144.0
    bag = np.full((3, 2, 4), scaled_hu(hu), np.float32)
    scans = Acquisition.of_rows(
        [{"kvp": 80.0, "contrast": "portal"}, {"kvp": 120.0, "contrast": "none"}, {"kvp": None, "contrast": "unknown"}]
    )
    out = extend(bag, EmbeddingLayout(1, 1), scans, AcquisitionConfig())
    assert out.shape == (3, 2, 4 + EXTRA)
    assert hu_of(out[:, 0, 4]) == pytest.approx([hu / 1.44, hu, hu], rel=1e-4)
    assert out[:, 0, 5:].tolist() == [[-2, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_one_rule_for_tube_voltages_beyond_the_table():
    """From 70 to 150 kVp the table's outermost segments go on; outside of that nothing can be said."""
    factor = bone_factor(np.array([69.0, 70.0, 80.0, 110.0, 150.0, 151.0, np.nan]), AcquisitionConfig())
    assert np.isnan(factor[[0, 5, 6]]).all()
    assert factor[1:5] == pytest.approx([1.575, 1.44, 1.085, 0.835])
    bag = np.full((1, 1, 9), scaled_hu(150.0), np.float32)
    layout = EmbeddingLayout(1, 1)
    far, unknown = (
        extend(bag, layout, Acquisition(np.array([v]), np.array([0.0])), AcquisitionConfig()) for v in (60.0, np.nan)
    )
    assert np.array_equal(far, unknown), "a tube voltage that can't be corrected is not clamped to one that can"
