from dataclasses import replace

import numpy as np
import pytest
import torch

from osteo_ray.kdamm.config import DistillConfig
from osteo_ray.kdamm.objective import Rows, distillation_loss, student_loss
from osteo_ray.model.config import EncoderConfig, ModelConfig
from osteo_ray.model.encoder import SliceEncoder
from osteo_ray.model.networks import Batch, ImageTeacher, Student, TabularTeacher, show_only
from osteo_ray.model.ordinal import Latent
from osteo_ray.model.patterns import MODALITIES
from osteo_ray.model.pooling import FARTHEST, AttentionPool
from osteo_ray.model.standardise import fit_standardiser

GROUPS = ["demographics"] * 3 + ["labs"] * 4
CFG = ModelConfig(tabular_width=16, tabular_k=4, hidden=8, dropout=0.0)


def batch(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    known = torch.rand(n, 7, generator=g) > 0.2
    mask = torch.rand(n, 4, generator=g) > 0.3
    mask[:, 0] = True
    return Batch(torch.randn(n, 7, generator=g) * known, known, torch.randn(n, 4, 5, generator=g), mask)


def test_values_behind_a_mask_mean_nothing():
    b = batch()
    hidden = Batch(b.values, torch.zeros_like(b.known), b.bag, b.bag_mask)
    other = Batch(b.values * 0, torch.zeros_like(b.known), b.bag, b.bag_mask)
    s = Student(GROUPS, 5, CFG).eval()
    assert torch.equal(s(hidden), s(other)), "an absent modality is one learned vector, whatever lay there"
    padded = Batch(b.values, b.known, torch.where(b.bag_mask[..., None], b.bag, 99.0), b.bag_mask)
    t = ImageTeacher(5, CFG).eval()
    assert torch.allclose(t(b), t(padded))


def test_attention_weights_sum_to_one_over_real_slices_and_an_empty_bag_is_finite():
    pool = AttentionPool(5, 3).eval()
    bag, mask = torch.randn(3, 4, 5), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    p = pool(bag, mask)
    assert torch.allclose(p.weights.sum(1), torch.tensor([1.0, 1.0, 0.0]))
    assert (p.weights[~mask] == 0).all()
    assert p.logits.isfinite().all()


def test_a_slice_unlike_all_others_says_no_more_than_an_extreme_one():
    """A disc or the pelvis among the picks lies tens of spreads off; what is linear must not follow it there."""
    b = batch()
    for net in (ImageTeacher(5, CFG).eval(), Student(GROUPS, 5, CFG).eval()):
        for size in (10.0, 1000.0):
            far, farther = (
                Batch(b.values, b.known, torch.where(b.bag > 0.5, f * b.bag.sign(), b.bag), b.bag_mask)
                for f in (FARTHEST, size)
            )
            assert torch.equal(net(far), net(farther))


def test_student_presence_and_hiding_agree():
    b = batch()
    s = Student(GROUPS, 5, CFG).eval()
    assert s.present(b).shape == (6, len(MODALITIES))
    without = Batch(b.values, b.known, b.bag, torch.zeros_like(b.bag_mask))
    assert torch.allclose(s(show_only(b, "demographics+labs", tuple(GROUPS))), s(without))
    assert not torch.allclose(s(b), s(without))


def test_with_the_ct_given_it_says_the_same():
    b = batch()
    s = Student(GROUPS, 5, CFG).eval()
    assert torch.allclose(s(b), s.latent_given_ct(b.values, b.known, s.branches(b)["ct"]).logits(), atol=1e-6)


def test_tabular_teacher_gives_log_probabilities():
    t = TabularTeacher(7, CFG).eval()
    assert torch.allclose(t(batch()).exp().sum(1), torch.ones(6), atol=1e-5)


def test_distillation_loss_by_hand():
    teacher, student = torch.tensor([[2.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    p = np.exp([1.0, 0.0, -1.0]) / np.exp([1.0, 0.0, -1.0]).sum()
    by_hand = 4 * (p * np.log(p * 3)).sum()
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(by_hand, rel=1e-5)
    assert distillation_loss(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_student_loss_terms_add_up_and_an_absent_teacher_costs_nothing():
    b, y = batch(), torch.tensor([0, 1, 2, 0, 1, 2])
    s = Student(GROUPS, 5, CFG).eval()
    quiet = DistillConfig(modality_dropout=0, unimodal=0, view=0)
    nan = torch.full((6, 3), torch.nan)
    rows = Rows(b, y, torch.full((6,), torch.nan), {"tabular": nan, "image": nan})
    plain = student_loss(s, rows, 0.8, quiet)
    assert plain.item() == pytest.approx(torch.nn.functional.cross_entropy(s(b), y).item(), rel=1e-5)
    teacher = torch.randn(6, 3)
    teacher[3:] = torch.nan  # half of the patients lack the modality
    full = student_loss(s, Rows(b, y, rows.t_score, {"tabular": teacher}), 0.8, quiet)
    kd = distillation_loss(s(b)[:3], teacher[:3], quiet.temperature).sum() / 6
    assert full.item() == pytest.approx((plain + quiet.alpha_tabular * kd).item(), rel=1e-5)
    one_view = quiet.model_copy(update={"alpha_tabular": 0.0, "view": 1.0})
    seen = student_loss(s, Rows(b, y, rows.t_score, {"tabular": teacher}), 0.8, one_view)
    no_ct = Batch(b.values, b.known, b.bag, torch.zeros_like(b.bag_mask))
    kd = distillation_loss(s(no_ct)[:3], teacher[:3], quiet.temperature).sum() / 6
    assert seen.item() == pytest.approx((plain + kd).item(), rel=1e-5)
    unlabelled = student_loss(s, Rows(b, torch.full((6,), -1), rows.t_score, {"tabular": teacher}), 0.8, one_view)
    assert unlabelled.item() == pytest.approx(kd.item(), rel=1e-5), "a patient without a label learns from the teachers"


def test_latent_by_hand():
    """Classes are the cuts of one Gaussian; a known T-score is judged by its density, an unknown one by its class."""
    mean = torch.tensor([-2.5, 0.5])
    x = Latent(mean, torch.zeros(()))
    p = x.logits().exp()
    assert p.sum(1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert p[0].tolist() == pytest.approx([0.0668, 0.4332, 0.5], abs=1e-3)
    t = torch.tensor([-3.5, torch.nan])
    got = x.loss(torch.tensor([2, 0]), t, 0.5)
    assert got[0].item() == pytest.approx(0.5 * np.log(2) + 0.5 * 0.5, rel=1e-4)
    assert got[1].item() == pytest.approx(-np.log(p[1, 0].item()), rel=1e-4)
    mean = torch.tensor([40.0, -40.0], requires_grad=True)
    far = Latent(mean, torch.zeros(()))
    far.loss(torch.tensor([2, 0]), t * torch.nan, 0.5).sum().backward()
    assert mean.grad is not None
    assert mean.grad.isfinite().all(), "even the most wrong patient gives a finite gradient"


def test_standardiser_is_robust_and_never_imputes_silently():
    x = np.array([[1.0, 5.0, np.nan], [2.0, 5.0, np.nan], [3.0, 5.0, np.nan], [1e6, np.nan, np.nan]])
    std = fit_standardiser(x, ["a", "b", "c"], ["labs"] * 3)
    values, known = std(x)
    assert np.array_equal(known, np.isfinite(x))
    assert (values[~known] == 0).all()
    assert abs(values).max() <= 6
    assert np.isfinite(values).all()
    with pytest.raises(ValueError, match="3 features"):
        std(x[:, :2])


def test_encoder_embedding_does_not_depend_on_the_batch_and_roi_sums_to_one():
    torch.manual_seed(0)
    enc = SliceEncoder(EncoderConfig(width=8)).eval()
    hu = torch.randint(-1000, 1000, (5, 96, 96)).short()
    f = enc(hu)
    assert f.embedding.shape == (5, EncoderConfig(width=8).dim)
    assert torch.allclose(enc(hu[2:3]).embedding[0], f.embedding[2], atol=1e-5)
    assert torch.allclose(f.roi.sum((2, 3)), torch.ones(5, 4), atol=1e-4)


def test_the_density_in_the_embedding_is_measured_not_recalled():
    """Adding HU everywhere inside the region raises its mean by as much, for the same weights."""
    torch.manual_seed(0)
    enc = SliceEncoder(EncoderConfig(width=8)).eval()
    hu = torch.full((1, 96, 96), 100.0)
    assert enc(hu).trabecular_hu.item() == pytest.approx(100, abs=0.1)
    assert enc(hu + 50).trabecular_hu.item() == pytest.approx(150, abs=0.1)


def test_the_region_of_interest_is_a_circle_in_pixels_of_the_crop():
    """An even disc of weights: its centre and radius come back."""
    at = 2.0 * torch.arange(48) + 0.5
    disc = ((at[:, None] - 60) ** 2 + (at[None] - 44) ** 2 <= 10**2).float()
    roi = torch.zeros(2, 4, 48, 48)
    roi[1, 0] = 0.9 * disc / disc.sum() + 0.1 / 48**2  # with a tail of small weights
    roi[0, 0, 3, 5] = 1.0  # a single cell
    f = replace(SliceEncoder(EncoderConfig(width=8)).eval()(torch.zeros(2, 96, 96)), roi=roi)
    single, found = f.core_circles().tolist()
    assert single == pytest.approx([6.5, 10.5, (4 / np.pi) ** 0.5])
    assert found == pytest.approx([60, 44, 10], abs=0.4)
