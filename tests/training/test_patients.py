import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from osteo_ray.model.networks import show_only
from osteo_ray.model.standardise import fit_standardiser
from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.record_set import write_record_set
from osteo_ray.patients.schema import FEATURES, NAMES
from osteo_ray.patients.table import RecordTable
from osteo_ray.training.config import SplitConfig
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
    s = scans_of(table, {("p", "s1"): 2}, 8)
    assert s.series.tolist() == ["s1", "s2"]
    assert s.label.tolist() == [2, -1]
    assert s.valid.sum(1).tolist() == [5, 3]
    assert (s.embedding[0, :5, 0] == np.arange(5) * 4).all()
    assert (np.diff(s.z_mm[0, :5]) == 5).all()
    assert (s.embedding[0, 5:] == 0).all()


def test_two_patients_under_one_series_uid_are_two_scans():
    table = pa.concat_tables([embedded("s1", 3, "q"), embedded("s1", 5, "p", 1)])
    s = scans_of(table, {("p", "s1"): 2, ("q", "s1"): 0}, 8)
    assert (s.patient.tolist(), s.label.tolist(), s.valid.sum(1).tolist()) == (["p", "q"], [2, 0], [5, 3])


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


def scans(*rows):
    columns = ["patient_key", "study_date", "site", "age_y", "sex"]
    frame = pd.DataFrame([(*r, *[None] * (5 - len(r))) for r in rows], columns=columns)
    return frame.assign(series_uid=[f"s{i}" for i in range(len(rows))])


def gathered(at, archive, test=0.0, val=0.5, **split):
    return gather(table(), at, archive, 0, SplitConfig(test=test, val=val, **split), TimelineConfig())


def test_each_ct_has_the_record_of_its_time_and_the_header_only_where_the_record_is_silent():
    at = scans(("b", "20200601", None, 55.0, "F"), ("d", None, None, 55.0, "F"), ("a", "20210201", None, 55.0, "M"),
               ("a", "20200120", None, 54.0, "F"))  # fmt: skip
    p = gathered(at, ["a", "b", "d"], test=0.5)
    age, alp = NAMES.index("age_y"), NAMES.index("alp_u_l")
    assert p.key.tolist() == ["a", "a", "b", "c", "d"]
    assert p.scan.tolist() == [3, 2, 0, -1, 1]
    assert p.series.tolist() == ["s3", "s2", "s0", "", "s1"]
    assert np.floor(p.values[:, age]).tolist() == [60.0, 61.0, 55.0, 70.0, 55.0]
    assert p.values[:3, alp].tolist() == [80.0, 90.0, 70.0]
    assert p.label.tolist() == [0, 2, 0, -1, -1]
    assert p.labels["a", "s3"] == 0
    assert np.isnan(p.values[3, alp])
    assert p.part[3] != "test", "only the archive's own patients are held out"
    assert p.part[0] == p.part[1], "all CTs of a patient are in one part"
    assert p.judged.tolist() == [True, False, True, True, True], "the CT nearest to its DXA"
    assert p.number.tolist() == [0, 0, 1, 2, 3]
    counted = np.concatenate([p.rows(part, labelled=False) for part in ("val", "test")])
    assert len(set(p.key[counted])) == len(counted)


def test_a_site_is_held_out_whole():
    at = scans(("a", "20210201", "north"), ("b", "20200601", "south"), ("d", "20200601", "south"))
    p = gathered(at, ["a", "b", "d"], test_sites=("south",))
    assert dict(zip(p.key.tolist(), p.part.tolist(), strict=True)) | {"c": ""} == {
        "a": p.part[0], "b": "test", "c": "", "d": "test"}  # fmt: skip
    assert p.part[0] != "test"


def test_records_in_partitions_give_the_same_examples(tmp_path):
    at = scans(("b", "20200601"), ("d", None), ("a", "20210201"), ("a", "20200120"))
    whole = gathered(at, [])
    record_set = write_record_set(table(), str(tmp_path), 3)
    parts = gather(record_set, at, [], 0, SplitConfig(test=0.0, val=0.5), TimelineConfig())
    for f in ("key", "scan", "series", "label", "judged"):
        assert getattr(whole, f).tolist() == getattr(parts, f).tolist()
    assert np.array_equal(whole.values, parts.values, equal_nan=True)


def test_batches_say_what_is_missing_and_hiding_hides():
    p = gathered(scans(("b", "20200601")), ["b"])
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
