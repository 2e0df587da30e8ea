"""NHANES through the shipped mapping: counts and T-scores that its documentation states."""

import numpy as np
import pytest

from osteo_ray import patients as records
from osteo_ray.patients.schema import LABS

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def nhanes(real_data):
    return records.load(real_data / "nhanes" / "nhanes_bmd.parquet", "nhanes")


def test_every_participant_is_kept_and_no_value_refused(nhanes):
    assert len(nhanes) == 17_543
    assert nhanes.issues == ()
    assert nhanes.frame["patient_key"].is_unique
    assert nhanes.frame["cycle"].nunique() == 4


def test_t_scores_are_those_of_the_neck_reference(nhanes):
    f = nhanes.frame
    old = f[(f["age_y"] >= 50) & f["t_score"].notna()]
    assert len(old) == 10_010
    low = old["t_score"] <= -2.5
    assert low.sum() == 548
    # The whole survey with 2013-2014 has 9.4 % of the women and 2.3 % of the men.
    assert low[old["sex_male"] == 0].mean() == pytest.approx(0.094, abs=0.004)
    assert low[old["sex_male"] == 1].mean() == pytest.approx(0.023, abs=0.004)


def test_units_agree_between_the_two_that_the_survey_gives(nhanes, real_data):
    """Haemoglobin is mapped from g/dL; creatinine's SI column must be the conversion of its mg/dL column."""
    import pandas as pd

    from osteo_ray.patients.schema import feature
    from osteo_ray.patients.units import convert

    raw = pd.read_parquet(real_data / "nhanes" / "nhanes_bmd.parquet", columns=["LBXSCR", "LBXSUA", "LBXSGL", "LBXSCA"])
    for column, name in (
        ("LBXSCR", "creatinine_umol_l"),
        ("LBXSUA", "uric_acid_umol_l"),
        ("LBXSGL", "glucose_mmol_l"),
        ("LBXSCA", "calcium_mmol_l"),
    ):
        converted = convert(raw[column].to_numpy(), "mg/dL", feature(name))
        published = nhanes.frame[name].to_numpy()
        ok = ~np.isnan(converted) & ~np.isnan(published)
        np.testing.assert_allclose(converted[ok], published[ok], rtol=0.012)


def test_labs_are_there_and_missing_stays_missing(nhanes):
    _, mask = nhanes.matrix(LABS)
    share = dict(zip(LABS, mask.mean(0), strict=True))
    assert share["ldl_mmol_l"] == 0  # not in the extract; never computed
    assert all(v > 0.9 for k, v in share.items() if k != "ldl_mmol_l")
