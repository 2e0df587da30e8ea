from dataclasses import replace

import numpy as np
import pytest
import torch

from osteo_ray.kdamm.config import DistillConfig, FitConfig
from osteo_ray.kdamm.objective import Rows, build
from osteo_ray.kdamm.ray_train import from_columns, to_table
from osteo_ray.kdamm.train import FitJob, fit, validate
from osteo_ray.model.config import ModelConfig
from osteo_ray.model.networks import Batch, ImageTeacher, Student, TabularTeacher
from osteo_ray.model.pooling import MIN_SPREAD, scan_scale

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
    return Rows(b, torch.from_numpy(y), torch.full((n,), torch.nan))


def job(kind, logits=None, **kw):
    train = patients(300, 0)
    train.logits = logits or {}
    return FitJob(kind, train, patients(150, 1), GROUPS, SMALL, FitConfig(**{"epochs": 15, "lr": 5e-3} | kw), seed=0)


def auc(j, weights):
    net = build(j.kind, GROUPS, 6, SMALL)
    net.load_state_dict(weights)
    return validate(net, patients(400, 2))["auc"]


@pytest.mark.parametrize(("kind", "least"), [("tabular", 0.88), ("image", 0.95), ("student", 0.95)])
def test_each_model_learns_and_the_same_seed_gives_the_same_weights(kind, least):
    logits = {"tabular": torch.zeros(300, 3), "image": torch.full((300, 3), torch.nan)} if kind == "student" else None
    a = fit(job(kind, logits))
    assert auc(job(kind), a) > least
    b = fit(job(kind, logits))
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_good_teacher_pulls_the_student():
    """With few labels of its own, a student that follows an oracle teacher's soft labels does better."""
    train = patients(24, 5)
    oracle = torch.nn.functional.one_hot(train.label, 3).float() * 6
    train.label = torch.where(torch.arange(24) % 2 == 0, train.label, (train.label + 1) % 3)
    with_teacher_outputs = replace(train, logits={"image": oracle})
    got = {}
    for name, rows in (("with", with_teacher_outputs), ("without", train)):
        j = FitJob("student", rows, patients(150, 1), GROUPS, SMALL, FitConfig(), 0, DistillConfig(alpha_image=5))
        got[name] = auc(j, fit(j))
    assert got["with"] > got["without"]


def test_more_modalities_rank_worse_less_often_where_that_costs():
    """How far a patient's loss with everything exceeds that with records hidden, on the patients trained on."""
    excess = []
    for more in (0.0, 5.0):
        rows = patients(60, 6)
        j = FitJob("student", rows, patients(60, 1), GROUPS, SMALL, FitConfig(epochs=20), 0, DistillConfig(more=more))
        net = build("student", GROUPS, 6, SMALL)
        net.load_state_dict(fit(j))
        assert isinstance(net, Student)
        with torch.no_grad():
            h, whole = net.eval().branches(rows.batch), net.present(rows.batch)
            full, fewer = (
                net.fuse(h, seen).loss(rows.label, rows.t_score, 0.0)
                for seen in (whole, whole & torch.tensor([False, False, True]))
            )
        excess.append(torch.relu(full - fewer).mean().item())
    assert excess[1] < excess[0]


def test_a_known_t_score_teaches_more_than_its_class():
    def cut(rows):
        t = -1.75 - 0.8 * rows.batch.values[:, 0] + 0.8 * rows.batch.values[:, 1]
        return replace(rows, t_score=t, label=(t < -1).long() + (t <= -2.5).long())

    train, fresh = cut(patients(40, 3)), cut(patients(400, 4))
    error = []
    for rows in (train, replace(train, t_score=train.t_score * torch.nan)):
        j = replace(job("tabular"), train=rows, val=fresh)
        net = build("tabular", GROUPS, 6, SMALL)
        net.load_state_dict(fit(j))
        assert isinstance(net, TabularTeacher)
        error.append((net.eval().members(fresh.batch).mean.mean(1) - fresh.t_score).square().mean().item())
    assert error[0] < error[1]


