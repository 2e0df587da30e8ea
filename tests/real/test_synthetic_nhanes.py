"""A cohort resampled from NHANES keeps real people's labs and labels, and draws only what the survey lacks."""

import numpy as np
import pytest

from osteo_ray import patients as records
from osteo_ray.synthetic import fast, labs
from osteo_ray.synthetic.config import CohortConfig

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def cfg(real_data):
    path = real_data / "nhanes" / "nhanes_bmd.parquet"
    return CohortConfig.model_validate({"population": {"source": "nhanes", "nhanes_path": str(path), "age_min": 50}})


def test_each_person_is_someone_in_the_survey(cfg):
    f = records.load(cfg.population.nhanes_path, "nhanes").frame
    known = {
        (r.age_y, r.weight_kg, r.height_cm, float(np.round(r.t_score, 2)))
        for r in f[["age_y", "weight_kg", "height_cm", "t_score"]].dropna().itertuples()
    }
    people = fast.people(cfg, 300)
    assert all((p.age_y, p.weight_kg, p.height_cm, p.t_score) in known for p in people)
    assert min(p.age_y for p in people) >= 50


def test_what_the_survey_lacks_stays_missing(cfg):
    people = fast.people(cfg, 300)
    ldl = labs.NAMES.index("ldl_mmol_l")
    assert not any(p.lab_mask[ldl] for p in people)
    table = fast.records_of(people, cfg).frame
    assert table["ldl_mmol_l"].isna().all()
    assert table["alp_u_l"].notna().mean() > 0.7
    assert np.isnan(fast.posterior_of(people, cfg).vs_normal).all()


def test_the_ct_follows_the_real_t_score(cfg):
    people = fast.people(cfg, 3000)
    t = np.array([p.t_score for p in people])
    v = np.array([p.vbmd for p in people])
    assert 0.55 < np.corrcoef(t, v)[0, 1] < 0.8
    stack = fast.stack_of(people[0], cfg)
    assert stack.axial(stack.n // 2).shape == (stack.scan.size, stack.scan.size)
