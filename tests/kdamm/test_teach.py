"""Who is trained on what, and cross-fitting for calibration."""

import numpy as np
import torch

from osteo_ray.kdamm.config import KdammConfig
from osteo_ray.kdamm.objective import Rows
from osteo_ray.kdamm.teach import (
    cross_fitted,
    fit_teachers,
    present,
    shares,
    with_cross_fitted_outputs,
    with_teacher_outputs,
)
from osteo_ray.model.config import ModelConfig
from osteo_ray.model.networks import Batch

GROUPS = ["demographics"] * 2 + ["labs"] * 3
CFG = KdammConfig(
    model=ModelConfig(tabular_width=16, tabular_k=4, hidden=8),
    **{k: {"epochs": 2} for k in ("tabular", "image", "student")},
)


def patients(n, seed):
    """Complete patients with labels that one value and one slice feature follow; T-scores are not known."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    values, bag = rng.normal(size=(n, 5)), rng.normal(size=(n, 3, 6))
    values[:, 0] += y
    bag[:, :, 0] += y[:, None]
    known, present = torch.ones(n, 5).bool(), torch.ones(n, 3).bool()
    batch = Batch(torch.from_numpy(values).float(), known, torch.from_numpy(bag).float(), present)
    return Rows(batch, torch.from_numpy(y), torch.full((n,), torch.nan))


def test_everybody_is_judged_once_by_models_that_do_not_know_him():
    rows = patients(90, 0)
    rows.batch.bag_mask[60:] = False
    done = []
    folds = cross_fitted(rows, GROUPS, CFG, 0, 3, lambda: done.append(1))
    assert len(done) == 3
    seen = torch.cat([r.batch.values for r, _ in folds])
    assert torch.equal(seen.sort(0).values, rows.batch.values.sort(0).values)
    for r, models in folds:
        assert abs(len(r) - 30) <= 3
        assert abs(int(present(r.batch, GROUPS)[:, 2].sum()) - 20) <= 3
        assert (r.label.bincount(minlength=3) - 10).abs().max() <= 6
        assert models.student(r.batch).isfinite().all()
    # A label changes the models of its own patient in no fold but those that train on that patient.
    first, _ = folds[0]
    turned = patients(90, 0)
    turned.batch.bag_mask[60:] = False
    of_first = (turned.batch.values[:, None] == first.batch.values[None]).all(-1).any(1)
    turned.t_score[of_first] = -9.0
    again = cross_fitted(turned, GROUPS, CFG, 0, 3)
    same = [
        torch.equal(a[1].student(first.batch), b[1].student(first.batch)) for a, b in zip(folds, again, strict=True)
    ]
    assert same == [True, False, False]


def test_too_few_scans_are_not_cross_fitted():
    rows = patients(40, 1)
    rows.batch.bag_mask[2:] = False
    assert cross_fitted(rows, GROUPS, CFG, 0, 4) == []
    assert cross_fitted(patients(40, 1), GROUPS, CFG, 0, 0) == []


def test_no_teacher_speaks_of_a_patient_it_was_fitted_on():
    rows, val = patients(60, 2), patients(20, 3)
    rows.batch.bag_mask[50:] = False
    number = torch.arange(60) // 2  # two examples each
    cfg = CFG.model_copy(update={"distill": CFG.distill.model_copy(update={"teacher_folds": 3})})
    teachers = fit_teachers(rows, val, GROUPS, cfg, 0)
    cross = with_cross_fitted_outputs(rows, val, teachers, GROUPS, cfg, 0, number)
    share = shares(rows, GROUPS, 0, 3, number)
    assert (share[0::2] == share[1::2]).all()
    for k in range(3):
        others = fit_teachers(rows.take(torch.where(share != k)[0]), val, GROUPS, cfg, 0)
        own = with_teacher_outputs(rows.take(torch.where(share == k)[0]), others, GROUPS)
        for kind in ("tabular", "image"):
            assert torch.equal(cross.logits[kind][share == k].nan_to_num(), own.logits[kind].nan_to_num())
    assert cross.logits["image"][50:].isnan().all()
    as_they_are = with_teacher_outputs(rows, teachers, GROUPS)
    assert not torch.equal(cross.logits["tabular"], as_they_are.logits["tabular"])
    off = CFG.model_copy(update={"distill": CFG.distill.model_copy(update={"teacher_folds": 0})})
    none = with_cross_fitted_outputs(rows, val, teachers, GROUPS, off, 0, number)
    assert torch.equal(none.logits["tabular"], as_they_are.logits["tabular"])