def test_training_data_that_teach_nothing_are_refused():
    rows = patients(10, 0)
    rows.label = torch.zeros_like(rows.label)
    j = FitJob("image", rows, rows, GROUPS, SMALL, FitConfig(), seed=0)
    with pytest.raises(ValueError, match="image model has 10 training patients with 1 classes"):
        fit(j)
    with pytest.raises(ValueError, match="storage path"):
        fit(job("image"), workers=2)


@pytest.mark.parametrize("patience", [None, 12])
def test_a_run_that_is_killed_goes_on_to_the_same_weights(tmp_path, patience):
    class KilledError(Exception):
        pass

    def kill(row):
        if row["epoch"] == 8:
            raise KilledError

    whole = fit(job("student", patience=patience, checkpoint_every=3), on_epoch=lambda _: None)
    with pytest.raises(KilledError):
        fit(job("student", patience=patience, checkpoint_every=3), on_epoch=kill, keep=tmp_path / "s")
    epochs = []
    j = job("student", patience=patience, checkpoint_every=3)
    rest = fit(j, on_epoch=lambda r: epochs.append(r["epoch"]), keep=tmp_path / "s")
    assert epochs[0] == 6, "what was done before the last checkpoint is not done again"
    assert all(torch.equal(v, rest[k]) for k, v in whole.items())


def test_scans_are_brought_to_the_training_scans_scale():
    """Features in other units, empty bags beside them, give the same scores; features that don't vary stay small."""
    rows = patients(300, 0)
    rows.batch.bag_mask[:40] = False
    units = torch.tensor([1.0, 50.0, 0.5, 1.0, 1.0, 1.0])
    moved = replace(rows, batch=replace(rows.batch, bag=rows.batch.bag * units + 3.0))
    scores = []
    for r in (rows, moved):
        j = replace(job("image"), train=r.take(torch.arange(40, 300)))
        net = build("image", GROUPS, 6, SMALL)
        net.load_state_dict(fit(j))
        assert isinstance(net, ImageTeacher)
        assert torch.allclose(net.pool.scale, r.batch.bag[40:].mean(1).std(0))
        scores.append(net.eval()(r.batch))
    assert torch.allclose(scores[0], scores[1], atol=0.05)
    still = torch.zeros(5, 3, 6) + torch.arange(6)
    centre, scale = scan_scale(still, torch.ones(5, 3).bool())
    assert torch.equal(centre, torch.arange(6.0))
    assert (scale == MIN_SPREAD).all()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns(precision):
    assert auc(job("image"), fit(job("image", precision=precision))) > 0.93


def test_rows_survive_arrow_in_their_order():
    rows = replace(patients(7, 0), logits={"image": torch.randn(7, 3)}, features={"image": torch.randn(7, 4)})
    table = to_table(rows).take(np.array([3, 1, 6, 0, 2, 5, 4]))
    columns = {
        n: c.combine_chunks().flatten().to_numpy().reshape(7, -1) if c.type.num_fields else c.to_numpy()
        for n, c in zip(table.column_names, table.columns, strict=True)
    }
    back = from_columns(columns, 3)
    for a, b in ((rows.batch.bag, back.batch.bag), (rows.batch.known, back.batch.known), (rows.label, back.label)):
        assert torch.equal(a, b)
    assert torch.equal(back.logits["image"], rows.logits["image"])
    assert torch.equal(back.features["image"], rows.features["image"])


@pytest.mark.ray
def test_the_same_loop_under_ray_train(ray_session, tmp_path):
    """TorchTrainer with two data-parallel workers, fed by Ray Data, learns what the in-process loop learns."""
    local = fit(job("image"))
    remote = fit(job("image"), workers=2, storage=str(tmp_path))
    assert auc(job("image"), remote) > 0.95
    assert auc(job("image"), remote) == pytest.approx(auc(job("image"), local), abs=0.03)
