"""Parts of one's own: the documented examples train, are saved by name and hash, and are checked on loading."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_bundle import synthetic_bundle

from osteo_ray.config import ConfigError
from osteo_ray.kdamm.config import FitConfig
from osteo_ray.kdamm.objective import Rows, build
from osteo_ray.kdamm.train import FitJob, fit, validate
from osteo_ray.model import extension
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.bundle_files import BundleError
from osteo_ray.model.config import EncoderConfig, ModelConfig, ViewConfig
from osteo_ray.model.encoder import build_encoder
from osteo_ray.model.networks import Batch, build_tabular
from osteo_ray.model.policy import PolicyNet, torch_step
from osteo_ray.model.selection import select
from osteo_ray.training.config import AugmentConfig, PretrainConfig
from osteo_ray.training.pretrain import SliceData, pretrain

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MODULES = ("own_encoder", "own_selector", "own_teacher")


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """A copy of the examples on the path, that a test may change."""
    for name in MODULES:
        shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)
    forget()


def forget():
    extension.own_part.cache_clear()
    extension._source_sha256.cache_clear()


def own_bundle():
    b = synthetic_bundle()
    cfg = b.config
    b.config = cfg.model_copy(
        update={
            "encoder": cfg.encoder.model_copy(update={"network": "own_encoder.PlainEncoder"}),
            "view": cfg.view.model_copy(update={"selector": "own_selector.densest"}),
            "model": cfg.model.model_copy(update={"tabular_network": "own_teacher.PlainTeacher"}),
        }
    )
    b.encoder = build_encoder(b.config.encoder).eval()
    b.tabular = build_tabular(len(b.standardiser.features), b.config.model).eval()
    return b


@pytest.mark.slow
def test_an_encoder_of_ones_own_is_pretrained(examples):
    """Lumbar crops are bright, others dark: a few steps tell them apart."""
    rng = np.random.default_rng(0)
    n = 96
    region = rng.integers(0, 2, n)
    crops = np.where(region[:, None, None] == 1, 300, -50).astype(np.int16) + np.zeros((n, 96, 96), np.int16)
    nothing = np.full(n, np.nan)
    data = SliceData(crops, np.arange(n) // 8, region, nothing, nothing, nothing, np.full(n // 8, -1),
                     np.full(n // 8, np.nan), np.ones(n, bool))  # fmt: skip
    arch = EncoderConfig(network="own_encoder.PlainEncoder")
    cfg = PretrainConfig(steps=60, batch=24, lr=1e-2, augment=AugmentConfig(noise_hu=1, gain=0, offset_hu=0))
    steps = []
    enc, losses = pretrain(data, arch, cfg, seed=0, quiet=True, on_step=lambda i, row: steps.append((i, row)))
    assert type(enc).__name__ == "PlainEncoder"
    assert losses["region"] < 0.2
    assert [i for i, _ in steps] == list(range(60))
    assert steps[-1][1]["region"] < steps[0][1]["region"]
    with torch.no_grad():
        assert enc(torch.from_numpy(crops[:4])).embedding.shape == (4, arch.dim)


def test_a_teacher_of_ones_own_learns(examples):
    cfg = ModelConfig(tabular_network="own_teacher.PlainTeacher", tabular_width=16)
    groups = ["demographics"] * 2 + ["labs"] * 3

    def patients(n, seed):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 3, n)
        values = rng.normal(size=(n, 5)).astype(np.float32)
        values[:, 0] += y - 1
        batch = Batch(torch.from_numpy(values), torch.ones(n, 5).bool(), torch.zeros(n, 1, 4), torch.zeros(n, 1).bool())
        return Rows(batch, torch.from_numpy(y), torch.full((n,), torch.nan))

    job = FitJob("tabular", patients(300, 0), patients(100, 1), groups, cfg, FitConfig(epochs=15, lr=5e-3), seed=0)
    rows: list[Mapping[str, Any]] = []
    net = build("tabular", groups, 4, cfg)
    net.load_state_dict(fit(job, on_epoch=rows.append))
    assert validate(net, patients(300, 2))["auc"] > 0.85
    assert [r["epoch"] for r in rows] == list(range(15))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert callable(net.features)
    assert net.features(job.val.batch).shape == (100, 16)


def test_a_selector_of_ones_own_decodes_only_what_it_asks_for(examples):
    layout = EncoderConfig().layout
    view = ViewConfig(positions=32, coarse=4, keep=3, spare=2, by_level=False, selector="own_selector.densest")
    scan = np.zeros((30, layout.dim), np.float32)
    scan[:, layout.region] = np.eye(4)[0]
    scan[8:12, layout.region] = np.eye(4)[1]  # lumbar
    asked = []

    def embed(at):
        asked.extend(at.tolist())
        return scan[at]

    got = select(np.arange(30.0), embed, torch_step(PolicyNet(layout.dim, 8), ()), view)
    assert set(got.kept) <= {8, 9, 10, 11}
    assert len(got.kept) == 3
    assert len(asked) == len(set(asked)) == got.looked.sum() < 10
    assert (got.embedding[got.kept] == scan[got.kept]).all()


def test_a_selector_that_answers_nonsense_is_named(examples):
    (examples / "own_selector.py").write_text("def densest(z_mm, embed, view):\n    return [99]\n")
    view = ViewConfig(positions=32, keep=3, selector="own_selector.densest")
    with pytest.raises(ConfigError, match=r"own_selector.densest: gave positions \[99\]"):
        select(np.arange(30.0), lambda at: np.zeros((len(at), 4), np.float32), torch_step(PolicyNet(4, 8), ()), view)


def test_a_bundle_names_its_parts_with_their_hash(examples, tmp_path):
    own_bundle().save(tmp_path / "bundle")
    stated = json.loads((tmp_path / "bundle" / "bundle.json").read_text())["own"]
    assert {k: v["name"] for k, v in stated.items()} == {
        "encoder": "own_encoder.PlainEncoder",
        "selector": "own_selector.densest",
        "tabular": "own_teacher.PlainTeacher",
    }
    assert all(len(v["sha256"]) == 64 for v in stated.values())
    back = Bundle.load(tmp_path / "bundle")
    assert (type(back.encoder).__name__, type(back.tabular).__name__) == ("PlainEncoder", "PlainTeacher")


def test_a_bundle_whose_part_is_another_or_gone_is_not_loaded(examples, tmp_path):
    own_bundle().save(tmp_path / "bundle")
    source = examples / "own_teacher.py"
    source.write_text(source.read_text().replace("nn.Tanh()", "nn.ReLU()"))
    forget()
    with pytest.raises(BundleError, match=r"tabular own_teacher.PlainTeacher is another"):
        Bundle.load(tmp_path / "bundle")
    source.unlink()
    sys.modules.pop("own_teacher")
    forget()
    with pytest.raises(BundleError, match=r"own_teacher.PlainTeacher.*PYTHONPATH"):
        Bundle.load(tmp_path / "bundle")


def test_a_bundle_without_parts_of_ones_own_says_nothing_of_them(tmp_path):
    synthetic_bundle().save(tmp_path)
    assert "own" not in json.loads((tmp_path / "bundle.json").read_text())


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("encoder", "PlainEncoder"),
        ("encoder", "__main__.PlainEncoder"),
        ("encoder", "no_such_module.PlainEncoder"),
        ("encoder", "own_encoder.Missing"),
        ("encoder", "own_selector.densest"),
        ("tabular", "os.system"),
        ("selector", "own_encoder.PlainEncoder"),
    ],
)
def test_what_is_no_such_part_is_named(examples, kind, name):
    with pytest.raises(ConfigError, match=kind):
        extension.own_part(kind, name)
