"""Date windows: nearest within N days, never after the CT unless asked."""

import numpy as np
import pandas as pd
import pytest

from osteo_ray.patients.table import RecordTable
from osteo_ray.patients.window import join


@pytest.fixture
def table():
    return RecordTable.of(
        pd.DataFrame({
            "patient_key": ["a", "a", "a", "b"],
            "record_date": pd.to_datetime(["2024-01-01", "2024-02-20", "2024-03-05", None]),
            "alp_u_l": [60.0, np.nan, 90.0, 70.0],
            "haemoglobin_g_l": [120.0, 130.0, 140.0, np.nan],
            "sex_male": [np.nan, np.nan, 1.0, 0.0],
            "t_score": [np.nan, np.nan, -2.6, np.nan],
        })
    )  # fmt: skip


def studies(*pairs):
    return pd.DataFrame(pairs, columns=["patient_key", "study_date"]).assign(
        study_date=lambda d: pd.to_datetime(d["study_date"])
    )


def test_each_lab_is_the_nearest_before_the_ct(table):
    row = join(table, studies(("a", "2024-03-01")), days=90).frame.iloc[0]
    assert row["alp_u_l"] == 60  # 60 days before; the one 4 days after is not taken
    assert row["haemoglobin_g_l"] == 130
    assert row["record_date"] == pd.Timestamp("2024-02-20")


def test_the_window_ends(table):
    row = join(table, studies(("a", "2024-03-01")), days=30).frame.iloc[0]
    assert np.isnan(row["alp_u_l"])
    assert row["haemoglobin_g_l"] == 130


def test_the_future_is_taken_when_asked(table):
    row = join(table, studies(("a", "2024-03-01")), days=90, after=True).frame.iloc[0]
    assert row["alp_u_l"] == 90
    assert row["haemoglobin_g_l"] == 140


def test_sex_and_the_label_know_no_window(table):
    row = join(table, studies(("a", "2024-03-01")), days=1).frame.iloc[0]
    assert row["sex_male"] == 1
    assert row["label"] == "osteoporosis"


def test_undated_records_and_unknown_people(table):
    out = join(table, studies(("b", "2024-03-01"), ("c", "2024-03-01"))).frame
    assert out["alp_u_l"].tolist()[0] == 70
    assert out.iloc[1][["alp_u_l", "sex_male"]].isna().all()
    strict = join(table, studies(("b", "2024-03-01")), undated=False).frame
    assert np.isnan(strict["alp_u_l"][0])
