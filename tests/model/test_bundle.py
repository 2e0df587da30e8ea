import json

import numpy as np
import pytest
import torch
from synthetic_bundle import synthetic_bundle

from osteo_ray.model.bundle import Bundle
from osteo_ray.model.bundle_files import BundleError, seal


@pytest.fixture
def folder(tmp_path):
    synthetic_bundle().save(tmp_path / "b")
    return tmp_path / "b"


def test_round_trip_is_exact(folder):
    a, b = synthetic_bundle(), Bundle.load(folder)
    for name, net in a.networks().items():
        loaded = b.networks()[name].state_dict()
        assert all(torch.equal(v, loaded[k]) for k, v in net.state_dict().items())
    assert b.config == a.config
    assert b.standardiser == a.standardiser
    assert b.calibrators == a.calibrators
    assert (b.threshold, b.scored_by, b.metrics, b.card) == (a.threshold, a.scored_by, a.metrics, a.card)
    assert all(np.array_equal(v, b.background[k]) for k, v in a.background.items())
    assert not any(p.requires_grad for net in b.networks().values() for p in net.parameters())


def test_same_model_same_sha256_and_another_model_another(tmp_path, folder):
    assert synthetic_bundle().save(tmp_path / "again") == Bundle.load(folder).sha256
    assert synthetic_bundle(seed=1).save(tmp_path / "other") != Bundle.load(folder).sha256


def test_no_pickle_inside(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["SHA256SUMS", "bundle.json", "card.md", "weights.safetensors"]
    assert b"pickle" not in (folder / "weights.safetensors").read_bytes()[:4096]


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors", "card.md"])
def test_a_changed_or_missing_file_is_named(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"{name} was changed"):
        Bundle.load(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "99"}, "format '99'"),
        ({"classes": ["a", "b", "c"]}, "classes"),
        ({"config": {"crop": {"size": 7}}}, "crop.size"),
    ],
)
def test_a_bundle_of_another_kind_is_refused(folder, change, words):
    m = json.loads((folder / "bundle.json").read_text()) | change
    (folder / "bundle.json").write_text(json.dumps(m))
    seal(folder)
    with pytest.raises(BundleError, match=words):
        Bundle.load(folder)


def test_features_and_shapes_must_be_those_of_this_version(folder):
    m = json.loads((folder / "bundle.json").read_text())
    m["config"]["policy_hidden"] = 24
    (folder / "bundle.json").write_text(json.dumps(m))
    seal(folder)
    with pytest.raises(BundleError, match="weights of policy"):
        Bundle.load(folder)
    m["standardiser"]["features"][0] = "shoe_size"
    (folder / "bundle.json").write_text(json.dumps(m))
    seal(folder)
    with pytest.raises(BundleError, match="other features"):
        Bundle.load(folder)


def test_a_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no bundle"):
        Bundle.load(tmp_path)
