"""The names that README, notebooks and outside programs use; and the example in docs/ that shows them."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import osteo_ray
from osteo_ray import index_archive, load_bundle, load_records, open_slices
from osteo_ray.outcomes import State
from osteo_ray.screening.result import StudyResult

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "first_look.py"


@pytest.fixture(scope="module")
def index(cohort_run):
    return index_archive(cohort_run.archive)


def test_what_is_public_has_a_docstring_with_an_example():
    for name in osteo_ray.__all__:
        if name != "__version__":
            assert "Example:" in getattr(osteo_ray, name).__doc__, name


def test_the_index_holds_every_series_and_every_file(index, cohort_run):
    import pyarrow.parquet as pq

    catalogue = pq.read_table(cohort_run.catalogue, columns=["series_uid", "state", "code"]).to_pylist()
    key = ["series_uid", "state", "code"]
    assert sorted(str([s[k] for k in key]) for s in index.series) == sorted(str([r[k] for k in key]) for r in catalogue)
    assert all({"uri", "code"} <= set(f) for f in index.files)
    assert index.chosen
    assert all(s["state"] is None for s in index.chosen)


def test_every_series_can_be_opened(index):
    """Excluded ones too, and a scout of one slice."""
    sizes = set()
    for series in index.series:
        with open_slices(series) as stack:
            assert stack.z_mm.shape == (stack.n,)
            assert stack.decoded == 0, "nothing is decoded before it is asked for"
            assert stack.hu(0).ndim == 2
            sizes.add(stack.n)
    assert 1 in sizes


def test_a_result_is_typed_and_repeats_its_row(index, cohort_run):
    series = index.chosen[0]
    folder = series["instances"][0]["uri"].removeprefix("file://").rpartition("/")[0]
    result = load_bundle().score(folder, {"age_y": series["age_y"], "sex": series["sex"]})
    assert isinstance(result, StudyResult)
    assert result.state in State
    assert result.to_dict()["state"] == result.state
    assert result.series_uid == series["series_uid"]
    if result.risk is not None:
        assert result.risk_low is not None
        assert result.risk_high is not None
        assert result.probabilities is not None
        assert 0 <= result.risk_low <= result.risk <= result.risk_high <= 1
        assert sum(result.probabilities.values()) == pytest.approx(1)
    assert len(result.slices()) == len(result.selected)
    assert list(result.shap.columns) == ["feature", "group", "value", "unit", "shap"]
    assert {c.verdict for c in result.checks} <= {"pass", "warn", "fail"}


def test_scoring_leaves_the_callers_threads_alone(index):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        load_bundle()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_records_come_in_the_schema(cohort_run):
    values, known = load_records(str(cohort_run.records)).matrix()
    assert values.shape == known.shape
    assert np.isfinite(values[known]).all()


def test_the_example_in_the_docs_runs(cohort_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(cohort_run.archive), str(cohort_run.records)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    out = capsys.readouterr().out
    assert "files in no series" in out
    assert "slice decoded so far" in out
    assert any(s in out for s in ("SCORED", "ABSTAINED"))
