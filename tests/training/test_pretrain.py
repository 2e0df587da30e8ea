import numpy as np
import pytest
import torch

from osteo_ray.kdamm.train import FileKeeper
from osteo_ray.model.config import EncoderConfig
from osteo_ray.outcomes import InputError
from osteo_ray.training.augment import augment
from osteo_ray.training.config import AugmentConfig, PretrainConfig
from osteo_ray.training.pretrain import SliceData, pretrain, region_of, vertebrae_of

ARCH = EncoderConfig(width=8)
MILD = AugmentConfig(shift_px=4, noise_hu=5, rotation_deg=2, zoom=0.02, blur_px=0.3, sharpen=0.1, coarse=1, gain=0)


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
    return SliceData(
        crops, patient, lumbar, vertebra, mid, hu, label, np.where(label == 2, -3.0, 0.0), np.ones(n, bool)
    )


@pytest.mark.slow
def test_region_of_interest_finds_the_core_and_the_same_seed_gives_the_same_weights():
    cfg = PretrainConfig(steps=150, batch=32, augment=MILD)
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


def test_a_training_that_was_cut_short_goes_on_to_the_same_weights(tmp_path):
    class Cut(Exception):
        pass

    def cut() -> None:
        raise Cut

    cfg, kept = PretrainConfig(steps=7, batch=8, patient_weight=1.0, checkpoint_every=3), tmp_path / "state.pt"
    whole, losses = pretrain(discs(), ARCH, cfg, seed=0, quiet=True)
    with pytest.raises(Cut):
        pretrain(discs(), ARCH, cfg, seed=0, quiet=True, keeper=FileKeeper(kept, cut))
    steps: list[int] = []
    rest, again = pretrain(
        discs(), ARCH, cfg, seed=0, quiet=True, keeper=FileKeeper(kept), on_step=lambda i, row: steps.append(i)
    )
    assert steps == [3, 4, 5, 6]
    assert again == losses
    assert all(torch.equal(v, rest.state_dict()[k]) for k, v in whole.state_dict().items())


@pytest.mark.slow
def test_t_scores_teach_beside_slice_targets_of_others():
    d = discs(160)
    d.crops[np.isin(d.patient, np.flatnonzero(d.label == 2))] -= 60  # the sick have less of everything
    d.own[80:] = False  # mixed in: their targets teach
    d.patient[80:] = -1
    d.region[:80], d.vertebra[:80], d.mid[:80], d.trabecular_hu[:80] = -1, np.nan, np.nan, np.nan
    d.region[80:] = 1
    cfg = PretrainConfig(steps=120, batch=24, patient_weight=1.0, augment=MILD)
    _, losses = pretrain(d, ARCH, cfg, seed=1, quiet=True)
    assert losses["patient"] < 0.9  # a guess of the mean scores about 1.3
    assert {"region", "trabecular"} <= set(losses)


def test_a_warm_start_goes_on_from_the_weights_that_are_given():
    d = discs(64)
    cfg = PretrainConfig(steps=1, batch=8, lr=1e-6)
    first = pretrain(d, ARCH, PretrainConfig(steps=5, batch=8), 0, quiet=True)[0].state_dict()
    again = pretrain(d, ARCH, cfg, 1, quiet=True, start=first)[0].state_dict()
    assert all(torch.allclose(first[k], again[k], atol=1e-4) for k in first)


def test_an_encoder_that_nothing_teaches_the_region_is_refused():
    d = discs(16)
    d.region[:] = -1
    with pytest.raises(InputError, match="start: reference"):
        pretrain(d, ARCH, PretrainConfig(steps=1), 0, quiet=True)
    with pytest.raises(InputError, match="osteo-ray targets"):
        pretrain(d, ARCH, PretrainConfig(steps=1, patient_weight=1.0), 0, quiet=True)


def test_augmentation_moves_the_hu_scale_as_it_says():
    flat = torch.full((6, 96, 96), 150.0)
    cfg = AugmentConfig(noise_hu=0, gain=0.05, offset_hu=10, couch_share=0)
    x, gain, offset = augment(flat, cfg)
    centre = x[:, 40:56, 40:56].mean((1, 2))
    assert torch.allclose(centre, 150 * gain + offset, atol=0.5)
    assert len(set(gain.tolist())) == 6
    air, _, _ = augment(torch.full((2, 96, 96), -1024.0), AugmentConfig(noise_hu=0, couch_share=0))
    assert torch.allclose(air, torch.tensor(-1024.0), atol=0.5)
    couch, _, _ = augment(torch.full((8, 96, 96), -1024.0), AugmentConfig(noise_hu=0, couch_share=1))
    assert (couch[:, -6:] > -1000).any()
    assert (couch[:, :-7] < -1000).all()


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
