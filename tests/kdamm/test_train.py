import numpy as np
import pytest
import torch

from osteo_ray.kdamm.models import Batch, ModelConfig
from osteo_ray.kdamm.train import DistillConfig, FitConfig, FitJob, build, fit, validate

GROUPS = ["demographics"] * 2 + ["labs"] * 3
SMALL = ModelConfig(tabular_width=16, tabular_k=4, hidden=16)


def patients(n, seed):
    """Labels driven by one feature and by one embedding dimension."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    values = rng.normal(size=(n, 5)).astype(np.float32)
    values[:, 0] += y - 1
    bag = rng.normal(size=(n, 3, 6)).astype(np.float32)
    bag[:, :, 0] += 2 * (y[:, None] - 1)
    b = Batch(
        torch.from_numpy(values), torch.ones(n, 5).bool(), torch.from_numpy(bag), torch.ones(n, 3, dtype=torch.bool)
    )
    return b, torch.from_numpy(y)


def job(kind, **kw):
    (train, y), (val, yv) = patients(300, 0), patients(150, 1)
    return FitJob(kind, train, y, val, yv, GROUPS, SMALL, FitConfig(epochs=15, lr=5e-3), seed=0, **kw)


def auc(j, weights):
    net = build(j.kind, GROUPS, 6, SMALL)
    net.load_state_dict(weights)
    return validate(net, *patients(400, 2))["auc"]


@pytest.mark.parametrize(("kind", "least"), [("tabular", 0.88), ("image", 0.95), ("student", 0.95)])
def test_each_model_learns_and_the_same_seed_gives_the_same_weights(kind, least):
    teachers = {"tabular": torch.zeros(300, 3), "image": torch.full((300, 3), torch.nan)} if kind == "student" else {}
    a = fit(job(kind, teachers=teachers))
    assert auc(job(kind), a) > least
    b = fit(job(kind, teachers=teachers))
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_good_teacher_pulls_the_student():
    """With few labels of its own, a student that follows an oracle teacher's soft labels does better."""
    (train, y), (val, yv) = patients(24, 5), patients(150, 1)
    oracle = torch.nn.functional.one_hot(y, 3).float() * 6
    noisy = torch.where(torch.arange(24) % 2 == 0, y, (y + 1) % 3)
    base = dict(
        train=train, label=noisy, val=val, val_label=yv, groups=GROUPS, model=SMALL, fit=FitConfig(epochs=30), seed=0
    )
    with_kd = fit(FitJob("student", **base, teachers={"image": oracle}, distill=DistillConfig(alpha_image=5)))
    without = fit(FitJob("student", **base))
    assert auc(FitJob("student", **base), with_kd) > auc(FitJob("student", **base), without)


def test_training_data_that_teach_nothing_are_refused():
    b, y = patients(10, 0)
    j = FitJob("image", b, torch.zeros_like(y), b, y, GROUPS, SMALL, FitConfig(), seed=0)
    with pytest.raises(ValueError, match="image model has 10 training patients with 1 classes"):
        fit(j)
    with pytest.raises(ValueError, match="storage path"):
        fit(job("image"), workers=2)


@pytest.mark.ray
def test_the_same_loop_under_ray_train(ray_session, tmp_path):
    """TorchTrainer with two data-parallel workers learns what the in-process loop learns."""
    epochs = []
    here = fit(job("image"), on_epoch=epochs.append)
    there = fit(job("image"), workers=2, storage=str(tmp_path))
    assert epochs
    assert auc(job("image"), there) > 0.95
    assert auc(job("image"), there) == pytest.approx(auc(job("image"), here), abs=0.03)
