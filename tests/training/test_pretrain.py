import numpy as np
import pytest
import torch

from osteo_ray.model.config import EncoderConfig
from osteo_ray.training.config import PretrainConfig
from osteo_ray.training.pretrain import SliceData, pretrain, region_of, vertebrae_of

ARCH = EncoderConfig(width=8)


def discs(n=160, seed=0):
    """Crops with a bright disc of known HU at a random place; lumbar ones have a bar across the top."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    crops = np.full((n, 96, 96), 30, np.int16)
    hu, lumbar = rng.uniform(60, 260, n), rng.integers(0, 2, n)
    for i in range(n):
        cy, cx = rng.integers(40, 60, 2)
        crops[i][(y - cy) ** 2 + (x - cx) ** 2 < 120] = hu[i]
        if lumbar[i]:
            crops[i][5:20, 20:76] = 200
    patient = np.arange(n) // 8
    label = np.where(np.arange(n // 8) % 2, 2, 0)
    mid = np.where(rng.random(n) < 0.5, np.nan, 1.0)
    vertebra = np.where(lumbar == 1, 14.5, 10.0)
    return SliceData(crops, patient, lumbar, vertebra, mid, hu, label)


def test_region_of_interest_finds_the_core_and_the_same_seed_gives_the_same_weights():
    cfg = PretrainConfig(steps=150, batch=32, shift_px=4, noise_hu=5)
    enc, losses = pretrain(discs(), ARCH, cfg, seed=0, quiet=True)
    fresh = discs(64, seed=9)
    with torch.no_grad():
        f = enc(torch.from_numpy(fresh.crops))
    error = np.abs(f.trabecular_hu.numpy() - fresh.trabecular_hu)
    assert np.median(error) < 20
    assert np.corrcoef(f.trabecular_hu.numpy(), fresh.trabecular_hu)[0, 1] > 0.95
    assert (f.region_logits.argmax(1).numpy() == fresh.region).mean() > 0.9
    assert set(losses) == {"region", "vertebra", "mid", "trabecular"}
    assert np.median(np.abs(f.vertebra.numpy() - fresh.vertebra)) < 0.75
    short = PretrainConfig(steps=5, batch=8)
    a, b, c = (pretrain(discs(), ARCH, short, seed=s, quiet=True)[0].state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_patient_labels_alone_can_teach():
    d = discs(160)
    d.crops[np.isin(d.patient, np.flatnonzero(d.label == 2))] -= 60  # the sick have less of everything
    nothing = np.full(160, np.nan)
    unknown = SliceData(d.crops, d.patient, np.full(160, -1), nothing, nothing, nothing, d.label)
    cfg = PretrainConfig(supervision="patients", steps=120, batch=32)
    _, losses = pretrain(unknown, ARCH, cfg, seed=0, quiet=True)
    assert losses["patient"] < 0.5 * np.log(3)


def test_what_is_missing_is_said():
    d = discs(16)
    d.region[:] = -1
    with pytest.raises(ValueError, match="set encoder supervision to 'patients'"):
        pretrain(d, ARCH, PretrainConfig(steps=1), 0, quiet=True)
    d.label[:] = 0
    with pytest.raises(ValueError, match="fewer than two classes"):
        pretrain(d, ARCH, PretrainConfig(steps=1, supervision="patients"), 0, quiet=True)


@pytest.mark.parametrize(
    ("level", "region"), [("T9", 0), ("L3", 1), ("S", 2), ("none", 3), ("C7", 3), ("disc", -1), (None, -1), ("", -1)]
)
def test_region_of_a_level(level, region):
    assert region_of(level) == region


def test_vertebrae_are_counted_and_what_lies_between_two_gets_a_number_between():
    number = vertebrae_of(["none", "S", "disc", "L5", "L5", "disc", "disc", "L4", "L1", "disc", "T12", "disc"])
    third = 1 / 3
    assert number == pytest.approx(
        [np.nan, 18, 17.5, 17, 17, 17 - third, 17 - 2 * third, 16, 13, 12.5, 12, np.nan], nan_ok=True
    )
    assert np.isnan(vertebrae_of([None, None])).all()
