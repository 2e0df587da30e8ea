"""The encoder by ONNX Runtime: the same as in torch, alone or in a batch, and refused where it is another's."""

import numpy as np
import pytest
import torch
from synthetic_bundle import synthetic_bundle

from osteo_ray.model.bundle import Bundle
from osteo_ray.model.bundle_files import BundleError
from osteo_ray.model.onnx_encoder import encoder_of, exported


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    b = synthetic_bundle()
    b.encoder_onnx = exported(b.encoder, b.config.crop.size)
    return b


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(4).integers(-1024, 1500, (7, 96, 96)).astype(np.int16)


def test_it_says_what_torch_says(bundle, crops):
    embedding, circle = encoder_of(bundle, "cpu", 1)(crops)
    with torch.no_grad():
        seen = bundle.encoder(torch.from_numpy(crops))
    np.testing.assert_allclose(embedding, seen.embedding.numpy(), atol=1e-4)
    np.testing.assert_allclose(circle, seen.core_circles().numpy(), atol=0.1)


def test_an_embedding_alone_is_the_same_to_the_last_bit_as_in_a_batch(bundle, crops):
    encode = encoder_of(bundle, "cpu", 1)
    together = encode(crops)[0]
    assert all(np.array_equal(encode(crops[i : i + 1])[0][0], together[i]) for i in range(len(crops)))


def test_it_travels_in_the_bundle_and_a_bundle_without_it_runs_in_torch(bundle, crops, tmp_path):
    sha = bundle.save(tmp_path / "with")
    loaded = Bundle.load(tmp_path / "with")
    assert loaded.encoder_onnx == bundle.encoder_onnx
    assert Bundle.load(tmp_path / "with").save(tmp_path / "again") == sha
    without = synthetic_bundle()
    np.testing.assert_allclose(
        encoder_of(without, "cpu", 1)(crops)[0], encoder_of(loaded, "cpu", 1)(crops)[0], atol=1e-4
    )


def test_the_model_of_other_weights_is_refused(bundle):
    other = synthetic_bundle(seed=1)
    other.encoder_onnx = bundle.encoder_onnx
    with pytest.raises(BundleError, match="ONNX model gives another embedding"):
        encoder_of(other, "cpu", 1)
