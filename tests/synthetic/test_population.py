"""People: margins, what drives what, missingness as a mechanism, and a posterior that is the truth."""

import numpy as np
import pytest

from osteo_ray.model.tissue_scale import HU_PER_VBMD
from osteo_ray.synthetic import labs
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.population import draw_people, mean_hu, posterior

CFG = CohortConfig(seed=2)


@pytest.fixture(scope="module")
def people():
    return draw_people(CFG, 6000)


def column(people, name):
    return np.array([getattr(p, name) for p in people], float)


def test_labels_come_from_the_t_score_and_not_from_the_ct(people):
    hu = column(people, "vbmd") * HU_PER_VBMD
    t = column(people, "t_score")
    assert 0.65 < np.corrcoef(hu, t)[0, 1] < 0.82
    assert ((t <= -2.5) & (hu > 150)).any()
    assert ((t > -1) & (hu < 130)).any()


def test_women_lose_bone_after_the_menopause():
    ages = np.array([30.0, 45.0, 65.0])
    women, men = mean_hu(ages, np.zeros(3)), mean_hu(ages, np.ones(3))
    assert (women[:2] > men[:2]).all()
    assert women[2] < men[2]


@pytest.mark.parametrize(
    ("lab", "sign"), [("alp_u_l", -1), ("uric_acid_umol_l", 1), ("haemoglobin_g_l", 1), ("creatinine_umol_l", 1)]
)
def test_labs_lean_the_published_way(people, lab, sign):
    j = labs.NAMES.index(lab)
    x = np.array([p.labs[j] for p in people])
    u = column(people, "residual")
    men = column(people, "male") == 1
    for group in (men, ~men):
        assert sign * np.corrcoef(x[group], u[group])[0, 1] > 0.03


def test_missingness_is_a_mechanism(people):
    ct = column(people, "has_ct") == 1
    demo = column(people, "has_demographics") == 1
    blood = column(people, "has_labs") == 1
    t = column(people, "t_score")
    assert (ct & demo & blood).mean() == pytest.approx(0.11, abs=0.015)
    assert (~ct & blood).mean() > 0.6
    assert 0.01 < (ct & ~demo).mean() < 0.06
    assert t[~blood].mean() > t[blood].mean() + 0.2
    assert t[ct & blood].mean() < t[~ct].mean()


def test_labs_are_lost_by_the_panel_and_one_by_one(people):
    mask = np.array([p.lab_mask for p in people if p.has_labs])
    lipids = mask[:, [labs.NAMES.index(n) for n in ("tc_mmol_l", "hdl_mmol_l", "ldl_mmol_l", "tg_mmol_l")]]
    none, some = (~lipids).all(1).mean(), ((~lipids).any(1) & lipids.any(1)).mean()
    assert none > 0.05  # the panel was not ordered
    assert 0.02 < some < 0.2  # a single value is absent


def test_the_posterior_is_calibrated(people):
    """Among those given a probability of about p, about p have osteoporosis: it is the generator's own."""
    rng = np.random.default_rng(0)
    seen = column(people, "vbmd") * HU_PER_VBMD * (1 + CFG.scan.repeat_cv * rng.standard_normal(len(people)))
    post = posterior(people, seen, CFG.scan.repeat_cv)
    op = column(people, "t_score") <= -2.5
    two = op | (column(people, "t_score") >= -1)
    for q, y in ((post.vs_rest, op), (post.vs_normal[two], op[two])):
        for low, high in ((0.05, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.95)):
            inside = (q >= low) & (q < high)
            se = np.sqrt(q[inside].mean() * (1 - q[inside].mean()) / inside.sum())
            assert y[inside].mean() == pytest.approx(q[inside].mean(), abs=3.5 * se + 0.01)


def test_bone_given_labs_recovers_the_residual(people):
    values = np.array([p.labs for p in people])
    mean, var = labs.bone_given_labs(
        values, column(people, "age_y"), column(people, "male"), np.array([p.bmi for p in people])
    )
    u = column(people, "residual")
    assert np.mean((u - mean) ** 2) == pytest.approx(var.mean(), rel=0.06)
    assert np.mean((u - mean) ** 2) < 0.97
    blind = labs.bone_given_labs(np.full_like(values, np.nan), u, u, u)
    assert (blind[0] == 0).all()
    assert (blind[1] == 1).all()
