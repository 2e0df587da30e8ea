"""The policy's step by ONNX Runtime: the same picks as in torch, and refused where it is another's."""

import numpy as np
import pytest
from synthetic_bundle import synthetic_bundle

from osteo_ray.model.bundle import Bundle
from osteo_ray.model.bundle_files import BundleError
from osteo_ray.model.onnx_policy import exported, step_of
from osteo_ray.model.selection import select, torch_step


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    b = synthetic_bundle()
    b.policy_onnx = exported(b.policy, b.reward_classifiers, b.config.view, b.config.encoder.dim)
    return b


def test_it_picks_what_torch_picks(bundle):
    view, dim = bundle.config.view, bundle.config.encoder.dim
    rng = np.random.default_rng(1)
    for n in (3, view.positions // 2, view.positions):
        z, e = 5.0 * np.arange(n), rng.normal(size=(n, dim)).astype(np.float32)
        a = select(z, e.__getitem__, step_of(bundle, 1), view)
        b = select(z, e.__getitem__, torch_step(bundle.policy, bundle.reward_classifiers), view)
        assert a.kept.tolist() == b.kept.tolist()
        assert np.array_equal(a.looked, b.looked)


def test_it_travels_in_the_bundle(bundle, tmp_path):
    bundle.save(tmp_path)
    assert Bundle.load(tmp_path).policy_onnx == bundle.policy_onnx
    assert not synthetic_bundle().policy_onnx, "without it a bundle's policy runs in torch"


def test_the_model_of_other_weights_is_refused(bundle):
    other = synthetic_bundle(seed=1)
    other.policy_onnx = bundle.policy_onnx
    with pytest.raises(BundleError, match="ONNX model gives other logits"):
        step_of(other, 1)
