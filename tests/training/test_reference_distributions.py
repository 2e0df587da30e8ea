import json

import numpy as np
import pandas as pd
from synthetic_bundle import synthetic_bundle

from osteo_ray.model.acquisition import Acquisition
from osteo_ray.model.distributions import Distributions
from osteo_ray.model.embedding import Scans, height_of, scaled_hu
from osteo_ray.patients.schema import LABS, NAMES
from osteo_ray.training.patients import Patients
from osteo_ray.training.picks import Picks
from osteo_ray.training.prepare import People
from osteo_ray.training.reference_distributions import reference_of


def test_training_patients_become_quantiles_and_counts_and_test_patients_do_not():
    bundle = synthetic_bundle()
    cfg = bundle.config
    rng = np.random.default_rng(0)
    n, k, dim = 120, 3, cfg.encoder.dim
    picks = np.zeros((n, k, dim), np.float32)
    hu = rng.normal(130, 30, n)
    layout = cfg.encoder.layout
    picks[:, :, layout.trabecular] = scaled_hu(hu)[:, None]
    picks[:, :, layout.lumbar], picks[:, :, layout.height], picks[:, :, layout.mid] = 1, height_of(15), 1
    scanned = Acquisition(np.where(np.arange(n) % 4 == 0, 100.0, 120.0), (np.arange(n) % 3 == 0).astype(float))
    series = np.array([f"s{i}" for i in range(n)])
    keys = np.array([f"p{i}" for i in range(n)])
    z_mm = np.tile(np.array([0, 40, 80], np.float32), (n, 1))
    scans = Scans(picks, np.ones((n, k), bool), z_mm, np.zeros(n, int), keys, series)
    values = np.full((n, len(NAMES)), np.nan)
    values[:, NAMES.index("age_y")] = 60
    values[: n // 2, [NAMES.index(c) for c in LABS]] = 50.0
    part = np.array(["train", "val", "val", "test"])[np.arange(n) % 4]
    day, once = np.full(n, np.datetime64("2024-01-01", "D")), np.ones(n, bool)
    rows = (np.zeros(n, int), np.zeros(n, np.float32), values, np.arange(n))
    people = Patients(keys, part, *rows, series, day, once, np.full(n, None, object))
    headers = pd.DataFrame({"series_uid": series, "manufacturer": "M", "convolution_kernel": "B30f"})
    headers["slice_thickness_mm"] = 5.0
    every = np.tile(np.arange(k, dtype=np.int32), (n, 1))
    found = Picks(picks, np.ones((n, k), bool), every, np.ones((n, k), bool))
    seen = reference_of(bundle, People(scans, scanned, people), found, headers)
    assert seen.patients == 90
    assert seen.categories["manufacturer"] == {"M": 90}, "the test part is not in it"
    assert seen.categories["kvp"] == {"100 kVp": 30, "120 kVp": 60}
    assert seen.categories["abstained"] == {"scored": 60}, "of validation patients alone"
    assert seen.categories["pattern"] == {"demographics+ct": 30, "demographics+labs+ct": 30}
    used = (part != "test") & (scanned.contrast == 0)
    expected = hu[used] / np.where(scanned.kvp[used] == 100, 1.17, 1.0)
    assert abs(np.median(expected) - seen.numbers["hu_120"].at(np.array(0.5))) < 2
    assert set(seen.numbers) >= {"age_y", "labs_known", "score demographics+ct", "score demographics+labs+ct"}
    assert Distributions.from_dict(json.loads(json.dumps(seen.to_dict()))) == seen
    held = [q for v in seen.numbers.values() for q in v.quantiles]
    assert not set(np.round(held, 9)) & set(np.round(expected, 9)), "nobody's own value is kept"
    without = reference_of(bundle, People(scans, scanned, people), found, None)
    assert "manufacturer" not in without.categories
