"""Slice sets as the encoder's training data, and what is refused before any work."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from synthetic_bundle import synthetic_bundle

from osteo_ray.model.config import EncoderConfig
from osteo_ray.model.encoder import build_encoder
from osteo_ray.model.inference import ENCODER, onnx_parts
from osteo_ray.model.onnx_export import encoder_model
from osteo_ray.outcomes import InputError
from osteo_ray.patients.table import RecordTable
from osteo_ray.training.config import PretrainConfig, TrainConfig
from osteo_ray.training.prepare import Sources, prepare, start_weights
from osteo_ray.training.pretrain import pretrain
from osteo_ray.training.slices import EMBEDDED, SLICES, EmbedSlices, most_slices, slice_data


def write_set(folder, patients, slices, region):
    folder.mkdir(parents=True)
    rows = []
    for p in patients:
        for i in range(slices):
            crop = np.full((96, 96), 100 + i, "<i2").tobytes()
            known = {
                "patient_key": p,
                "series_uid": f"s{p}",
                "index": i,
                "z_mm": 5.0 * i,
                "crop": crop,
                "region": region,
                "vertebra": 15.0,
                "mid": 1.0,
                "trabecular_hu": 120.0,
            }
            rows.append(dict.fromkeys(SLICES.names) | known)
    pq.write_table(pa.Table.from_pylist(rows, schema=SLICES), folder / "part-000000.parquet")
    return folder


@pytest.fixture
def people():
    return SimpleNamespace(
        key=np.array(["a", "b"]),
        series=np.array(["sa", "sb"]),
        part=np.array(["train", "test"]),
        label=np.array([2, 0]),
        t_score=np.array([-3.0, 0.0]),
    )


def test_own_slices_of_training_patients_and_targets_of_others(tmp_path, people):
    own = write_set(tmp_path / "own", ["a", "b"], 4, -1)
    mixed = write_set(tmp_path / "mixed", ["x"], 6, 1)
    untargeted = write_set(tmp_path / "untargeted", ["y"], 3, -1)
    d = slice_data([own], 96, people, [mixed, untargeted])
    assert d.own.sum() == 4, "the held-out patient's slices teach nothing"
    assert (~d.own).sum() == 6, "others teach by their targets alone"
    assert d.targets() == {"region": 6, "vertebra": 10, "mid": 10, "trabecular_hu": 10}
    assert set(d.patient[d.own]) == {0}
    assert set(d.patient[~d.own]) == {-1}
    assert d.label.tolist() == [2, 0]
    few = slice_data([own], 96, people, [mixed], most=5, seed=3)
    assert 0 < len(few.crops) < 10
    assert few.crops.shape[1:] == (96, 96)
    cfg = PretrainConfig(steps=2, batch=6, patient_weight=0.5)
    enc, losses = pretrain(d, EncoderConfig(width=8), cfg, 0, quiet=True)
    assert "region" in losses
    assert not enc.training


def test_a_slice_set_that_does_not_fit_the_view_is_refused_before_any_work(tmp_path):
    large = write_set(tmp_path / "large", ["a"], 20, 1)
    assert most_slices([large]) == 20
    cfg = TrainConfig.model_validate({"selection": {"view": {"positions": 16, "coarse": 4, "keep": 3}}})
    with pytest.raises(InputError, match=r"20 slices a scan.*positions is 16"):
        prepare(
            Sources(None, RecordTable.of(pd.DataFrame({"patient_key": []})), extra_slices=(large,)),
            tmp_path / "run",
            cfg,
            quiet=True,
        )
    assert not (tmp_path / "run").exists()


def test_a_start_must_have_the_same_encoder(tmp_path):
    bundle = synthetic_bundle()
    bundle.save(tmp_path / "bundle")
    cfg = TrainConfig.model_validate({"encoder": {"width": 8}})
    weights = start_weights(tmp_path / "bundle", cfg)
    assert all(torch.equal(v, bundle.encoder.state_dict()[k]) for k, v in weights.items())
    with pytest.raises(InputError, match=r"start: the encoder of .* set encoder to the bundle's"):
        start_weights(tmp_path / "bundle", TrainConfig())
    assert start_weights("reference", TrainConfig())


def test_slices_are_embedded_as_screening_embeds_them():
    torch.manual_seed(0)
    arch = EncoderConfig(width=8)
    encoder = build_encoder(arch).eval()
    model = encoder_model(encoder, 96)
    crops = np.random.default_rng(0).normal(40, 60, (20, 96, 96)).astype("<i2")
    rows = {n: [0] * len(crops) for n in EMBEDDED} | {"crop": [c.tobytes() for c in crops]}

    def embedded(**how) -> np.ndarray:
        table = EmbedSlices(encoder.state_dict(), arch, 96, **how)(pa.table(rows))
        return np.stack(table["embedding"].to_numpy())

    one_by_one = np.concatenate([onnx_parts({ENCODER: model}, 1)["encode"](c[None])[0] for c in crops])
    assert np.array_equal(embedded(model=model), one_by_one)
    assert np.allclose(embedded(), one_by_one, atol=1e-4)
