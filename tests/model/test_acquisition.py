import numpy as np
import pytest

from osteo_ray.model.acquisition import Acquisition, extend
from osteo_ray.model.config import EXTRA, AcquisitionConfig


def test_density_is_brought_to_120_kvp_and_what_is_unknown_is_left_as_it_reads():
    hu = 144.0
    bag = np.full((3, 2, 4), (hu - 150) / 50, np.float32)
    scans = Acquisition.of_rows(
        [{"kvp": 80.0, "contrast": "portal"}, {"kvp": 120.0, "contrast": "none"}, {"kvp": None, "contrast": "unknown"}]
    )
    out = extend(bag, 1, scans, AcquisitionConfig())
    assert out.shape == (3, 2, 4 + EXTRA)
    assert out[:, 0, 4] * 50 + 150 == pytest.approx([hu / 1.44, hu, hu], rel=1e-4)
    assert out[:, 0, 5:].tolist() == [[-2, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]]
