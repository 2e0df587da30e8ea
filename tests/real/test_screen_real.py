"""Screening over real archives: whatever lies there, each file and series ends with a state and a code."""

import pyarrow.parquet as pq
import pytest

from osteo_ray import load_bundle
from osteo_ray.catalogue import build as catalogue
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.outcomes import State
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.pipeline import screen

pytestmark = [pytest.mark.real, pytest.mark.ray]


@pytest.mark.parametrize(("where", "fit"), [("ct", 6), ("dicom/dicom_zoo.zip", 0)])
def test_everything_is_accounted_for(where, fit, real_data, ray_session, bundle_dir, tmp_path):
    summary = catalogue.build(str(real_data / where), tmp_path, IndexConfig())
    s = screen(tmp_path / "catalogue.parquet", None, bundle_dir, tmp_path / "out", ScreenConfig(), quiet=True)
    assert s.series == summary.n_series > 0
    assert sum(s.states.values()) == s.series
    results = pq.read_table(s.results)
    assert set(results["state"].to_pylist()) <= {str(x) for x in State}
    assert None not in results["code"].to_pylist()
    assert s.states.get("ERROR", 0) == 0
    assert s.scored_now == summary.n_open == fit
    files = pq.read_table(tmp_path / "files.parquet")
    assert None not in files["code"].to_pylist()
    assert files.num_rows == sum(summary.files.values())


def test_one_real_study_from_python(real_data, bundle_dir):
    zipped = real_data / "ct" / "acrin_flt_breast_001_lower_thorax_to_pelvis_dicom.zip"
    r = load_bundle(bundle_dir).score(zipped, record={"age_y": 49, "sex": "F"}).to_dict()
    assert r["state"] in ("SCORED", "SCORED_WARN")
    assert r["slices_total"] == 99
    assert r["slices_decoded"] <= 4 + 3 + 4  # coarse, kept, spare
    assert {g["gate"]: g["verdict"] for g in r["gates"]}["Q_AIR_CALIB"] == "pass"
    assert {g["gate"]: g["verdict"] for g in r["gates"]}["Q_KVP"] == "warn"
