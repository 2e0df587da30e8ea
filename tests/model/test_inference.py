"""A bundle's networks by ONNX Runtime: the same as in torch, alone or in a batch; other weights' are refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from synthetic_bundle import synthetic_bundle

from osteo_ray.model.bundle import Bundle
from osteo_ray.model.bundle_files import BundleError
from osteo_ray.model.inference import (
    PATIENT_MODELS,
    Networks,
    Patient,
    class_log_probabilities,
    needs_torch,
    networks_of,
)
from osteo_ray.model.ordinal import Latent
from osteo_ray.model.patterns import PATTERNS
from osteo_ray.model.scoring_bundle import ScoringBundle
from osteo_ray.model.selection import select
from osteo_ray.model.torch_networks import torch_networks


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    b = synthetic_bundle()
    b.export()
    return b


@pytest.fixture(scope="module")
def by_onnx(bundle, tmp_path_factory) -> Networks:
    folder = tmp_path_factory.mktemp("bundle")
    bundle.save(folder)
    return networks_of(ScoringBundle.load(folder))


@pytest.fixture(scope="module")
def by_torch(bundle) -> Networks:
    return torch_networks(bundle)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(4).integers(-1024, 1500, (7, 96, 96)).astype(np.int16)


def some_patient(bundle: Bundle, seed: int, picks: int) -> Patient:
    rng, n = np.random.default_rng(seed), len(bundle.standardiser.features)
    known = rng.random((1, n)) < 0.7
    values = np.where(known, rng.normal(size=(1, n)), 0).astype(np.float32)
    bag = rng.normal(size=(1, picks, bundle.config.features)).astype(np.float32)
    return Patient(values, known, bag, np.ones((1, picks), bool))


def test_a_slice_is_read_as_in_torch(by_onnx, by_torch, crops):
    for a, b, most in zip(by_onnx.encode(crops), by_torch.encode(crops), (1e-4, 0.1), strict=True):
        np.testing.assert_allclose(a, b, atol=most)


def test_an_embedding_alone_is_the_same_to_the_last_bit_as_in_a_batch(by_onnx, crops):
    together = by_onnx.encode(crops)[0]
    assert all(np.array_equal(by_onnx.encode(crops[i : i + 1])[0][0], together[i]) for i in range(len(crops)))


def test_the_policy_picks_what_it_picks_in_torch(bundle, by_onnx, by_torch):
    view, dim = bundle.config.view, bundle.config.encoder.dim
    rng = np.random.default_rng(1)
    for n in (3, view.positions // 2, view.positions):
        z, e = 5.0 * np.arange(n), rng.normal(size=(n, dim)).astype(np.float32)
        a, b = (select(z, e.__getitem__, networks.step, view) for networks in (by_onnx, by_torch))
        assert a.kept.tolist() == b.kept.tolist()
        assert np.array_equal(a.looked, b.looked)


@pytest.mark.parametrize("picks", [1, 2, 3])
def test_every_model_says_of_a_patient_what_it_says_in_torch(bundle, by_onnx, by_torch, picks):
    x = some_patient(bundle, picks, picks)
    for pattern in PATTERNS:
        for model in PATIENT_MODELS:
            a, b = (networks.patient.logits(model, x, pattern) for networks in (by_onnx, by_torch))
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=f"{model} {pattern}")
            assert a.dtype == np.float32
    a, b = (networks.patient.view(x) for networks in (by_onnx, by_torch))
    assert a.present.tolist() == b.present.tolist()
    np.testing.assert_allclose(a.attention, b.attention, atol=1e-6)
    np.testing.assert_allclose(a.ct, b.ct, atol=1e-5)


def test_with_the_ct_given_the_student_says_the_same(bundle, by_onnx, by_torch):
    x = some_patient(bundle, 5, 3)
    ct = by_torch.patient.view(x).ct[None]
    whole = by_torch.patient.logits("student", x, "demographics+labs+ct")
    for networks in (by_onnx, by_torch):
        np.testing.assert_allclose(networks.patient.logits_given_ct(x.values, x.known, ct), whole, atol=1e-5)


def test_a_patient_does_not_depend_on_the_rows_beside_it(bundle, by_onnx):
    xs = [some_patient(bundle, i, 3) for i in range(9)]
    values, known, ct = (np.concatenate(a) for a in zip(*((x.values, x.known, x.bag[:, 0]) for x in xs), strict=True))
    ct = np.resize(ct, (len(xs), by_onnx.patient.view(xs[0]).ct.size)).astype(np.float32)
    together = by_onnx.patient.logits_given_ct(values, known, ct)
    alone = [by_onnx.patient.logits_given_ct(values[i : i + 1], known[i : i + 1], ct[i : i + 1])[0] for i in range(9)]
    np.testing.assert_allclose(np.array(alone), together, atol=1e-6)


def test_class_probabilities_are_those_of_the_torch_definition():
    mean = np.linspace(-12, 8, 400)
    for log_sigma in (-3.0, -1.0, 0.0, 0.7, 2.5):
        stated = Latent(torch.from_numpy(mean), torch.tensor(log_sigma, dtype=torch.float64)).logits().numpy()
        np.testing.assert_allclose(class_log_probabilities(mean, np.array(log_sigma)), stated, rtol=1e-9, atol=1e-9)


def test_models_travel_in_the_bundle_and_a_bundle_without_them_runs_in_torch(bundle, crops, tmp_path):
    sha = bundle.save(tmp_path / "with")
    loaded = Bundle.load(tmp_path / "with")
    assert loaded.onnx == bundle.onnx
    assert loaded.save(tmp_path / "again") == sha
    assert not needs_torch(ScoringBundle.load(tmp_path / "with"), "cpu")
    assert needs_torch(ScoringBundle.load(tmp_path / "with"), "cuda")
    without = synthetic_bundle()
    without.save(tmp_path / "without")
    assert needs_torch(ScoringBundle.load(tmp_path / "without"), "cpu")
    a, b = (networks_of(x).encode(crops)[0] for x in (without, loaded))
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(("model", "named"), [("encoder", "embedding"), ("policy", "step"), ("patient", "patient")])
def test_a_model_of_other_weights_is_refused(bundle, model, named):
    other = synthetic_bundle(seed=1)
    other.export()
    changed = synthetic_bundle()
    changed.onnx, changed.onnx_outputs = bundle.onnx | {model: other.onnx[model]}, bundle.onnx_outputs
    with pytest.raises(BundleError, match=f"ONNX models give another {named}"):
        networks_of(changed)


def test_a_bundle_whose_weights_changed_after_the_export_is_not_saved(bundle, tmp_path):
    other = synthetic_bundle(seed=1)
    other.onnx, other.onnx_outputs = bundle.onnx, bundle.onnx_outputs
    with pytest.raises(ValueError, match="than the weights that they were made from"):
        other.save(tmp_path)


def test_a_scorer_never_imports_torch():
    """It would weigh 200 MB more and start seconds later; and an installation that only screens has none."""
    program = (
        "import sys\n"
        "from osteo_ray.model import reference\n"
        "from osteo_ray.screening import scorer_process\n"
        "from osteo_ray.screening.predictor import Predictor\n"
        "Predictor.load(reference.bundle())\n"
        "assert not {'torch', 'sklearn'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
