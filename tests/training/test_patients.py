import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from osteo_ray.model.patterns import show_only
from osteo_ray.model.standardise import fit_standardiser
from osteo_ray.patients.schema import FEATURES, NAMES
from osteo_ray.patients.table import RecordTable
from osteo_ray.training.patients import batch_of, gather, part_of, scans_of


def embedded(series, n, patient="p", seed=0):
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    e = np.arange(n * 4, dtype=np.float32).reshape(n, 4)[order]
    return pa.table(
        {
            "patient_key": [patient] * n,
            "series_uid": [series] * n,
            "index": order.astype(np.int32),
            "z_mm": order * 5.0,
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(e.ravel()), 4),
        }
    )


def test_scans_are_padded_ordered_by_height_and_labelled():
    table = pa.concat_tables([embedded("s2", 3, "q"), embedded("s1", 5, "p", 1)])
    s = scans_of(table, {"p": "osteoporosis"}, 8)
    assert s.series.tolist() == ["s1", "s2"]
    assert s.label.tolist() == [2, -1]
    assert s.valid.sum(1).tolist() == [5, 3]
    assert (s.embedding[0, :5, 0] == np.arange(5) * 4).all()
    assert (np.diff(s.z_mm[0, :5]) == 5).all()
    assert (s.embedding[0, 5:] == 0).all()


def test_split_is_a_function_of_key_and_seed_with_the_right_shares():
    keys = [f"k{i}" for i in range(20_000)]
    parts = np.array([part_of(k, 3, 0.3, 0.25) for k in keys])
    assert (parts == "test").mean() == pytest.approx(0.3, abs=0.01)
    assert (parts == "val").mean() == pytest.approx(0.7 * 0.25, abs=0.01)
    assert parts.tolist() == [part_of(k, 3, 0.3, 0.25) for k in keys]
    assert (np.array([part_of(k, 4, 0.3, 0.25) for k in keys]) != parts).mean() > 0.3


def table():
    frame = pd.DataFrame(
        {
            "patient_key": ["a", "a", "b", "c"],
            "record_date": pd.to_datetime(["2020-01-01", "2021-01-01", None, "2020-01-01"]),
            "age_y": [60.0, 61.0, np.nan, 70.0],
            "sex_male": [0.0, 0.0, np.nan, 1.0],
            "alp_u_l": [80.0, 90.0, 70.0, np.nan],
            "t_score": [-1.0, -3.0, 0.0, np.nan],
        }
    )
    return RecordTable.of(frame)


def test_gather_takes_the_latest_record_and_the_header_only_where_the_record_is_silent():
    header = {"age_y": 55.0, "sex_male": 0.0}
    p = gather(table(), ["b", "d", "a"], {"a": header, "b": header, "d": header}, seed=0, test=0.5, val=0.5)
    at = {k: i for i, k in enumerate(p.key)}
    age = NAMES.index("age_y")
    assert p.key.tolist() == ["a", "b", "c", "d"]
    assert p.values[:, age].tolist() == [61.0, 55.0, 70.0, 55.0]
    assert p.label.tolist() == [2, 0, -1, -1]
    assert p.scan.tolist() == [2, 0, -1, 1]
    assert np.isnan(p.values[at["c"], NAMES.index("alp_u_l")])
    assert p.part[at["c"]] != "test", "only the archive's own patients are held out"


def test_batches_say_what_is_missing_and_hiding_hides():
    p = gather(table(), ["b"], {"b": {}}, seed=0, test=0.0, val=0.5)
    groups = [str(f.group) for f in FEATURES]
    std = fit_standardiser(p.values, list(NAMES), groups)
    bags, masks = np.ones((1, 2, 4), np.float32), np.array([[True, False]])
    b = batch_of(p, np.arange(len(p.key)), std, bags, masks)
    assert b.bag_mask.any(1).tolist() == [False, True, False]
    assert torch.equal(b.known, torch.from_numpy(np.isfinite(p.values)))
    assert (b.values[~b.known] == 0).all()
    h = show_only(b, "demographics", tuple(groups))
    labs = torch.tensor([g == "labs" for g in groups])
    assert not h.known[:, labs].any()
    assert not h.bag_mask.any()
    assert torch.equal(h.known[:, ~labs], b.known[:, ~labs])
