"""What `osteo-ray index` says of the series that are not screened."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import pytest
from ct_making import ROOT, series_of, stack

from osteo_ray.catalogue.choice import choose
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.explain import grouped, one_series, reasons
from osteo_ray.catalogue.schema import CATALOGUE
from osteo_ray.io.tables import to_table
from osteo_ray.outcomes import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = []
    changes: list[dict[str, Any]] = [
        {},
        {"SeriesDescription": "iMAR"},
        {"SeriesDescription": "MAR"},
        {"PatientAge": "020Y"},
    ]
    for i, tags in enumerate(changes):
        rows += series_of(stack(80, SeriesInstanceUID=f"{ROOT}.2{i}", **tags))
    choose(rows, IndexConfig())
    out = tmp_path_factory.mktemp("catalogue")
    pq.write_table(to_table(rows, CATALOGUE), out / "catalogue.parquet")
    return str(out)


def test_reasons_are_grouped_with_one_example_each(folder):
    lines = reasons(folder)
    assert lines[0] == "why series are not screened, with one example each:"
    assert lines[1].startswith(f"        2  EXCLUDED SPECIAL_RECON: e.g. {ROOT}.21: metal-reduced images")
    assert lines[2].startswith(f"        1  EXCLUDED Q_AGE: e.g. {ROOT}.23: Q_AGE 20 (wanted >= 40)")
    assert len(lines) == 3


def test_nothing_is_said_where_all_series_are_open():
    assert grouped([]) == []


def test_everything_known_about_one_series(folder):
    text = "\n".join(one_series(folder, f"{ROOT}.21"))
    assert "EXCLUDED SPECIAL_RECON (stage choose)" in text
    assert "special                  metal-reduced" in text
    assert "pass  Q_CONTRAST_UNKNOWN   none (wanted: stated in the header)" in text
    assert "80 images, first mem://00000, last mem://00079" in text
    assert "goes on to screening" in "\n".join(one_series(folder, f"{ROOT}.20"))


def test_an_unknown_series_is_an_error_that_names_it(folder):
    with pytest.raises(InputError, match=r"has no series 1\.2\.3"):
        one_series(folder, "1.2.3")
